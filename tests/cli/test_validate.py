"""`sim validate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.cli import status_of
from sim.cli.app import app
from sim.validation.ledger import SECTIONS


def test_the_command_prints_json_alone_on_standard_output() -> None:
    done = CliRunner().invoke(app, ["validate", "formulas", "--format", "json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {one["section"] for one in found["rows"]} == {"formulas"}
    assert found["errors"][0]["median"] < 1e-9


def test_the_sections_are_the_ones_that_the_help_names() -> None:
    words = "".join(CliRunner().invoke(app, ["validate", "--help"]).stdout.split())
    for name in SECTIONS:
        assert name in words


def test_rows_and_errors_of_json_have_the_columns_that_scripts_read() -> None:
    found = json.loads(CliRunner().invoke(app, ["validate", "formulas", "--format", "json"]).stdout)
    assert list(found) == ["rows", "errors", "groups", "left_out"]
    common = ["case", "quantity", "unit", "published", "simulated", "kind", "source"]
    assert list(found["rows"][0]) == [*common, "section", "size", "of", "error"]
    assert list(found["errors"][0]) == ["section", "quantity", "kind", "rows", "median", "p90", "bias"]


@pytest.mark.slow
def test_a_folder_gets_the_ledger_as_json(tmp_path: Path) -> None:
    assert status_of(["validate", "formulas", "--summary", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "ledger.json").read_text())
    assert rows[0]["section"] == "formulas"
    assert "estimate" not in rows[0]


def test_an_unknown_section_and_a_folder_that_is_a_file_are_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(["validate", "kernel"]) == 2
    assert "no section named 'kernel'" in capsys.readouterr().err
    (tmp_path / "a").write_text("")
    assert status_of(["validate", "formulas", "--out", str(tmp_path / "a")]) == 2


def test_the_errors_that_runs_read_are_written_of_the_sections_that_were_run(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.json"
    done = CliRunner().invoke(app, ["validate", "formulas", "--errors", str(path)])
    assert done.exit_code == 0
    assert json.loads(path.read_text()) == {}


def test_one_cell_of_the_board_is_run_row_by_row() -> None:
    asked = [
        "validate",
        "closed-loops",
        "--cell",
        "gb200, dense, 5 to 16",
        "--processes",
        "1",
        "--format",
        "json",
    ]
    found = json.loads(CliRunner().invoke(app, asked).stdout)
    assert found["rows"]
    for row in found["rows"]:
        assert (row["of"]["GPU"], row["of"]["users"], row["section"]) == ("GB200", "5 to 16", "closed-loops")


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (["--cell", "moe, h100-sx"], "did you mean 'h100-sxm'"),
        (["--cell", "dense, vllm, gb200"], "no published row is of dense, vllm, gb200"),
        (["kernels", "--cell", "moe"], "kernels has no cells; throughput, pools, closed-loops have"),
        (["--cell", "moe", "--write", "page.md"], "--write is of more than one cell"),
    ],
)
def test_a_cell_that_cannot_be_run_is_wrong_input(
    asked: list[str],
    answer: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status_of(["validate", *asked]) == 2
    assert answer in " ".join(capsys.readouterr().err.split())


def test_a_page_is_written_with_the_rows_behind_it(tmp_path: Path) -> None:
    page = tmp_path / "accuracy.md"
    assert status_of(["validate", "formulas", "--summary", "--write", str(page)]) == 0
    assert "## The board" in page.read_text()
    assert (tmp_path / "accuracy_rows.csv").read_text().startswith("section,model,engine,gpu,users,case,")
