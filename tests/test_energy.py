"""Watts and joules: laws that hold whatever the constants, counts held against the kernels that steps are
priced with, and what a run says where it knows nothing.
"""

from __future__ import annotations

from dataclasses import replace
from math import fsum
from typing import Any

import numpy as np
import pytest

import sim
from sim.catalog import load_gpu, load_model
from sim.cost.batch import Batch
from sim.cost.kernels.kernels import KernelTiming, formula
from sim.cost.network import Network
from sim.cost.power import drawn_w
from sim.cost.stage_cost import StageCost
from sim.cost.step_work import StepWork
from sim.deployment import deployment_of
from sim.results.energy import TERMS, Energy, NoEnergy
from tests.laws.key_scenarios import small

LENGTHS = {
    "prompt_tokens": {"kind": "uniform", "low": 30, "high": 600},
    "output_tokens": {"kind": "uniform", "low": 2, "high": 60},
}


def written(**more: Any) -> dict[str, Any]:
    return {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "workload": {"arrivals": {"kind": "poisson", "rate_per_s": 60}, "requests": 40, **LENGTHS},
        **more,
    }


def energy(described: dict[str, Any], **how: Any) -> Energy:
    found = sim.simulate(sim.Scenario.model_validate(described), **how).energy
    assert isinstance(found, Energy)
    return found


@pytest.fixture(scope="module")
def result() -> sim.Result:
    return sim.simulate(sim.Scenario.model_validate(written()))


@pytest.mark.parametrize("stages", [1, 2])
def test_energy_is_watts_integrated(stages: int) -> None:
    found = energy(written(engine={"pipeline_parallel_size": stages}))
    times, watts = found.over_time
    steps = np.diff(np.append(times, found.run_s))
    integral = float(np.dot(watts, steps)) + found.gpus * found.idle_w * times[0]
    assert integral == pytest.approx(found.gpu_j - found.terms_j["nvlink"], rel=1e-9)
    assert found.joules_between(0.0, found.run_s) == pytest.approx(integral, rel=1e-9)
    assert stages > 1 or found.peak_w == pytest.approx(found.row_w.max())
    assert set(found.terms_j) == set(TERMS)


def test_the_joules_of_requests_add_up_to_those_of_the_run(result: sim.Result) -> None:
    table = result.energy.by_request()  # type: ignore[union-attr]
    assert table["request_id"].n_unique() == 40
    total = fsum(table.drop("request_id").to_numpy().ravel())
    assert total == pytest.approx(result.energy.total_j, rel=1e-12)  # type: ignore[union-attr]


def test_a_folded_run_has_the_joules_of_a_played_one_to_the_last_bit(result: sim.Result) -> None:
    played = energy(written(), fold=False)
    assert played.terms_j == result.energy.terms_j  # type: ignore[union-attr]
    assert played.as_dict() == result.energy.as_dict()


def test_without_work_a_gpu_draws_idle_power() -> None:
    workload = {"arrivals": {"kind": "constant", "rate_per_s": 0.001}, "requests": 2, **LENGTHS}
    found = energy(written(workload=workload))
    assert found.mean_gpu_w == pytest.approx(80.0, rel=1e-3)
    assert found.as_dict()["peak_gpu_w"] > 300.0


def test_twice_the_run_takes_twice_the_energy() -> None:
    def of(requests: int) -> float:
        kinds = {"prompt_tokens": 64, "output_tokens": 32}
        lengths = {name: {"kind": "fixed", "tokens": tokens} for name, tokens in kinds.items()}
        arrivals = {"kind": "constant", "rate_per_s": 2.0}
        found = energy(written(workload={"arrivals": arrivals, "requests": requests, **lengths}))
        return found.gpu_j - found.idle_w * found.run_s  # a run ends with its last request

    assert of(40) == pytest.approx(2.0 * of(20), rel=1e-9)


def test_the_energy_of_pools_adds_up() -> None:
    one = {"replicas": 1, "model": small("llama-3-8b")}
    both = energy(written(pools={"a": one, "b": one}, router="round_robin"))
    replicas = energy(written(replicas=2, router="round_robin"))
    assert both.terms_j == pytest.approx(replicas.terms_j, rel=1e-12)
    assert both.gpus == 2


def test_pools_of_two_kinds_of_gpu_idle_each_at_its_own_watts() -> None:
    one = {"replicas": 1, "model": small("llama-3-8b")}
    pools = {"a": {**one, "gpu": "h100-sxm"}, "b": {**one, "gpu": "b200-sxm"}}
    topology = {"name": "two", "systems": {"a": "nd-h100-v5", "b": "hgx-b200"}}
    found = energy(written(topology=topology, pools=pools, router="round_robin"))
    times, watts = found.over_time
    integral = float(np.dot(watts, np.diff(np.append(times, found.run_s)))) + 274.0 * times[0]
    assert found.gpus * found.idle_w == pytest.approx(80.0 + 194.0)
    assert integral == pytest.approx(found.gpu_j - found.terms_j["nvlink"], rel=1e-9)


def test_what_flows_is_what_is_asked_for_up_to_the_limit() -> None:
    flowing = drawn_w(np.array([10.0, 350.0, 700.0, 1e6]), 700.0)
    assert flowing[0] == pytest.approx(10.0, rel=1e-6)
    assert flowing[1] == pytest.approx(350.0, rel=0.02)
    assert flowing[2] == pytest.approx(700.0 / 2**0.25)
    assert flowing[3] == pytest.approx(700.0)
    assert (np.diff(flowing) > 0.0).all()


@pytest.mark.parametrize(
    ("model", "ranks", "weights"),
    [("llama-3.1-70b", 4, "bf16"), ("qwen3-30b-a3b", 2, "bf16"), ("deepseek-v3", 8, "fp8_block")],
)
@pytest.mark.parametrize("decodes", [8, 256])
def test_bytes_and_flops_of_a_step_are_those_of_its_kernels(
    model: str, ranks: int, weights: str, decodes: int
) -> None:
    """HBM bytes, and the FLOPs of products, by another way: the sums over the kernels of the priced step."""
    gpu = load_gpu("h100-sxm" if model != "deepseek-v3" else "b200-sxm")
    scenario = sim.Scenario.model_validate(
        {
            "topology": "nd-h100-v5" if model != "deepseek-v3" else "hgx-b200",
            "model": load_model(model),
            "precision": {"weights": weights},
            "engine": {"tensor_parallel_size": ranks, "max_num_seqs": 256, "max_model_len": 4096},
            "workload": "single-user",
        }
    )
    network = Network(scenario.wired.graph)
    shard = replace(deployment_of(scenario, network).replicas[0].shards[0])
    context = 1000.0
    batch = Batch((), decodes, decodes * context, decodes)
    one = np.array([float(decodes)])
    work = StepWork(shard).of(np.zeros(1), one, one, one * context)
    priced = _memory_s(shard, network, batch) * gpu.hbm_bytes_per_s
    assert 0.7 < float(work.hbm_bytes[0]) / priced < 1.05  # kernels reach 0.7 to 0.9 of the rate


def _memory_s(shard: Any, network: Network, batch: Batch) -> float:
    """Seconds in which the kernels of a step would move their bytes at the rates that they reach: more
    than at the datasheet's rate.
    """

    def meter(gpu: Any, op: str, **sizes: Any) -> KernelTiming:
        moved = formula(gpu, op, **sizes).memory_s
        return KernelTiming(moved, 0.0 * moved, 0.0 * moved, moved)

    free = frozenset({"collective_latency", "collective_bytes", "host"})
    return StageCost(shard, network, free, meter).step(batch)[0]


def test_a_gpu_without_constants_has_no_watts_and_says_so() -> None:
    found = sim.simulate(
        sim.Scenario.model_validate({**written(prices={"gpu_hour": 1, "kwh": 1}), "topology": "l40s-8"})
    )
    numbers = found.summary()
    assert isinstance(found.energy, NoEnergy)
    assert "l40s" in numbers["energy"]["unavailable"]
    assert numbers["mean_gpu_w"] is None
    assert numbers["j_per_output_token"] is None
    assert "kwh needs watts" in numbers["cost"]["unavailable"]


def test_dollars_are_hours_of_all_gpus_over_tokens(result: sim.Result) -> None:
    priced = sim.simulate(sim.with_changes(result.scenario, {"prices": {"gpu_hour": 2.0, "kwh": 0.1}}))
    numbers = priced.summary()
    assert isinstance(priced.energy, Energy)
    kilowatts = priced.energy.total_j / priced.energy.run_s / 1e3
    assert numbers["cost"]["usd_per_hour"] == pytest.approx(2.0 + 0.1 * kilowatts)
    tokens_per_hour = numbers["output_throughput"] * 3600
    expected = numbers["cost"]["usd_per_hour"] / tokens_per_hour * 1e6
    assert numbers["usd_per_million_output_tokens"] == pytest.approx(expected)
    assert "cost" not in result.summary()


@pytest.mark.parametrize(
    ("prices", "what"),
    [
        ({}, "write one of gpu_hour and published"),
        ({"gpu_hour": 1, "published": "rented_3_years"}, "write one of gpu_hour and published"),
        ({"published": "rented_3_years", "kwh": 0.1}, "include electricity"),
        ({"gpu_hour": True}, "is not a number"),
        ({"gpu_hour": -1}, "greater than or equal to 0"),
    ],
)
def test_prices_that_contradict_themselves_are_refused(prices: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        sim.Scenario.model_validate(written(prices=prices))
