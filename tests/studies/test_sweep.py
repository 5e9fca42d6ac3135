"""Sweeps: every combination and seed is a row, in the order of the grid."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import sim
from sim.inputs.errors import InputError
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
    assert len(found.failed) == 3
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
