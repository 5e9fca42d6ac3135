"""Drafts by their shapes, and KV caches that ranks share by tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

import sim
from sim.catalog import load_draft
from sim.cost.batch import Batch
from sim.cost.memory import MemoryPlan
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.deployment import deployment_of
from sim.inputs.errors import InfeasibleError, InputError

EAGLE = {
    "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14_336, "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128_256, "draft_vocab_size": 32_000,
}  # fmt: skip


def eagle(tmp_path: Path, **keys: object) -> str:
    path = tmp_path / "eagle.json"
    path.write_text(json.dumps(EAGLE | keys))
    return str(path)


def service(model: str = "llama-3.1-8b", **engine: object) -> sim.Scenario:
    return sim.Scenario.model_validate(
        {"topology": "nd-h100-v5", "model": model, "engine": engine, "workload": "single-user"}
    )


def speculating(draft: object, drafts: int = 3) -> dict[str, object]:
    return {"speculation": {"num_speculative_tokens": drafts, "acceptance_rate": 0.7, "draft": draft}}


def test_an_eagle_head_is_told_from_a_model_and_other_drafts_are_refused(tmp_path: Path) -> None:
    assert load_draft(eagle(tmp_path))["fused_states"] == 3
    assert load_draft(eagle(tmp_path))["vocab"] == 32_000
    assert load_draft("llama-3-8b")["fused_states"] == 0
    with pytest.raises(InputError, match="dense ones with plain attention are known"):
        load_draft("mixtral-8x7b")
    with pytest.raises(ValidationError, match="leave out one of draft, draft_s"):
        service(
            speculation={"num_speculative_tokens": 1, "acceptance_rate": 0.5, "draft": "mtp", "draft_s": 1e-3}
        )


def memory_of(scenario: sim.Scenario) -> MemoryPlan:
    memory = deployment_of(scenario, Network(scenario.wired.graph)).replicas[0].memory
    assert memory is not None
    return memory


def step_s(scenario: sim.Scenario, context: int) -> float:
    network = Network(scenario.wired.graph)
    (plan,) = deployment_of(scenario, network).replicas
    cost = StageCost(plan.shards[0], network)
    speculation = scenario.engine.speculation
    tokens = 1 + (speculation.num_speculative_tokens if speculation else 0)
    batch = Batch(decodes=1, decode_kv_tokens=context, sampled=tokens, decode_tokens=tokens)
    assert cost.program(batch).total_s == cost.step(batch)[0]
    assert cost.decode_steps(batch, 12)[0][5] == cost.step(batch.grown(5))[0]
    return cost.step(batch)[0]


def test_every_draft_reads_the_head_s_weights_and_its_cache_once(tmp_path: Path) -> None:
    draft = eagle(tmp_path)
    one, three = (step_s(service(**speculating(draft, n)), 1000) for n in (1, 3))
    layer = 2 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14_336 + 3 * 4096 * 4096 + 32_000 * 4096)
    pass_s = layer / 3.35e12
    assert pass_s < (three - one) / 2 < 3 * pass_s


def test_the_draft_s_weights_and_cache_take_room(tmp_path: Path) -> None:
    without, with_draft, mtp = (
        memory_of(one)
        for one in (service(), service(**speculating(eagle(tmp_path))), service(**speculating("mtp")))
    )
    assert with_draft.kv_bytes_per_token / without.kv_bytes_per_token == pytest.approx(33 / 32)
    assert mtp.kv_bytes_per_token / without.kv_bytes_per_token == pytest.approx(33 / 32)
    assert with_draft.weight_bytes - without.weight_bytes == pytest.approx(
        2 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14_336 + 3 * 4096 * 4096 + 32_000 * 4096)
    )


def test_a_run_with_a_draft_keeps_every_invariant(tmp_path: Path) -> None:
    scenario = sim.with_changes(service(**speculating(eagle(tmp_path))), {"workload.requests": 3})
    assert sim.simulate(scenario, check=True).requests["status"].to_list() == ["finished"] * 3


def test_ranks_that_share_a_latent_cache_hold_as_many_times_the_tokens() -> None:
    """Kimi-K2-Thinking on eight H200 has eight times the KV tokens with -dcp 8 (vllm-project/recipes)."""
    alone, shared = (
        service(
            "deepseek-v3",
            tensor_parallel_size=8,
            decode_context_parallel_size=n,
            num_gpu_blocks_override=None,
        )
        for n in (1, 8)
    )
    alone, shared = (sim.with_changes(one, {"precision.weights": "w4a16"}) for one in (alone, shared))
    plans = [memory_of(one) for one in (alone, shared)]
    assert plans[1].kv_tokens == pytest.approx(8 * plans[0].kv_tokens)
    assert step_s(shared, 100_000) < step_s(alone, 100_000)


def test_ranks_with_different_heads_share_no_cache() -> None:
    with pytest.raises(InfeasibleError, match="keep 1 copies of 8 KV heads"):
        sim.simulate(service(tensor_parallel_size=4, decode_context_parallel_size=2))
