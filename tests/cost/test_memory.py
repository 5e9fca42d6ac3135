"""KV capacity and weights of a GPU, against what engines report at start-up and what can be worked out."""

from __future__ import annotations

import pytest

import sim
from sim.cost.memory import GIB, MemoryPlan
from sim.deployment import memory_of, shards_of
from sim.inputs.errors import InfeasibleError

TRAFFIC = {
    "arrivals": {"kind": "closed_loop", "users": 1},
    "prompt_tokens": 8,
    "output_tokens": 8,
    "requests": 1,
}


def planned(topology: str, model: str, nodes: int = 1, **engine: object) -> MemoryPlan:
    scenario = sim.Scenario.model_validate(
        {
            "topology": topology,
            "nodes": nodes,
            "model": model,
            "precision": {"weights": "fp16", "kv_cache": "fp16", "activations": "fp16"},
            "engine": engine,
            "workload": TRAFFIC,
        }
    )
    pool = scenario.all_pools[""]
    gpus = tuple(scenario.topology.graph.graph["gpus"])[: pool.engine.world_size]
    return memory_of(pool, shards_of(pool, scenario, gpus))[0]


@pytest.mark.parametrize(("ranks", "tokens"), [(4, 430_800), (8, 1_300_336)])
def test_kv_tokens_of_qwen_72b_on_h100_are_those_reported(ranks: int, tokens: int) -> None:
    memory = planned("nd-h100-v5", "qwen2.5-72b", tensor_parallel_size=ranks, max_model_len=2048)
    assert memory.blocks * 16 == pytest.approx(tokens, rel=0.002)


def test_kv_blocks_of_llama_8b_on_one_rtx_4090_are_those_reported() -> None:
    limits = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "max_model_len": 32768}
    assert planned("rtx-4090-x4", "llama-3.1-8b", **limits).blocks == pytest.approx(2588, rel=0.002)


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
    assert "14.2 GiB more" in refused()
    assert "tensor_parallel_size 4 with fp8 weights fits" in refused()


def test_a_given_number_of_blocks_does_not_make_weights_fit():
    assert "does not fit rtx-4090" in refused(num_gpu_blocks_override=100)


def test_a_context_beyond_the_models_own_is_refused():
    assert "max_model_len = 50000: must be at most 8192" in refused(max_model_len=50_000)
