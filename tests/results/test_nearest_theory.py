"""The closed form that comes nearest to a station, with the moments that its run had."""

from __future__ import annotations

from math import inf, isnan
from typing import Any

import pytest

from sim.results.nearest_theory import Nearest
from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from sim.views.report import theory_html
from tests.laws.servers import server


def theory_of(scenario: Scenario) -> Nearest:
    (found,) = simulate(scenario, seed=1).theory()
    return found


def engine(arrivals: dict[str, Any], seats: int = 1000, requests: int = 300) -> Scenario:
    lengths = {"prompt_tokens": 1, "output_tokens": 100, "requests": requests}
    return Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": "llama-3-8b",
            "engine": {
                "service_time": {"step_s": 0.002, "sequence_s": 0.001},
                "max_num_seqs": seats,
                "async_scheduling": False,
            },
            "workload": {"arrivals": arrivals, **lengths},
        }
    )


@pytest.mark.parametrize(
    ("service", "replicas", "router", "model"),
    [
        ("exponential", 1, "central_queue", "M/M/1"),
        ("deterministic", 1, "central_queue", "M/D/1"),
        ("uniform", 1, "central_queue", "M/G/1"),
        ("exponential", 3, "central_queue", "M/M/3"),
    ],
)
def test_a_textbook_server_is_named_and_met(service: str, replicas: int, router: str, model: str) -> None:
    found = theory_of(
        server(rate_per_s=0.5 * replicas, service=service, requests=1500, replicas=replicas, router=router)
    )
    assert found.model == model
    assert abs(found.gap) < 0.25
    assert found.load == pytest.approx(0.5, rel=0.1)


def test_every_replica_with_its_own_queue_is_a_station() -> None:
    found = simulate(
        server(rate_per_s=1.0, service="exponential", requests=600, replicas=2, router="random"), seed=1
    ).theory()
    assert [one.station for one in found] == ["replica 0", "replica 1"]


def test_regular_arrivals_are_no_poisson_process() -> None:
    scenario = server(rate_per_s=0.8, service="exponential", requests=1000)
    described = scenario.model_dump(include={"workload"})["workload"]["arrivals"]
    assert described["kind"] == "poisson"
    from sim.scenario import with_changes

    regular = with_changes(scenario, {"workload.arrivals": {"kind": "constant", "rate_per_s": 0.8}})
    found = theory_of(regular)
    assert found.model == "G/M/1"
    assert "Kraemer" in found.reason


def test_a_decode_batch_is_fitted_from_its_steps_and_met() -> None:
    found = theory_of(engine({"kind": "poisson", "rate_per_s": 5.0}))
    assert found.model == "decode batch"
    assert "steps of 2 ms + 1 ms a sequence" in found.reason
    assert abs(found.gap) < 0.2


def test_few_seats_are_in_the_model() -> None:
    found = theory_of(engine({"kind": "poisson", "rate_per_s": 4.0}, seats=3))
    assert found.model == "decode batch with 3 seats"
    assert found.load == pytest.approx(4.0 * 100 * 0.005 / 3, rel=0.2)


def test_a_closed_loop_is_a_network() -> None:
    found = theory_of(engine({"kind": "closed_loop", "users": 5}))
    assert found.model == "decode batch in a closed loop"
    assert abs(found.gap) < 0.05


def test_an_overload_has_no_steady_state_and_few_requests_no_theory() -> None:
    found = theory_of(server(rate_per_s=2.0, service="deterministic", requests=200))
    assert found.predicted_s == inf
    assert "grows" in found.reason
    few = theory_of(server(rate_per_s=0.5, service="deterministic", requests=20))
    assert few.model == "none"
    assert isnan(few.predicted_s)
    page = theory_html((found, few))
    assert "M/D/1" in page
    assert page.count("<tr>") == 2
    assert theory_html((few,)) == ""
