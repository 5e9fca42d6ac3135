"""The shipped parameters against measured times that no parameter was fitted on."""

from __future__ import annotations

from functools import cache

import pytest

from sim.calibration.kernel_fit import fold_of
from sim.calibration.kernels import UNSEEN_FOLD, errors_of, measurements_of, shipped_predictions
from sim.reading.data_files import measured
from sim.reading.measurements import Measurement
from sim.results.compared import ErrorSummary

SAMPLES = measured()


@cache
def predictions(engine: str, op: str) -> list[tuple[Measurement, float, float]]:
    measured = [one for one in measurements_of([SAMPLES]) if (one.engine, one.op) == (engine, op)]
    return shipped_predictions(measured)


def test_no_sample_is_of_a_shape_that_was_fitted() -> None:
    assert all(fold_of(one.shape, 5) == UNSEEN_FOLD for one in measurements_of([SAMPLES]))


@pytest.mark.parametrize(
    ("op", "most"),
    [
        ("gemm", 0.10),
        ("attention_decode", 0.10),
        ("attention_prefill", 0.12),
        ("moe", 0.15),
        ("mla_decode", 0.15),
        ("mla_prefill", 0.15),
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_unseen_kernels_are_predicted_better_than_by_a_roofline(engine: str, op: str, most: float) -> None:
    compared = predictions(engine, op)
    seconds = [one.seconds for one, _, _ in compared]
    ours = ErrorSummary.of(errors_of([predicted for _, predicted, _ in compared], seconds))
    roofline = ErrorSummary.of(errors_of([lower for _, _, lower in compared], seconds))
    assert ours.count >= 20
    assert ours.median < most
    assert ours.median < 0.4 * roofline.median
