"""Rows never mix batches, and every token after the first has its gap once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from sim.cost.batch import Batch, Causes
from sim.results.records import GapRecords, StepRecords
from sim.runtime.engine.stage import Passed
from sim.runtime.engine.step_records import StepRecorder


def recorder(in_flight: int = 1) -> StepRecorder:
    return StepRecorder(0, StepRecords(), GapRecords(), in_flight)


def passed(start_s: float, *ends_s: float) -> Passed:
    return Passed(start_s, np.array(ends_s), Causes(), 0.0, 0.0)


def flight(rows: StepRecorder, members: list[int], on_time: int, late: list[float]) -> Any:
    return SimpleNamespace(
        batch=Batch(decodes=len(members), decode_kv_tokens=100),
        number=rows.number_of(members),
        request_ids=members,
        on_time_and_late=lambda: (on_time, late),
    )


def columns(table: Any, *names: str) -> list[tuple[float, ...]]:
    return list(zip(*(table.columns[name] for name in names), strict=True))


def test_a_batch_keeps_its_number_while_its_members_stay() -> None:
    rows = recorder()
    numbers = [rows.number_of(members) for members in ([1, 2], [1, 2], [1], [1, 2])]
    assert numbers == [1, 1, 2, 3]
    assert rows.number_of([]) != rows.number_of([])  # steps with prompts are batches of their own


def test_batches_of_a_pipeline_take_turns_and_keep_their_numbers() -> None:
    rows = recorder(in_flight=2)
    assert [rows.number_of(members) for members in ([1], [2], [1], [2], [3], [2], [1])] == [
        1, 2, 1, 2, 3, 2, 4
    ]  # fmt: skip


def test_equal_steps_of_a_batch_are_one_row_whose_gaps_are_its_steps() -> None:
    rows = recorder()
    rows.of_one_stage(flight(rows, [1, 2], 2, []), passed(0.0, 1.0, 2.0, 3.0), gives_tokens=True)
    rows.of_one_stage(flight(rows, [1, 2], 2, []), passed(3.0, 4.0), gives_tokens=True)
    assert columns(rows.steps, "start_s", "end_s", "steps", "gaps") == [(0.0, 4.0, 4, 2)]
    assert len(rows.gaps) == 0


def test_a_sequence_that_missed_steps_has_a_gap_of_its_own_and_is_on_time_afterwards() -> None:
    rows = recorder()
    rows.of_one_stage(flight(rows, [1, 2], 1, [0.5]), passed(3.0, 4.0, 5.0), gives_tokens=True)
    assert columns(rows.steps, "start_s", "end_s", "gaps", "kv_tokens") == [
        (3.0, 4.0, 1, 100), (4.0, 5.0, 2, 102)
    ]  # fmt: skip
    assert columns(rows.gaps, "sequences", "gaps", "first_gap_s") == [(1, 1, 3.5)]


def test_a_prefill_engine_makes_no_gaps() -> None:
    rows = recorder()
    rows.of_one_stage(flight(rows, [1], 1, []), passed(0.0, 1.0), gives_tokens=False)
    assert columns(rows.steps, "gaps") == [(0,)]
    assert len(rows.gaps) == 0


def test_gaps_of_a_pipelined_batch_are_counted_by_their_length() -> None:
    rows = recorder(in_flight=2)
    rows.gaps_of(1, [1.0, 2.0, 1.0], 4.0)
    assert columns(rows.gaps, "sequences", "first_gap_s") == [(2, 3.0), (1, 2.0)]
