"""The ledger of validation: its sections, its summary, its pictures and its page."""

from __future__ import annotations

import pytest

from sim.inputs.errors import InputError
from sim.results.compared import Row
from sim.validation.ledger import chosen, summarised


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
