"""Kernels and collectives of the ledger, each timed alone."""

from __future__ import annotations

from sim.validation.ledger import ledger, rows_only, summarised
from sim.validation.microbenchmarks import collective_rows


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


def test_collectives_that_their_parameters_were_fitted_to_say_so_and_have_their_size() -> None:
    rows = list(collective_rows())
    assert {row.kind for row in rows} == {"fitted"}
    assert all(row.size for row in rows)
    assert {row.quantity.endswith("across nodes") for row in rows} == {True, False}
