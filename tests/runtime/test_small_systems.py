"""A queue, stations in series, forks that join, barriers: of given times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sim
from sim.theory import queueing

MANY = 40_000


def test_a_queue_serves_in_order_of_arrival_whatever_the_order_of_the_list() -> None:
    assert sim.queue([2.0, 0.0, 0.5], [1.0, 2.0, 3.0]).tolist() == [4.0, 2.0, 4.5]
    assert sim.queue([2.0, 0.0, 0.5], [1.0, 2.0, 3.0], servers=2).tolist() == [1.0, 2.0, 3.0]


def test_stations_of_exponential_times_meet_their_theorems() -> None:
    rng = np.random.default_rng(3)
    arrival_s = np.cumsum(rng.exponential(2.0, MANY))  # load 0.5
    first_s, second_s = rng.exponential(1.0, (2, MANY))
    at_two = sim.tandem(
        arrival_s, lambda come_s: sim.queue(come_s, first_s), lambda come_s: sim.queue(come_s, second_s)
    )
    assert at_two.sum(axis=1).mean() == pytest.approx(queueing.tandem(0.5, [1.0, 1.0]).W, rel=0.05)
    assert sim.queue(arrival_s, 3.0 * first_s, 2).mean() == pytest.approx(
        queueing.mmc(0.5, 1.0 / 3.0, 2).W, rel=0.1
    )
    joined = sim.fork_join(arrival_s, np.stack([first_s, second_s], axis=1))
    assert joined.mean() == pytest.approx(queueing.fork_join(0.5, 1.0, 2).W, rel=0.05)


def test_stations_and_links_stand_in_one_series() -> None:
    stays = sim.tandem(
        [0.0, 0.0], lambda come_s: sim.queue(come_s, [1.0, 1.0]), lambda come_s: sim.link(1.0, come_s, [2, 2])
    )
    assert stays.tolist() == [[1.0, 3.0], [2.0, 3.0]]
    assert sim.tandem([0.0]).shape == (1, 0)


def test_a_barrier_waits_for_its_straggler() -> None:
    work_s = np.random.default_rng(5).normal(10.0, 1.0, (MANY, 8))
    rounds_s, waits_s = sim.barrier(work_s)
    assert rounds_s.mean() == pytest.approx(queueing.last_of_normals(8, 10.0, 1.0), rel=0.005)
    slowed_s, _ = sim.barrier(work_s, slow={7: 2.0})
    assert slowed_s.mean() == pytest.approx(20.0, rel=0.005)
    assert np.all(waits_s.min(axis=1) == 0.0)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (lambda: sim.queue([0.0], [1.0], servers=0), "servers = 0: must be at least 1"),
        (lambda: sim.queue([0.0], [-1.0]), r"service_s\[0\] = -1.0: must be a number, at least 0"),
        (lambda: sim.queue([0.0], [1.0, 1.0]), "1 customers and 2 times"),
        (lambda: sim.queue("now", [1.0]), "arrival_s: must be numbers"),
        (lambda: sim.tandem([0.0], lambda come_s: [1.0, 2.0]), "1 customers and 2 times"),
        (lambda: sim.fork_join([0.0], [1.0]), "has 1 dimensions: must have 2"),
        (lambda: sim.fork_join([0.0], [[]]), "has no servers"),
        (lambda: sim.barrier([[]]), "has no ranks"),
        (lambda: sim.barrier([[1.0]], slow={1: 2.0}), "slow has rank 1: must be from 0 to 0"),
        (lambda: sim.barrier([[1.0]], slow={0: 0.0}), r"slow\[0\] = 0.0: must be a number, above 0"),
    ],
)
def test_what_cannot_be_is_refused(asked: Callable[[], Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        asked()
