"""Nothing waits while what it waits for is free, whichever features meet; and no other invariant breaks.

Each scenario takes a few of the features that hold, free, or wait for something, at random; KV blocks are so
few that requests wait for them. `check` looks after every instant.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from sim.inputs.errors import InfeasibleError, UnfinishedError
from sim.scenario import Scenario
from sim.simulate import simulate
from tests.laws.folding_scenarios import small

SEEDS = 24
"""Of which thousand were searched once; these take seconds."""
FEATURES = (
    "pools", "tiers", "faults", "priority", "prefix caching", "speculation", "synchronous", "watermark",
    "central queue", "stale reports", "impatience", "layer by layer", "pipeline", "first token from prefill",
    "no chunks", "two ranks", "sessions", "static", "limit", "played", "no eviction", "few seats",
)  # fmt: skip


def drawn(seed: int) -> tuple[Scenario, bool, set[str]]:
    """A scenario of three to six features at random, and whether it is folded."""
    rng = random.Random(seed)
    has = set(rng.sample(FEATURES, rng.randint(3, 6)))
    blocks = rng.choice([24, 40, 80])
    engine: dict[str, Any] = {
        "num_gpu_blocks_override": blocks,
        "max_model_len": 16 * blocks * 3 // 4,
        "max_num_batched_tokens": rng.choice([64, 512]),
        "enable_prefix_caching": "prefix caching" in has or "tiers" in has,
    }
    if "tiers" in has:
        tiers = {"host": {"capacity_bytes": rng.choice(["40 MB", "1 GB"])}}
        if rng.random() < 0.4:
            tiers["nvme"] = {"capacity_bytes": "1 GB", "write_bytes_per_s": "200 MB/s"}
        engine["kv_tiers"] = {"write": rng.choice(["through", "on_eviction"]), **tiers}
    if "priority" in has:
        engine["scheduling_policy"] = "priority"
    if "speculation" in has:
        engine["speculation"] = {"num_speculative_tokens": 2, "acceptance_rate": 0.6}
    if "synchronous" in has:
        engine["async_scheduling"] = False
    if "watermark" in has:
        engine["watermark"] = rng.choice([0.1, 0.6])
    if "pipeline" in has:
        engine["pipeline_parallel_size"] = 2
        engine.pop("speculation", None)
        engine.pop("async_scheduling", None)
    if "two ranks" in has and "pipeline" not in has:
        engine["data_parallel_size"] = 2
    if "no chunks" in has:
        engine |= {"enable_chunked_prefill": False, "max_num_batched_tokens": 2048}
    if "static" in has and not has & {"priority", "speculation", "pools"}:
        engine |= {"scheduler": rng.choice(["static", "continuous"]), "max_num_batched_tokens": 2048}
    if "no eviction" in has:
        engine["capacity_scheduler_policy"] = "guaranteed_no_evict"
    if "few seats" in has or "central queue" in has:
        engine["max_num_seqs"] = rng.choice([1, 2, 3])
    most = engine["max_model_len"] // 2
    workload: dict[str, Any] = {
        "arrivals": rng.choice([{"kind": "burst"}, {"kind": "poisson", "rate_per_s": 60.0},
                                {"kind": "closed_loop", "users": 4}]),
        "prompt_tokens": {"kind": "uniform", "low": 1, "high": most},
        "output_tokens": {"kind": "uniform", "low": 1, "high": most // 2},
        "requests": rng.randint(4, 16),
    }  # fmt: skip
    if has & {"prefix caching", "tiers"}:
        workload["prefix"] = {"tokens": 16 * rng.randint(1, blocks // 4), "groups": rng.randint(1, 4)}
    if "sessions" in has:
        starts = {"kind": "poisson", "rate_per_s": 40.0}
        workload["arrivals"] = {"kind": "sessions", "starts": starts, "turns": 2, "tool_delay_s": 0.05}
        workload["prompt_tokens"] = {"kind": "uniform", "low": 1, "high": most // 4}
        workload["output_tokens"] = {"kind": "uniform", "low": 1, "high": most // 8}
        workload.pop("prefix", None)
    if "priority" in has:
        workload["classes"] = {"chat": {"share": 1, "priority": 0}, "batch": {"share": 1, "priority": 5}}
    if "impatience" in has:
        workload["timeout_s"] = {"kind": "uniform", "low_s": 0.001, "high_s": 0.4}
    replicas = rng.choice([1, 2])
    scenario: dict[str, Any] = {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": engine,
        "workload": workload,
        "kv_reload": rng.choice(["always", "cost"]),
    }
    if "pools" in has:
        scenario["pools"] = {"prefill": {"replicas": 1}, "decode": {"replicas": replicas}}
        scenario["hand_over"] = {
            "first_token": "prefill" if "first token from prefill" in has else "decode",
            "kv": "layerwise" if "layer by layer" in has else "whole",
        }
        replicas += 1
    else:
        scenario["replicas"] = replicas
    if "central queue" in has:
        scenario["router"] = "central_queue"
    if "stale reports" in has:
        scenario["router_staleness_s"] = rng.choice([0.01, 0.2, 5.0])
    if "faults" in has:
        scenario["faults"] = [
            {"replica": rng.randrange(replicas), "at_s": at_s, "until_s": at_s + rng.choice([0.01, 0.1])}
            for at_s in (0.0, rng.uniform(0.0, 0.3))
        ]
        scenario["on_failure"] = rng.choice(["resubmit", "abort"])
    if "limit" in has:
        scenario["time_limit_s"] = 0.2
    return Scenario.model_validate(scenario), "played" not in has, has


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_waits_while_what_it_waits_for_is_free(seed: int) -> None:
    scenario, fold, has = drawn(seed)
    try:
        result = simulate(scenario, seed=seed, fold=fold, check=True)
    except InfeasibleError:
        pytest.skip("these features do not go together")
    except UnfinishedError as stuck:
        pytest.fail(f"{sorted(has)}: {stuck}")  # every fault ends: all can finish
    if "limit" not in has:
        assert set(result.requests["status"]) <= {"finished", "aborted", "rejected"}
