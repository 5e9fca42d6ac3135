from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.cost.kernels import kernels
from sim.cost.kernels.kernels import KernelTiming
from sim.cost.kernels.timing import FORMATS, STAND_INS, number_format, peak_flops
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from tests.cost.kernels.round_gpu import gpu


def test_a_format_runs_at_the_peak_of_the_first_arithmetic_that_the_gpu_has() -> None:
    assert peak_flops(gpu(), "int8") == 2e15  # no 8-bit integers here: those of fp8
    assert peak_flops(gpu(), "w4a16") == 1e15  # weights are expanded to 16 bits


def test_a_timing_is_bound_by_its_longest_part() -> None:
    assert KernelTiming(3.0, 1.0, 2.0, 0.5).bound == "compute"
    assert KernelTiming(3.0, 1.0, 0.5, 2.0).bound == "memory"
    assert KernelTiming(3.0, 2.5, 0.5, 2.0).bound == "latency"


def test_block_scaled_formats_carry_their_scales() -> None:
    assert number_format("nvfp4").weight_bytes == 0.5 + 1 / 16
    assert number_format("fp4").weight_bytes == 0.5 + 1 / 32
    assert number_format("fp8_block").weight_bytes == 1 + 4 / 128**2


def test_every_format_has_stand_ins_and_all_of_them_are_formats() -> None:
    for dtype in FORMATS:
        assert set(STAND_INS[dtype]) <= FORMATS.keys() - {dtype}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: kernels.gemm(g, 8, 8, 8, "fp7"), "dtype = 'fp7': must be one of fp32, bf16"),
        (
            lambda g: kernels.gemm(g, 8, 8, 8, "nvfp4"),
            "round has no such arithmetic; it has bf16, .*fp8",
        ),
    ],
)
def test_formats_that_make_no_sense_are_refused(call: Callable[[Gpu], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(gpu())


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        ((32, 32), ["fp32"]),
        ((16, 16), ["bf16", "fp16"]),
        ((8, 8), ["fp8", "fp8_block", "int8"]),
        ((4, 4), ["nvfp4", "fp4"]),
        ((4, 16), ["int4", "w4a16"]),
        ((4, 8), ["w4a8"]),
    ],
)
def test_a_format_has_so_many_bits_a_weight_and_an_activation_and_a_scale_on_top(
    bits: tuple[int, int], names: list[str]
) -> None:
    for name in names:
        weight_bytes, activation_bytes, _ = number_format(name)
        assert (int(8 * weight_bytes), int(8 * activation_bytes)) == bits
