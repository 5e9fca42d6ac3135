"""Queues and closed forms of the ledger."""

from __future__ import annotations

import pytest

from sim.validation.ledger import ledger, rows_only
from sim.validation.theory import law_rows


def test_closed_forms_agree_to_the_last_digits() -> None:
    rows = rows_only(ledger(["formulas"]))
    assert len(rows) > 10
    for one in rows:
        assert one.section == "formulas"
        assert one.error == pytest.approx(0.0, abs=1e-9 if one.quantity != "parameters" else 1e-3)


@pytest.mark.slow
def test_mean_waits_are_within_some_percent_of_the_formulas() -> None:
    rows = list(law_rows())
    assert {row.case.split(" at ")[0] for row in rows} == {
        "M/M/1",
        "M/D/1",
        "M/G/1, uniform service",
        "M/M/4",
    }
    assert all(row.error is not None and abs(row.error) < 0.1 for row in rows)
