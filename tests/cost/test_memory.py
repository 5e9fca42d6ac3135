"""KV capacity and weights of a GPU, against what engines report at start-up and what can be worked out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import sim
from sim.catalog import load_gpu
from sim.cost.memory import (
    GIB,
    PADDED_BY_MARLIN,
    PADDED_TO,
    MemoryPlan,
    reserved_bytes,
    shard_weight_bytes,
)
from sim.cost.shard import Shard
from sim.deployment import memory_of, shards_of
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.inputs.model import Model
from sim.inputs.precision import Precision
from sim.reading.huggingface import read_model
from tests.reading.test_published_models import CONFIGS

TRAFFIC = {
    "arrivals": {"kind": "closed_loop", "users": 1},
    "prompt_tokens": 8,
    "output_tokens": 8,
    "requests": 1,
}


FP16 = {"weights": "fp16", "kv_cache": "fp16", "activations": "fp16"}


def planned(
    topology: str, model: str, nodes: int = 1, precision: dict[str, str] = FP16, **engine: object
) -> MemoryPlan:
    scenario = sim.Scenario.model_validate(
        {
            "topology": topology,
            "nodes": nodes,
            "model": model,
            "precision": precision,
            "engine": engine,
            "workload": TRAFFIC,
        }
    )
    pool = scenario.all_pools[""]
    gpus = tuple(scenario.topology.graph.graph["gpus"])[: pool.engine.world_size]
    return memory_of(pool, shards_of(pool, scenario, gpus))[0]


def test_weights_of_a_gpu_are_all_weights_over_its_ranks() -> None:
    memory = planned("nd-h100-v5", "qwen2.5-72b", tensor_parallel_size=4, max_model_len=2048)
    model = sim.load_model("qwen2.5-72b")
    assert memory.weight_bytes == pytest.approx(model.weight_bytes("fp16") / 4, rel=1e-3)
    assert memory.weight_bytes == pytest.approx(34.01 * GIB, rel=0.01)  # as the engine reports


def test_what_a_gpu_may_use_is_weights_reserve_and_kv_cache() -> None:
    memory = planned("nd-h100-v5", "qwen2.5-72b", tensor_parallel_size=8, max_model_len=2048)
    assert memory.usable_bytes == memory.weight_bytes + memory.reserved_bytes + memory.kv_bytes


def test_more_ranks_than_one_server_has_reserve_no_more_buffers() -> None:
    sizes = {"max_model_len": 2048, "max_num_seqs": 256}
    eight = planned("nd-h100-v5", "qwen2.5-72b", 2, tensor_parallel_size=8, **sizes)
    sixteen = planned("nd-h100-v5", "qwen2.5-72b", 2, tensor_parallel_size=16, **sizes)
    assert 0.0 < eight.reserved_bytes - sixteen.reserved_bytes < 1.0 * GIB  # activations of half the width


def test_a_model_that_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(InfeasibleError, match=r"qwen2.5-72b.*does not fit.*tensor_parallel_size 4"):
        planned("nd-h100-v5", "qwen2.5-72b", tensor_parallel_size=1)


def refused(**engine: object) -> str:
    box = {
        "topology": "rtx-4090-x4",
        "model": "llama-3-70b",
        "engine": {"tensor_parallel_size": 4, **engine},
        "workload": TRAFFIC,
    }
    with pytest.raises(InfeasibleError) as found:
        sim.simulate(sim.Scenario.model_validate(box))
    return str(found.value)


def test_what_would_fit_is_something_that_the_machine_can_have():
    assert "12.8 GiB more" in refused()
    assert "tensor_parallel_size 4 with fp8 weights fits" in refused()


def test_a_given_number_of_blocks_does_not_make_weights_fit():
    assert "does not fit rtx-4090" in refused(num_gpu_blocks_override=100)


def test_a_context_beyond_the_models_own_is_refused():
    assert "max_model_len = 50000: must be at most 8192" in refused(max_model_len=50_000)


def model_named(name: str) -> Model:
    """A shipped model, or one of the shapes of its own config.json."""
    if name == "gpt-oss-20b":
        shapes = {"layers": 24, "experts": 32, "sliding_layers": 12}
        return sim.load_model("gpt-oss-120b").model_copy(update={"name": name, **shapes})
    if name == "qwen3-coder-480b":
        shapes = {
            "layers": 62,
            "hidden": 6144,
            "heads": 96,
            "kv_heads": 8,
            "experts": 160,
            "moe_intermediate": 2560,
        }
        return sim.load_model("qwen3-235b-a22b").model_copy(update={"name": name, **shapes})
    return sim.load_model(name)


def shard_of(name: str, formats: dict[str, str], gpu: str, **engine: Any) -> Shard:
    settings = Engine.model_validate(engine)
    ranks = tuple(map(str, range(settings.tensor_parallel_size)))
    model = model_named(name)
    precision = Precision.model_validate(formats)
    return Shard(
        model, settings, precision, load_gpu(gpu), (ranks,) * settings.data_parallel_size, 0, model.layers
    )


def test_qwen3_235b_has_the_tokens_that_vllm_logs() -> None:
    formats = {"weights": "fp8_block"}
    memory = planned("nd-h100-v5", "qwen3-235b-a22b", precision=formats, tensor_parallel_size=4)
    assert memory.blocks == pytest.approx(11_180, rel=0.05)


@pytest.mark.parametrize(
    ("name", "gpu", "logged_gib"),
    [
        ("gpt-oss-120b", "h100-sxm", 64.38),  # vllm#33155
        ("gpt-oss-120b", "a100-80gb-sxm", 65.97),  # vllm#23278, whose log names the Marlin kernels
        ("gpt-oss-20b", "a100-80gb-sxm", 13.72),  # myoceane.fr, vLLM 0.19
    ],
)
def test_experts_in_4_bits_are_padded_for_their_kernels(name: str, gpu: str, logged_gib: float) -> None:
    shard = shard_of(name, {"experts": "w4a16"}, gpu)
    assert shard_weight_bytes(shard) / GIB == pytest.approx(logged_gib, rel=0.005)
    unpadded = replace(shard, engine=Engine(backend="sglang"))
    assert shard_weight_bytes(unpadded) < 0.96 * shard_weight_bytes(shard)


def test_gpt_oss_120b_is_refused_at_its_full_context_on_one_h100_and_says_by_how_much() -> None:
    """vllm#27508: 4.54 GiB are needed and 1.71 left, with the sampler and the sequences of vLLM 0.11."""
    log = {"gpu_memory_utilization": 0.95, "max_num_batched_tokens": 1024, "moe_backend": "marlin"}
    with pytest.raises(InfeasibleError, match=r"needs 4.54 GiB of KV cache a GPU, and 1.[67]\d GiB are left"):
        planned("nd-h100-v5", "gpt-oss-120b", precision={"experts": "w4a16"}, max_model_len=131_072, **log)
    with pytest.raises(InfeasibleError, match="does not fit h100-sxm"):
        planned("nd-h100-v5", "gpt-oss-120b", precision={"experts": "w4a16"})


def test_gpt_oss_120b_has_its_full_context_where_the_sampler_has_few_sequences() -> None:
    """The same server with six sequences has 8.99 GiB left, and 130,960 tokens (blog of tonghuikang)."""
    log = {"gpu_memory_utilization": 0.96, "max_num_batched_tokens": 8192, "moe_backend": "marlin"}
    memory = planned(
        "nd-h100-v5",
        "gpt-oss-120b",
        precision={"experts": "w4a16"},
        max_num_seqs=6,
        max_model_len=98_304,
        **log,
    )
    assert memory.blocks // 2 * 16 == pytest.approx(130_960, rel=0.05)
    longest = memory.groups.longest(98_304, 8192)
    assert longest == 98_304 // 16 + (127 + 8192 + 15) // 16 + 1
    assert memory.blocks / longest == pytest.approx(2.46, rel=0.05)


def test_activations_and_logits_are_not_there_at_once() -> None:
    """Of a dense model: few sequences leave the layers' activations as the peak, many the logits."""
    few, some, many = (
        reserved_bytes(shard_of("llama-3-8b", {}, "h100-sxm"), sequences, 8192) for sequences in (1, 8, 1024)
    )
    assert few == some
    assert many - few == pytest.approx(12 * 1024 * 128_256 - 8192 * 2 * (4 * 4096 + 3 * 14_336))


def test_experts_of_marlin_are_padded_as_on_gpus_before_hopper() -> None:
    marlin = shard_weight_bytes(
        shard_of("gpt-oss-120b", {"experts": "w4a16"}, "h100-sxm", moe_backend="marlin")
    )
    assert marlin / GIB == pytest.approx(65.97, rel=0.005)


def reserve(name: str = "qwen3-30b-a3b", tokens: int = 8192, **engine: Any) -> float:
    return reserved_bytes(shard_of(name, {}, "h100-sxm", **engine), 1024, tokens)


def test_a_sampler_that_sorts_keeps_24_bytes_a_logit_more() -> None:
    more = 24 * 1024 * sim.load_model("qwen3-30b-a3b").vocab
    assert reserve(sampler="sort") - reserve(sampler="kernel") == pytest.approx(more)
    assert reserve() == reserve(sampler="sort")
    assert reserve("llama-3-8b") == reserve("llama-3-8b", sampler="kernel")
    assert reserve(backend="sglang") == reserve(backend="sglang", sampler="sort")


def test_expert_buffers_have_a_row_for_each_expert_of_a_token_up_to_a_chunk() -> None:
    model = sim.load_model("qwen3-30b-a3b")
    row = max(2 * model.moe_intermediate, model.hidden) + model.moe_intermediate
    for tokens, more in ((8192, 1), (16_384, 1), (32_768, 0)):  # the last step is beyond a chunk of 32,768
        rows = more * tokens * model.experts_per_token
        gained = reserve(tokens=2 * tokens) - reserve(tokens=tokens)
        assert gained == pytest.approx(2 * rows * row)


def test_data_parallel_ranks_gather_their_tokens_for_the_experts() -> None:
    alone = reserve(tokens=2048, enable_expert_parallel=True)
    together = reserve(tokens=2048, enable_expert_parallel=True, data_parallel_size=4)
    model = sim.load_model("qwen3-30b-a3b")
    row = max(2 * model.moe_intermediate, model.hidden) + model.moe_intermediate
    assert together - alone == pytest.approx(2 * 3 * 2048 * model.experts_per_token * row)


def test_tokens_that_fit_are_the_bytes_for_kv_over_those_of_a_token() -> None:
    memory = planned("nd-h100-v5", "qwen2.5-72b", tensor_parallel_size=4, max_model_len=2048)
    assert memory.kv_tokens == memory.kv_bytes / memory.kv_bytes_per_token
    assert 0 <= memory.kv_tokens - memory.blocks * 16 < 16


def test_weights_of_experts_and_of_their_router_are_all_weights() -> None:
    memory = planned("nd-h100-v5", "qwen3-30b-a3b", tensor_parallel_size=1, max_model_len=2048)
    assert memory.weight_bytes == pytest.approx(2 * sim.load_model("qwen3-30b-a3b").parameters, rel=1e-6)


def test_only_the_last_stage_keeps_logits() -> None:
    model, gpu = sim.load_model("llama-3-8b"), load_gpu("h100-sxm")
    first, last = (
        Shard(model, Engine(pipeline_parallel_size=2), Precision(), gpu, (("g",),), layer, 16)
        for layer in (0, 16)
    )
    assert reserved_bytes(last, 256, 2048) > reserved_bytes(first, 256, 2048)


def test_experts_are_padded_to_powers_of_two() -> None:
    assert all(
        multiple.bit_count() == 1 for padded in (*PADDED_TO.values(), PADDED_BY_MARLIN) for multiple in padded
    )


@pytest.mark.parametrize("name", ["deepseek-v4-flash", "nemotron-3-nano-30b"])
def test_a_stage_whose_layers_cache_nothing_of_a_token_leaves_blocks_to_the_others(name: str) -> None:
    model = read_model(CONFIGS / f"{name}.json")
    written = {"topology": "gb200-nvl72", "model": model, "workload": "single-user"}
    scenario = sim.Scenario.model_validate({**written, "engine": {"pipeline_parallel_size": model.layers}})
    pool = next(iter(scenario.all_pools.values()))
    gpus = tuple(place for place, data in scenario.wired.graph.nodes(data=True) if data["kind"] == "gpu")
    memory, _ = memory_of(pool, shards_of(pool, scenario, gpus[: model.layers]))
    assert memory.blocks == int(memory.kv_bytes // memory.block_bytes)
