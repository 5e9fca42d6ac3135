from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results.columns import Table
from sim.results.records import GapRecords, RequestRecords, StepRecords
from tests.results.straight import add_straight


def test_a_table_gives_its_rows_back_as_columns_and_as_a_frame():
    table = Table({"name": "text", "bytes": "number", "count": "count"})
    table.append("a", 1.5, 3)
    table.append("b", math.nan, 4)
    table.append("a", 0.1, 5)
    assert table["name"].tolist() == ["a", "b", "a"]
    assert table.frame().to_dict(as_series=False) == {
        "name": ["a", "b", "a"],
        "bytes": [1.5, None, 0.1],
        "count": [3, 4, 5],
    }


def test_an_empty_table_has_its_columns_and_types():
    frame = RequestRecords().frame()
    assert frame.height == 0
    assert frame.schema == one_request().frame().schema


def one_request() -> RequestRecords:
    rows = RequestRecords()
    rows.add(0, 0.0, 1, 1, finished_s=1.0)
    return rows


def test_a_row_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        Table({"a": "count", "b": "count"}).append(1)


def test_requests_are_shown_by_their_id_whichever_ended_first():
    rows = RequestRecords()
    for request_id in (2, 0, 1):
        rows.add(request_id, 0.0, 10, 5, finished_s=1.0)
    assert rows.frame()["request_id"].to_list() == [0, 1, 2]
    assert rows.frame()["generated_tokens"].to_list() == [5, 5, 5]
    assert rows.frame()["admitted_s"].to_list() == [None] * 3


def played(batches: list[tuple[float, float, int]], groups: list[int]) -> StepRecords:
    """Steps of batches (first duration, slope, count), handed in as spans of `groups` sizes by turns."""
    rows = StepRecords()
    clock_s = 0.0
    turn = 0
    for batch_id, (first_s, slope_s, count) in enumerate(batches):
        done = 0
        while done < count:
            size = min(groups[turn % len(groups)], count - done)
            turn += 1
            durations = [first_s + slope_s * k for k in range(done, done + size)]
            end_s = clock_s
            for duration_s in durations:
                end_s += duration_s
            add_straight(
                rows,
                0,
                clock_s,
                end_s,
                size,
                4,
                0,
                4,
                durations[0],
                durations[-1],
                batch_id=batch_id,
                kv_tokens=4 * done,
            )
            clock_s = end_s
            done += size
    return rows


BATCHES = st.lists(
    st.tuples(st.floats(0.005, 0.05), st.floats(-1e-6, 1e-5), st.integers(1, 60)), min_size=1, max_size=6
)


@pytest.mark.slow
@given(batches=BATCHES, groups=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_spans_and_single_steps_leave_the_same_rows(batches, groups):
    one_by_one, in_spans = played(batches, [1]).frame(), played(batches, groups).frame()
    assert one_by_one.height == in_spans.height == len(batches)
    for name in one_by_one.columns:
        assert in_spans[name].to_numpy() == pytest.approx(one_by_one[name].to_numpy(), rel=1e-9, abs=1e-12)


PIECE = st.tuples(st.sampled_from([1e-2, 2e-2]), st.sampled_from([0.0, 1e-4, 2e-4]), st.integers(1, 9))


@given(
    pieces=st.lists(PIECE, min_size=1, max_size=8),
    splits=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_a_bend_starts_a_new_row_wherever_the_spans_were_cut(pieces, splits):
    def rows(groups: list[int]) -> StepRecords:
        records, clock_s, turn = StepRecords(), 0.0, 0
        for first_s, slope_s, count in pieces:
            done = 0
            while done < count:
                size = min(groups[turn % len(groups)], count - done)
                turn += 1
                durations = [first_s + slope_s * k for k in range(done, done + size)]
                end_s = clock_s + math.fsum(durations)
                shortest, longest = durations[0], durations[-1]
                add_straight(records, 0, clock_s, end_s, size, 1, 0, 1, shortest, longest, batch_id=7)
                clock_s, done = end_s, done + size
        return records

    one_by_one, in_spans = rows([1]).frame(), rows(splits).frame()
    assert one_by_one.height == in_spans.height
    for name in ("steps", "start_s", "end_s", "first_step_s", "last_step_s"):
        assert in_spans[name].to_numpy() == pytest.approx(one_by_one[name].to_numpy(), rel=1e-9, abs=1e-12)


def test_a_new_batch_a_pause_and_another_stage_start_a_new_row():
    rows = StepRecords()
    add_straight(rows, 0, 0.0, 1.0, 1, 2, 0, 2, 1.0, 1.0, batch_id=1)
    add_straight(rows, 0, 1.0, 2.0, 1, 2, 0, 2, 1.0, 1.0, batch_id=1)
    add_straight(rows, 0, 2.0, 3.0, 1, 2, 0, 2, 1.0, 1.0, batch_id=2)
    add_straight(rows, 0, 3.5, 4.5, 1, 2, 0, 2, 1.0, 1.0, batch_id=2)
    add_straight(rows, 0, 4.5, 5.5, 1, 2, 0, 2, 1.0, 1.0, batch_id=2, stage=1)
    add_straight(rows, 0, 4.5, 5.5, 1, 2, 0, 2, 1.0, 1.0, batch_id=2, gaps=1)
    assert rows.frame()["steps"].to_list() == [2, 1, 1, 1, 1]
    assert rows.frame()["stage"].to_list() == [0, 0, 0, 0, 1]


def test_rows_stay_few_while_the_batch_stays():
    rows = StepRecords()
    clock_s = 3600.0
    for step in range(10_000):
        duration_s = 0.01 + 3e-8 * step
        after_s = clock_s + duration_s
        add_straight(rows, 0, clock_s, after_s, 1, 8, 0, 8, after_s - clock_s, after_s - clock_s, batch_id=0)
        clock_s = after_s
    assert len(rows) == 1


def test_batches_that_take_turns_in_a_pipeline_leave_a_row_each():
    """Steps of 2 ms and 3 ms by turns, whose pauses grow by 1 us a round."""
    rows = StepRecords()
    clock_s = [0.0, 2e-3]
    for turn in range(1000):
        for batch, step_s in ((0, 2e-3), (1, 3e-3)):
            start_s = clock_s[batch]
            rows.add_steps(0, start_s, np.array([start_s + step_s]), 8, 0, 8, batch_id=batch, stage=1, gaps=0)
            clock_s[batch] = start_s + step_s + 4e-3 + 1e-6 * turn
    frame = rows.frame()
    assert frame["steps"].to_list() == [1000, 1000]
    assert frame["idle_s"].to_list() == pytest.approx([999 * 4e-3 + 1e-6 * 998 * 999 / 2] * 2)
    busy_s = frame["end_s"] - frame["start_s"] - frame["idle_s"]
    assert busy_s.to_list() == pytest.approx([2.0, 3.0])


@given(
    pauses=st.lists(st.sampled_from([0.0, 1e-3, 2e-3]), min_size=1, max_size=12),
    splits=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_a_pause_of_another_length_starts_a_new_row_wherever_the_spans_were_cut(pauses, splits):
    starts_s = np.cumsum([1.0, *pauses]) + 1e-2 * np.arange(len(pauses) + 1)

    def rows(groups: list[int]) -> StepRecords:
        records, done, turn = StepRecords(), 0, 0
        while done < len(starts_s):
            part = starts_s[done : done + groups[turn % len(groups)]]
            records.add_steps(0, part, part + 1e-2, 1, 0, 1, batch_id=7, gaps=0)
            done, turn = done + len(part), turn + 1
        return records

    one_by_one, in_spans = rows([1]).frame(), rows(splits).frame()
    assert one_by_one.height == in_spans.height
    for name in ("steps", "start_s", "end_s", "idle_s"):
        assert in_spans[name].to_numpy() == pytest.approx(one_by_one[name].to_numpy(), rel=1e-9, abs=1e-12)
    assert one_by_one["idle_s"].sum() + (one_by_one["start_s"][1:] - one_by_one["end_s"][:-1]).sum() == (
        pytest.approx(sum(pauses))
    )


def test_gaps_continue_their_row_by_batch_and_line():
    gaps = GapRecords()
    gaps.add_gaps(0, 3, 1, 0.1, 0.1, batch_id=5, at_s=1.0)
    gaps.add_gaps(0, 3, 2, 0.1, 0.1, batch_id=5, at_s=1.1)
    gaps.add_gaps(0, 2, 2, 0.1, 0.1, batch_id=5, at_s=1.3)
    gaps.add_gaps(0, 1, 1, 2.0, 2.0, at_s=3.0)
    assert gaps.frame()["gaps"].to_list() == [3, 2, 1]
    assert gaps.frame()["sequences"].to_list() == [3, 2, 1]


@given(
    line=st.tuples(st.floats(0.01, 0.1), st.floats(-1e-5, 1e-4)),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_gaps_in_spans_and_one_by_one_leave_one_row(line, sizes):
    first_s, slope_s = line
    gaps = GapRecords()
    done, at_s = 0, 0.0
    for size in sizes:
        values = first_s + slope_s * np.arange(done, done + size)
        gaps.add_gaps(0, 2, size, values[0], values[-1], batch_id=1, at_s=at_s + values[0])
        done, at_s = done + size, at_s + float(values.sum())
    frame = gaps.frame()
    assert frame["gaps"].to_list() == [sum(sizes)]
    assert frame["last_gap_s"][0] == pytest.approx(first_s + slope_s * (done - 1))
