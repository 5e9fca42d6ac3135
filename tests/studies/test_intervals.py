"""Student's t against the tables and against scipy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from sim.studies.intervals import mean_interval, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 30, 101, 1000])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.975, 0.9995, 0.1])
def test_quantiles_are_those_of_scipy(probability: float, degrees: int) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(
        stats.t.ppf(probability, degrees), rel=1e-9, abs=1e-12
    )


def test_one_value_says_nothing_about_its_spread() -> None:
    assert mean_interval([3.0]) == (3.0, -math.inf, math.inf)


def test_equal_values_leave_no_doubt() -> None:
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
