"""The runtime as a textbook server: single queues, several servers, batches, and choices among many queues.

Waits are averages over one run of fixed seed. Their spread between runs is known (40 runs of 200,000
customers each: 1.2 % of the mean wait of M/M/1 at a load of 0.5, 2.2 % at 0.8; 1.5 % of M/D/1 at 0.8), and
grows as one over the root of the customers; four times that is let pass.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sim.policy.routing import PowerOfChoices
from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from sim.theory import queueing
from tests.laws.servers import TOKENS, server

pytestmark = pytest.mark.unchecked  # tens of thousands of customers a run

CUSTOMERS = 40_000
slow = pytest.mark.slow
WARM_UP = 2_000


def times(scenario: Scenario, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Wait before service, and whole time, of each customer after the warm-up."""
    rows = simulate(scenario, seed=seed).requests
    arrival, admitted, finished = (
        rows[name].to_numpy() for name in ("arrival_s", "admitted_s", "finished_s")
    )
    return (admitted - arrival)[WARM_UP:], (finished - arrival)[WARM_UP:]


def within(deviation_at_200k: float, customers: int = CUSTOMERS) -> float:
    return 4.0 * deviation_at_200k * math.sqrt(200_000 / customers)


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("service", ["exponential", "deterministic", "uniform"])
def test_every_single_wait_follows_from_arrivals_and_services(service: str, servers: int) -> None:
    """Lindley's recursion, and Kiefer's and Wolfowitz' for several servers: exact, customer by customer."""
    rows = simulate(
        server(rate_per_s=0.9 * servers, service=service, requests=3000, replicas=servers), seed=2
    ).requests
    free_s = [0.0] * servers
    columns = (rows[name].to_list() for name in ("arrival_s", "admitted_s", "finished_s"))
    for arrival_s, admitted_s, finished_s in zip(*columns, strict=True):
        begins_s = max(arrival_s, heapq.heappop(free_s))
        assert admitted_s == pytest.approx(begins_s, rel=1e-9)
        heapq.heappush(free_s, finished_s)


@slow
@pytest.mark.parametrize(("rho", "deviation"), [(0.5, 0.012), (0.8, 0.022)])
def test_one_server_with_exponential_service_is_mm1(rho: float, deviation: float) -> None:
    waits, stays = times(server(rate_per_s=rho, service="exponential", requests=CUSTOMERS))
    exact = queueing.mm1(rho, 1.0)
    assert waits.mean() == pytest.approx(exact.Wq, rel=within(deviation))
    assert np.percentile(stays, 95) == pytest.approx(exact.percentile(95), rel=within(deviation))


@slow
@pytest.mark.parametrize(("rho", "deviation"), [(0.5, 0.008), (0.8, 0.015)])
def test_one_server_with_constant_service_is_md1(rho: float, deviation: float) -> None:
    waits, _ = times(server(rate_per_s=rho, service="deterministic", requests=CUSTOMERS))
    assert waits.mean() == pytest.approx(queueing.md1(rho, 1.0).Wq, rel=within(deviation))


@slow
def test_one_server_with_uniform_service_is_mg1() -> None:
    waits, _ = times(server(rate_per_s=0.7, service="uniform", requests=CUSTOMERS))
    assert waits.mean() == pytest.approx(queueing.mg1(0.7, 1.0, cv2=1.0 / 3.0).Wq, rel=within(0.015))


@pytest.mark.slow
@slow
def test_one_server_with_a_few_very_long_services_is_mg1() -> None:
    waits, _ = times(server(rate_per_s=0.5, service="few_very_long", requests=4 * CUSTOMERS))
    assert waits.mean() == pytest.approx(queueing.mg1(0.5, 1.0, cv2=4.0).Wq, rel=within(0.03, 4 * CUSTOMERS))


@slow
@pytest.mark.parametrize("servers", [2, 4])
def test_replicas_behind_a_central_queue_are_mmc(servers: int) -> None:
    rate = 0.8 * servers
    scenario = server(rate_per_s=rate, service="exponential", requests=CUSTOMERS, replicas=servers)
    waits, _ = times(scenario)
    exact = queueing.mmc(rate, 1.0, servers)
    assert waits.mean() == pytest.approx(exact.Wq, rel=within(0.03))
    assert (waits > 1e-9).mean() == pytest.approx(exact.delayed, rel=within(0.012))


@pytest.mark.slow
@slow
def test_a_queue_of_their_own_for_each_replica_is_worse_than_a_central_one() -> None:
    common: dict[str, Any] = {
        "rate_per_s": 3.2,
        "service": "exponential",
        "requests": CUSTOMERS,
        "replicas": 4,
    }
    central, _ = times(server(**common))
    split, _ = times(server(router="random", **common))
    assert split.mean() == pytest.approx(queueing.mm1(0.8, 1.0).Wq, rel=within(0.022))
    assert central.mean() < 0.25 * split.mean()


@pytest.mark.slow
@slow
@pytest.mark.parametrize("choices", [2, 3])
def test_the_shorter_of_a_few_random_queues_is_nearly_as_good_as_theory_says_of_very_many(
    choices: int,
) -> None:
    servers = 40
    common: dict[str, Any] = {"service": "exponential", "requests": CUSTOMERS, "replicas": servers}
    scenario = server(rate_per_s=0.9 * servers, router=PowerOfChoices(choices), **common)
    _, stays = times(scenario)
    assert stays.mean() == pytest.approx(queueing.power_of_choices(0.9, choices), rel=0.08)


@slow
@pytest.mark.parametrize(("rate", "simulated"), [(2.0, 0.8205), (5.0, 1.0554), (10.0, 1.5831), (15.0, 3.155)])
def test_continuous_batching_is_a_server_that_takes_all_who_wait(rate: float, simulated: float) -> None:
    """Inoue 2021: a batch of b takes 0.05 b + 0.5 s; means simulated there, and his bounds."""
    scenario = server(
        rate_per_s=rate,
        service="deterministic",
        requests=CUSTOMERS,
        scheduler="vllm",
        service_time={"step_s": 0.5, "sequence_s": 0.05},
        async_scheduling=False,
        max_num_seqs=100_000,
        max_num_batched_tokens=100_000,
        max_model_len=64,
    )
    _, stays = times(scenario)
    assert stays.mean() == pytest.approx(simulated, rel=0.02)
    assert stays.mean() <= queueing.dynamic_batching(rate, 0.05, 0.5).W_at_most * 1.02


def test_a_capped_batch_serves_no_more_than_b_over_its_time() -> None:
    scenario = server(
        rate_per_s=20.0,
        service="deterministic",
        requests=4000,
        scheduler="vllm",
        service_time={"step_s": 0.5, "sequence_s": 0.05},
        async_scheduling=False,
        max_num_seqs=16,
        max_model_len=64,
    )
    result = simulate(scenario)
    assert 4000 / result.end_s == pytest.approx(queueing.capped_batch_rate(16, 0.05, 0.5), rel=0.01)
    assert result.summary()["saturated"]


def test_looking_one_step_ahead_costs_a_late_comer_one_step() -> None:
    """A request that comes to a busy engine misses the step that is chosen already."""
    ttft_s = {}
    for ahead in (False, True):
        scenario = Scenario.model_validate(
            {
                "topology": "a100-x4",
                "model": "llama-3-8b",
                "engine": {"service_time": {"step_s": 1.0}, "max_num_seqs": 4, "async_scheduling": ahead},
                "workload": {
                    "arrivals": {"kind": "constant", "rate_per_s": 1 / 2.5},
                    "prompt_tokens": 10,
                    "output_tokens": 20,
                    "requests": 2,
                },
            }
        )
        rows = simulate(scenario).requests
        ttft_s[ahead] = (rows["first_token_s"] - rows["arrival_s"]).to_list()[1]
    assert ttft_s == {False: 1.5, True: 2.5}  # the rest of the step in progress, and then one or two more


@slow
@pytest.mark.parametrize(
    "broken",
    [
        {"rate_per_s": 0.74},  # a little less load
        {"service": "uniform"},  # a steadier service
        {"replicas": 2, "rate_per_s": 1.6, "router": "central_queue"},  # two servers at the same load
    ],
)
def test_a_server_that_is_none_of_them_is_told_from_mm1(broken: dict[str, Any]) -> None:
    described = {"rate_per_s": 0.8, "service": "exponential", "requests": CUSTOMERS, **broken}
    waits, _ = times(server(**described))
    assert waits.mean() != pytest.approx(queueing.mm1(0.8, 1.0).Wq, rel=within(0.022))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "replicas", "router", "law"),
    [
        ("exponential", 1, "central_queue", lambda: queueing.md1(0.8, 1.0)),  # with chance in the service
        ("deterministic", 1, "central_queue", lambda: queueing.mg1(0.8, 1.0, 1 / 3)),  # without it
        ("exponential", 4, "random", lambda: queueing.mmc(3.2, 1.0, 4)),  # a queue for each server
    ],
    ids=["md1", "mg1", "mmc"],
)
def test_a_server_of_another_kind_is_told_from_the_law(
    service: str, replicas: int, router: str, law: Callable[[], queueing.Steady]
) -> None:
    described = server(
        rate_per_s=0.8 * replicas, service=service, replicas=replicas, router=router, requests=CUSTOMERS
    )
    waits, _ = times(described)
    assert waits.mean() != pytest.approx(law().Wq, rel=within(0.022))


def test_the_exponential_service_of_these_tests_is_one_to_five_digits() -> None:
    assert TOKENS >= 100_000
