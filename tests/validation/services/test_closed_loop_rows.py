"""Closed loops as rows of the ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.validation.ledger import grouped
from sim.validation.services.closed_loop_rows import point_rows, users_band
from sim.validation.services.closed_loops import FITTED_ON, ServingPoint, Simulated, run

POINT = ServingPoint(
    "h200_sxm", "meta-llama/Llama-3.1-70B", "fp8", "vllm", "", 1024, 1024, 16, 2, 1, False, 222.0, 15.1,
    "public InferenceX export", True,
)  # fmt: skip


def test_groups_leave_out_what_a_host_was_fitted_on() -> None:
    simulated = run(POINT)
    model, system = FITTED_ON["vllm"]
    fitted = replace(simulated, point=replace(POINT, model=model, system=system))
    groups = grouped([*point_rows(simulated), *point_rows(fitted)])
    assert {group.errors.count for group in groups} == {1}
    assert {group.by for group in groups} == {"all", "model", "GPU", "format", "engine", "users", "TP"}
    assert groups[0].by == "all"


def test_a_point_gives_both_times_and_the_throughput_that_they_amount_to() -> None:
    tpot, ttft, tokens = point_rows(Simulated(POINT, ttft_ms=200.0, tpot_ms=15.0))
    assert (tpot.published, tpot.simulated) == (15.1, 15.0)
    assert (ttft.published, ttft.simulated) == (222.0, 200.0)
    assert (tokens.published, tokens.simulated) == (
        POINT.throughput(222.0, 15.1),
        POINT.throughput(200.0, 15.0),
    )
    assert {row.section for row in (tpot, ttft, tokens)} == {"closed-loops"}


@pytest.mark.parametrize(
    ("users", "band"),
    [
        (1, "1 to 4"),
        (4, "1 to 4"),
        (5, "5 to 16"),
        (64, "17 to 64"),
        (128, "65 to 128"),
        (129, "129 and more"),
    ],
)
def test_users_are_grouped_in_bands(users: int, band: str) -> None:
    assert users_band(users) == band
