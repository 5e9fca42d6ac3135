"""Where replicas stand and what fits there, without a clock."""

from __future__ import annotations

from typing import Any

import pytest

import sim
from sim.cost.network import Network
from sim.deployment import Deployment, deployment_of, gateway_of, hops_between, usable_blocks
from sim.inputs.errors import InfeasibleError
from sim.inputs.precision import Checkpoint
from sim.scenario.scenario import Scenario

WORKLOAD = {"arrivals": {"kind": "burst"}, "prompt_tokens": 8, "output_tokens": 2, "requests": 1}


def scenario(**described: Any) -> Scenario:
    return Scenario.model_validate(
        {"topology": "a100-x4", "model": "llama-3-8b", "workload": WORKLOAD, **described}
    )


def deployed(**described: Any) -> Deployment:
    one = scenario(**described)
    return deployment_of(one, Network(one.wired.graph))


def test_replicas_stand_side_by_side_in_the_order_of_their_pools() -> None:
    plans = deployed(
        pools={"a": {"engine": {"tensor_parallel_size": 2}}, "b": {"replicas": 2}},
    ).replicas
    assert [(plan.index, [gpu[-1] for gpu in plan.gpus]) for plan in plans] == [
        (0, ["0", "1"]),
        (1, ["2"]),
        (2, ["3"]),
    ]


def test_a_pool_that_names_a_kind_of_gpu_chooses_before_one_that_takes_any() -> None:
    both = {"systems": {"first": "l40s-12", "second": "nd-h100-v5"}}
    pools = {"any": {"replicas": 1}, "named": {"gpu": "l40s", "replicas": 12}}
    plans = deployed(topology=both, pools=pools).replicas
    assert {plan.shards[0].gpu.name for plan in plans[1:]} == {"l40s"}
    assert plans[0].shards[0].gpu.name == "h100-sxm"


def test_stages_split_the_layers_evenly_and_the_first_ones_take_the_remainder() -> None:
    (plan,) = deployed(engine={"pipeline_parallel_size": 3}).replicas
    assert [(shard.first_layer, shard.layers) for shard in plan.shards] == [(0, 11), (11, 11), (22, 10)]
    (plan,) = deployed(engine={"pipeline_parallel_size": 2, "tensor_parallel_size": 2}).replicas
    assert [shard.groups for shard in plan.shards] == [(plan.gpus[:2],), (plan.gpus[2:],)]


def test_an_engine_whose_service_time_is_given_needs_no_gpu_and_is_bound_by_nothing_that_is_not_written() -> (
    None
):
    engine = {"service_time": {"step_s": 1.0}, "max_num_seqs": 3, "max_model_len": 100}
    (plan,) = deployed(engine=engine).replicas
    assert (plan.gpus, plan.shards, plan.memory, plan.hops) == ((), (), None, 0)
    assert plan.limits.max_num_seqs == 3
    assert plan.limits.kv_blocks == 3 * 7  # blocks of 16 tokens for three texts of 100
    assert plan.limits.max_num_batched_tokens >= 1 << 30


@pytest.mark.parametrize("given", [{}, {"service_time": {"step_s": 1.0}}])
def test_one_at_a_time_is_one_sequence_whatever_is_written(given: dict[str, Any]) -> None:
    (plan,) = deployed(engine={"scheduler": "one_at_a_time", "max_num_seqs": 8, **given}).replicas
    assert plan.limits.max_num_seqs == 1


def test_vllm_keeps_one_block_for_itself_and_the_longest_text_is_what_the_others_hold() -> None:
    (plan,) = deployed(engine={"num_gpu_blocks_override": 101, "backend": "vllm"}).replicas
    assert plan.memory is not None
    assert (plan.memory.blocks, plan.limits.kv_blocks) == (101, 100)
    assert plan.limits.max_model_len == 100 * 16
    (other,) = deployed(engine={"num_gpu_blocks_override": 101, "backend": "trtllm"}).replicas
    assert other.memory is not None
    assert usable_blocks(other.memory, other.pool.engine) == other.limits.kv_blocks == 101


def test_the_models_context_bounds_a_text_and_a_longer_limit_is_refused_with_it() -> None:
    (plan,) = deployed().replicas
    assert plan.limits.max_model_len == 8192
    with pytest.raises(InfeasibleError, match=r"max_model_len = 8193: must be at most 8192"):
        deployed(engine={"max_model_len": 8193})
    with pytest.raises(InfeasibleError, match=r"max_model_len = 1601: must be at most 1600"):
        deployed(engine={"max_model_len": 1601, "num_gpu_blocks_override": 101})


def test_where_prompts_are_not_cut_a_step_must_take_the_longest_text() -> None:
    engine = {"enable_chunked_prefill": False, "max_model_len": 4096}
    (plan,) = deployed(engine=engine).replicas
    assert plan.limits.max_num_batched_tokens >= plan.limits.max_model_len == 4096
    with pytest.raises(InfeasibleError, match=r"4096.*2048"):
        deployed(engine={**engine, "max_num_batched_tokens": 2048})


def test_hops_are_the_links_between_the_first_host_and_a_replicas_first_gpu() -> None:
    one = scenario(replicas=4)
    network = Network(one.wired.graph)
    assert network.kind(gateway_of(network)) == "host"
    plans = deployment_of(one, network).replicas
    lengths = [len(network.path(gateway_of(network), plan.gpus[0]).links) for plan in plans]
    assert [plan.hops for plan in plans] == lengths
    assert lengths[0] < lengths[-1]  # the last GPU hangs on the other socket
    assert hops_between(network, network.gpus[0], network.gpus[0]) == 0


def test_data_parallel_ranks_of_a_dense_model_are_replicas_of_their_own() -> None:
    """Rank order: stages outermost, then data, then tensor ranks."""
    engine = {"data_parallel_size": 2, "tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    plans = deployed(topology="nd-h100-v5", engine=engine).replicas
    assert [[gpu[-1] for gpu in plan.gpus] for plan in plans] == [list("0145"), list("2367")]
    assert [plan.pool.engine.data_parallel_size for plan in plans] == [1, 1]
    alone = deployed(topology="nd-h100-v5", engine={**engine, "data_parallel_size": 1}).replicas[0]
    assert plans[0].limits == alone.limits


def test_data_parallel_ranks_stay_one_engine_with_experts_or_where_asked() -> None:
    two = {"data_parallel_size": 2}
    assert len(deployed(engine={**two, "data_parallel_lock_step": True}).replicas) == 1
    assert (
        len(
            deployed(
                topology="hgx-h200", model="mixtral-8x7b", engine={**two, "tensor_parallel_size": 2}
            ).replicas
        )
        == 1
    )
    apart = {**two, "tensor_parallel_size": 2, "data_parallel_lock_step": False}
    assert len(deployed(topology="hgx-h200", model="mixtral-8x7b", engine=apart).replicas) == 2


def test_a_fault_may_name_each_rank_that_steps_alone() -> None:
    fault = {"faults": [{"at_s": 1.0, "replica": 1}]}
    assert scenario(engine={"data_parallel_size": 2}, **fault).faults[0].replica == 1
    with pytest.raises(ValueError, match="no replica 1"):
        scenario(engine={"data_parallel_size": 2, "data_parallel_lock_step": True}, **fault)


def test_a_checkpoint_in_a_format_that_the_gpu_does_not_compute_in_is_refused_by_name() -> None:
    checkpoint = Checkpoint(quantisation="fp8: tried", precision={"weights": "fp8_block"})
    model = sim.load_model("llama-3-8b").model_copy(update={"checkpoint": checkpoint})
    described = {"topology": "dgx-a100", "model": model, "workload": "single-user"}
    with pytest.raises(
        InfeasibleError, match=r"says \(fp8: tried\); a100-80gb-sxm has no arithmetic in fp8_block"
    ):
        sim.simulate(sim.Scenario.model_validate(described))
    written = sim.Scenario.model_validate({**described, "precision": {"weights": "bf16"}})
    assert sim.simulate(written).kv_capacities[0].precision["weights"] == "bf16"


def wide(ranks: int, copies: int) -> Deployment:
    """DeepSeek-V3 with experts over so many GPUs of five racks."""
    return deployed(
        topology="gb200-nvl72",
        nodes=5,
        model="deepseek-v3",
        precision={"weights": "nvfp4"},
        engine={
            "data_parallel_size": ranks,
            "enable_expert_parallel": True,
            "expert_routing": {"redundant_experts": copies},
        },
    )


def test_expert_parallelism_reaches_as_many_gpus_as_there_are_experts_and_copies_of_them() -> None:
    shard = wide(320, 64).replicas[0].shards[0]
    assert (len(shard.ranks), shard.experts_with_copies) == (320, 256 + 64)
    with pytest.raises(
        InfeasibleError, match="320 GPUs leaves some without an expert: deepseek-v3 has 256"
    ) as found:
        wide(320, 0)
    assert "redundant_experts: 64 gives each one" in str(found.value)
