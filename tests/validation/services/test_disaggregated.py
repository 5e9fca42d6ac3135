"""Prefill and decode apart, a row as two pools."""

from __future__ import annotations

import pytest

from sim.validation.services.disaggregated import pool_rows, pools_left_out, scenario_of
from sim.validation.services.tables import cases, published

ROWS = [case.cells for case in published("disaggregated")]
SMALL = min(
    (case.cells for case in cases("pools", whole=True)),
    key=lambda row: int(row["concurrency"]) * int(row["osl"]),
)


def test_the_workers_of_a_row_are_the_replicas_of_two_pools() -> None:
    scenario = scenario_of(SMALL)
    assert set(scenario.all_pools) == {"prefill", "decode"}
    for stage, pool in scenario.all_pools.items():
        assert pool.replicas == int(SMALL[f"{stage}_num_workers"])
        assert pool.engine.tensor_parallel_size == int(SMALL[f"{stage}_tp_size"])
        assert pool.engine.data_parallel_size == int(SMALL[f"{stage}_attention_dp_size"])


def test_no_row_of_the_ledger_is_fitted_and_throughput_follows_from_the_two_times() -> None:
    tpot, ttft, tokens = pool_rows(SMALL)
    assert {row.kind for row in (tpot, ttft, tokens)} == {"predicted"}
    answer = 0.9 * int(SMALL["osl"])
    expected = 1e3 * int(SMALL["concurrency"]) * answer / (ttft.simulated + (answer - 1) * tpot.simulated)
    assert tokens.simulated == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "a model"}, "a model has no model description here"),
        ({"total_gpus": "1"}, "the workers' GPUs are not the row's GPUs"),
        ({"concurrency": "1000000"}, "million tokens"),
    ],
)
def test_a_row_that_cannot_be_expressed_has_its_reason(changes: dict[str, str], reason: str) -> None:
    assert pools_left_out(SMALL) == ""
    assert reason in pools_left_out({**SMALL, **changes})
