"""Least squares of the kernel formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.calibration.kernel_fit import fit, fold_of, held_out, predicted_s, with_parameters
from sim.calibration.kernels import errors_of
from sim.catalog import load_gpu
from sim.inputs.kernel_parameters import GemmParameters
from sim.results.compared import ErrorSummary
from tests.calibration.made_points import TRUE, products


def test_parameters_come_back_from_times_that_they_made() -> None:
    found = fit(load_gpu("h100-sxm"), products("h100-sxm"))
    assert isinstance(found, GemmParameters)
    assert found.floor_s == pytest.approx(TRUE.floor_s, rel=0.05)
    assert found.hbm_fraction == pytest.approx(TRUE.hbm_fraction, rel=0.02)
    assert found.flop_fraction == pytest.approx(TRUE.flop_fraction, rel=0.05)


def test_one_wild_point_does_not_move_the_others() -> None:
    measured = products("h100-sxm")
    wild = measured[0]
    spoilt = [replace(wild, seconds=30 * wild.seconds), *measured[1:]]
    gpu = load_gpu("h100-sxm")
    fitted = with_parameters(gpu, "gemm", "bf16", fit(gpu, spoilt))
    errors = errors_of([predicted_s(fitted, one) for one in measured], [one.seconds for one in measured])
    assert ErrorSummary.of(errors).median < 0.02


def test_a_shape_is_held_out_whole() -> None:
    measured = products("h100-sxm")
    assert len({(one.shape, fold_of(one.shape, 5)) for one in measured}) == 7
    predictions = held_out(load_gpu("h100-sxm"), measured)
    errors = errors_of(predictions, [one.seconds for one in measured])
    assert ErrorSummary.of(errors).median < 0.05


def test_a_shape_that_is_twice_as_slow_is_not_predicted_so_by_fits_without_it() -> None:
    measured = products("h100-sxm")
    odd = [replace(one, seconds=2 * one.seconds) if one.shape == "4096/4096" else one for one in measured]
    predictions = held_out(load_gpu("h100-sxm"), odd)
    pairs = [(p, one) for p, one in zip(predictions, odd, strict=True) if one.shape == "4096/4096"]
    errors = errors_of([p for p, _ in pairs], [one.seconds for _, one in pairs])
    assert ErrorSummary.of(errors).bias == pytest.approx(-0.5, abs=0.05)
