from __future__ import annotations

import pytest

from sim.calibration.fitting import log_fit


def test_a_fit_finds_the_numbers_that_measurements_were_made_of_whatever_their_size() -> None:
    sizes = [2.0**n for n in range(5, 30, 3)]
    measured = [20e-6 + size / 3e9 for size in sizes]

    def ratios(numbers):  # type: ignore[no-untyped-def]
        return [(numbers[0] + size / numbers[1]) / one for size, one in zip(sizes, measured, strict=True)]

    assert log_fit(ratios, [1e-6, 1e11]).tolist() == pytest.approx([20e-6, 3e9], rel=1e-3)


def test_a_fit_stays_within_its_bounds_also_where_it_starts_outside_of_them() -> None:
    assert log_fit(lambda numbers: [numbers[0] / 8.0], [50.0], [(1.0, 4.0)]).item() == pytest.approx(4.0)


def test_one_point_far_off_weighs_less_than_by_plain_squares() -> None:
    """Four points say 1 and one says 100: plain squares of logarithms would say 100 ** 0.2."""
    found = log_fit(lambda numbers: [*(numbers[0] for _ in range(4)), numbers[0] / 100.0], [3.0]).item()
    assert 1.0 < found < 1.1 < 100**0.2
