"""The timeline: requests open and close, steps fill the busy time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.simulate import Result


def test_the_trace_closes_every_request_it_opens_and_its_steps_fill_the_busy_time(
    folder: Path, result: Result
) -> None:
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    begun = [(event["id"], event["name"]) for event in events if event["ph"] == "b"]
    ended = [(event["id"], event["name"]) for event in events if event["ph"] == "e"]
    assert sorted(begun) == sorted(ended)
    assert len({number for number, _ in begun}) == result.requests.height
    drawn_us = sum(event["dur"] for event in events if event["ph"] == "X")
    assert drawn_us == pytest.approx(float((result.steps["end_s"] - result.steps["start_s"]).sum()) * 1e6)
    last = [event for event in events if event["ph"] == "C" and event["name"] == "requests"][-1]
    assert last["args"] == {"waiting": 0, "running": 0}
