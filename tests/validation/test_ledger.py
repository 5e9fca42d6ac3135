"""The ledger of validation: its sections, its summary, its pictures and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.cli.app import app
from sim.inputs.errors import InputError
from sim.results.compared import ErrorSummary, Row
from sim.validation.charts import save_charts
from sim.validation.ledger import SECTIONS, GroupErrors, chosen, ledger, rows_only, summarised
from sim.validation.page import accuracy_page
from sim.validation.services.tables import LeftOut


def row(published: float | None, simulated: float, kind: str = "predicted", size: float = 8.0) -> Row:
    return Row(
        "a case", "time", "ms", published, simulated, "fitted" if kind == "fitted" else "predicted",
        "a source", section="kernels", size=size,
    )  # fmt: skip


def test_a_summary_keeps_fitted_and_predicted_rows_apart() -> None:
    rows = [row(10.0, 11.0), row(10.0, 8.0), row(10.0, 13.0), row(10.0, 10.0, "fitted"), row(None, 1.0)]
    predicted, fitted = summarised(rows)
    assert (predicted.kind, predicted.errors.count, fitted.kind, fitted.errors.count) == (
        "predicted",
        3,
        "fitted",
        1,
    )
    assert predicted.errors.median == pytest.approx(0.2)
    assert predicted.errors.bias == pytest.approx(0.1)
    assert fitted.errors.median == 0.0


def test_an_unknown_section_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no section named 'kernel'.*did you mean 'kernels'"):
        chosen(["kernel"])


def test_closed_forms_agree_to_the_last_digits() -> None:
    rows = rows_only(ledger(["formulas"]))
    assert len(rows) > 10
    for one in rows:
        assert one.section == "formulas"
        assert one.error == pytest.approx(0.0, abs=1e-9 if one.quantity != "parameters" else 1e-3)


def test_kernels_and_collectives_stay_within_their_targets() -> None:
    found = {
        (one.section, one.quantity): one for one in summarised(rows_only(ledger(["kernels", "collectives"])))
    }
    targets = {
        ("kernels", "gemm"): 0.10,
        ("kernels", "attention_decode"): 0.10,
        ("kernels", "attention_prefill"): 0.12,
        ("kernels", "moe"): 0.15,
        ("collectives", "all_reduce"): 0.12,
        ("collectives", "all_reduce across nodes"): 0.20,
    }
    for key, most in targets.items():
        assert found[key].errors.median <= most, key


def test_every_row_says_where_its_number_is_from() -> None:
    assert all(
        one.source and one.unit and one.case
        for one in rows_only(ledger(["kernels", "collectives", "formulas"]))
    )


def test_charts_are_drawn_of_sections_with_something_to_draw(tmp_path: Path) -> None:
    rows = [row(10.0 * i, 11.0 * i, size=float(i)) for i in range(1, 5)]
    written = {path.name for path in save_charts(rows, tmp_path)}
    assert written == {"kernels_against_measured.png", "kernels_error_by_size.png"}
    assert save_charts(rows[:1], tmp_path) == []


def test_the_page_has_a_table_for_every_section_in_the_ledger_and_says_where_not_to_use_it() -> None:
    groups = [
        GroupErrors("closed-loops", "all", "all", quantity, ErrorSummary(1073, 0.05, 0.2, -0.01))
        for quantity in ("time per output token", "time to first token", "output tokens of all users")
    ]
    left_out = [LeftOut("a table", 1200, 7, "a reason")]
    page = accuracy_page(summarised([row(10.0, 11.0)]), groups, left_out)
    assert "| a table | 7 | 1,200 | a reason |" in page
    assert "| all | all | 1,073 | 5.0 % | 20 % | -1.0 % |" in page
    assert "| time | predicted | 1 | 10 % | 10 % | +10.0 % |" in page
    assert "1,073 closed loops" in page
    assert "## Where not to use it" in page
    assert "<!--" not in page


def test_the_command_prints_json_alone_on_standard_output() -> None:
    done = CliRunner().invoke(app, ["validate", "formulas", "--format", "json"])
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert {one["section"] for one in told["rows"]} == {"formulas"}
    assert told["errors"][0]["median"] < 1e-9


def test_the_sections_are_the_ones_that_the_help_names() -> None:
    words = CliRunner().invoke(app, ["validate", "--help"]).stdout
    for name in SECTIONS:
        assert name in words
