"""Rounds of a pipeline are one event, and end, settle and go on at the very instants of the played ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.engine.one_replica import OneReplica

Arrival = tuple[float, int, int]
"""When, prompt tokens, output tokens."""
ROUND_S = 2.75  # two stages of a second, and a send between them


def token_times(one: OneReplica) -> list[float]:
    """When tokens after the first ones came, from the rows."""
    found = []
    gaps = one.gaps.columns
    for at_s, number, gap_s in zip(gaps["at_s"], gaps["gaps"], gaps["first_gap_s"], strict=True):
        found += [at_s + i * gap_s for i in range(number)]
    return sorted(found)


def test_one_batch_comes_round_in_the_time_of_its_stages_and_sends() -> None:
    one = OneReplica(stages=2)
    sequence = one.submit(output=5)
    one.env.run(until=3.0)
    assert one.core._fold.folded
    one.env.run()
    assert sequence.first_token_s == ROUND_S
    assert token_times(one) == [2 * ROUND_S, 3 * ROUND_S, 4 * ROUND_S, 5 * ROUND_S]
    assert one.reports == [(5 * ROUND_S, "finished", 0)]
    assert [stage.busy_s for stage in one.replica.stages] == [5.0, 5.0]
    assert [row.n_bytes for row in one.fabric.rows()] == [5 * 5.0]


def test_two_batches_wait_for_each_other_at_the_stages() -> None:
    """The second one begins at the first stage a second later, and everywhere else as well."""
    one = OneReplica(stages=2, even=True)
    sequences = [one.submit(number, output=3 + number) for number in range(2)]
    one.env.run()
    assert [sequence.first_token_s for sequence in sequences] == [ROUND_S, ROUND_S + 1.0]
    assert one.reports == [(3 * ROUND_S, "finished", 0), (4 * ROUND_S + 1.0, "finished", 1)]


def test_batches_that_fill_the_stages_come_round_as_fast_as_the_stages_allow() -> None:
    """Eight batches on eight stages: a round of 8 s and seven sends of 0.75 s, and each batch a second behind
    the one before it.
    """
    one = OneReplica(stages=8, even=True)
    for number in range(8):
        one.submit(number, output=40)
    one.env.run()
    assert [at_s for at_s, _, _ in one.reports] == [40 * (8.0 + 7 * 0.75) + number for number in range(8)]


def test_batches_wait_for_the_slowest_stage_in_every_round() -> None:
    """Three seconds for each of two batches there: six a round, and not the 4.75 s that one alone takes."""
    one = OneReplica(stages=2, even=True, last_s=3.0)
    for number in range(2):
        one.submit(number, output=20)
    one.env.run(until=20.0)
    assert one.core._fold.folded
    one.env.run()
    assert [at_s for at_s, _, _ in one.reports] == [4.75 + 19 * 6.0, 7.75 + 19 * 6.0]


@pytest.mark.parametrize(
    ("instant", "tokens", "where"),
    [
        (5.0, 1, [(1, False)]),
        (5.5, 2, []),  # its turn ends just now
        (6.0, 2, [(0, False)]),
        (6.7, 2, [(0, True)]),  # its activations are on their way
        (7.3, 2, [(1, False)]),
        (11.0, 4, []),
    ],
)
def test_settled_at_an_instant_the_batch_is_where_it_would_be(
    instant: float, tokens: int, where: list[tuple[int, bool]]
) -> None:
    one = OneReplica(stages=2)
    sequence = one.submit(output=20)
    one.env.run(until=instant)
    assert one.core._fold.folded
    assert sequence.generated == 1
    one.core.settle()
    assert not one.core._fold.folded
    assert sequence.generated == tokens
    assert [(flight.stage, flight.sent is not None) for flight in one.core._in_flight] == where
    one.env.run()
    assert one.reports == [(20 * ROUND_S, "finished", 0)]


def run(
    fold: bool, stages: int, last_s: float, even: bool, arrivals: list[Arrival], asked_s: float
) -> tuple[Any, ...]:
    one = OneReplica(stages=stages, last_s=last_s, even=even, fold=fold, max_num_seqs=5)
    sequences = []
    for at_s, prompt, output in sorted(arrivals):
        if at_s > one.env.now:
            one.env.run(until=at_s)
        sequences.append(one.submit(len(sequences), prompt, output))
    one.env.run(until=max(asked_s, one.env.now + 0.1))
    seen = [one.replica.tokens, *[one.replica.tokens_by_now(sequence) for sequence in sequences]]
    one.env.run()
    times = [(one.first_token_s, one.finished_s, sum(one.blame)) for one in sequences]
    rows = [table.frame().rows() for table in (one.steps, one.gaps)]
    return seen, one.reports, times, rows, one.replica.queues[0].block_pool.free_blocks


@pytest.mark.slow
@settings(max_examples=30)
@given(
    st.integers(2, 4),
    st.sampled_from([1.0, 2.5]),
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from([0.0, 2.75, 5.0, 5.5, 12.3, 31.0]), st.integers(1, 9), st.integers(1, 30)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([3.0, 8.25, 20.1, 47.3]),
)
def test_folded_rounds_are_the_played_ones_whatever_comes_in_between(
    stages: int, last_s: float, even: bool, arrivals: list[Arrival], asked_s: float
) -> None:
    folded, played = (run(fold, stages, last_s, even, arrivals, asked_s) for fold in (True, False))
    assert folded == played


def test_other_traffic_on_the_way_between_stages_delays_what_it_meets_and_nothing_before() -> None:
    """Five bytes meet the send of the third turn, which begins to flow at 2 * 2.75 + 1.25 s."""
    one = OneReplica(stages=2)
    one.submit(output=4)
    one.env.run(until=6.75)
    one.fabric.transfer({"way 0": 5.0})
    one.env.run()
    assert one.reports == [(4 * ROUND_S + 0.5, "finished", 0)]
