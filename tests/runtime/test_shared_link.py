"""A link alone with its transfers."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from sim.theory import queueing


def test_transfers_share_a_link_equally_in_any_order_of_the_list() -> None:
    assert sim.link(2.0, [0.0, 0.0], [2.0, 4.0]).tolist() == [2.0, 3.0]
    assert sim.link(1.0, [0.5, 0.0], [1.0, 1.0]).tolist() == [1.5, 1.5]


def test_a_link_under_poisson_transfers_is_processor_sharing() -> None:
    rng = np.random.default_rng(7)
    arrival_s = np.cumsum(rng.exponential(2.0, 4000))
    took = sim.link(1.0, arrival_s, rng.exponential(1.0, 4000))
    assert took.mean() == pytest.approx(queueing.mg1_ps(0.5, 1.0).W, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((0.0, [0.0], [1.0]), "bytes_per_s = 0.0: must be a number, above 0"),
        ((1.0, [0.0], [1.0, 2.0]), "1 arrival_s and 2 n_bytes"),
        ((1.0, [-1.0], [1.0]), r"arrival_s\[0\] = -1.0: must be a number, at least 0"),
        ((1.0, [0.0, 1.0], [1.0, 0.0]), r"n_bytes\[1\] = 0.0: must be a number, above 0"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[float, list[float], list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sim.link(*arguments)
