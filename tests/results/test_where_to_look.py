"""The verdict says at which instant and on which track to look: at the slowest request, where it waited."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from tests.results.verdict_scenarios import BURST, described, users


def test_a_reader_is_sent_to_the_slowest_request_where_it_waited_longest() -> None:
    queued = sim.simulate(described(engine={"max_num_seqs": 2}, workload=BURST))
    look = next(one for one in queued.explain() if one.topic == "look")
    rows = queued.records.requests
    slowest = int(np.argmax(rows["finished_s"] - rows["arrival_s"]))
    assert look.about == "queue"
    assert look.numbers["request"] == rows["request_id"][slowest]
    assert look.numbers["at_s"] == rows["arrival_s"][slowest]
    stepping = sim.simulate(described(workload=users(3, 6)))
    look = next(one for one in stepping.explain() if one.topic == "look")
    steps = stepping.records.steps
    longest_s = np.maximum(steps["first_step_s"], steps["last_step_s"]).max()
    assert look.about == "step"
    assert look.numbers["step_ms"] == pytest.approx(longest_s * 1e3)
    assert f"on the track stage 0 of replica {look.numbers['replica']}" in str(look)
    assert f"sim trace DIR --requests {look.numbers['request']} draws" in str(look)
