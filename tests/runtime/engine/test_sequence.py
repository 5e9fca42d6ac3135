"""A sequence knows how far it is, inside a cohort and outside, and charges every second once."""

from __future__ import annotations

import pytest

from sim.results.blame import CAUSES
from sim.runtime.engine.attribution import REQUEST_HAND_OVER
from sim.runtime.engine.cohort import Cohort
from sim.runtime.engine.sequence import Sequence
from sim.workload.request import Request

STEP = (1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0)  # compute, memory, ..., pipeline, interference


def sequence(prompt: int = 10, output: int = 5) -> Sequence:
    return Sequence(Request(0, 0.0, prompt, output), output, 0.0, 0)


def charged(one: Sequence) -> dict[str, float]:
    return {cause: seconds for cause, seconds in zip(CAUSES, one.blame, strict=True) if seconds}


def test_every_second_from_arrival_to_the_last_token_is_charged_once() -> None:
    one = sequence()
    one.admit(2.0, 0, None)
    one.charge(STEP, 5.5)
    one.generated = 1
    one.charge(STEP, 9.0)
    one.wait(REQUEST_HAND_OVER, 10.0)
    assert charged(one) == {
        "admission": 2.0, "prefill_compute": 1.0, "decode_compute": 1.0, "memory": 4.0, "pipeline": 1.0,
        "hand_over": 1.0,
    }  # fmt: skip
    assert sum(one.blame) == 10.0 == one.charged_s


def test_what_a_preemption_costs_has_causes_of_its_own() -> None:
    one = sequence()
    one.admit(0.0, 0, None)
    one.recomputing = True
    one.charge_queueing(3.0)
    one.charge(STEP, 6.5)
    assert charged(one) == {"preempted": 3.0, "recompute": 3.5}


def test_the_first_admission_is_kept() -> None:
    one = sequence()
    one.admit(1.0, 8, None)
    one.admit(5.0, 0, None)
    assert (one.admitted_s, one.cached_tokens) == (1.0, 8)


def test_in_a_cohort_its_counts_are_its_own_and_the_cohorts() -> None:
    one = sequence()
    one.computed, one.generated, one.last_token_s, one.unhashed_blocks = 10, 1, 1.0, 3
    cohort = Cohort(4)
    cohort.join(one)
    cohort.computed, cohort.generated, cohort.covered = 3, 2, 3
    assert (one.computed, one.generated, one.known_tokens, one.pending_tokens) == (13, 3, 13, 0)
    assert one.unhashed_blocks == 4  # 13 tokens
    cohort.leave(one)
    assert (one.own_computed, one.own_generated, one.own_unhashed_blocks) == (13, 3, 4)
    cohort.join(one)
    with pytest.raises(AssertionError):
        one.generated = 4


def test_its_output_ends_at_the_longest_text_that_a_replica_takes() -> None:
    one = sequence(prompt=10, output=50)
    one.end_within(30)
    assert one.output_tokens == 20
    one.generated = 15
    one.end_within(12)  # on a replica that takes less than it has already
    assert one.output_tokens == 15


def test_after_a_failure_it_keeps_its_tokens_and_computes_everything_again() -> None:
    one = sequence()
    one.admit(0.0, 0, None)
    one.computed, one.generated, one.unhashed_blocks, one.in_flight = 12, 3, 3, 1
    one.start_over()
    assert (one.generated, one.pending_tokens, one.unhashed_blocks, one.in_flight) == (3, 13, 0, 0)
    assert (one.recomputing, one.resubmissions) == (True, 1)


@pytest.mark.parametrize(
    ("generated", "max_model_len", "output"), [(0, 100, 5), (0, 12, 2), (0, 10, 1), (0, 3, 1), (3, 12, 3)]
)
def test_an_answer_ends_at_the_model_s_length_with_one_token_at_least(
    generated: int, max_model_len: int, output: int
) -> None:
    one = sequence(prompt=10, output=5)
    one.generated = generated
    one.end_within(max_model_len)
    assert one.output_tokens == output
