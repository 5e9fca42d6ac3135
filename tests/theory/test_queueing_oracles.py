"""Closed forms against what others wrote: Ciw simulates, LINE solves, scipy integrates; and textbook tables.

Ciw and LINE are the extra `oracles`; without them their tests are skipped, and say so.
"""

from __future__ import annotations

from math import exp, factorial, floor, sqrt
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from sim.theory import queueing
from sim.theory.queueing import constant, erlang, exponential, hyperexponential, uniform

LAWS = [exponential(1.0), hyperexponential(1.0, 4.0), erlang(1.0, 4), uniform(1.0)]


def line(module: str) -> Any:
    return pytest.importorskip(
        f"line_solver.api.{module}", reason="LINE is not here: pip install fabricsim[oracles]"
    )


@pytest.mark.parametrize("law", [*LAWS, constant(1.0)], ids=lambda law: law.name)
def test_a_law_has_its_moments_and_its_transform(law: queueing.Law) -> None:
    def tail(x: float) -> float:
        return float(law.tail(np.array([x]))[0])

    points = [1.0, 2.0]
    mean = integrate.quad(tail, 0.0, 200.0, points=points, limit=200)[0]
    second = integrate.quad(lambda x: 2.0 * x * tail(x), 0.0, 200.0, points=points, limit=200)[0]
    assert mean == pytest.approx(law.mean)
    assert second == pytest.approx(law.second_moment)
    at = integrate.quad(lambda x: 0.7 * exp(-0.7 * x) * tail(x), 0.0, 200.0, points=points, limit=200)[0]
    assert law.transform(0.7) == pytest.approx(1.0 - at)


def test_the_wait_of_constant_services_is_crommelins_sum() -> None:
    queue = queueing.mg1_by_law(0.8, constant(1.0))
    assert queue.tail is not None
    for t in (0.5, 1.7, 4.2, 9.9):
        below = 0.2 * sum(
            (0.8 * (k - t)) ** k / factorial(k) * exp(-0.8 * (k - t)) for k in range(floor(t) + 1)
        )
        assert queue.tail(1.0 + t) == pytest.approx(1.0 - below, abs=1e-5)
    assert queue.tail(0.3) == 1.0


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_inverted_tail_has_the_mean_of_pollaczek_and_khinchine(law: queueing.Law) -> None:
    queue = queueing.mg1_by_law(0.7, law)
    tail = queue.tail
    assert tail is not None
    area = sum(
        integrate.quad(tail, low, high, limit=100, epsrel=1e-6)[0]
        for low, high in ((1e-9, 2.0), (2.0, queue.percentile(99.99)))
    )
    assert area == pytest.approx(queue.W, rel=2e-3)
    with pytest.raises(ValueError, match=r"beyond 99\.99\d* "):
        queue.percentile(99.999999)


def test_percentiles_of_exponential_services_are_those_of_mm1() -> None:
    for percent in (50.0, 99.0, 99.99):
        assert queueing.mg1_by_law(0.8, exponential(1.0)).percentile(percent) == pytest.approx(
            queueing.mm1(0.8, 1.0).percentile(percent), rel=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize("law", [exponential(1.0), hyperexponential(1.0, 4.0)], ids=lambda law: law.name)
def test_orders_by_size_are_those_of_line(law: queueing.Law) -> None:
    theirs = line("qsys.scheduling")
    arguments = [np.array([0.8]), np.array([1.0]), np.array([sqrt(law.cv2)])]
    if law.cv2 == 1.0:
        for order, name in (("psjf", "qsys_mg1_psjf"), ("fb", "qsys_mg1_fb"), ("srpt", "qsys_mg1_srpt")):
            known = float(np.ravel(getattr(theirs, name)(*arguments)[0])[0])
            assert pytest.approx(known, rel=1e-3) == queueing.by_size(order, 0.8, law).W  # type: ignore[arg-type]
    else:
        known = float(np.ravel(theirs.qsys_mg1_srpt(*arguments)[0])[0])
        assert pytest.approx(known, rel=1e-2) == queueing.by_size("srpt", 0.8, law).W


def test_srpt_is_schrages_and_millers_integral() -> None:
    def load(x: float) -> float:
        return 0.8 * (1.0 - exp(-x) * (1.0 + x))

    def time(x: float) -> float:
        square = 2.0 - exp(-x) * (x * x + 2.0 * x + 2.0)
        met = 0.8 * (square + x * x * exp(-x)) / (2.0 * (1.0 - load(x)) ** 2)
        return float(met + integrate.quad(lambda t: 1.0 / (1.0 - load(t)), 0.0, x)[0])

    known = integrate.quad(lambda x: exp(-x) * time(x), 0.0, 40.0)[0]
    assert pytest.approx(known, rel=1e-5) == queueing.by_size("srpt", 0.8, exponential(1.0)).W
    assert queueing.time_of_size("srpt", 0.8, exponential(1.0), 3.0) == pytest.approx(time(3.0), rel=1e-5)


def test_srpt_is_the_best_order_and_attained_service_pays_for_wild_sizes() -> None:
    for law in LAWS:
        first_come = queueing.mg1(0.8, 1.0, law.cv2).W
        srpt, psjf, fb = (queueing.by_size(order, 0.8, law).W for order in ("srpt", "psjf", "fb"))
        assert srpt < psjf < max(first_come, 5.0) + 1e-9
        assert (fb < first_come) == (law.cv2 > 1.0 or pytest.approx(fb) == 0.0) or law.cv2 == 1.0


def test_priorities_are_those_of_line_and_obey_the_conservation_law() -> None:
    rates, served, cv2s = [0.2, 0.3, 0.1], [1.0, 2.0, 0.5], [1.0, 0.5, 4.0]
    found = queueing.priorities(rates, served, cv2s)
    loads = [rate / mu for rate, mu in zip(rates, served, strict=True)]
    residual = sum(rate * (1 + cv2) / mu**2 / 2 for rate, mu, cv2 in zip(rates, served, cv2s, strict=True))
    kept = sum(load * one.Wq for load, one in zip(loads, found, strict=True))
    assert kept == pytest.approx(sum(loads) * residual / (1.0 - sum(loads)))  # Kleinrock 1965
    theirs, _ = line("qsys.scheduling").qsys_mg1_prio(rates, served, [sqrt(cv2) for cv2 in cv2s])
    assert [one.W for one in found] == pytest.approx(list(np.ravel(theirs)))


def test_a_preemptive_first_class_does_not_see_the_others() -> None:
    first, second = queueing.priorities([0.3, 0.4], [1.0, 1.0], [1.0, 1.0], preemptive=True)
    assert pytest.approx(queueing.mm1(0.3, 1.0).W) == first.W
    assert pytest.approx(queueing.mm1(0.7, 1.0).L) == 0.3 * first.W + 0.4 * second.W  # exponential: any order


def test_queues_of_several_servers_are_those_of_line() -> None:
    theirs = line("qsys.basic").qsys_mmck(3.2, 1.0, 4, 8)
    ours = queueing.mmck(3.2, 1.0, 4, 8)
    numbers = [float(value) for value in theirs.values() if isinstance(value, int | float)]
    for value in (ours.lost, ours.L, ours.W):
        assert any(number == pytest.approx(value, rel=1e-9) for number in numbers), (value, theirs)


def test_approximations_are_those_of_line() -> None:
    theirs = line("qsys.approximations")
    for ca2, cs2 in ((0.25, 1.0), (2.0, 0.5)):
        known = float(np.ravel(theirs.qsys_gig1_approx_klb(0.8, 1.0, sqrt(ca2), sqrt(cs2)))[0])
        assert pytest.approx(known) == queueing.kraemer_langenbach_belz(0.8, 1.0, ca2, cs2).W


def test_closed_networks_are_those_of_line() -> None:
    theirs = line("pfqn.mva").pfqn_mva_single_class(20, np.array([0.1, 0.2]), 5.0)
    ours = queueing.closed_network(20, [0.1, 0.2], 5.0)
    flat = (
        [
            float(x)
            for x in np.concatenate([np.ravel(np.asarray(v, dtype=float)) for v in dict(theirs).values()])
        ]
        if isinstance(theirs, dict)
        else [float(x) for v in theirs for x in np.ravel(np.asarray(v, dtype=float))]
    )
    assert any(value == pytest.approx(ours.rate_per_s) for value in flat)


def test_a_closed_network_is_the_same_by_recursion_and_by_convolution() -> None:
    for users in (1, 7, 300):
        one = queueing.closed_network(users, [0.1, 0.2, 0.05], 5.0)
        other = queueing.load_dependent_network(users, [0.1, 0.2, 0.05], [None, None, None], 5.0)
        assert other.rate_per_s == pytest.approx(one.rate_per_s)
        assert other.numbers == pytest.approx(one.numbers)
        assert other.busy == pytest.approx(one.busy)
        bounds = queueing.closed_bounds(users, [0.1, 0.2, 0.05], 5.0)
        assert bounds.rate_at_least_per_s <= one.rate_per_s <= bounds.rate_at_most_per_s * (1 + 1e-12)
        assert one.response_s >= bounds.response_at_least_s * (1 - 1e-12)


def test_machine_repair_is_a_network_with_a_station_of_several_servers() -> None:
    repair = queueing.machine_repair(20, 2.0, 1.0, 3)
    loop = queueing.load_dependent_network(20, [1.0], [lambda n: min(n, 3)], 2.0)
    assert loop.rate_per_s == pytest.approx(3.0 * repair.rho)
    assert loop.response_s == pytest.approx(repair.W)


def test_without_thinking_a_loop_of_decodes_is_one_batch() -> None:
    loop = queueing.decode_loop(64, 200.0, 0.010, 0.0001)
    assert loop.response_s == pytest.approx(200 * (0.010 + 64 * 0.0001))


def test_normal_order_statistics_are_the_tables() -> None:
    """Harter 1961, table 1: expected largest of n."""
    for ranks, expected in ((2, 0.56419), (5, 1.16296), (10, 1.53875), (100, 2.50759)):
        assert queueing.last_of_normals(ranks) == pytest.approx(expected, abs=1e-5)
    assert queueing.last_of_normals(8, 10.0, 2.0) == pytest.approx(10.0 + 2.0 * 1.42360, abs=1e-4)
    assert queueing.last_of(16, exponential(1.0)) == pytest.approx(queueing.barrier(16), rel=1e-6)


def test_two_forked_queues_are_those_of_a_lindley_recursion() -> None:
    rng = np.random.default_rng(3)
    gaps, services = rng.exponential(2.0, 60_000), rng.exponential(1.0, (60_000, 4))
    free, now, total = np.zeros(4), 0.0, 0.0
    for gap, service in zip(gaps.tolist(), services, strict=True):
        now += gap
        free = np.maximum(free, now) + service
        total += float(free.max()) - now
    assert total / 60_000 == pytest.approx(queueing.fork_join(0.5, 1.0, 4).W, rel=0.05)


def test_hedging_is_the_smaller_of_two_samples() -> None:
    law = hyperexponential(1.0, 4.0)
    rng = np.random.default_rng(5)
    often = 0.5 * (1.0 + sqrt(3.0 / 5.0))
    share = np.where(rng.random((2, 400_000)) < often, often, 1.0 - often)
    first, second = rng.exponential(1.0, (2, 400_000)) / (2.0 * share)
    found = queueing.hedged(law, 2.6)
    taken = np.minimum(first, 2.6 + second)
    assert taken.mean() == pytest.approx(found.mean_s, rel=0.01)
    assert np.percentile(taken, 99) == pytest.approx(found.p99_s, rel=0.02)
    assert 1.0 + (first > 2.6).mean() == pytest.approx(found.copies, rel=0.01)


def test_staffing_is_within_a_server_of_erlang_c() -> None:
    for load in (10, 50, 200, 1000):
        for delayed in (0.02, 0.1, 0.5):
            exact = next(c for c in range(load + 1, 3 * load) if queueing.erlang_c(load, c) <= delayed)
            assert abs(queueing.square_root_staffing(load, delayed) - exact) <= 1
    known = stats.norm.pdf(1.0) / (stats.norm.pdf(1.0) + stats.norm.cdf(1.0))
    assert queueing.halfin_whitt(1.0) == pytest.approx(known)
    assert queueing.poisson_percentile(25.0, 99.0) == stats.poisson.ppf(0.99, 25.0)


def test_repair_with_a_crew_for_each_is_the_binomial() -> None:
    found = queueing.repairable(72, 76, 0.001, 0.1, crews=76)
    assert found.availability == pytest.approx(float(stats.binom.cdf(4, 76, 0.001 / 0.101)))
    assert found.up_s / (found.up_s + found.down_s) == pytest.approx(found.availability)


def test_limited_sharing_is_its_two_limits() -> None:
    free = queueing.limited_sharing(30.0, 1.0, 50.0, 50.0)
    assert pytest.approx(queueing.mg1_ps(30.0, 50.0).L) == free.L
    roomy = queueing.limited_sharing(30.0, 1.0, 5000.0, 10.0)
    assert pytest.approx(queueing.mg_infinity(30.0, 10.0).L) == roomy.L
    four = queueing.limited_sharing(40.0, 1.0, 50.0, 12.5)
    assert pytest.approx(queueing.mmc(40.0, 12.5, 4).L) == four.L


def test_a_line_of_links_is_the_recursion_of_balanced_fairness() -> None:
    """Bonald and Proutiere: Phi(x) = max over links of the sum of Phi(x - e_i) over its routes."""
    top, loads = 40, (0.3, 0.3, 0.2)  # the through route, and the two routes of one link each
    phi = np.zeros((top, top, top))
    for x0 in range(top):
        for x1 in range(top):
            for x2 in range(top):
                through = phi[x0 - 1, x1, x2] if x0 else 0.0
                one = phi[x0, x1 - 1, x2] if x1 else 0.0
                two = phi[x0, x1, x2 - 1] if x2 else 0.0
                needs = [through + one if x0 or x1 else 0.0, through + two if x0 or x2 else 0.0]
                phi[x0, x1, x2] = max(needs) if x0 or x1 or x2 else 1.0
    grid = np.indices(phi.shape)
    weights = phi * np.prod([np.array(load) ** grid[i] for i, load in enumerate(loads)], axis=0)
    numbers = [float((grid[i] * weights).sum() / weights.sum()) for i in range(3)]
    assert numbers == pytest.approx(queueing.line_of_links(0.3, [0.3, 0.2]), rel=1e-3)
    low, high = queueing.flow_rate_bounds([0.6, 0.5], [1.0, 1.0])
    assert low <= loads[0] / numbers[0] <= high


def test_regular_arrivals_wait_less_by_the_correction_and_exactly() -> None:
    exact = queueing.gim1(constant(1.25), 1.0)
    assert exact.Wq == pytest.approx(queueing.kraemer_langenbach_belz(0.8, 1.0, 0.0, 1.0).Wq, rel=0.01)
    assert exact.Wq < queueing.gg1(0.8, 1.0, 0.0, 1.0).Wq
    assert pytest.approx(queueing.mm1(0.8, 1.0).W) == queueing.gim1(exponential(1.25), 1.0).W
    assert queueing.gim1(exponential(1.25), 1.0).percentile(99) == pytest.approx(
        queueing.mm1(0.8, 1.0).percentile(99)
    )


def test_the_decode_batch_is_its_birth_death_chain() -> None:
    batch = queueing.decode_batch(28.0, 200.0, 0.010, 0.0001)
    seats = queueing.decode_batch_with_seats(28.0, 200.0, 0.010, 0.0001, 5000)
    assert pytest.approx(batch.W) == seats.W
    assert batch.mean == pytest.approx(28.0 * batch.W)
    chances = np.array([batch.chance(n) for n in range(3000)])
    assert chances.sum() == pytest.approx(1.0)
    assert chances @ np.arange(3000) == pytest.approx(batch.mean)
    assert chances == pytest.approx(stats.nbinom.pmf(np.arange(3000), batch.r, 1.0 - batch.rho), abs=1e-12)
    assert batch.variance == pytest.approx(stats.nbinom.var(batch.r, 1.0 - batch.rho))


def test_the_fluid_stands_still_where_it_says() -> None:
    point = queueing.fluid_point([2.0, 1.0], [1000.0, 300.0], [200.0, 500.0], 0.010, 2e-8, 4e5)
    assert point.step_s == pytest.approx(0.010 + 2e-8 * point.kv_tokens)
    per_request = [201.0 * 1100.0, 501.0 * 550.0]
    assert point.kv_tokens == pytest.approx(point.step_s * (2.0 * per_request[0] + per_request[1]))


CUSTOMERS = 40_000


def ciw_waits(network: dict[str, Any], seed: int = 2) -> dict[int, float]:
    """Mean waits by class of a run of Ciw after a warm-up."""
    ciw = pytest.importorskip("ciw", reason="Ciw is not here: pip install fabricsim[oracles]")
    ciw.seed(seed)
    run = ciw.Simulation(ciw.create_network(**network(ciw)))  # type: ignore[operator]
    run.simulate_until_max_customers(CUSTOMERS)
    served = (row for row in run.get_all_records() if row.record_type == "service")
    rows = sorted(served, key=lambda row: row.arrival_date)[2000:]
    classes = sorted({row.customer_class for row in rows})
    waits = [np.mean([row.waiting_time for row in rows if row.customer_class == one]) for one in classes]
    return dict(enumerate(map(float, waits)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "known"),
    [
        (
            lambda ciw: {
                "arrival_distributions": [ciw.dists.Deterministic(1.25)],
                "service_distributions": [ciw.dists.Exponential(1.0)],
                "number_of_servers": [1],
            },
            [queueing.gim1(constant(1.25), 1.0).Wq],
        ),
        (
            lambda ciw: {
                "arrival_distributions": [ciw.dists.Exponential(0.25)],
                "service_distributions": [ciw.dists.Exponential(1.0)],
                "batching_distributions": [ciw.dists.Deterministic(2)],
                "number_of_servers": [1],
            },
            [queueing.mg1_batches(0.5, 1.0, 1.0, 2).Wq],
        ),
        (
            lambda ciw: {
                "arrival_distributions": [ciw.dists.Exponential(3.2)],
                "service_distributions": [ciw.dists.Exponential(1.0)],
                "number_of_servers": [4],
                "queue_capacities": [4],
            },
            [queueing.mmck(3.2, 1.0, 4, 8).Wq],
        ),
        (
            lambda ciw: {
                "arrival_distributions": {
                    "a": [ciw.dists.Exponential(0.2)],
                    "b": [ciw.dists.Exponential(0.5)],
                },
                "service_distributions": {
                    "a": [ciw.dists.Exponential(1.0)],
                    "b": [ciw.dists.Deterministic(1.0)],
                },
                "priority_classes": {"a": 0, "b": 1},
                "number_of_servers": [1],
            },
            [one.Wq for one in queueing.priorities([0.2, 0.5], [1.0, 1.0], [1.0, 0.0])],
        ),
    ],
    ids=["D/M/1", "pairs", "M/M/4/8", "priorities"],
)
def test_ciw_simulates_what_the_formula_says(network: Any, known: list[float]) -> None:
    found = ciw_waits(network)
    assert [found[place] for place in range(len(known))] == pytest.approx(known, rel=0.06)
