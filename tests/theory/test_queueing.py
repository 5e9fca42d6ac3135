"""Closed forms against worked numbers, against each other, and against slow arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.theory import queueing

loads = st.floats(0.01, 0.99)


@given(loads, st.floats(0.1, 10.0), st.integers(1, 20))
def test_littles_law_holds_in_every_queue(rho: float, service_rate: float, servers: int) -> None:
    rate = rho * service_rate
    for queue in (
        queueing.mm1(rate, service_rate),
        queueing.mg1(rate, service_rate, 3.0),
        queueing.mg1_ps(rate, service_rate),
        queueing.mmc(rate * servers, service_rate, servers),
        queueing.mm1k(rate, service_rate, servers),
        queueing.tandem(rate, [service_rate, 2.0 * service_rate]),
    ):
        let_in = rate * (servers if queue == queueing.mmc(rate * servers, service_rate, servers) else 1.0)
        let_in *= 1.0 - queue.lost
        assert pytest.approx(let_in * queue.W, rel=1e-9) == queue.L
        assert queue.Lq == pytest.approx(let_in * queue.Wq, rel=1e-6, abs=1e-9)


@given(loads)
def test_one_server_is_the_same_queue_by_every_formula(rho: float) -> None:
    by_mu = 1.0 / (1.0 - rho)
    for queue in (
        queueing.mm1(rho, 1.0),
        queueing.mg1(rho, 1.0, 1.0),
        queueing.mmc(rho, 1.0, 1),
        queueing.gg1(rho, 1.0, 1.0, 1.0),
        queueing.mm1k(rho, 1.0, 4000),
        queueing.tandem(rho, [1.0]),
        queueing.mg1_ps(rho, 1.0),
    ):
        assert pytest.approx(by_mu, rel=1e-6) == queue.W
    assert queueing.power_of_choices(rho, 1) == pytest.approx(by_mu)


@given(loads, st.integers(1, 12))
def test_the_tail_of_a_queue_has_its_mean(rho: float, servers: int) -> None:
    queue = queueing.mmc(rho * servers, 1.0, servers)
    assert queue.tail is not None
    times = np.linspace(0.0, 60.0 * queue.W, 60_001)
    area = float(np.trapezoid([queue.tail(t) for t in times[::20].tolist()], times[::20]))
    assert area == pytest.approx(queue.W, rel=2e-3)


def test_percentiles_of_mm1_are_those_of_an_exponential_with_its_mean() -> None:
    queue = queueing.mm1(0.8, 1.0)
    for percent in (1.0, 50.0, 95.0, 99.0, 99.99):
        assert queue.percentile(percent) == pytest.approx(
            queueing.exponential_percentile(5.0, percent), rel=1e-9
        )
    assert queue.percentile(0.0) == pytest.approx(0.0, abs=1e-9)


def test_where_the_tail_has_two_equal_rates_its_limit_is_taken() -> None:
    """M/M/3 with two offered: c - 1 - a is 0 and the usual formula is 0/0."""
    there = queueing.mmc(2.0, 1.0, 3)
    near = queueing.mmc(2.0 + 1e-7, 1.0, 3)
    assert there.percentile(90.0) == pytest.approx(near.percentile(90.0), rel=1e-5)


def test_kingmans_bound_is_never_below_the_approximation_and_tight_for_heavy_load() -> None:
    for rho in (0.3, 0.8, 0.99):
        assert queueing.kingman_bound(rho, 1.0, 1.0, 4.0) >= queueing.mg1(rho, 1.0, 4.0).Wq
    assert queueing.kingman_bound(0.999, 1.0, 1.0, 4.0) == pytest.approx(
        queueing.mg1(0.999, 1.0, 4.0).Wq, rel=1e-3
    )


def test_the_lost_fraction_of_mm11_is_erlangs() -> None:
    assert queueing.mm1k(0.7, 1.0, 1).lost == pytest.approx(queueing.erlang_b(0.7, 1))


@pytest.mark.parametrize(("rate", "batch"), [(10.0, 10.0), (15.0, 30.0)])
def test_mean_batch_under_load(rate: float, batch: float) -> None:
    assert queueing.dynamic_batching(rate, 0.05, 0.5).batch == pytest.approx(batch)


def test_both_bounds_of_batching() -> None:
    light = queueing.dynamic_batching(2.0, 0.05, 0.5)
    assert light.by_heavy_load == pytest.approx(0.886, abs=5e-4)
    assert light.by_light_load == pytest.approx(0.9167, abs=5e-5)
    assert queueing.capped_batch_rate(10**9, 0.05, 0.5) == pytest.approx(1 / 0.05)


def test_more_choices_are_better_and_the_second_is_most_of_it() -> None:
    one, two, three = (queueing.power_of_choices(0.95, d) for d in (1, 2, 3))
    assert one - two > 10 * (two - three) > 0.0


def test_usl_is_amdahl_without_coherence_and_peaks_where_it_says() -> None:
    assert queueing.usl(1e9, 0.05, 0.0) == pytest.approx(20.0)
    peak = queueing.usl_peak(0.05, 0.001)
    assert queueing.usl(peak, 0.05, 0.001) > max(queueing.usl(peak + d, 0.05, 0.001) for d in (-1.0, 1.0))


@pytest.mark.parametrize("rho", [1.0, 1.5])
def test_an_overloaded_queue_is_refused_with_its_limit(rho: float) -> None:
    with pytest.raises(ValueError, match="grows without end; 2 arrivals/s is the limit"):
        queueing.mm1(2.0 * rho, 2.0)


def test_what_has_no_formula_and_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="only for its means"):
        queueing.md1(0.5, 1.0).percentile(50.0)
    with pytest.raises(ValueError, match="percentile 100"):
        queueing.mm1(0.5, 1.0).percentile(100.0)
    with pytest.raises(ValueError, match=r"arrival_rate = -1.0: must be"):
        queueing.mm1(-1.0, 1.0)
    with pytest.raises(ValueError, match=r"again = 1.0: must be"):
        queueing.feedback_rate(1.0, 1.0)
