from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.cost.kernels import kernels
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import SmallKernelParameters
from tests.cost.kernels.round_gpu import gpu


def test_an_elementwise_kernel_is_its_floor_and_its_bytes() -> None:
    one = gpu(elementwise=SmallKernelParameters(floor_s=2e-6, hbm_fraction=0.5))
    timing = kernels.elementwise(one, 1e6)
    assert timing == pytest.approx((2e-6 + 1e6 / 0.5e12, 2e-6, 0.0, 1e6 / 0.5e12))


def test_what_the_kernel_before_has_written_is_found_in_the_level_2_cache() -> None:
    cached = SmallKernelParameters(floor_s=2e-6, hbm_fraction=1.0, l2_share=0.5, l2_time=0.25)
    plain = cached.model_copy(update={"l2_share": 0.0})
    there, beyond = 1000.0, 400e6
    for n_bytes, share in ((there, 0.25), (25e6, 1.0 - 0.75 / 2.0), (beyond, 1.0)):
        taken_s, memory_s = (
            kernels.elementwise(gpu(elementwise=one), n_bytes).total_s - 2e-6 for one in (cached, plain)
        )
        assert taken_s == pytest.approx(share * memory_s, rel=0.01), n_bytes


def test_sampling_reads_and_writes_every_logit_once_in_32_bits() -> None:
    one = gpu(sampling=SmallKernelParameters(floor_s=5e-6, hbm_fraction=1))
    assert kernels.sampling(one, 16, 1000).total_s == pytest.approx(5e-6 + 16 * 1000 * 8 / 1e12)


def test_logits_are_one_product() -> None:
    assert kernels.lm_head(gpu(), 16, 32_000, 4096) == kernels.gemm(gpu(), 16, 32_000, 4096)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: kernels.elementwise(g, -1), "n_bytes = -1: must be at least 0"),
        (lambda g: kernels.sampling(g, 0, 5), "sequences = 0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(call: Callable[[Gpu], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(gpu())
