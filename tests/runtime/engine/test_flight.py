"""A step's work is what its grants ask for, and a sequence is charged for its part of the step."""

from __future__ import annotations

import pytest

from sim.results.blame import CAUSES
from sim.runtime.engine.attribution import STEP_CAUSES, StepLedger, no_seconds
from sim.runtime.engine.flight import Flight, Part, begun
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.speculation import Speculator
from tests.runtime.engine.test_queue import admitted, queue_of, waiting

PLAIN = Speculator(None, 0)


def decoding(queue: RequestQueue, number: int, prompt: int) -> Sequence:
    one = waiting(queue, number, prompt)
    assert admitted(queue, one)
    one.generated, one.last_token_s = 1, 1.0
    return one


def test_a_chunk_is_work_behind_what_is_computed_and_gives_a_token_only_at_its_prompts_end() -> None:
    queue = queue_of(ledger=StepLedger())
    one = waiting(queue, 0, 12)
    assert admitted(queue, one, tokens=5)
    part, batch = begun(queue, [(one, 4)], PLAIN)
    assert (batch.chunks, batch.decodes, batch.sampled, part.samples) == (((4, 5),), 0, 0, [False])
    part, batch = begun(queue, [(one, 3)], PLAIN)
    assert (batch.chunks, batch.sampled, part.samples) == (((3, 9),), 1, [True])
    assert (one.computed, one.in_flight) == (12, 2)


def test_decodes_are_work_over_their_contexts_one_by_one_or_as_a_cohort() -> None:
    batches = []
    for together in (True, False):
        queue = queue_of(ledger=StepLedger())
        running = [decoding(queue, number, prompt) for number, prompt in enumerate((6, 9))]
        if together:
            grants = queue.allocate_together(8)
            assert [one for one, _ in grants] == running
        else:
            grants = [(one, 1) for one in running if queue.allocate(one, 1)]
        part, batch = begun(queue, grants, PLAIN)
        assert part.together is together
        assert [one.computed for one in running] == [7, 10]
        batches.append(batch)
    assert batches[0] == batches[1]
    assert (batches[0].decodes, batches[0].decode_kv_tokens, batches[0].sampled) == (2, 17, 2)


def test_overlapping_steps_of_a_prompt_are_charged_their_own_part_each() -> None:
    """Two chunks in flight at once: from 0 s to 4 s, and from 2 s to 6 s."""
    queue = queue_of()
    one = waiting(queue, 0, 12)
    assert admitted(queue, one)
    for start_s, end_s in ((0.0, 4.0), (2.0, 6.0)):
        flight = Flight([Part(queue, False, [(one, 1)], [True])], begun(queue, [], PLAIN)[1], start_s)
        flight.causes = [3.0, *no_seconds()[1:]]
        flight.charge(one, end_s)
    assert sum(one.blame) == 6.0 == one.charged_s
    assert one.blame[0] == 3.0 + 1.5  # half of the second step came after the first


def test_seconds_without_a_cause_are_waits_between_stages() -> None:
    queue = queue_of()
    one = waiting(queue, 0, 12)
    flight = Flight([], begun(queue, [], PLAIN)[1], 0.0)
    flight.causes[STEP_CAUSES.index("memory")] = 1.0
    flight.charge(one, 2.5)
    assert one.blame[CAUSES.index("memory")] == 1.0
    assert one.blame[CAUSES.index("pipeline")] == 1.5


@pytest.mark.parametrize(("last_s", "expected"), [(1.0, (2, [])), (0.5, (1, [0.5])), (None, (1, []))])
def test_a_token_is_on_time_where_the_last_one_came_as_the_step_began(
    last_s: float | None, expected: tuple[int, list[float]]
) -> None:
    queue = queue_of(ledger=StepLedger())
    running = [decoding(queue, number, 6) for number in range(2)]
    running[1].last_token_s = last_s
    part, batch = begun(queue, [(one, 1) for one in running], PLAIN)
    assert Flight([part], batch, 1.0).on_time_and_late() == expected
