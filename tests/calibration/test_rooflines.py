"""The datasheet's time of each kernel."""

from __future__ import annotations

from typing import Any

import pytest

from sim.calibration.kernel_fit import SEARCHED
from sim.calibration.kernels import measurements_of
from sim.calibration.rooflines import roofline_s
from sim.catalog import load_gpu
from sim.reading.data_files import measured
from sim.reading.measurements import Measurement

H100 = load_gpu("h100-sxm")


def seconds(op: str, **sizes: Any) -> float:
    return roofline_s(H100, Measurement("h100-sxm", "vllm", op, "bf16", sizes))


def test_a_large_product_takes_its_flops_over_the_peak() -> None:
    assert seconds("gemm", m=8192, n=8192, k=8192, dtype="bf16") == pytest.approx(
        2 * 8192**3 / H100.flops["bf16"]
    )


def test_a_product_of_one_row_takes_its_weights_over_the_bandwidth() -> None:
    n_bytes = 2 * (8192 * 8192 + 8192 + 8192)
    assert seconds("gemm", m=1, n=8192, k=8192, dtype="bf16") == pytest.approx(n_bytes / H100.hbm_bytes_per_s)


def test_a_decode_reads_keys_and_values_of_all_tokens_once() -> None:
    sizes = {"kv_tokens": 100_000, "heads": 8, "kv_heads": 8, "head_dim": 128, "kv_dtype": "bf16"}
    n_bytes = 2 * 100_000 * 8 * 128 * 2
    assert seconds("attention_decode", **sizes) == pytest.approx(n_bytes / H100.hbm_bytes_per_s)


def test_every_kernel_that_is_fitted_has_a_roofline_and_few_samples_are_much_faster() -> None:
    """Some are: level-2 caches answer short kernels that are timed again and again."""
    samples = measurements_of([measured()])
    faster = [one for one in samples if one.seconds < 0.5 * roofline_s(load_gpu(one.gpu), one)]
    assert len(faster) < 0.05 * len(samples)
    assert {one.op for one in samples} <= set(SEARCHED)
