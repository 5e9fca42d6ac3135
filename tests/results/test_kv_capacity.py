"""The KV cache of a run in the words of vLLM's log."""

from __future__ import annotations

import pytest

import sim
from sim.cost.network import Network
from sim.deployment import deployment_of
from sim.results.kv_capacity import KvCapacity, capacity_summary

# vllm#21348: "GPU KV cache size: 178,880 tokens"
QWEN3_235B = KvCapacity("", "qwen3-235b", {"weights": "fp8_block"}, None, 11_180, 16, 40_960)


def test_capacity_is_told_as_vllm_logs_it() -> None:
    assert QWEN3_235B.lines() == (
        "GPU KV cache size: 178,880 tokens (11,180 blocks)",
        "Maximum concurrency for 40,960 tokens per request: 4.37x",
    )


def test_a_request_takes_whole_blocks() -> None:
    odd = KvCapacity("", "m", {}, None, 100, 16, 17)
    assert odd.max_concurrency == 50.0


def test_numbers_of_several_pools_stand_by_pool_only() -> None:
    two = [KvCapacity(name, "m", {}, None, 10, 16, 160) for name in ("prefill", "decode")]
    assert two[0].lines()[0].startswith("prefill: GPU KV cache size")
    numbers = capacity_summary(two)
    assert numbers["kv_cache_tokens"] is None
    assert {pool: engine["kv_cache_tokens"] for pool, engine in numbers["engines"].items()} == {
        "prefill": 160,
        "decode": 160,
    }
    assert capacity_summary([QWEN3_235B])["kv_cache_blocks"] == 11_180
    assert capacity_summary([])["engines"] == {}


def test_blocks_that_no_gpu_holds_are_noted() -> None:
    scenario = sim.Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "model": "llama-3.1-8b",
            "engine": {"num_gpu_blocks_override": 50_000},
            "workload": "single-user",
        }
    )
    (capacity,) = deployment_of(scenario, Network(scenario.wired.graph)).kv_capacities
    # 50,000 blocks of 16 tokens of 131,072 B, beside 15 GiB of weights, on 79.2 GiB
    assert capacity.lacking_bytes / 2**30 == pytest.approx(97.7 + 15.0 - 79.6, abs=0.6)
    assert "50,000 blocks take 33" in capacity.notes()[-1]
    assert QWEN3_235B.notes() == ()
