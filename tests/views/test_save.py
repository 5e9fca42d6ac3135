"""The folder of a run: all its files, and nothing overwritten by accident."""

from __future__ import annotations

from pathlib import Path

import polars
import pytest

import sim
from sim.inputs.errors import InputError
from sim.simulate import Result


def test_a_saved_run_has_all_its_files_and_its_scenario_runs_again_to_the_same_rows(
    folder: Path, result: Result
) -> None:
    names = {path.name for path in folder.iterdir()}
    tables = {f"{name}.csv" for name in ("requests", "steps", "gaps", "links", "gpus")}
    tables |= {f"{name}.csv" for name in ("blame", "blame_ttft", "blame_itl", "kv_blocks")}
    assert names == tables | {"summary.json", "trace.json", "report.html", "scenario.resolved.yaml"}
    again = sim.simulate(sim.load_scenario(folder / "scenario.resolved.yaml"))
    assert again.requests.equals(result.requests)
    read = polars.read_csv(folder / "requests.csv")
    assert read["finished_s"].to_list() == result.requests["finished_s"].to_list()


def test_a_folder_that_holds_files_is_not_overwritten_unless_forced(result: Result, folder: Path) -> None:
    with pytest.raises(InputError, match="already holds files"):
        result.save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result.save(folder, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, (
        "the same run, the same bytes"
    )
