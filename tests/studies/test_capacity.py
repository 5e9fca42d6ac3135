"""Capacity: the highest rate at which all objectives hold, and what breaks above it."""

from __future__ import annotations

import math

import pytest

import sim
from sim.inputs.errors import InputError
from sim.studies import capacity as capacity_module
from tests.laws.key_scenarios import small
from tests.studies.scenarios import server


@pytest.mark.slow
def test_the_capacity_of_one_server_is_where_its_formula_meets_the_objective() -> None:
    """M/D/1: mean wait s * rho / (2 (1 - rho)); a mean time in system of 2 services is met at rho = 2/3."""
    found = sim.capacity(server(), {"mean_e2el_ms": 200.0}, seeds=range(3))
    assert found.rate_per_s == pytest.approx(6.667, rel=0.04)
    assert "mean_e2el_ms" in found.limited_by
    holding = [trial.rate_per_s for trial in found.trials if trial.holds]
    failing = [trial.rate_per_s for trial in found.trials if not trial.holds]
    assert max(holding) == found.rate_per_s
    assert min(failing) / found.rate_per_s <= 1.02
    assert found.table()["rate_per_s"].is_sorted()


def test_an_objective_that_no_rate_meets_has_no_capacity() -> None:
    found = sim.capacity(server(requests=20), {"p99_ttft_ms": 50.0})
    assert found.rate_per_s == 0.0
    assert "p99_ttft_ms" in found.limited_by


@pytest.mark.slow
def test_joules_that_fall_with_the_load_are_searched_upward() -> None:
    """At the written rate idle GPUs cost too much a token, and far above it the first token is late."""
    few = {
        name: {"kind": "fixed", "tokens": tokens}
        for name, tokens in (("prompt_tokens", 200), ("output_tokens", 9))
    }
    scenario = sim.Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "model": small("llama-3-8b", 2),
            "prices": {"gpu_hour": 2.0},
            "workload": {"arrivals": {"kind": "poisson", "rate_per_s": 2.0}, "requests": 40, **few},
        }
    )
    found = sim.capacity(scenario, {"j_per_output_token": 1.0, "p99_ttft_ms": 10.0}, tolerance=0.2)
    assert found.rate_per_s > 10.0
    assert found.limited_by.startswith("p99_ttft_ms is ")
    both = {"output_tokens_per_s_per_mw": 1e4, "p99_ttft_ms": 10.0}
    assert sim.capacity(scenario, both, tolerance=0.2).rate_per_s == pytest.approx(found.rate_per_s, rel=0.3)
    never = sim.capacity(
        scenario, {"usd_per_million_output_tokens": 1e-6, "p99_ttft_ms": 10.0}, tolerance=0.5
    )
    assert never.rate_per_s == 0.0
    assert len(never.trials) < 25


def test_an_objective_that_every_rate_meets_has_no_limit() -> None:
    found = sim.capacity(server(requests=20), {"p99_ttft_ms": 1e9})
    assert math.isinf(found.rate_per_s)


def test_a_closed_loop_has_no_rate_to_search_over() -> None:
    with pytest.raises(InputError, match="'closed_loop': must have a rate"):
        sim.capacity(server(arrivals={"kind": "closed_loop", "users": 2}), {"p99_ttft_ms": 50.0})


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="p99_ttft_ms"):
        sim.capacity(server(requests=20), {"p99_tttf_ms": 50.0})


def test_the_search_ends_between_a_rate_that_holds_and_one_that_does_not() -> None:
    found = sim.capacity(server(requests=20), {"mean_e2el_ms": 200.0}, tolerance=0.1)
    holding = [trial.rate_per_s for trial in found.trials if trial.holds]
    failing = [trial.rate_per_s for trial in found.trials if not trial.holds]
    assert max(holding) == found.rate_per_s < min(failing) <= 1.1 * found.rate_per_s
    assert len(found.trials) < 20


@pytest.mark.parametrize(
    ("slo", "tolerance", "message"),
    [({}, 0.02, "slo is empty"), ({"p99_ttft_ms": 50.0}, 1.0, "tolerance = 1: must be between 0 and 1")],
)
def test_a_search_without_an_objective_or_an_end_is_refused(
    slo: dict[str, float], tolerance: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sim.capacity(server(requests=20), slo, tolerance=tolerance)


LOADED = {"scheduler": "vllm", "service_time": {"step_s": 0.1, "token_s": 1e-3}, "max_num_seqs": 4}


@pytest.mark.parametrize(
    ("slo", "promised", "said"),
    [
        (
            {"p99_ttft_ms": 900.0},
            {},
            ["above 900", "admission has grown most in the time to the first token of the slowest tenth"],
        ),
        (
            {"mean_tpot_ms": 110.0},
            {},
            ["above 110", "interference has grown most in the time between tokens, by", "ms a token"],
        ),
        ({"slo_attainment": 0.99}, {"ttft_ms": 900.0}, ["below 0.99", "time to the first token of the slow"]),
        ({"slo_attainment": 0.99}, {"ttft_ms": 900.0, "tpot_ms": 300.0}, ["below 0.99", "time end to end"]),
    ],
)
def test_a_limit_is_explained_by_the_causes_of_the_latency_that_broke(
    slo: dict[str, float], promised: dict[str, float], said: list[str]
) -> None:
    """Steps of 100 ms and 1 ms a prompt token: outputs are long, so most of a request comes after its first
    token, and a prompt of 200 in a step triples the time of every decode in it.
    """
    objectives = {"slo": promised} if promised else {}
    service = server(requests=60, prompt_tokens=200, output_tokens=20, **objectives)
    found = sim.capacity(sim.with_changes(service, {"engine": LOADED}), slo, tolerance=0.5)
    for words in said:
        assert words in found.limited_by


def test_seeds_alone_give_an_interval_and_one_seed_gives_none() -> None:
    described = server(requests=30)
    several = sim.capacity(described, {"mean_e2el_ms": 150.0}, seeds=range(2), tolerance=0.2)
    assert several.interval is not None
    alone = [sim.capacity(described, {"mean_e2el_ms": 150.0}, [seed], tolerance=0.2) for seed in range(2)]
    mean = sum(one.rate_per_s for one in alone) / 2
    assert several.interval.mean == pytest.approx(mean, rel=0.2)
    assert several.interval.low < several.rate_per_s < several.interval.high
    assert sim.capacity(described, {"mean_e2el_ms": 150.0}, tolerance=0.5).interval is None


def test_a_percentile_of_too_few_requests_is_said_or_the_runs_are_made_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capacity_module, "BEYOND", 2)
    described = sim.with_changes(server(requests=15), {"warmup": 0.15, "cooldown": 0.1})
    slo = {"p90_ttft_ms": 150.0}
    (note,) = sim.capacity(described, slo, tolerance=0.9).notes
    assert "p90_ttft_ms of 12 requests is decided by 1.2 of them; with 20 it would be by 2" in note
    longer = sim.capacity(described, slo, tolerance=0.9, choose_length=True)
    assert longer.notes == ()
    assert 20 <= longer.trials[0].requests <= 21  # 27, of which a quarter is left out
    assert capacity_module.requests_for("p99.9_ttft_ms") == 2000
