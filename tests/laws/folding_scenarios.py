"""Random scenarios for the law that folded runs are played runs, and traffic that breaks into their folds."""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest
import simpy
from hypothesis import strategies as st

from sim.catalog import load_model
from sim.runtime.clock import at
from sim.runtime.fabric.fabric import Fabric
from sim.scenario.scenario import Scenario
from sim.simulate import Beside, Result, simulate


def small(name: str, layers: int = 4) -> dict[str, Any]:
    """A model with few layers: a played step takes as many events as it has layers."""
    return {**dict(load_model(name)), "layers": layers, "name": f"{name} with {layers} layers"}


@dataclass(frozen=True)
class Place:
    """A system, and groups of GPUs that may stand on it: replicas, tensor-parallel and pipeline sizes."""

    topology: str
    nodes: int
    groups: tuple[tuple[int, int, int], ...]
    placement: str = "packed"


PLACES = {
    "one server, nobody shares": Place("a100-x4", 1, ((1, 4, 1), (2, 2, 1), (1, 2, 2), (4, 1, 1))),
    "staged in host memory": Place(
        "a100-x4-no-p2p", 1, ((2, 2, 1), (1, 4, 1), (1, 2, 2), (2, 1, 2)), "strided"
    ),
    "PCIe switches": Place(
        "l40s-12", 1, ((6, 2, 1), (3, 4, 1), (3, 2, 2), (4, 1, 3), (2, 4, 1)), "strided"
    ),
    "PCIe servers": Place("l40s-12", 2, ((3, 8, 1), (3, 2, 4), (2, 4, 3), (6, 4, 1)), "strided"),
    "two servers": Place("nd-h100-v5", 2, ((1, 16, 1), (1, 8, 2), (2, 8, 1), (2, 4, 2), (1, 4, 4))),
}  # fmt: skip

ARRIVALS = (
    {"kind": "poisson", "rate_per_s": 40.0},
    {"kind": "constant", "rate_per_s": 25.0},
    {"kind": "burst"},
    {"kind": "closed_loop", "users": 3},
    {"kind": "closed_loop", "users": 2, "think_time_s": 0.01},
    {"kind": "gamma", "rate_per_s": 30.0, "cv": 3.0},
)

LENGTHS = (16, 1, {"kind": "uniform", "low": 1, "high": 60}, {"kind": "lognormal", "mean": 40, "cv": 1.0})
PROMPTS = (100, 1, {"kind": "uniform", "low": 1, "high": 700}, {"kind": "lognormal", "mean": 300, "cv": 1.0})


@st.composite
def engines(draw: st.DrawFn, tensor: int, pipeline: int) -> dict[str, Any]:
    """Schedulers, budgets, KV caches from ample to so scarce that sequences are preempted, host times."""
    engine: dict[str, Any] = {
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        "scheduler": draw(st.sampled_from(["vllm", "vllm", "vllm", "continuous", "static"])),
        "max_num_seqs": draw(st.sampled_from([2, 7, 64])),
        "max_num_batched_tokens": draw(st.sampled_from([128, 2048])),
        "enable_prefix_caching": draw(st.booleans()),
    }
    if engine["scheduler"] != "vllm" or draw(st.booleans()):
        engine["max_num_batched_tokens"] = 2048
    engine["enable_chunked_prefill"] = engine["max_num_batched_tokens"] < 2048 or draw(st.booleans())
    if draw(st.booleans()):
        engine["num_gpu_blocks_override"] = draw(st.sampled_from([60, 80, 130]))
    if pipeline == 1:
        engine["async_scheduling"] = draw(st.booleans())
        if engine["scheduler"] == "vllm" and draw(st.integers(0, 3)) == 0:
            engine["speculation"] = {
                "num_speculative_tokens": draw(st.integers(1, 4)),
                "acceptance_rate": draw(st.sampled_from([0.5, 0.8, 1.0])),
                "draft_s": 0.0002,
            }
    if draw(st.booleans()):
        engine["host"] = {"step_s": 0.0, "stage_s": 0.0, "sequence_s": 1e-6}
    return engine


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    place = PLACES[draw(st.sampled_from(list(PLACES)))]
    replicas, tensor, pipeline = draw(st.sampled_from(place.groups))
    workload: dict[str, Any] = {
        "arrivals": draw(st.sampled_from(ARRIVALS)),
        "prompt_tokens": draw(st.sampled_from(PROMPTS)),
        "output_tokens": draw(st.sampled_from(LENGTHS)),
        "requests": draw(st.integers(1, 14)),
    }
    if draw(st.integers(0, 3)) == 0:
        workload["prefix"] = {"groups": 2, "tokens": 64}
    scenario: dict[str, Any] = {
        "topology": place.topology,
        "nodes": place.nodes,
        "placement": place.placement,
        "model": small("llama-3-70b" if tensor > 8 else "llama-3-8b", draw(st.sampled_from([4, 5]))),
        "replicas": replicas,
        "engine": draw(engines(tensor, pipeline)),
        "workload": workload,
    }
    if draw(st.integers(0, 5)) == 0:
        scenario["time_limit_s"] = draw(st.sampled_from([0.05, 0.2, 1.0]))
    return scenario


@st.composite
def split_scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Prefill and decode in pools of their own, KV caches over the fabric; some links fail for a while."""
    scenario = draw(scenarios())
    scenario.pop("time_limit_s", None)
    topology, nodes, gpus, sizes = draw(
        st.sampled_from([("nd-h100-v5", 2, 16, (4,)), ("l40s-12", 1, 12, (2, 4)), ("a100-x4", 1, 4, (1, 2))])
    )
    tensor = draw(st.sampled_from(sizes))
    engine = {**scenario.pop("engine"), "tensor_parallel_size": tensor, "pipeline_parallel_size": 1}
    engine["scheduler"] = "vllm"
    engine.pop("speculation", None)
    engine.pop("num_gpu_blocks_override", None)
    del scenario["replicas"]
    scenario |= {
        "topology": topology,
        "nodes": nodes,
        "placement": draw(st.sampled_from(["packed", "strided"])),
        "pools": {
            "prompts": {"role": "prefill", "replicas": 1, "engine": engine},
            "answers": {"role": "decode", "replicas": min(2, gpus // tensor - 1), "engine": engine},
        },
    }
    if draw(st.booleans()):
        at_s, left = draw(st.sampled_from([0.0, 0.013, 0.1])), draw(st.sampled_from([0.0, 0.3]))
        fault = {"at_s": at_s, "until_s": at_s + 0.05, "place": "node0.gpu1", "capacity": left}
        scenario["faults"] = [fault]
    return scenario


def foreign_transfers(instants: list[float], seed: int, n_bytes: float = 2e6) -> Beside:
    """Transfers at given instants, each over one or two links drawn from those the service can use."""

    def beside(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
        rng = random.Random(seed)
        for instant in instants:
            yield at(env, instant, lambda _: None)
            links = rng.sample(range(len(fabric.links)), min(len(fabric.links), 6))
            amount = rng.choice((n_bytes, n_bytes, 1.0, 0.0))
            latency_s = rng.choice((0.0, 0.0, 3e-6))
            fabric.transfer(dict.fromkeys(links, amount), latency_s=latency_s, weight=rng.choice((1.0, 2.0)))

    return beside


def changing_capacities(instants: list[float], seed: int) -> Beside:
    """Links drawn at random get slower, and as they were built again at the next instant."""

    def beside(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
        rng = random.Random(seed)
        built = list(fabric.capacity)
        slow: list[int] = []
        for number, instant in enumerate(instants):
            yield at(env, instant, lambda _: None)
            for link in slow:
                fabric.set_capacity(link, built[link])
            slow = rng.sample(range(len(built)), -(-len(built) // 3)) if number < len(instants) - 1 else []
            for link in slow:
                fabric.set_capacity(link, built[link] * rng.choice((0.1, 0.5, 0.9)))

    return beside


def step_boundaries(result: Result, number: int, seed: int) -> list[float]:
    """Instants at which steps of a run began and ended, and instants within its steps, in order."""
    rng = random.Random(seed)
    instants: list[float] = []
    for row in result.steps.sample(min(number, result.steps.height), seed=seed).iter_rows(named=True):
        instants += [row["start_s"], row["end_s"], rng.uniform(row["start_s"], row["end_s"])]
    return sorted(instant for instant in instants if instant <= result.end_s)


def op_boundaries(scenario: Scenario, number: int, seed: int) -> list[float]:
    """Instants at which transfers of a stage began, began to flow and ended while it was played, in order."""
    instants: list[float] = []
    start = Fabric.start

    def noted(fabric: Fabric, demand: Any, **how: Any) -> Any:
        if how.get("owner") is not None:
            now = fabric.env.now
            instants.extend((now, now + demand.latency_s, how["planned_end"]))
        return start(fabric, demand, **how)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Fabric, "start", noted)
        end_s = simulate(scenario, seed=seed, fold=False).end_s
    instants = sorted(instant for instant in set(instants) if instant <= end_s)
    return sorted(random.Random(seed).sample(instants, min(number, len(instants))))
