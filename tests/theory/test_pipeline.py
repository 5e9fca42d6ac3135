from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.theory import pipeline


@given(st.lists(st.floats(0.1, 5.0), min_size=1, max_size=6), st.integers(1, 20))
def test_fill_and_drain_is_what_a_table_of_start_times_gives(stages: list[float], micro_batches: int) -> None:
    free = [0.0] * len(stages)
    out = 0.0
    for _ in range(micro_batches):
        out = 0.0
        for stage, seconds in enumerate(stages):
            free[stage] = out = max(out, free[stage]) + seconds
    assert pipeline.makespan_s(stages, micro_batches) == pytest.approx(out)


@given(st.integers(1, 12), st.integers(1, 40))
def test_the_bubble_is_the_idle_part_of_fill_and_drain(stages: int, micro_batches: int) -> None:
    busy = micro_batches / pipeline.makespan_s([1.0] * stages, micro_batches)
    assert pipeline.bubble(stages, micro_batches) == pytest.approx(1.0 - busy)


def test_the_best_number_of_pieces_is_better_than_its_neighbours() -> None:
    best = pipeline.best_micro_batches(4, 0.3, 0.001)

    def makespan(pieces: float) -> float:
        return (pieces + 3.0) * (0.3 / pieces + 0.001)

    assert makespan(best) < min(makespan(best - 1.0), makespan(best + 1.0))
