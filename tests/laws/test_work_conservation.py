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

SEEDS = (*range(8), 309, 622)
"""Of more than a thousand that were searched; the last two found wake-ups that were lost."""
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


TIGHT: dict[str, Any] = {
    "topology": "nd-h100-v5",
    "model": small("llama-3-8b"),
    "engine": {"num_gpu_blocks_override": 20, "max_model_len": 240, "max_num_batched_tokens": 64},
    "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}},
    "workload": {
        "arrivals": {"kind": "burst"}, "prompt_tokens": 20, "output_tokens": 20, "requests": 4,
        "prefix": {"tokens": 160, "groups": 4},
    },
}  # fmt: skip


def tight(**more: Any) -> Scenario:
    engine = {**TIGHT["engine"], **more.pop("engine", {})}
    return Scenario.model_validate({**TIGHT, "engine": engine, **more})


def test_a_kv_cache_gets_the_blocks_that_a_copy_to_a_tier_held() -> None:
    tiers = {"kv_tiers": {"write": "through", "host": {"capacity_bytes": "200 MB"}}}
    result = simulate(tight(engine=tiers, hand_over={"first_token": "prefill"}), check=True)
    assert set(result.requests["status"]) == {"finished"}


def test_a_seat_left_by_a_prompt_that_goes_on_to_decode_is_taken_at_once() -> None:
    result = simulate(tight(engine={"max_num_seqs": 1}, router="central_queue"), check=True)
    prefill_ends = result.hand_overs["prefilled_s"].sort().to_list()
    assert result.requests["routed_s"].sort().to_list()[1:] == prefill_ends[:-1]


def test_a_kv_cache_goes_to_the_receiver_that_comes_back_when_it_waited_for_one_that_does_not() -> None:
    down = [{"replica": 1, "at_s": 0.0}, {"replica": 2, "at_s": 0.0, "until_s": 0.5}]
    pools = {"prefill": {"replicas": 1}, "decode": {"replicas": 2}}
    result = simulate(tight(pools=pools, faults=down), check=True)
    assert set(result.requests["status"]) == {"finished"}
    assert set(result.hand_overs["receiver"]) == {2}


def test_a_router_that_refused_by_an_old_report_is_asked_again_by_the_next_one() -> None:
    """The third request comes at 0.6 s. The report of that half second has a busy engine, which is idle from
    0.7 s on: no other event would have the router asked again.
    """
    scenario = {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {"service_time": {"step_s": 0.35}, "max_num_seqs": 1},
        "router": "central_queue",
        "router_staleness_s": 0.5,
        "workload": {
            "arrivals": {"kind": "constant", "rate_per_s": 1 / 0.3},
            "prompt_tokens": 1,
            "output_tokens": 1,
            "requests": 3,
        },
    }
    routed_s = simulate(Scenario.model_validate(scenario), check=True).requests["routed_s"]
    assert routed_s.to_list() == pytest.approx([0.0, 0.3, 1.0])


@pytest.mark.parametrize("seed", SEEDS)
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
