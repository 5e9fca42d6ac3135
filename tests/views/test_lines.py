"""One number against another: lines by what else was changed, and what theory says."""

from __future__ import annotations

import pytest

import sim
from sim.views.lines import POINTS, lines_chart
from tests.scenario.small import scenario
from tests.views.conftest import drawn

ROWS = [
    {"rate": 1.0, "seats": 4, "ttft": 5.0, "ttft_low": 4.0, "ttft_high": 6.0},
    {"rate": 2.0, "seats": 4, "ttft": 9.0, "ttft_low": None, "ttft_high": None},
    {"rate": 2.0, "seats": 8, "ttft": None, "ttft_low": None, "ttft_high": None},
]


def test_each_combination_of_the_rest_is_a_line_and_rows_without_numbers_are_left_out() -> None:
    points = drawn(lines_chart(ROWS, "rate", "ttft", ["seats"]))
    assert [(point["x"], point["y"], point["line"]) for point in points] == [
        (1.0, 5.0, "seats 4"), (2.0, 9.0, "seats 4"),
    ]  # fmt: skip


def test_theory_is_drawn_from_the_least_to_the_largest_x() -> None:
    points = [
        p
        for p in drawn(lines_chart(ROWS, "rate", "ttft", theory=lambda rate: 4 * rate))
        if p["line"] == "theory"
    ]
    assert (len(points), points[0]["x"], points[-1]["x"], points[-1]["y"]) == (POINTS, 1.0, 2.0, 8.0)
    given = drawn(lines_chart(ROWS, "rate", "ttft", theory={2.0: 7.0, 1.0: 3.0}))
    assert [point["y"] for point in given if point["line"] == "theory"] == [3.0, 7.0]


def test_a_sweep_draws_the_means_over_its_seeds() -> None:
    found = sim.sweep(scenario(), {"workload.output_tokens": [4, 8]}, progress=False)
    points = drawn(found.chart("workload.output_tokens", "mean_e2el_ms", theory=lambda tokens: 3 * tokens))
    simulated = {point["x"]: point["y"] for point in points if point["line"] == "simulated"}
    means = found.means()
    assert simulated == dict(zip(means["workload.output_tokens"], means["mean_e2el_ms"], strict=True))
    with pytest.raises(sim.InputError, match="'mean_e2e_ms' is no column of this sweep; did you mean"):
        found.chart("workload.output_tokens", "mean_e2e_ms")


def test_theory_ends_where_it_refuses_or_is_infinite() -> None:
    def wait(rate: float) -> float:
        if rate > 1.5:
            raise ValueError("a load of more than one")
        return rate

    told = [p for p in drawn(lines_chart(ROWS, "rate", "ttft", theory=wait)) if p["line"] == "theory"]
    assert told
    assert max(point["x"] for point in told) <= 1.5
    infinite = drawn(lines_chart(ROWS, "rate", "ttft", theory={1.0: 3.0, 2.0: float("inf")}))
    assert [point["y"] for point in infinite if point["line"] == "theory"] == [3.0]
