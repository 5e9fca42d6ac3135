"""The board of accuracy, its rows, and the alarm where a cell gets worse."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.reading.accuracy import Errors, Section, accuracy, read_accuracy
from sim.results.compared import BOX, Row
from sim.validation import error_cells
from sim.validation.board import ROWS, board, rows_csv, worse
from sim.validation.error_cells import SAMPLE, sample_cells, service_cells, service_of
from sim.validation.ledger import Services, ledger, rows_only
from sim.validation.page import accuracy_page
from sim.validation.services import closed_loops
from sim.validation.services.tables import (
    TABLES,
    cases,
    cell_of_words,
    is_in_cell,
    sections_with_cells,
    simulated,
)

ONE = Services(processes=1)


def loop(error: float, users: str = "1 to 4", sampled: bool = False, case: str = "a case") -> Row:
    of = {"table": "a table", "model": "llama-3.1-8b", "engine": "vllm", "users": users, BOX: "nd-h100-v5"}
    return Row(
        case, "time per output token", "ms", 10.0, 10.0 * (1.0 + error), section="closed-loops", of=of,
        is_sampled=sampled,
    )  # fmt: skip


def test_a_line_of_the_board_has_the_errors_of_its_cell_and_the_median_of_the_version_before() -> None:
    rows = [loop(0.1), loop(-0.2), loop(0.4), loop(0.05, "17 to 64"), loop(0.3, "5 to 16")]
    before = {"closed_loops": Section(service_cells([loop(0.07)])["closed_loops"])}
    head, _, few, some, many = board(service_cells(rows), before).splitlines()
    assert head.startswith("| load | model | engine | gpu | users | rows | TPOT | p90 | bias | TTFT |")
    assert few == (
        "| closed loop | dense | vllm | h100-sxm | 1 to 4 | 3 | 20 % (7.0 %) | 36 % | +10.0 %"
        " |  |  |  |  |  |  |"
    )
    assert "| 5 to 16 | 1 | 30 % |" in some
    assert "| 17 to 64 | 1 | 5.0 % |" in many
    assert board({}, {}) == "Not in this run of the ledger."


def test_the_page_has_the_board_and_the_errors_that_others_publish_beside_those_of_a_cell() -> None:
    page = accuracy_page([], [], cells=service_cells([loop(0.1)] * 12))
    assert "| closed loop | dense | vllm | h100-sxm | 1 to 4 | 12 | 10 % | 10 % | +10.0 % |" in page
    assert "| 11.8 % mean | 10 %, 10 % (12) | time per output token, dense models under vLLM |" in page
    assert "| up to 5.3 % | not in this run | the same |" in page
    for section in ("## Memory", "## Power and energy"):
        assert section in page


def test_the_rows_behind_the_board_are_a_table_ordered_by_cell() -> None:
    rows = [loop(0.1, "17 to 64"), loop(0.2, "5 to 16", sampled=True, case='a, "case"')]
    found = list(csv.DictReader(io.StringIO(rows_csv([*rows, Row("kernel", "gemm", "us", 1.0, 2.0)]))))
    assert [one["users"] for one in found] == ["5 to 16", "17 to 64"]
    assert tuple(found[0]) == ROWS
    assert found[0] == {
        "section": "closed-loops", "model": "dense", "engine": "vllm", "gpu": "h100-sxm", "users": "5 to 16",
        "case": 'a, "case"', "quantity": "time per output token", "unit": "ms", "published": "10",
        "simulated": "12", "error": "0.2000", "kind": "predicted", "sampled": "1",
    }  # fmt: skip


def test_a_cell_is_asked_for_by_its_words_in_any_order() -> None:
    assert cell_of_words("17 to 64, moe,vllm") == {"users": "17 to 64", "model": "moe", "engine": "vllm"}
    with pytest.raises(InputError, match=r"no kind of model.*named 'h100-sx'.*did you mean 'h100-sxm'"):
        cell_of_words("moe, h100-sx")
    with pytest.raises(InputError, match=r"'dense' and 'moe' are both a kind of model"):
        cell_of_words("dense, vllm, moe")
    assert sections_with_cells() == ["throughput", "pools", "closed-loops"]


@pytest.mark.slow
def test_a_row_is_in_the_same_cell_before_and_after_it_is_simulated() -> None:
    for section in sections_with_cells():
        case = cases(section, whole=False)[-1]
        cell_of = TABLES[case.table].cell
        assert cell_of is not None
        cell = cell_of(case.cells)
        assert {service_of(row) == cell for row in simulated(case)} == {True}
        assert is_in_cell(case, cell)
        assert not is_in_cell(case, cell | {"model": "another"})


def test_a_cell_is_worse_by_two_points_and_by_a_tenth_or_with_rows_lost() -> None:
    def cell(error: float, n: int = 3) -> list[Errors]:
        return [Errors.over({"quantity": "q"}, [error] * n)]

    assert not worse(cell(0.05), cell(0.069))  # under two points
    assert not worse(cell(0.50), cell(0.54))  # under a tenth
    assert str(worse(cell(0.05), cell(0.08))[0]) == "q: median error 5.0 % before, 8.0 % now"
    assert len(worse(cell(0.50), cell(0.56))) == 1
    assert str(worse(cell(0.05), cell(0.05, 2))[0]) == "q: 2 of 3 rows are left"
    assert str(worse(cell(0.05), [])[0]) == "q: 0 of 3 rows are left"
    assert not worse(cell(0.05, 2), cell(0.5, 2))  # too few to watch


def test_a_sampled_run_leaves_the_cells_of_all_rows_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "errors.json"
    error_cells.write([loop(0.1, sampled=True), loop(0.2)] * 5, path, "sim validate")
    error_cells.write([loop(0.3, sampled=True)] * 4, path, "sim validate", whole=False)
    found = read_accuracy(path)
    assert {cell.n for cell in found["closed_loops"].cells.values()} == {10}
    assert {(cell.n, cell.median) for cell in found[SAMPLE].cells.values()} == {(4, 0.3)}
    whole = next(iter(found["closed_loops"].cells.values()))
    assert whole.size_p90 == pytest.approx(0.2)


# ---- the alarm


@pytest.fixture(scope="module")
def sampled() -> list[Row]:
    """The rows of the samples of services, simulated."""
    sections = list(dict.fromkeys(table.section for table in TABLES.values()))
    return rows_only(ledger(sections, ONE))


@pytest.mark.slow
def test_no_cell_of_the_sample_is_worse_than_the_one_that_was_stored(sampled: list[Row]) -> None:
    stored = accuracy()[SAMPLE].cells.values()
    assert sum(cell.n for cell in stored) > 500
    found = [str(one) for one in worse(stored, sample_cells(sampled))]
    assert not found, "; ".join(found)


@pytest.mark.slow
def test_a_worsened_constant_sets_the_alarm_off(sampled: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two milliseconds more between the steps of vLLM."""
    slower = closed_loops.HOSTS["vllm"] | {"step_gap_s": closed_loops.HOSTS["vllm"]["step_gap_s"] + 2e-3}
    monkeypatch.setitem(closed_loops.HOSTS, "vllm", slower)
    again = [
        replace(row, is_sampled=True)
        for case in cases("closed-loops", whole=False)
        if case.cells["backend"] == "vllm"
        for row in simulated(case)
    ]
    before = [row for row in sampled if row.section == "closed-loops" and row.of["engine"] == "vllm"]
    found = worse(sample_cells(before), sample_cells(again))
    assert "dense" in {one.of.get("model") for one in found}  # what is too fast now only gets better
    assert "time per output token" in {one.of["quantity"] for one in found}
    assert not worse(sample_cells(before), sample_cells(before))


def test_the_samples_are_part_of_every_whole_run() -> None:
    for section in sections_with_cells():
        every = cases(section, whole=True)
        assert all(case in every for case in cases(section, whole=False))
