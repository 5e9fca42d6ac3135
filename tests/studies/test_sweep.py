"""Sweeps: every combination and seed is a row, in the order of the grid."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import sim
from sim.inputs.errors import InputError
from sim.scenario import Scenario
from sim.studies import points
from sim.studies.intervals import mean_interval
from tests.studies.scenarios import scenario


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
    assert [row.status for row in found.infeasible] == ["infeasible"] * 2
    assert [row.status for row in found.failed] == ["wrong input"]
    assert found.table()["engine.tensor_parallel_size"].to_list() == ["1", "3", "8", "many"]
    assert found.table()["mean_ttft_ms"].is_null().to_list() == [False, True, True, True]


def test_a_sweep_on_processes_gives_the_rows_of_one_in_this_process() -> None:
    grid = {"engine.max_num_seqs": [1, 4]}
    with ThreadPoolExecutor(1) as executor:
        here = sim.sweep(scenario(), grid, seeds=range(3), executor=executor)
    there = sim.sweep(scenario(), grid, seeds=range(3), progress=False)
    assert [row.summary for row in there.rows] == [row.summary for row in here.rows]


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(1) as executor:
        sim.sweep(scenario(), {}, seeds=range(3), executor=executor, progress=True)
    out, err = capsys.readouterr()
    assert not out
    assert "3 of 3 points" in err


@pytest.mark.parametrize(("grid", "seeds"), [({"engine.max_num_seqs": []}, [0]), ({}, [])])
def test_a_sweep_over_nothing_is_refused(grid: dict[str, list[int]], seeds: list[int]) -> None:
    with pytest.raises(InputError):
        sim.sweep(scenario(), grid, seeds=seeds)


def test_values_that_go_together_are_one_axis_beside_others() -> None:
    grid = {("engine.tensor_parallel_size", "replicas"): [(1, 4), [4, 1]], "engine.max_num_seqs": [2, 8]}
    with ThreadPoolExecutor(1) as executor:
        table = sim.sweep(scenario(), grid, executor=executor).table()
    shapes = table.select("engine.tensor_parallel_size", "replicas", "engine.max_num_seqs").rows()
    assert shapes == [(1, 4, 2), (1, 4, 8), (4, 1, 2), (4, 1, 8)]
    assert table["status"].to_list() == ["done"] * 4


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({("replicas", "engine.max_num_seqs"): [(1, 2), (3,)]}, "(3,) must be 2 values that go together"),
        ({("replicas", "engine.max_num_seqs"): ["12"]}, "'12' must be 2 values"),
        ({("replicas", "engine.max_num_seqs"): [(1, 2)], "replicas": [1]}, "replicas is in two axes"),
    ],
)
def test_axes_that_make_no_sense_are_refused_before_anything_runs(grid: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        sim.sweep(scenario(), grid)
    assert said in str(refused.value)


def test_a_list_of_changes_is_run_as_it_is_written() -> None:
    changes = [{"engine.max_num_seqs": 2}, {"replicas": 2}, {"replicas": 2, "engine.max_num_seqs": 4}]
    with ThreadPoolExecutor(1) as executor:
        table = sim.sweep(scenario(), changes, executor=executor).table()
    assert table["engine.max_num_seqs"].to_list() == [2, None, 4]
    assert table["replicas"].to_list() == [None, 2, 2]


def test_a_generator_is_asked_for_the_next_scenario_when_a_worker_becomes_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(points, "AHEAD_ON_A_CLUSTER", 1)
    monkeypatch.setattr(points, "WAITING_PER_WORKER", 1)
    drawn: list[int] = []
    done: list[int] = []

    def scenarios() -> Iterator[Scenario]:
        for seqs in (1, 2, 4):
            drawn.append(len(done))
            yield sim.with_changes(scenario(), {"name": f"{seqs} seats", "engine.max_num_seqs": seqs})

    class Counts(ThreadPoolExecutor):
        def submit(self, *call: Any, **named: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(call[0](*call[1:], **named))
            done.append(1)
            return future

    with Counts(1) as executor:
        found = sim.sweep(scenarios(), seeds=range(2), executor=executor)
    assert drawn == [0, 2, 4]
    assert found.table()["scenario"].to_list() == [
        f"{i} {n} seats" for i, n in enumerate((1, 2, 4)) for _ in "ab"
    ]
    assert found.table()["status"].to_list() == ["done"] * 6


def test_what_is_drawn_must_be_a_scenario_and_takes_no_changes() -> None:
    with pytest.raises(InputError, match="scenario 0 is dict"):
        sim.sweep([{"replicas": 1}], progress=False)  # type: ignore[list-item]
    with pytest.raises(InputError, match="changes are for one scenario"):
        sim.sweep({"a": scenario()}, {"replicas": [1]})


def test_several_seeds_have_a_mean_and_its_interval() -> None:
    with ThreadPoolExecutor(1) as executor:
        found = sim.sweep(
            scenario(), {"engine.tensor_parallel_size": [1, 3]}, seeds=range(3), executor=executor
        )
        one = sim.sweep(scenario(), {}, executor=executor)
    means = found.means(["mean_ttft_ms"]).to_dicts()
    values = [row.summary["mean_ttft_ms"] for row in found.rows if row.status == "done"]
    assert [line["seeds"] for line in means] == [3]
    expected = mean_interval(values)
    assert (means[0]["mean_ttft_ms"], means[0]["mean_ttft_ms_low"]) == (expected.mean, expected.low)
    assert one.means(["mean_ttft_ms"])["mean_ttft_ms_high"].to_list() == [None]
