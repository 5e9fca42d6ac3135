"""One fabric link under Poisson transfers is M/G/1-PS, whatever the law of the sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sim.cost.fairshare import FlowLike
from sim.theory import queueing
from tests.laws.link_under_load import (
    arrivals,
    broken_laws_of_sharing,
    seconds_first_come_first_served,
    seconds_on_fabric,
    sizes,
)

LAWS = ["exponential", "deterministic", "hyperexponential"]
TRANSFERS = 100_000


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rho", [0.5, 0.7])
def test_mean_time_and_slowdown_are_those_of_processor_sharing(law: str, rho: float) -> None:
    rng = np.random.default_rng(7)
    arrival_s, n_bytes = arrivals(rho, TRANSFERS, rng), sizes(law, TRANSFERS, rng)
    assert broken_laws_of_sharing(rho, n_bytes, seconds_on_fabric(arrival_s, n_bytes)) == []


@pytest.mark.slow
def test_slowdown_is_that_of_processor_sharing_in_a_short_run() -> None:
    rng = np.random.default_rng(7)
    arrival_s, n_bytes = arrivals(0.5, 20_000, rng), sizes("exponential", 20_000, rng)
    assert broken_laws_of_sharing(0.5, n_bytes, seconds_on_fabric(arrival_s, n_bytes)) == []


@pytest.mark.parametrize("law", LAWS)
def test_a_link_that_is_a_lock_is_found_out(law: str) -> None:
    rng = np.random.default_rng(7)
    arrival_s, n_bytes = arrivals(0.7, TRANSFERS, rng), sizes(law, TRANSFERS, rng)
    assert broken_laws_of_sharing(0.7, n_bytes, seconds_first_come_first_served(arrival_s, n_bytes))


@pytest.mark.slow
def test_a_link_that_gives_everybody_all_it_has_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_for_each(flows: Sequence[FlowLike], capacity: Sequence[float]) -> list[float]:
        return [capacity[flow.links[0]] for flow in flows]

    monkeypatch.setattr("sim.runtime.fabric.fair_rates.fair_levels", all_for_each)
    rng = np.random.default_rng(7)
    arrival_s, n_bytes = arrivals(0.5, 10_000, rng), sizes("exponential", 10_000, rng)
    assert broken_laws_of_sharing(0.5, n_bytes, seconds_on_fabric(arrival_s, n_bytes))


def test_the_lock_is_the_textbook_lock() -> None:
    """The counter-example is itself what it is said to be: M/G/1 first come first served."""
    rng = np.random.default_rng(11)
    arrival_s, n_bytes = arrivals(0.5, 200_000, rng), sizes("hyperexponential", 200_000, rng)
    mean = seconds_first_come_first_served(arrival_s, n_bytes).mean()
    assert mean == pytest.approx(queueing.mg1(25.0, 50.0, 4.0).W, rel=0.05)
