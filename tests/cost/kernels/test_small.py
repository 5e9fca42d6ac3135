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
