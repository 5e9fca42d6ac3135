"""When requests left, however they left: the same for counts, charts and laws."""

from __future__ import annotations

import math

import pytest

from sim.results.records import Records, Status
from sim.results.sojourn_times import phases, sojourns

NEVER = math.nan


def records() -> Records:
    found = Records()
    rows: tuple[tuple[float, float, float, float, Status], ...] = (
        (1.0, 2.0, 3.0, NEVER, "finished"),
        (NEVER, NEVER, NEVER, 4.0, "aborted"),  # in the queue
        (1.0, NEVER, NEVER, 5.0, "aborted"),  # in prefill
        (1.0, 2.0, NEVER, 6.0, "aborted"),  # in decode
        (NEVER, NEVER, NEVER, NEVER, "rejected"),
        (1.0, 2.0, NEVER, NEVER, "unfinished"),
        (NEVER, NEVER, NEVER, NEVER, "unfinished"),
    )
    for request_id, (admitted_s, first_token_s, finished_s, aborted_s, status) in enumerate(rows):
        found.requests.add(
            request_id,
            0.5,
            prompt_tokens=10,
            output_tokens=10,
            admitted_s=admitted_s,
            first_token_s=first_token_s,
            finished_s=finished_s,
            aborted_s=aborted_s,
            status=status,
        )
    return found


def test_who_was_let_in_waits_until_admitted_or_gone_and_leaves_when_done_or_gone() -> None:
    found = sojourns(records().requests)
    assert found.arrival_s.tolist() == [0.5] * 6
    assert found.admitted_s.tolist() == pytest.approx([1, 4, 1, 1, 1, NEVER], nan_ok=True)
    assert found.left_s.tolist() == pytest.approx([3, 4, 5, 6, NEVER, NEVER], nan_ok=True)


def test_a_frame_says_the_same_as_its_rows() -> None:
    rows, frame = sojourns(records().requests), sojourns(records().requests.frame())
    for ours, theirs in zip(rows, frame, strict=True):
        assert ours.tolist() == pytest.approx(theirs.tolist(), nan_ok=True)


def test_the_phase_that_a_request_was_aborted_in_ends_then_and_one_without_an_end_is_left_out() -> None:
    found = [list(phases(row)) for row in records().requests.frame().iter_rows(named=True)]
    whole = [("queue", 0.5, 1.0), ("prefill", 1.0, 2.0), ("decode", 2.0, 3.0)]
    assert found == [
        whole,
        [("queue", 0.5, 4.0)],
        [whole[0], ("prefill", 1.0, 5.0)],
        [*whole[:2], ("decode", 2.0, 6.0)],
        [],
        whole[:2],
        [],
    ]
