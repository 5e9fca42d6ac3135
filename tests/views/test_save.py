"""The folder of a run: all its files, and nothing overwritten by accident."""

from __future__ import annotations

import errno
import json
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
    assert names == tables | {
        "summary.json", "verdict.json", "theory.json", "setting.json", "trace.perfetto-trace", "report.html",
        "scenario.resolved.yaml", "manifest.json",
    }  # fmt: skip
    again = sim.simulate(sim.load_scenario(folder / "scenario.resolved.yaml"))
    assert again.requests.equals(result.requests)
    read = polars.read_csv(folder / "requests.csv")
    assert read["finished_s"].to_list() == result.requests["finished_s"].to_list()


@pytest.mark.slow
def test_a_folder_that_holds_files_is_not_overwritten_unless_forced(result: Result, folder: Path) -> None:
    with pytest.raises(InputError, match="already holds files"):
        result.save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result.save(folder, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, (
        "the same run, the same bytes"
    )


def test_a_saved_run_is_read_back_to_the_last_bit(folder: Path, result: Result) -> None:
    read = sim.load_result(folder)
    for name in ("requests", "steps", "gaps", "links", "gpus", "blame"):
        assert getattr(read, name).equals(getattr(result, name)), name
    assert read.summary()["mean_ttft_ms"] == result.summary()["mean_ttft_ms"]
    assert (read.seed, read.end_s, read.ended) == (0, result.end_s, "all requests ended")
    assert read.is_complete
    assert sim.load_scenario(read.scenario_file).workload == result.scenario.workload


@pytest.mark.slow
def test_the_manifest_has_what_the_run_was_read_from_and_no_place_or_time(
    folder: Path, result: Result, tmp_path: Path
) -> None:
    text = (folder / "manifest.json").read_text()
    assert str(folder.parent) not in text
    manifest = json.loads(text)
    assert [one["name"] for one in manifest["inputs"]] == ["small.yaml"]
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    elsewhere = result.save(tmp_path / "elsewhere")
    assert (elsewhere / "manifest.json").read_text() == text


def test_a_trace_is_among_what_a_run_was_read_from_every_time_that_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,2\n1,10,2\n")
    scenario = tmp_path / "replay.yaml"
    scenario.write_text(
        "topology: a100-x4\nmodel: llama-3-8b\n"
        f"workload: {{arrivals: {{kind: trace, path: {tmp_path / 'mine.csv'}}}}}\n"
    )
    for _ in range(2):
        run = sim.simulate(sim.with_changes(sim.load_scenario(scenario), {"replicas": 2}))
        assert {path.name for path in run.inputs if path.parent == tmp_path} == {"mine.csv", "replay.yaml"}


@pytest.mark.slow
def test_a_folder_without_manifest_and_one_that_was_changed_are_refused(
    result: Result, tmp_path: Path
) -> None:
    saved = result.save(tmp_path / "run")
    text = (saved / "requests.csv").read_text()
    (saved / "requests.csv").write_text(text[:-10])
    with pytest.raises(InputError, match=r"requests\.csv is not as the run left it"):
        sim.load_result(saved)
    (saved / "requests.csv").unlink()
    with pytest.raises(InputError, match=r"has lost requests\.csv"):
        sim.load_result(saved)
    (saved / "manifest.json").unlink()
    with pytest.raises(InputError, match="an older version left it, or its run was cut off"):
        sim.load_result(saved)
    with pytest.raises(InputError, match="there is no folder"):
        sim.load_result(tmp_path / "none")


@pytest.mark.slow
def test_force_leaves_nothing_of_the_old_run_and_removes_nothing_else(result: Result, tmp_path: Path) -> None:
    saved = result.save(tmp_path / "run")
    (saved / "requests.parquet").write_bytes(b"of the old run")
    result.save(saved, force=True)
    assert not (saved / "requests.parquet").exists()
    (saved / "notes.txt").write_text("of a reader")
    with pytest.raises(InputError, match=r"'notes\.txt', which no run has left"):
        result.save(saved, force=True)
    assert (saved / "notes.txt").exists()


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_run_or_nothing(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = result.save(tmp_path / "run")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sim.views.save.write_trace", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        result.save(old, force=True)
    with pytest.raises(InputError, match="No space left"):
        result.save(tmp_path / "new")
    assert sim.load_result(old).is_complete
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
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
