from __future__ import annotations

import pytest

from sim.validation.services.host_fits import launch_s, unbiased
from sim.validation.services.static_batches import SPLITWISE_LAUNCH_S


def test_a_constant_is_where_the_bias_is_nought_and_zero_where_it_is_too_slow_without() -> None:
    assert unbiased(lambda x: 3.0 * (x - 0.4181), 1.0, 1e-3) == 0.418
    assert unbiased(lambda x: x + 0.1, 1.0, 1e-3) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("hardware", SPLITWISE_LAUNCH_S)
def test_the_launch_of_a_kernel_in_the_loop_of_2023_is_what_its_fit_gives(hardware: str) -> None:
    assert launch_s(hardware) == SPLITWISE_LAUNCH_S[hardware]
