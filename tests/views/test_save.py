"""The folder of a run: all its files, and nothing overwritten by accident."""

from __future__ import annotations

from pathlib import Path

import polars
import pytest

import sim
from sim.inputs.errors import InputError
from sim.simulate import Result
from sim.views import save


def test_a_saved_run_has_all_its_files_and_its_scenario_runs_again_to_the_same_rows(
    folder: Path, result: Result
) -> None:
    names = {path.name for path in folder.iterdir()}
    tables = {f"{name}.csv" for name in save.TABLES}
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


def test_kv_transfers_and_tiers_are_saved(tmp_path: Path) -> None:
    described = {
        "topology": "a100-x4",
        "model": "llama-3-8b",
        "pools": {"prefill": {"engine": {"kv_tiers": {"host": {"capacity_bytes": "1 GB"}}}}, "decode": {}},
        "workload": {
            "arrivals": {"kind": "burst"}, "prompt_tokens": 64, "output_tokens": 3, "requests": 2,
        },
    }  # fmt: skip
    result = sim.simulate(sim.Scenario.model_validate(described))
    result.save(tmp_path / "run")
    for name in ("kv_tiers", "hand_overs"):
        read = polars.read_csv(tmp_path / "run" / f"{name}.csv")
        assert read.height == getattr(result, name).height > 0


def test_a_result_is_a_line_at_the_prompt(result: Result) -> None:
    assert repr(result).startswith("<Result of ")
    assert "seed 0" in repr(result)
    assert len(repr(result).splitlines()) == 1
    assert len(repr(result)) < 200
