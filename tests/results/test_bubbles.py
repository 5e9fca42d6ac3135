"""Why pipeline stages stand idle, where it is known."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from sim.results import bubbles
from sim.results.bubbles import Pipeline, pipelines
from sim.results.records import Records
from sim.results.setting import PoolSetting
from tests.results.verdict_scenarios import described, users

POOL = PoolSetting("", "both", "", "PP 2", 0, 1, 2, 2, 8, 8192)


def by_hand() -> Records:
    """Two stages that two batches go round in three times: stage 0 takes 1 s, stage 1 2 s, a send 0.5 s."""
    found = Records(end_s=20.0)
    found.requests.add(
        0, 0.0, 100, 6, routed_s=0.0, admitted_s=0.0, first_token_s=3.5, finished_s=16.0, replica=0
    )
    done = [0.0, 0.0]
    free = [0.0, 0.0]
    for number in range(6):
        start = max(done[number % 2], free[0])
        free[0] = start + 1.0
        found.steps.add_steps(0, start, np.array([free[0]]), 1, 0, 1, batch_id=number, gaps=0)
        begin = max(free[0] + 0.5, free[1])
        free[1] = begin + 2.0
        found.steps.add_steps(0, begin, np.array([free[1]]), 1, 0, 1, batch_id=number, stage=1, gaps=0)
        done[number % 2] = free[1]
    return found


def test_idle_time_of_a_pipeline_by_hand_has_its_causes() -> None:
    # Stage 1 begins at 1.5 s and computes six times 2 s; stage 0 waits for its batches to come out.
    (one,) = pipelines(POOL, by_hand())
    first, second = one.stages
    assert first.shares["computes"] == pytest.approx(6 / 20, abs=2e-3)
    assert first.shares["downstream blocked"] == pytest.approx(5.5 / 20, abs=2e-3)
    assert second.shares["computes"] == pytest.approx(12 / 20, abs=2e-3)
    assert second.shares["fill and drain"] == pytest.approx((1.5 + 2.5) / 20, abs=2e-3)
    assert second.shares["no work"] == pytest.approx(4 / 20, abs=2e-3)
    for stage in one.stages:
        assert sum(stage.shares.values()) == pytest.approx(1.0)


def test_one_batch_in_four_stages_leaves_the_textbook_s_bubble(monkeypatch: pytest.MonkeyPatch) -> None:
    result = sim.simulate(described(engine={"pipeline_parallel_size": 4}, workload=users(1, 4)))

    def found() -> Pipeline:
        return pipelines(result.surroundings.setting.pools[0], result.records)[0]

    one = found()
    computes = float(np.mean([stage.shares["computes"] for stage in one.stages]))
    assert one.in_flight == pytest.approx(1.0, abs=0.05)
    assert one.going_round == one.textbook == pytest.approx(0.75, abs=0.02)
    assert 1.0 - computes / one.with_requests == pytest.approx(one.going_round, abs=0.03)
    # Of a run that is too long to lay out, windows say the same.
    monkeypatch.setattr(bubbles, "MOST_STEPS", 60)
    monkeypatch.setattr(bubbles, "WINDOWS", 4)
    again = found()
    for stage, before in zip(again.stages, one.stages, strict=True):
        assert stage.shares["computes"] == pytest.approx(before.shares["computes"], abs=0.1)
