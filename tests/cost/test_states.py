"""Layers that keep a state: sizes that engines log, blocks, and what a request takes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim.cost.block_groups import BlockGroups, block_groups, block_tokens, counted_kinds
from sim.cost.step_templates import runs_of
from sim.inputs.attention_kinds import LinearAttention
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.inputs.model import Model
from sim.reading.huggingface import read_model

CONFIGS = Path(__file__).parents[1] / "data" / "configs"

NANO_9B_V2 = Model(
    name="nemotron-nano-9b-v2", architecture="nemotron_h", layers=2, hidden=4480, intermediate=0, heads=40,
    kv_heads=8, head_dim=128, vocab=131_072,
    layer_shapes=[{"at": [0], "linear": {
        "kind": "mamba2", "key_heads": 8, "value_heads": 128, "key_head_dim": 128, "value_head_dim": 80,
        "conv_kernel": 4}}],
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        # vLLM logs "Setting attention block size to 544 tokens" for Qwen3-Next; 672: vllm#24280
        (read_model(CONFIGS / "qwen3-next-80b-a3b.json"), 544),
        (NANO_9B_V2, 672),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_blocks_grow_to_the_size_of_a_state_as_vllm_logs(model: Model, tokens: int) -> None:
    assert block_tokens(model, Engine(), "bf16") == tokens
    assert block_tokens(model, Engine(backend="sglang"), "bf16") == 16


def test_the_state_of_qwen3_next_is_that_of_its_heads_and_its_convolution() -> None:
    model = read_model(CONFIGS / "qwen3-next-80b-a3b.json")
    layer = 32 * 128 * 128 * 2 + 3 * (2 * 16 * 128 + 32 * 128) * 2
    assert model.state_bytes_per_request == 36 * layer
    assert model.kv_bytes_per_token() == 12 * 2 * 2 * 256 * 2


def test_ranks_share_the_heads_of_a_state_and_replicate_its_groups() -> None:
    mamba = LinearAttention(kind="mamba2", key_heads=8, value_heads=64, key_head_dim=128, value_head_dim=64)
    assert mamba.splits(16)
    assert not mamba.splits(3)
    assert mamba.of_rank(16).key_heads == 1
    assert mamba.of_rank(16).value_heads == 4
    delta = LinearAttention(
        kind="gated_delta", key_heads=16, value_heads=32, key_head_dim=128, value_head_dim=128
    )
    assert not delta.splits(32)


def test_a_text_has_one_block_in_every_group_with_a_state() -> None:
    groups = BlockGroups(16, whole=1, states=3)
    assert groups.decoding(1) == 1 + 3
    assert groups.decoding(160) == 10 + 3
    assert groups.during(0, 0) == 0
    assert groups.turnover(16, 1) == (1, 0)
    assert groups.growth(16, 100) == 7
    assert groups.most(160, 8192) == groups.longest(160, 8192) == 10 + 3


def test_groups_have_as_many_layers_as_the_rarest_kind() -> None:
    model = read_model(CONFIGS / "qwen3-next-80b-a3b.json")
    assert counted_kinds(model) == (12, 0, 36)
    assert block_groups(model, Engine(block_size=544), "bf16") == BlockGroups(544, whole=1, states=3)
    nano = read_model(CONFIGS / "nemotron-3-nano-30b.json")
    assert counted_kinds(nano) == (6, 0, 23)
    assert block_groups(nano, Engine(), "bf16") == BlockGroups(16, whole=1, states=4)


def scenario(shared: int = 0, **engine: object) -> sim.Scenario:
    workload = {"arrivals": {"kind": "poisson", "rate_per_s": 1.0}, "prompt_tokens": 1000 - shared,
                "output_tokens": 20, "requests": 4}  # fmt: skip
    if shared:
        workload["prefix"] = {"tokens": shared, "share": 1.0}
    return sim.Scenario.model_validate(
        {
            "topology": "hgx-h200",
            "model": str(CONFIGS / "qwen3-next-80b-a3b.json"),
            "engine": {"tensor_parallel_size": 2, **engine},
            "workload": workload,
        }
    )


def test_a_run_keeps_every_invariant_and_gives_its_blocks_back() -> None:
    result = sim.simulate(scenario(), check=True)
    assert result.requests["status"].to_list() == ["finished"] * 4
    # 1020 tokens alone: two blocks of attention, and one of each of three groups of states
    assert result.kv_blocks["blocks"].max() == 2 + 3
    assert result.kv_blocks["blocks"][-1] == 0


def test_prefixes_are_cached_where_asked_for_in_blocks_of_a_state() -> None:
    assert sim.simulate(scenario(shared=900)).requests["cached_tokens"].sum() == 0
    found = sim.simulate(scenario(shared=900, enable_prefix_caching=True), check=True).requests[
        "cached_tokens"
    ]
    assert found.to_list() == [0, 544, 544, 544]


def test_tiers_and_pools_apart_are_refused() -> None:
    with pytest.raises(InfeasibleError, match="keeps states of texts"):
        sim.simulate(scenario(kv_tiers={"host": {"capacity_bytes": "10 GB"}}))
    pools = {role: {"role": role, "engine": {"tensor_parallel_size": 2}} for role in ("prefill", "decode")}
    written = scenario().model_dump(include={"workload"}) | {
        "topology": "hgx-h200", "model": str(CONFIGS / "qwen3-next-80b-a3b.json"), "pools": pools,
    }  # fmt: skip
    with pytest.raises(InfeasibleError, match="keeps states of texts"):
        sim.simulate(sim.Scenario.model_validate(written))


def test_layers_of_a_pattern_are_one_run_and_all_layers_are_in_the_runs() -> None:
    for pattern in ("AAAA", "ABABAB", "DLLLFLLLFL", "MEMEM*EMEMEM*E", "A"):
        runs = runs_of(pattern)
        assert "".join("".join(kinds) * repeat for repeat, kinds in runs) == pattern
    assert runs_of("LLLF" * 12) == [(12, ("L", "L", "L", "F"))]
