"""Laws of queues and of decoding, and closed forms, of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sim.results.compared import Row
from sim.validation import laws
from sim.validation.ledger import ledger, rows_only


def test_closed_forms_agree_to_the_last_digits() -> None:
    rows = rows_only(ledger(["formulas"]))
    assert len(rows) > 10
    for one in rows:
        assert one.section == "formulas"
        assert one.error == pytest.approx(0.0, abs=1e-9 if one.quantity != "parameters" else 1e-3)


def test_an_interval_is_students_and_excludes_what_chance_hardly_explains() -> None:
    values = np.random.default_rng(1).normal(5.0, 1.0, 10_000)
    found = laws.interval(values)
    assert abs(found.mean - 5.0) < 2.0 * found.half < 0.1
    assert not found.excludes(5.0)
    assert found.excludes(5.0 + 10.0 * found.half)
    row = laws.law_row("a law", "mean", 6.0, found)
    assert row.is_outside
    assert row.as_dict()["interval"] == row.interval


@pytest.mark.slow
def test_mixed_batches_are_stable_where_prompts_before_decodes_are_not() -> None:
    rows = list(laws.stability_rows())
    assert [row.simulated for row in rows] == [0.0, 1.0, 0.0, 1.0]
    assert not any(row.is_outside for row in rows)


@pytest.mark.slow
def test_kv_memory_lets_through_what_the_formula_says() -> None:
    row = laws.memory_limit_row()
    assert not row.is_outside
    assert row.simulated == pytest.approx(row.published, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [laws.queue_rows, laws.decode_rows, laws.batching_rows],
    ids=["queues", "decode batches", "whole batches"],
)
def test_no_law_is_outside_of_its_interval(rows: Callable[[float], Iterator[Row]]) -> None:
    found = list(rows(1.0))  # shorter runs at load 0.95 have too few busy periods for their intervals
    assert len(found) >= 3
    assert [row.case for row in found if row.is_outside] == []


@pytest.mark.slow
def test_a_fluid_of_requests_stands_still_where_the_formula_says() -> None:
    found = list(laws.fluid_rows())
    assert [row.simulated / row.published for row in found] == pytest.approx([1.0] * 3, abs=0.04)
    assert not any(row.is_outside for row in found)


@pytest.mark.slow
def test_a_closed_loop_of_decodes_is_its_network() -> None:
    assert [row.case for row in laws.loop_rows() if row.is_outside] == []
