from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.catalog import load_gpu
from sim.cost.kernels import kernels
from sim.cost.kernels.gemm import PARTS_OF_DEPTH
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import GemmParameters
from tests.cost.kernels.round_gpu import gpu

IDEAL_GEMM = GemmParameters(
    floor_s=0, hbm_fraction=1, flop_fraction=1, s_per_depth=0, wave_loss=0, overlap=1, throttle=0
)


def test_a_product_alone_is_its_flops_and_its_bytes() -> None:
    ideal = gpu(gemm={"bf16": IDEAL_GEMM})
    timing = kernels.gemm(ideal, 64, 8192, 4096)
    assert timing.compute_s == pytest.approx(2 * 64 * 8192 * 4096 / 1e15)
    assert timing.memory_s == pytest.approx(2 * (8192 * 4096 + 64 * 4096 + 64 * 8192) / 1e12)
    assert timing.total_s == pytest.approx(timing.compute_s + timing.memory_s)
    assert timing.bound == "memory"


def test_a_part_filled_wave_costs_a_whole_one_where_nothing_hides_it() -> None:
    stiff = gpu(gemm={"bf16": IDEAL_GEMM.model_copy(update={"wave_loss": 1.0})})
    full = kernels.gemm(stiff, 128 * 100, 128, 1024).compute_s
    one_more = kernels.gemm(stiff, 128 * 101, 128, 1024).compute_s
    assert one_more == pytest.approx(2 * full)


def test_a_long_product_is_throttled_and_a_sustained_one_wholly() -> None:
    hot = gpu(gemm={"bf16": IDEAL_GEMM.model_copy(update={"throttle": 0.5})})
    cold = gpu(gemm={"bf16": IDEAL_GEMM})
    short, long = (128, 128, 128), (32768, 16384, 16384)
    assert kernels.gemm(hot, *short).compute_s == pytest.approx(
        kernels.gemm(cold, *short).compute_s, rel=1e-3
    )
    ratio = kernels.gemm(hot, *long).compute_s / kernels.gemm(cold, *long).compute_s
    assert 1.4 < ratio < 1.5
    sustained = kernels.gemm(hot, *short, sustained=True).compute_s
    assert sustained == pytest.approx(1.5 * kernels.gemm(cold, *short).compute_s)


def test_narrow_products_of_long_k_are_split_along_it_and_wide_ones_are_not() -> None:
    walking = gpu(gemm={"bf16": IDEAL_GEMM.model_copy(update={"s_per_depth": 1e-6, "overlap": 12.0})})

    def walk_s(m: int, n: int, k: int) -> float:
        return kernels.gemm(walking, m, n, k).total_s

    assert walk_s(4, 256, 7168) == pytest.approx(1e-6 * 7168 / PARTS_OF_DEPTH, rel=1e-4)
    assert walk_s(4, 384, 7168) == pytest.approx(walk_s(4, 256, 7168), rel=1e-4)
    assert walk_s(4, 768, 7168) == pytest.approx(1e-6 * 7168, rel=1e-4)
    assert walk_s(400, 256, 7168) == pytest.approx(1e-6 * 7168, rel=1e-4)  # eight tiles
    assert walk_s(4, 256, 2048) == pytest.approx(1e-6 * 2048, rel=1e-4)
    for narrow, wide in pairwise(range(128, 1024, 64)):
        assert walk_s(4, narrow, 7168) <= walk_s(4, wide, 7168) * (1 + 1e-9)
    for short, long in pairwise(range(1024, 9000, 512)):
        assert walk_s(4, 256, short) <= walk_s(4, 256, long) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("name", "measured_us"), [("b200-sxm", (4.66, 4.93, 5.06)), ("b300-sxm", (4.34, 4.66, 4.79))]
)
def test_a_router_of_256_experts_takes_what_cublas_does(name: str, measured_us: tuple[float, ...]) -> None:
    """vllm-project/vllm#44217: 1, 4 and 8 tokens, k 7168."""
    taken_us = [kernels.gemm(load_gpu(name), m, 256, 7168).total_s * 1e6 for m in (1, 4, 8)]
    assert taken_us == pytest.approx(measured_us, rel=0.12)


def test_small_weights_that_are_read_again_come_from_the_level_2_cache() -> None:
    caching = gpu(gemm={"bf16": IDEAL_GEMM.model_copy(update={"l2_share": 0.5})})
    small, large = (1, 1024, 1024), (1, 65536, 8192)
    assert kernels.gemm(caching, *small, warm=True).memory_s < 0.1 * kernels.gemm(caching, *small).memory_s
    cold = kernels.gemm(caching, *large).memory_s
    assert kernels.gemm(caching, *large, warm=True).memory_s == pytest.approx(cold, rel=0.01)


def test_quantising_activations_costs_rows_and_bytes() -> None:
    p = IDEAL_GEMM.model_copy(update={"quantise_s_per_token": 1e-9, "quantise_passes": 2.0})
    with_it, without = gpu(gemm={"fp8": p}), gpu(gemm={"fp8": IDEAL_GEMM})
    difference = (
        kernels.gemm(with_it, 64, 512, 1024, "fp8").total_s
        - kernels.gemm(without, 64, 512, 1024, "fp8").total_s
    )
    assert difference == pytest.approx(64e-9 + 2 * 3 * 64 * 1024 / 1e12)


@given(
    m=st.integers(1, 16384), n=st.integers(64, 65536), k=st.integers(64, 32768), faster=st.floats(1.0, 8.0)
)  # fmt: skip
def test_more_bandwidth_or_arithmetic_is_never_slower(m: int, n: int, k: int, faster: float) -> None:
    base = gpu()
    alone = kernels.gemm(base, m, n, k).total_s
    for changed in (
        base.model_copy(update={"hbm_bytes_per_s": base.hbm_bytes_per_s * faster}),
        base.model_copy(update={"flops": {"bf16": 1e15 * faster}}),
    ):
        assert kernels.gemm(changed, m, n, k).total_s <= alone * (1 + 1e-12)


def test_static_scales_save_the_quantisation_and_no_more() -> None:
    real = load_gpu("b200-sxm").under("trtllm")
    for tokens in (1, 64, 4096):
        dynamic = kernels.gemm(real, tokens, 8192, 8192, "fp8")
        static = kernels.gemm(real, tokens, 8192, 8192, "fp8", quantised=True)
        assert static.total_s < dynamic.total_s
        assert (static.compute_s, static.memory_s) == (dynamic.compute_s, dynamic.memory_s)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: kernels.gemm(g, 0, 8, 8), "each must be at least 1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(call: Callable[[Gpu], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(gpu())


@pytest.mark.parametrize("width", [1024, 4096, 8192])
def test_borrowed_constants_never_make_more_rows_quicker(width: int) -> None:
    """fp8 of an RTX 4090 is an H100's: the step to a second row of tiles cost a third of the time."""
    stand_in = load_gpu("rtx-4090")
    assert stand_in.kernels is not None
    assert stand_in.kernels.provenance["gemm.fp8"].tag == "assumed"
    seconds = [kernels.gemm(stand_in, m=m, n=width, k=4096, dtype="fp8").total_s for m in range(1, 1100)]
    assert all(one <= other for one, other in pairwise(seconds))


def test_a_part_filled_tile_costs_a_whole_one_of_a_wave() -> None:
    stiff = gpu(gemm={"bf16": IDEAL_GEMM.model_copy(update={"wave_loss": 1.0})})
    tile, row = (kernels.gemm(stiff, m, 128 * 80, 1024).compute_s for m in (128, 1))
    assert 128 * row == pytest.approx(tile)  # 80 of 100 SMs have a tile, whatever is in it
