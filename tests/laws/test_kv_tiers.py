"""Laws of KV tiers: what is reloaded is what is not computed, reloads cost what their bytes cost, and a
reload pays exactly from the closed form's bandwidth on.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.catalog import load_model
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.offloading_queue import TieredQueue
from sim.scenario import Scenario, with_changes
from sim.simulate import Result, simulate
from tests.laws.folded_and_played import differences
from tests.laws.folding_scenarios import small

PER_TOKEN = load_model("llama-3.1-70b").kv_bytes_per_token("bf16")
BLOCK = 16


def returning(prompt: int = 4000, turns: int = 2, **engine: Any) -> dict[str, Any]:
    """Conversations that come back after others have taken their blocks: two at a time hardly fit HBM."""
    return {
        "topology": "nd-h100-v5",
        "model": "llama-3.1-70b",
        "engine": {
            "tensor_parallel_size": 8,
            "num_gpu_blocks_override": 1200,
            "kv_tiers": {"host": {"capacity_bytes": "512 GB"}},
            **engine,
        },
        "workload": {
            "arrivals": {
                "kind": "sessions",
                "starts": {"kind": "constant", "rate_per_s": 0.5},
                "turns": turns,
                "tool_delay_s": 9.0,
            },
            "prompt_tokens": prompt,
            "output_tokens": 16,
            "requests": 6 * turns,
        },
    }


def run(described: dict[str, Any], **changes: Any) -> Result:
    return simulate(Scenario.model_validate({**described, **changes}))


def of_tier(result: Result, tier: str) -> dict[str, Any]:
    return next(row for row in result.kv_tiers.iter_rows(named=True) if row["tier"] == tier)


@pytest.mark.parametrize("write", ["through", "on_eviction"])
def test_bytes_reloaded_are_the_kv_of_the_tokens_that_are_not_computed_again(write: str) -> None:
    tiers = {"write": write, "host": {"capacity_bytes": "512 GB"}}
    result = run(returning(kv_tiers=tiers), kv_reload="always")
    cached = int(result.requests["cached_tokens"].sum())
    hbm, host = of_tier(result, "hbm"), of_tier(result, "host")
    assert host["hit_tokens"] > 0
    assert hbm["hit_tokens"] + host["hit_tokens"] == cached
    assert host["reloaded_bytes"] == PER_TOKEN * host["hit_tokens"]
    prompts = int(result.requests["prompt_tokens"].sum())
    assert int(result.steps["prefill_tokens"].sum()) == prompts - cached
    down = result.links.filter(result.links["link"].str.contains(r"host\d->node0.pcie"))
    assert down["n_bytes"].sum() == pytest.approx(host["reloaded_bytes"])


def test_a_prompt_waits_for_the_latency_and_the_bytes_of_its_reload() -> None:
    result = run(returning(), kv_reload="always")
    waited = result.blame.filter(result.blame["hand_over"] > 0)["hand_over"].to_numpy()
    link = result.links.filter(result.links["link"] == "node0.host0->node0.pcie0")["bytes_per_s"].item()
    each_rank = of_tier(result, "host")["reloaded_bytes"] / 8
    start_s = 20e-6 + 2 * 0.35e-6 + 0.13e-6  # of the tier, and of two links and a switch
    assert len(waited) == 6
    assert waited.sum() == pytest.approx(6 * start_s + each_rank / link)


def test_with_an_infinitely_fast_tier_the_first_token_comes_as_after_a_hit_in_hbm() -> None:
    tiers = {"host": {"capacity_bytes": "512 GB", "latency_s": 0.0}}
    tiered = Scenario.model_validate({**returning(kv_tiers=tiers), "kv_reload": "always"})
    fast = with_changes(tiered, {"topology.links.pcie5-x16.bytes_per_s": "90 TB/s"})
    ample = with_changes(tiered, {"engine.num_gpu_blocks_override": 100_000, "engine.kv_tiers": None})
    reloaded, held = simulate(fast), simulate(ample)
    assert of_tier(reloaded, "host")["hit_tokens"] > 20_000
    for column in ("cached_tokens", "prompt_tokens"):
        assert reloaded.requests[column].to_list() == held.requests[column].to_list()
    ours, theirs = reloaded.summary()["mean_ttft_ms"], held.summary()["mean_ttft_ms"]
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_over_a_link_that_is_down_cost_never_reloads() -> None:
    def cut(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
        yield env.timeout(8.0)
        for link in fabric.links:
            if "host" in str(link) and str(link).endswith(tuple(f"pcie{i}" for i in range(8))):
                fabric.set_capacity(link, 0.0)

    scenario = Scenario.model_validate(returning())
    assert of_tier(simulate(scenario), "host")["hit_tokens"] > 0
    result = simulate(scenario, beside=[cut])
    assert of_tier(result, "host")["hit_tokens"] == 0
    assert of_tier(result, "host")["stored_bytes"] > 0
    assert result.summary()["completed"] == 12


def test_from_a_slow_tier_cost_never_reloads_and_always_does_and_is_slower_for_it() -> None:
    slow = {"host": {"capacity_bytes": "512 GB", "read_bytes_per_s": "1 GB/s"}}
    described = returning(kv_tiers=slow)
    cost, always, never = (run(described, kv_reload=rule) for rule in ("cost", "always", "never"))
    assert of_tier(cost, "host")["reloaded_bytes"] == of_tier(never, "host")["reloaded_bytes"] == 0.0
    assert of_tier(always, "host")["reloaded_bytes"] > 0.0
    assert cost.requests.equals(never.requests)
    assert always.summary()["mean_ttft_ms"] > 1.5 * cost.summary()["mean_ttft_ms"]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [2000, 16_000])
def test_reloading_pays_from_the_bandwidth_at_which_a_tokens_bytes_take_as_long_as_its_prefill(
    prompt: int,
) -> None:
    described = returning(prompt, num_gpu_blocks_override=3 * prompt // 16)
    first = run(described, kv_reload="never")
    turn = first.requests["turn"].to_numpy()
    ttft = (first.requests["first_token_s"] - first.requests["arrival_s"]).to_numpy()
    context = (prompt + 16) // BLOCK * BLOCK
    cached = context / (ttft[turn == 1].mean() - ttft[turn == 0].mean())
    closed = PER_TOKEN * cached  # the bytes of the tokens that one second of prefill computes

    def reloads(part: float) -> bool:
        tier = {"capacity_bytes": "512 GB", "latency_s": 0.0, "read_bytes_per_s": closed * part}
        result = run(returning(prompt, num_gpu_blocks_override=3 * prompt // 16, kv_tiers={"host": tier}))
        return bool(of_tier(result, "host")["reloaded_bytes"] > 0.0)

    assert not reloads(0.9)
    assert reloads(1.1)


@pytest.mark.slow
@pytest.mark.parametrize("write", ["through", "on_eviction"])
def test_folded_runs_are_played_runs_with_copies_on_shared_links(write: str) -> None:
    described = returning(prompt=600, turns=3)
    described["model"] = small("llama-3.1-70b")
    described["topology"] = "l40s-12"  # all-reduces and copies of KV share PCIe
    described["engine"] = {
        "tensor_parallel_size": 4,
        "num_gpu_blocks_override": 150,
        "kv_tiers": {"write": write, "host": {"capacity_bytes": "300 MB"}},
    }
    described["replicas"] = 3
    described["placement"] = "strided"
    described["kv_reload"] = "always"
    described["workload"]["requests"] = 24
    described["workload"]["arrivals"]["starts"] = {"kind": "poisson", "rate_per_s": 20.0}
    described["workload"]["arrivals"]["tool_delay_s"] = 0.2
    found, result = differences(described)
    assert not found, found
    assert result.kv_tiers["reloaded_bytes"].sum() > 0
    assert result.blame["sharing"].sum() > 0


def until_copies_end(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
    """Keeps the clock running after the last request: copies to tiers hold their blocks until they end."""
    yield env.timeout(60.0)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    write=st.sampled_from(["through", "on_eviction"]),
    tiers=st.lists(st.sampled_from(["host", "nvme", "remote"]), min_size=1, unique=True),
    capacity=st.sampled_from([3e7, 2e8, 1e12]),
    blocks=st.sampled_from([110, 200, 500]),
    rule=st.sampled_from(["cost", "always"]),
    engine=st.sampled_from(
        [{"tensor_parallel_size": 8}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}]
    ),
    seed=st.integers(0, 1000),
)
def test_the_books_of_every_tier_are_in_order_after_every_step(
    write: str, tiers: list[str], capacity: float, blocks: int, rule: str, engine: dict[str, Any], seed: int
) -> None:
    described: dict[str, Any] = {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3.1-70b"),
        "replicas": 2,
        "kv_reload": rule,
        "engine": {
            **engine,
            "num_gpu_blocks_override": blocks,
            "max_num_batched_tokens": 512,
            "max_num_seqs": 8,
            "kv_tiers": {"write": write, **{tier: {"capacity_bytes": capacity} for tier in tiers}},
        },
        "workload": {
            "arrivals": {
                "kind": "sessions",
                "starts": {"kind": "poisson", "rate_per_s": 40.0},
                "turns": 3,
                "tool_delay_s": 0.1,
                "max_context_tokens": 1600,
            },
            "prompt_tokens": {"kind": "uniform", "low": 16, "high": 500},
            "output_tokens": {"kind": "uniform", "low": 1, "high": 60},
            "prefix": {"groups": 3, "tokens": 128},
            "requests": 40,
        },
    }
    if "remote" in tiers:
        described["engine"]["kv_tiers"]["remote"]["place"] = "node1"
    steps_passed = TieredQueue.steps_passed
    queues = set()

    def checked(queue: TieredQueue, step: int) -> None:
        steps_passed(queue, step)
        queue.check()
        queues.add(queue)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TieredQueue, "steps_passed", checked)
        result = simulate(Scenario.model_validate(described), seed=seed, beside=[until_copies_end])
    assert result.summary()["completed"] == 40
    for queue in queues:
        queue.check()
        assert queue.block_pool.used == 0, "blocks that nobody gave back"
        assert not queue.loading
    rows = result.kv_tiers.rows(named=True)
    hits = sum(row["hit_tokens"] for row in rows)
    assert sum(row["reloaded_bytes"] for row in rows) == pytest.approx(
        sum(row["hit_tokens"] for row in rows if row["tier"] != "hbm") * PER_TOKEN * 4 / 80
    )
    if not result.requests["preemptions"].sum():
        assert hits == result.requests["cached_tokens"].sum()
