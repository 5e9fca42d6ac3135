from __future__ import annotations

import warnings

import pytest

from sim.catalog import load_gpu
from sim.cost.kernels.kernels import formula
from sim.cost.kernels.measured import MeasuredKernels
from sim.inputs.errors import InputError
from sim.reading.measurements import Measurement


def points(factor: float = 2.0) -> list[Measurement]:
    gpu = load_gpu("h100-sxm")
    table = []
    for m in (1, 16, 64, 256):
        for n in (1024, 8192):
            sizes = {"m": m, "n": n, "k": 8192, "dtype": "bf16"}
            seconds = factor * formula(gpu, "gemm", **sizes).total_s
            table.append(Measurement(gpu.name, "mine", "gemm", "bf16", sizes, seconds=seconds))
    return table


def test_a_measured_point_comes_out_as_measured() -> None:
    table, gpu = points(3.0), load_gpu("h100-sxm")
    model = MeasuredKernels(table)
    for one in table:
        assert model(gpu, "gemm", **one.sizes).total_s == pytest.approx(one.seconds, rel=1e-12)


def test_between_points_the_formula_is_corrected_by_its_neighbours() -> None:
    gpu = load_gpu("h100-sxm")
    sizes = {"m": 40, "n": 4096, "k": 8192, "dtype": "bf16"}
    timing = MeasuredKernels(points(2.0))(gpu, "gemm", **sizes)
    assert timing.total_s == pytest.approx(2.0 * formula(gpu, "gemm", **sizes).total_s)


def test_outside_of_the_table_the_formula_stands_alone_and_says_so_once() -> None:
    model, gpu = MeasuredKernels(points()), load_gpu("h100-sxm")
    outside = {"m": 1024, "n": 4096, "k": 8192, "dtype": "bf16"}
    with pytest.warns(UserWarning, match="gemm on h100-sxm: .*m 1024.* is outside the measured table"):
        assert model(gpu, "gemm", **outside) == formula(gpu, "gemm", **outside)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(gpu, "gemm", **{**outside, "m": 2048})


def test_another_format_or_kernel_is_outside() -> None:
    model, gpu = MeasuredKernels(points()), load_gpu("h100-sxm")
    with pytest.warns(UserWarning, match="gemm"):
        model(gpu, "gemm", m=16, n=1024, k=8192, dtype="fp8")
    with pytest.warns(UserWarning, match="attention_decode"):
        model(gpu, "attention_decode", batch=1, kv_tokens=100, heads=8, kv_heads=1, head_dim=128)


@pytest.mark.parametrize(
    ("op", "sizes", "said"),
    [
        ("gemm", {"m": 1, "n": 64}, "has no k; its arguments are m, n, k, dtype"),
        ("gemm", {"m": 1, "n": 64, "k": 64, "inf": 1}, "does not take inf"),
        ("gem", {"m": 1}, "'gem' is no kernel; known are gemm"),
    ],
)
def test_rows_that_no_kernel_can_be_asked_for_are_refused(op: str, sizes: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=f"k.csv: .*{said}"):
        MeasuredKernels([Measurement("h100-sxm", "mine", op, "bf16", sizes, seconds=1e-5)], source="k.csv")


def test_chunks_of_a_table_are_told_apart_by_their_number_their_tokens_and_what_is_cached() -> None:
    gpu, table = load_gpu("h100-sxm"), []
    for factor, chunks in ((2.0, [(512, 0)]), (3.0, [(512, 1000)]), (4.0, [(256, 0), (256, 1000)])):
        sizes = {"chunks": chunks, "heads": 8, "kv_heads": 2, "head_dim": 128}
        seconds = factor * formula(gpu, "attention_prefill", **sizes).total_s
        table.append(Measurement(gpu.name, "mine", "attention_prefill", "bf16", {**sizes}, seconds=seconds))
    model = MeasuredKernels(table)
    for one in table:
        assert model(gpu, one.op, **one.sizes).total_s == pytest.approx(one.seconds, rel=1e-12)
