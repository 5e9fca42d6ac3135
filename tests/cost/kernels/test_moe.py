from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sim.cost.kernels import kernels
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import MoeParameters
from tests.cost.kernels.round_gpu import gpu


def test_every_expert_of_a_rank_costs_its_set_up_whether_hit_or_not() -> None:
    parameters = MoeParameters(s_per_expert=1e-6)
    one = gpu(moe={"bf16": parameters})
    sizes = {"tokens": 1, "hidden": 1024, "inter": 512, "experts": 64, "topk": 2, "dtype": "bf16"}
    none = gpu(moe={"bf16": parameters.model_copy(update={"s_per_expert": 0.0})})
    extra_s = kernels.moe(one, ep=4, **sizes).total_s - kernels.moe(none, ep=4, **sizes).total_s
    assert extra_s == pytest.approx(16 * 1e-6)


def test_tokens_hit_experts_as_draws_without_a_favourite() -> None:
    assert kernels.experts_hit(1, 256, 8) == pytest.approx(8)
    assert kernels.experts_hit(4, 256, 8) == pytest.approx(30.5, abs=0.1)
    assert kernels.experts_hit(64, 256, 8) == pytest.approx(222, abs=1)
    assert kernels.experts_hit(64, 256, 8, "balanced") == 256
    drawn = np.random.default_rng(1)
    hits = [len({e for _ in range(16) for e in drawn.choice(64, 4, replace=False)}) for _ in range(400)]
    assert np.mean(hits) == pytest.approx(kernels.experts_hit(16, 64, 4), rel=0.01)


def test_experts_read_the_weights_that_are_hit() -> None:
    p = MoeParameters(
        floor_s=0, hbm_fraction=1, flop_fraction=1, tile_tokens=0, k_half=0, overlap=1, s_per_pair=0
    )
    ideal = gpu(moe={"bf16": p})
    timing = kernels.moe(ideal, 1024, 4096, 1024, 64, 4, tp=2, ep=4, routing="balanced")
    pairs = 1024 * 4 / 4
    weights = 16 * 3 * 4096 * 512 * 2
    assert timing.compute_s == pytest.approx(6 * pairs * 4096 * 512 / 1e15)
    assert timing.memory_s == pytest.approx((weights + pairs * (4096 * 6 + 512 * 8)) / 1e12)


def test_the_fullest_rank_of_skewed_experts_sets_the_time() -> None:
    even = kernels.moe(gpu(), 4096, 4096, 1536, 128, 8, ep=8)
    skewed = kernels.moe(gpu(), 4096, 4096, 1536, 128, 8, ep=8, routing="power_law_1.2")
    assert skewed.total_s > 1.2 * even.total_s


def test_four_bit_experts_are_expanded_on_a_gpu_without_four_bit_arithmetic() -> None:
    sizes = (8, 2880, 2880, 128, 4)
    assert kernels.moe(gpu(), *sizes, dtype="fp4") == kernels.moe(gpu(), *sizes, dtype="w4a16")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: kernels.moe(g, 1, 8, 8, 4, 8), "each must be at most experts = 4"),
        (lambda g: kernels.moe(g, 1, 8, 8, 8, 2, routing="odd"), "routing = 'odd': must be one of"),
    ],
)
def test_sizes_and_routings_that_make_no_sense_are_refused(call: Callable[[Gpu], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(gpu())


def test_a_rank_hits_no_more_experts_than_it_has() -> None:
    sizes = {"tokens": 64, "hidden": 1024, "inter": 512, "experts": 64, "topk": 2, "ep": 4}
    assert kernels.moe(gpu(), hit=1000.0, **sizes) == kernels.moe(gpu(), hit=16.0, **sizes)
