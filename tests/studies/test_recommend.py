"""Recommendations: the winner of exhaustive search, what the next one lacks, and files that run."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sim
from sim.inputs.errors import InfeasibleError, InputError
from sim.studies import recommend as recommend_module
from sim.studies.recommend import Candidate, Ranked, Recommendation, _lengths, layouts
from tests.studies.scenarios import scenario, server

STEPS = [
    Candidate(f"{ms} ms", (("engine.service_time.step_s", ms / 1e3),)) for ms in (180, 60, 100, 140, 80, 120)
]


def test_a_round_of_short_runs_leaves_the_best_for_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommend_module, "SHORTEST", 5)
    monkeypatch.setattr(recommend_module, "FEWEST", 2)
    described = server(requests=20, arrivals={"kind": "constant", "rate_per_s": 8.0})
    with ThreadPoolExecutor(1) as executor:
        found = sim.recommend(described, {"max_ttft_ms": 200.0}, candidates=STEPS[:3], executor=executor)
    assert [(one.candidate.name, one.requests) for one in found.ranked] == [
        ("60 ms", 20),
        ("100 ms", 20),
        ("180 ms", 5),
    ]
    # Served in s each, one every 1/r s: the last of 20 waits 19 (s - 1/r), and 200 ms may pass.
    assert found.best.rate_per_s == pytest.approx(1 / (0.06 - 0.14 / 19), rel=0.01)
    assert found.runner_up.startswith("100 ms holds 10.")
    assert "(at most 200 is asked); admission is" in found.runner_up


@pytest.mark.slow
def test_of_given_servers_the_quickest_wins_with_and_without_halving() -> None:
    described = server(requests=160, arrivals={"kind": "constant", "rate_per_s": 4.0})
    with ThreadPoolExecutor(1) as executor:
        halved, every = (
            sim.recommend(
                described, {"max_ttft_ms": 200.0}, candidates=STEPS, halving=halving, executor=executor
            )
            for halving in (True, False)
        )
    assert halved.best.candidate == every.best.candidate == STEPS[1]
    # Served in s each, one every 1/r s: the last of 160 waits 159 (s - 1/r), and 200 ms may pass.
    assert every.best.rate_per_s == pytest.approx(1 / (0.06 - 0.14 / 159), rel=0.01)
    assert halved.best.rate_per_s == pytest.approx(every.best.rate_per_s, rel=0.01)
    assert [one.candidate.name for one in every.ranked] == [
        "60 ms",
        "80 ms",
        "100 ms",
        "120 ms",
        "140 ms",
        "180 ms",
    ]
    assert [one.requests for one in halved.ranked] == [160] * 4 + [40] * 2
    simulated = [
        sum(dict(row.point.changes)["workload.requests"] for row in one.rows) for one in (halved, every)
    ]
    assert simulated[0] < 0.8 * simulated[1]
    assert halved.runner_up.startswith("80 ms holds 12.")
    assert "its max_ttft_ms is" in halved.runner_up
    assert "admission is" in halved.runner_up
    assert halved.table().height == 6


def test_layouts_are_the_splits_that_heads_and_gpus_allow() -> None:
    described = scenario()
    names = [one.name for one in layouts(described, 4, {})]
    assert {
        "TP1 x4",
        "TP2 x2",
        "TP4 x1",
        "TP2 PP2 x1",
        "TP1 1P:3D",
        "TP1 2P:2D",
        "TP1 3P:1D",
        "TP2 1P:1D",
    } <= set(names)
    assert not [name for name in names if "TP3" in name or "EP" in name]
    assert len(names) == len(set(names))
    twice = layouts(described, 4, {"engine.max_num_seqs": [8, 16]})
    assert len(twice) == 2 * len(names)
    moe = sim.with_changes(described, {"model": "mixtral-8x7b"})
    assert {"TP2 DP2 EP4 x1", "TP1 DP4 EP4 x1", "TP4 EP4 x1", "TP4 x1"} <= {
        one.name for one in layouts(moe, 4, {})
    }


def test_every_layout_is_a_file_that_runs_at_its_rate(tmp_path: Path) -> None:
    described = sim.with_changes(scenario(), {"workload.requests": 2})
    names = ("TP4 x1", "TP2 1P:1D", "TP1 x4")
    few = [one for one in layouts(described, 4, {}) if one.name in names]
    rates = (math.inf, 2.5, 0.0)
    ranked = tuple(Ranked(one, rate, rate / 4, 2) for one, rate in zip(few, rates, strict=True))
    found = Recommendation(ranked, (), "", {}, 4, (), described)
    for path, one in zip(found.write(tmp_path), ranked, strict=True):
        again = sim.load_scenario(path)
        expected = 2.5 if one.rate_per_s == 2.5 else 4.0
        assert again.workload.arrivals.rate_per_s == expected  # type: ignore[union-attr]
        assert sim.simulate(again).is_complete
    assert {path.name[4:] for path in tmp_path.iterdir()} == {"tp4-x1.yaml", "tp2-1pto1d.yaml", "tp1-x4.yaml"}


@pytest.mark.slow
def test_halving_finds_the_winner_of_exhaustive_search_over_layouts() -> None:
    changes = {"workload.requests": 160, "workload.prompt_tokens.tokens": 1000}
    described = sim.with_changes(scenario(), changes)
    slo = {"p90_ttft_ms": 300.0}
    few = [one for one in layouts(described, 4, {}) if "PP" not in one.name]
    halved, every = (
        sim.recommend(described, slo, candidates=few, halving=halving, progress=False)
        for halving in (True, False)
    )
    assert halved.best.candidate == every.best.candidate
    assert halved.best.rate_per_s == pytest.approx(every.best.rate_per_s, rel=0.01)
    users = [point.tokens_per_s_per_user for point in every.frontier]
    per_gpu = [point.tokens_per_s_per_gpu for point in every.frontier]
    assert users
    assert users == sorted(users, reverse=True)
    assert per_gpu == sorted(per_gpu)


def test_runs_grow_to_the_length_of_the_scenario() -> None:
    assert _lengths(640) == [40, 160, 640]
    assert _lengths(100) == [100]
    assert _lengths(None) == [None]


def test_what_cannot_be_recommended_is_said() -> None:
    with pytest.raises(InputError, match="there are no objectives"):
        sim.recommend(scenario())
    with pytest.raises(InputError, match="must have a rate to search over"):
        sim.recommend(server(arrivals={"kind": "closed_loop", "users": 2}), {"p99_ttft_ms": 1.0})
    with pytest.raises(InputError, match="pools are what is looked for"):
        sim.recommend(scenario(pools={"a": {}}), {"p99_ttft_ms": 1.0})
    with (
        pytest.raises(InfeasibleError, match=r"holds p99_ttft_ms 0\.001 at any rate"),
        ThreadPoolExecutor(1) as executor,
    ):
        sim.recommend(server(requests=2), {"p99_ttft_ms": 0.001}, candidates=STEPS[:1], executor=executor)
