"""One row of published beside simulated, and one summary of errors."""

from __future__ import annotations

import math

import pytest

from sim.results.compared import ErrorSummary, Row


def test_the_error_is_simulated_over_published_less_one() -> None:
    assert Row("a", "time", "ms", 10.0, 12.0).error == pytest.approx(0.2)
    assert Row("a", "time", "ms", 10.0, 9.0).error == pytest.approx(-0.1)


@pytest.mark.parametrize("published", [None, 0.0])
def test_a_row_without_a_published_number_has_no_error(published: float | None) -> None:
    assert Row("a", "time", "ms", published, 12.0).error is None


def test_a_row_of_json_has_the_common_fields_those_named_and_the_error_last() -> None:
    row = Row("a", "time", "ms", 10.0, 12.5, "fitted", "a paper", section="kernels", of={"GPU": "H100"})
    common = ["case", "quantity", "unit", "published", "simulated", "kind", "source"]
    assert list(row.as_dict()) == [*common, "error"]
    assert list(row.as_dict("section", "of")) == [*common, "section", "of", "error"]
    assert row.as_dict("of")["of"] == {"GPU": "H100"}
    assert row.as_dict()["error"] == 0.25


def test_rows_of_a_run_can_be_held_in_a_set() -> None:
    row = Row("a", "time", "ms", 10.0, 12.0, of={"GPU": "H100"})
    assert len({row, row}) == 1


def test_median_and_90th_percentile_are_of_the_size_and_the_bias_keeps_its_sign() -> None:
    """By hand: sizes 0.1 0.2 0.3, nine tenths of the way from the first to the last is 0.28."""
    summary = ErrorSummary.of([-0.3, -0.1, 0.2])
    assert (summary.count, summary.median, summary.bias) == (3, 0.2, -0.1)
    assert summary.p90 == pytest.approx(0.28)


def test_no_errors_at_all_have_no_median() -> None:
    none = ErrorSummary.of([])
    assert none.count == 0
    assert math.isnan(none.median)
    assert math.isnan(none.p90)
    assert math.isnan(none.bias)
