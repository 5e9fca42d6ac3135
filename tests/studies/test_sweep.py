"""Sweeps: every point is a row, whatever happens to it."""

from __future__ import annotations

import math
import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import sim
from sim.inputs.errors import InputError
from sim.scenario import Scenario
from sim.studies import points as points_module
from sim.studies.points import Point, run_points


def scenario(**changes: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": "llama-3-8b",
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": 4.0},
                "prompt_tokens": 100,
                "output_tokens": 5,
                "requests": 10,
            },
            **changes,
        }
    )


def test_a_sweep_has_one_row_for_every_combination_and_seed_in_the_order_of_the_grid() -> None:
    grid = {"engine.tensor_parallel_size": [1, 2], "workload.output_tokens.tokens": [3, 6]}
    with ThreadPoolExecutor(2) as executor:
        table = sim.sweep(scenario(), grid, seeds=range(2), executor=executor).table()
    assert table["engine.tensor_parallel_size"].to_list() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert table["workload.output_tokens.tokens"].to_list() == [3, 3, 6, 6, 3, 3, 6, 6]
    assert table["seed"].to_list() == [0, 1] * 4
    assert table["completed"].to_list() == [10] * 8


def test_a_row_has_the_numbers_of_the_same_run_by_itself() -> None:
    row = sim.sweep(
        scenario(), {"engine.tensor_parallel_size": [2]}, seeds=[7], executor=ThreadPoolExecutor(1)
    ).rows[0]
    alone = sim.simulate(sim.with_changes(scenario(), {"engine.tensor_parallel_size": 2}), seed=7)
    assert row.summary == alone.summary()


def test_what_cannot_be_is_a_row_with_its_reason() -> None:
    grid = {"engine.tensor_parallel_size": [1, 3, 8, "many"]}
    with ThreadPoolExecutor(1) as executor:
        found = sim.sweep(scenario(), grid, executor=executor)
    assert [row.status for row in found.rows] == ["done", "infeasible", "infeasible", "wrong input"]
    assert "does not divide" in found.rows[1].reason
    assert len(found.failed) == 3
    assert found.table()["engine.tensor_parallel_size"].to_list() == ["1", "3", "8", "many"]
    assert found.table()["mean_ttft_ms"].is_null().to_list() == [False, True, True, True]


def test_a_sweep_on_processes_gives_the_rows_of_one_in_this_process() -> None:
    grid = {"engine.max_num_seqs": [1, 4]}
    with ThreadPoolExecutor(1) as executor:
        here = sim.sweep(scenario(), grid, seeds=range(3), executor=executor)
    there = sim.sweep(scenario(), grid, seeds=range(3), progress=False)
    assert [row.summary for row in there.rows] == [row.summary for row in here.rows]


def dies_with_seed_two(pickled: bytes, point: Point, version: str) -> points_module.Row:
    if point.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return points_module.Row(point, "done")


def test_a_worker_that_dies_takes_nobody_elses_row_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_module, "run_point", dies_with_seed_two)
    rows = run_points([scenario()], [Point(0, (), seed) for seed in range(12)], progress=False)
    assert [row.point.seed for row in rows] == list(range(12))
    assert [row.point.seed for row in rows if row.status != "done"] == [2]
    assert "worker process died" in rows[2].reason


class Interrupted(ThreadPoolExecutor):
    """Somebody presses Ctrl-C at the fourth point."""

    def submit(self, *call: Any, **named: Any) -> Future[Any]:
        if call[2].seed == 3:
            raise KeyboardInterrupt
        future: Future[Any] = Future()
        future.set_result(call[0](*call[1:], **named))
        return future


def test_an_interrupt_keeps_the_rows_that_are_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(points_module, "WAITING_PER_WORKER", 1)
    monkeypatch.setattr(points_module, "AHEAD_ON_A_CLUSTER", 1)
    found = sim.sweep(scenario(), {"engine.max_num_seqs": [4]}, seeds=range(6), executor=Interrupted(1))
    assert [row.status for row in found.rows] == ["done"] * 3 + ["not run"] * 3
    assert "interrupted: 3 of 6" in capsys.readouterr().err


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(1) as executor:
        sim.sweep(scenario(), {}, seeds=range(3), executor=executor, progress=True)
    out, err = capsys.readouterr()
    assert not out
    assert "3 of 3 points" in err


def test_a_rule_that_no_other_process_can_read_is_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="top of a module"):
        sim.sweep(scenario(router=lambda request, replicas, random: 0), {}, progress=False)


@pytest.mark.parametrize(("grid", "seeds"), [({"engine.max_num_seqs": []}, [0]), ({}, [])])
def test_a_sweep_over_nothing_is_refused(grid: dict[str, list[int]], seeds: list[int]) -> None:
    with pytest.raises(InputError):
        sim.sweep(scenario(), grid, seeds=seeds)


# ---- compare


def test_paired_seeds_see_a_difference_that_separate_means_would_not() -> None:
    one, two = scenario(), scenario(engine={"frontend_s": 0.001})
    with ThreadPoolExecutor(1) as executor:
        found = sim.compare({"as it is": one, "1 ms later": two}, seeds=range(6), executor=executor)
    e2el = next(found for found in found.differences if found.metric == "mean_e2el_ms")
    assert e2el.pairs == 6
    assert e2el.is_clear
    assert e2el.difference.low < 1.0 < e2el.difference.high or e2el.difference.mean == pytest.approx(
        1.0, rel=0.1
    )
    spread = [row.summary["mean_e2el_ms"] for row in found.rows["as it is"]]
    assert max(spread) - min(spread) > e2el.difference.high - e2el.difference.low


def test_a_scenario_does_not_differ_from_itself() -> None:
    with ThreadPoolExecutor(1) as executor:
        found = sim.compare({"a": scenario(), "b": scenario()}, seeds=range(3), executor=executor)
    assert found.differences
    assert all(one.difference == (0.0, 0.0, 0.0) and not one.is_clear for one in found.differences)
    assert {"scenario", "metric", "a", "mean", "difference", "low", "high"} <= set(found.table().columns)


def test_seeds_that_only_one_scenario_can_run_are_no_pairs() -> None:
    with ThreadPoolExecutor(1) as executor:
        found = sim.compare(
            {"a": scenario(), "b": scenario(engine={"tensor_parallel_size": 3})},
            seeds=range(2),
            executor=executor,
        )
    assert not found.differences
    assert len(found.failed) == 2


# ---- capacity


def server(**workload: Any) -> Scenario:
    """M/D/1 with a service of 100 ms."""
    return scenario(
        engine={"scheduler": "one_at_a_time", "service_time": {"step_s": 0.1}},
        workload={
            "arrivals": {"kind": "poisson", "rate_per_s": 2.0},
            "prompt_tokens": 1,
            "output_tokens": 1,
            "requests": 4000,
            **workload,
        },
    )


@pytest.mark.slow
def test_the_capacity_of_one_server_is_where_its_formula_meets_the_objective() -> None:
    """M/D/1: mean wait s * rho / (2 (1 - rho)); a mean time in system of 2 services is met at rho = 2/3."""
    found = sim.capacity(server(), {"mean_e2el_ms": 200.0}, seeds=range(3))
    assert found.rate_per_s == pytest.approx(6.667, rel=0.04)
    assert "mean_e2el_ms" in found.limited_by
    holding = [trial.rate_per_s for trial in found.trials if trial.holds]
    failing = [trial.rate_per_s for trial in found.trials if not trial.holds]
    assert max(holding) == found.rate_per_s
    assert min(failing) / found.rate_per_s <= 1.02
    assert found.table()["rate_per_s"].is_sorted()


def test_an_objective_that_no_rate_meets_has_no_capacity() -> None:
    found = sim.capacity(server(requests=20), {"p99_ttft_ms": 50.0})
    assert found.rate_per_s == 0.0
    assert "p99_ttft_ms" in found.limited_by


def test_an_objective_that_every_rate_meets_has_no_limit() -> None:
    found = sim.capacity(server(requests=20), {"p99_ttft_ms": 1e9})
    assert math.isinf(found.rate_per_s)


def test_a_closed_loop_has_no_rate_to_search_over() -> None:
    with pytest.raises(InputError, match="'closed_loop': must have a rate"):
        sim.capacity(server(arrivals={"kind": "closed_loop", "users": 2}), {"p99_ttft_ms": 50.0})


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="p99_ttft_ms"):
        sim.capacity(server(requests=20), {"p99_tttf_ms": 50.0})
