"""Ops of a layer with experts: which transfers there are, and what overlap saves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from sim.calibration.kernel_fit import predicted_s
from sim.catalog import load_gpu
from sim.cost import layer_ops, pricing
from sim.cost.batch import Batch, Causes
from sim.cost.collectives.choice import collective
from sim.cost.expert_load import distinct_places
from sim.cost.kernels.kernels import formula
from sim.cost.kernels.timing import KernelTiming
from sim.cost.launches import DEPENDENT_LAUNCH_S, beside_the_one_before
from sim.cost.memory import shard_weight_bytes
from sim.cost.network import Network
from sim.cost.pricing import Priced, Pricer
from sim.cost.program import Op
from sim.cost.stage_cost import StageCost
from sim.deployment import shards_of
from sim.inputs.kernel_parameters import KernelParameters
from sim.inputs.model import GroupLimit
from sim.reading.measurements import Measurement
from sim.scenario.scenario import Scenario


@cache
def network(topology: str, nodes: int) -> Network:
    return Network(
        Scenario.model_validate(
            {"topology": topology, "nodes": nodes, "model": "llama-3-8b", "workload": "single-user"}
        ).wired.graph
    )


def stage(
    topology: str,
    nodes: int = 1,
    model: str = "deepseek-v3",
    precision: dict[str, str] | None = None,
    **engine: Any,
) -> StageCost:
    scenario = Scenario.model_validate(
        {
            "topology": topology, "nodes": nodes, "model": model, "workload": "single-user",
            "precision": {"weights": "fp8", "kv_cache": "bf16", **(precision or {})}, "engine": engine,
        }
    )  # fmt: skip
    (pool,) = scenario.all_pools.values()
    there = network(topology, nodes)
    return StageCost(shards_of(pool, scenario, there.gpus[: pool.engine.world_size])[0], there)


def decode(sequences: list[int], context: int = 2000) -> Batch:
    ranks = [Batch(decodes=n, decode_kv_tokens=n * context, sampled=n) for n in sequences]
    return ranks[0] if len(ranks) == 1 else Batch.of_ranks(ranks)


def names(cost: StageCost, batch: Batch) -> list[str]:
    """Names of the ops of the last kind of layer, those with experts."""
    return [op.name for op in cost.program(batch).blocks[-2].ops]


def on_link(cost: StageCost, batch: Batch, link: int) -> float:
    """Bytes that one step puts on a link."""
    return sum(
        times * amount
        for demand, times, _ in cost.traffic(batch).demands
        for used, amount in zip(demand.links, demand.n_bytes, strict=True)
        if used == link
    )


def ep(size: int, tensor: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "data_parallel_size": size, "tensor_parallel_size": tensor, "enable_expert_parallel": True, **more,
    }  # fmt: skip


def test_idle_ranks_run_a_dummy_token_and_join_every_exchange():
    cost = stage("hgx-h200", **ep(8))
    one, all_of_them = decode([1] + [0] * 7), decode([1] * 8)
    assert cost.traffic(one) == cost.traffic(all_of_them)
    assert {"dispatch", "combine"} <= set(names(cost, one))
    assert cost.step(one)[0] == pytest.approx(cost.step(all_of_them)[0], rel=1e-9)


def test_the_slowest_rank_sets_the_step():
    cost = stage("hgx-h200", **ep(8))
    even, uneven = decode([16] * 8), decode([72] + [8] * 7)
    assert cost.step(uneven)[0] > cost.step(even)[0]


def test_expert_bytes_between_servers_are_on_nics():
    cost = stage("hgx-h200", 2, **ep(16))
    there = network("hgx-h200", 2)
    nic = on_link(cost, decode([64] * 16), there.link_id["node0.nic0->leaf0"])
    # 58 layers x 64 tokens x 8 experts, half of them on the other server, 7168 values: 1 byte there, 2 back
    assert nic == pytest.approx(58 * 64 * 8 / 2 * 7168 * 3, rel=1e-9)


def test_data_parallel_attention_without_expert_parallelism_gathers_and_scatters_all_tokens():
    cost = stage("hgx-h200", data_parallel_size=8)
    assert [name for name in names(cost, decode([4] * 8)) if name in ("all_gather", "reduce_scatter")] == [
        "all_gather",
        "reduce_scatter",
    ]


def test_tensor_parallel_groups_with_expert_parallelism_add_up_what_their_ranks_have():
    ops = names(stage("hgx-h200", **ep(4, 2)), decode([8] * 4))
    assert ops.index("combine") < len(ops) - 1 - ops[::-1].index("all_reduce")


def test_expert_parallelism_in_one_tensor_parallel_group_waits_for_its_busiest_rank():
    whole = stage("hgx-h200", tensor_parallel_size=8, enable_expert_parallel=True)
    skewed = stage(
        "hgx-h200", tensor_parallel_size=8, enable_expert_parallel=True,
        expert_routing={"popularity": "zipf", "exponent": 1.0},
    )  # fmt: skip
    batch = Batch(decodes=512, decode_kv_tokens=512 * 100.0, sampled=512)
    assert skewed.step(batch)[0] > whole.step(batch)[0]


def experts_s(expert_routing, sequences, **engine):
    """Seconds of the routed experts of one layer, in a decode step of so many sequences."""
    cost = stage("hgx-h200", tensor_parallel_size=8, expert_routing=expert_routing, **engine)
    batch = Batch(decodes=sequences, decode_kv_tokens=sequences * 100.0, sampled=sequences)
    return next(op.seconds for op in cost.program(batch).blocks[-2].ops if op.name == "experts")


@pytest.mark.slow
def test_experts_by_rows_read_the_experts_that_popularity_leaves_to_be_hit():
    """With one sequence eight are hit, whoever is popular; with 32 fewer than chosen evenly; many hit all."""
    few, some, many = (experts_s("zipf", n) / experts_s("uniform", n) for n in (1, 32, 4096))
    assert few == pytest.approx(1.0, rel=1e-9)
    assert some < 0.95
    assert many == pytest.approx(1.0, rel=0.02)
    assert experts_s({"exponent": 1.0}, 32) < experts_s("zipf", 32)
    assert experts_s({"exponent": 0.0}, 32) == experts_s("uniform", 32)
    by_count = experts_s({"weights": [1.0] * 8 + [0.0] * 248}, 32)
    assert by_count == pytest.approx(experts_s("uniform", 1), rel=0.15)  # eight experts, as of one sequence


def test_whole_experts_of_the_fullest_rank_are_fewer_with_more_tokens():
    """At 16 sequences what is read decides, at 4096 the tokens of the fullest rank."""
    few, many = (
        experts_s("zipf", n, enable_expert_parallel=True)
        / experts_s("uniform", n, enable_expert_parallel=True)
        for n in (16, 4096)
    )
    assert few < 0.99
    assert many > 1.1


@pytest.mark.parametrize(
    ("topology", "nodes", "ranks"), [("hgx-h200", 4, 32), ("hgx-h200", 2, 16), ("gb200-nvl72", 1, 64)]
)
@pytest.mark.parametrize("sequences", [32, 64, 128, 256])
def test_overlap_is_never_slower_where_exchanges_take_longer_than_what_they_hide_behind(
    topology, nodes, ranks, sequences
):
    batch = decode([sequences] * ranks, context=1)
    plain, overlapped = (stage(topology, nodes, **ep(ranks, enable_dbo=dbo)) for dbo in (False, True))
    seconds, causes = plain.step(batch)
    exchanged_s = causes.collective_latency + causes.collective_bytes
    if exchanged_s > seconds / 2:
        assert overlapped.step(batch)[0] < seconds
    else:  # the weights of the experts are read twice, the starts of all kernels paid twice
        assert overlapped.step(batch)[0] < 1.5 * seconds


def test_the_load_of_the_fullest_rank_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    load = pricing.expert_load
    monkeypatch.setattr(pricing, "expert_load", lambda *given: asked.append(given) or load(*given))
    cost = stage("hgx-h200", **ep(8))
    for sequences in (8, 16, 64):
        cost.step(decode([sequences] * 8))
    assert len(asked) == 1


def test_overlap_hides_nothing_below_the_computation_of_both_halves_and_the_exchange_of_both():
    there = network("hgx-h200", 4)
    cost = stage("hgx-h200", 4, **ep(32, enable_dbo=True))
    batch = decode([256] * 32)
    ops = cost.program(batch).blocks[-2].ops
    covered = [op for op in ops if op.name in ("dispatch", "combine")]
    assert [op.name for op in covered] == ["combine", "dispatch", "dispatch", "combine"]
    for op in covered:
        assert op.demand is not None
        assert op.seconds >= op.demand.isolated_s(there.capacity) * (1 - 1e-12)
    plain = stage("hgx-h200", 4, **ep(32))
    link = there.link_id["node0.nic0->leaf0"]
    assert on_link(cost, batch, link) == pytest.approx(on_link(plain, batch, link), rel=1e-9)


def test_short_steps_are_not_split():
    for sequences, split in ((31, False), (32, True)):
        cost = stage("gb200-nvl72", **ep(32, enable_dbo=True, max_cudagraph_capture_size=0))
        assert (names(cost, decode([sequences] * 32))[0] == "combine") is split


def test_drafts_are_verified_as_tokens_of_the_step():
    plain = stage("gb200-nvl72", **ep(32))
    drafting = stage(
        "gb200-nvl72", **ep(32), speculation={"num_speculative_tokens": 3, "acceptance_rate": 0.7}
    )
    ranks = [Batch(decodes=8, decode_kv_tokens=8000, sampled=32, decode_tokens=4) for _ in range(32)]
    link = network("gb200-nvl72", 1).link_id["node0.gpu0->nvlink0"]
    four = on_link(drafting, Batch.of_ranks(ranks), link)
    assert four == pytest.approx(4 * on_link(plain, decode([8] * 32), link), rel=1e-9)


QWEN_OVER_PCIE = {
    "topology": "rtx-pro-6000-x8",
    "model": "qwen3-30b-a3b",
    "data_parallel_size": 2,
    "enable_expert_parallel": True,
}


def exchanged_s(cost: StageCost, batch: Batch) -> list[float]:
    return [op.seconds for op in cost.program(batch).blocks[-2].ops if op.name in ("dispatch", "combine")]


@pytest.mark.parametrize(
    ("tokens", "gathered_s", "scattered_s"),
    [(2, 6.2e-6, 6.2e-6), (128, 31.23e-6, 33e-6), (2048, 277e-6, 294e-6)],
)
def test_without_nvlink_all_tokens_go_to_all_ranks_as_nccl_takes_for_it(tokens, gathered_s, scattered_s):
    """nccl-tests on two RTX PRO 6000, NCCL 2.29.2 (NVIDIA aiconfigurator, Apache-2.0); the second of the
    reduce-scatters, of 1 MB, lies between measured sizes.
    """
    cost = stage(**QWEN_OVER_PCIE, max_num_batched_tokens=4096)
    dispatch_s, combine_s = exchanged_s(cost, decode([tokens] * 2))
    assert dispatch_s == pytest.approx(gathered_s, rel=0.1)
    assert combine_s == pytest.approx(scattered_s, rel=0.1)
    named = stage(**QWEN_OVER_PCIE, max_num_batched_tokens=4096, all2all_backend="deepep_low_latency")
    assert exchanged_s(named, decode([tokens] * 2)) != [dispatch_s, combine_s]


def test_ranks_in_one_graph_are_padded_to_the_fullest_and_without_graphs_they_are_not():
    for eager, padded in ((False, True), (True, False)):
        cost = stage(**QWEN_OVER_PCIE, enforce_eager=eager)
        uneven, even = (exchanged_s(cost, decode(sequences)) for sequences in ([40, 3], [40, 40]))
        assert (uneven == even) is padded


def test_graphs_are_captured_for_twice_the_seats():
    """A mixed step beyond them waits for the launch of every kernel (`VllmConfig._set_cudagraph_sizes`)."""
    batch = Batch(((200, 0),), 60, 6000.0, 61)
    slow = {"launch_s": 1e-3}
    few, many = (
        stage("nd-h100-v5", model="llama-3-8b", max_num_seqs=seqs, host=slow).step(batch)[0]
        for seqs in (64, 256)
    )
    assert few > 5 * many


def seconds(cost: StageCost, batch: Batch) -> dict[str, float]:
    """Seconds of the ops of a layer with experts, by name."""
    return {op.name: op.seconds for op in cost.program(batch).blocks[-2].ops}


def test_shared_experts_run_beside_the_routed_ones_up_to_the_tokens_that_the_engine_says():
    """Their starts hide behind each other, their bytes and arithmetic do not."""
    graphs, eager = (
        stage("hgx-h200", tensor_parallel_size=8, enforce_eager=eager) for eager in (False, True)
    )
    apart = ("experts", "shared_gate_up", "activation", "shared_down")
    for sequences in (1, 8, 64, 256):
        together, alone = (seconds(one, decode([sequences])) for one in (graphs, eager))
        assert "shared_down" not in together
        in_line_s = sum(alone[name] for name in apart)
        assert alone["experts"] <= together["experts"] < in_line_s
    assert "shared_down" in seconds(graphs, decode([257]))  # vLLM's threshold
    assert "shared_down" in seconds(graphs, Batch(chunks=((64, 0),), sampled=1))
    more = stage("hgx-h200", tensor_parallel_size=8, backend="sglang")
    assert "shared_down" not in seconds(more, decode([257]))


def test_two_streams_hide_starts_and_nothing_that_the_gpu_works_for():
    def kernel(start_us: float, work_us: float) -> Priced:
        causes = Causes(memory=work_us * 1e-6, kernel_latency=start_us * 1e-6)
        return Priced(Op("kernel", (start_us + work_us) * 1e-6), causes)

    def together_us(routed: Priced, *shared: Priced) -> float:
        (one,) = layer_ops._beside_each_other(routed, shared, apart=False)
        assert sum(one.causes) == pytest.approx(one.op.seconds, rel=1e-12)
        return 1e6 * one.op.seconds

    assert together_us(kernel(40, 60), kernel(5, 10), kernel(5, 10)) == pytest.approx(100)  # behind the start
    assert together_us(kernel(40, 60), kernel(5, 25), kernel(5, 25)) == pytest.approx(110)  # all the work
    assert together_us(kernel(10, 10), kernel(20, 5), kernel(20, 5)) == pytest.approx(50)  # the longer stream


def test_what_two_streams_save_is_what_vllm_measured():
    """DeepSeek-R1 in FP8 on eight B200, 32 sequences: 23.35 ms a token one after the other and 22.09 ms on
    two streams (vllm#26440, October 2025), 21.7 us in each of 58 layers."""
    graphs, eager = (
        stage("hgx-b200", precision={"experts": "fp8_block"}, tensor_parallel_size=8, enforce_eager=eager)
        for eager in (False, True)
    )
    together, alone = (seconds(one, decode([32])) for one in (graphs, eager))
    shared_s = sum(alone[name] for name in ("shared_gate_up", "activation", "shared_down"))
    saved_us = 1e6 * (alone["experts"] + shared_s - together["experts"])
    assert saved_us == pytest.approx(21.7, rel=0.35)


def test_the_causes_of_experts_on_two_streams_add_up():
    cost = stage("hgx-h200", tensor_parallel_size=8)
    for sequences in (1, 256):
        whole_s, causes = cost.step(decode([sequences]))
        assert sum(causes) == pytest.approx(whole_s, rel=1e-12)
        assert min(causes) >= 0.0


def test_projections_to_queries_keys_and_values_may_have_a_format_of_their_own():
    """As in the NVFP4 checkpoints of DeepSeek-R1, which leave them in 16 bits."""
    packed, kept = (
        stage("hgx-b200", precision={"weights": "nvfp4", **more}, tensor_parallel_size=8)
        for more in ({}, {"qkv_weights": "bf16"})
    )
    many = decode([256], 100)
    before, after = (seconds(one, many) for one in (packed, kept))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"qkv_down", "q_up", "kv_up"}
    model = kept.shard.model
    output = model.hidden * 128 * 128 // 8
    projections = 61 * (model.attention_parameters_per_gpu(8) - output)
    grown = shard_weight_bytes(kept.shard) - shard_weight_bytes(packed.shard)
    assert grown == pytest.approx(projections * (2 - 0.5625), rel=1e-12)


def test_a_step_sends_tokens_to_the_groups_that_its_model_holds_them_to():
    """DeepSeek-V3 over a rack: the distinct ranks of 4 of 8 groups, unless groups are spread over ranks."""

    def sent_bytes(placement: str, limit: GroupLimit | None) -> None:
        cost = stage(
            "gb200-nvl72", data_parallel_size=32, enable_expert_parallel=True,
            expert_routing={"placement": placement},
        )  # fmt: skip
        ops = cost.program(decode([64] * 32)).blocks[-2].ops
        (dispatch,) = (op for op in ops if op.name == "dispatch")
        there = network("gb200-nvl72", 1)
        out = there.link_id["node0.gpu0->nvlink0"]
        n_bytes = dict(zip(dispatch.demand.links, dispatch.demand.n_bytes, strict=True))[out]
        assert n_bytes == pytest.approx(64 * 7168 * distinct_places(256, 8, 32, limit) * 31 / 32, rel=1e-12)

    sent_bytes("linear", GroupLimit(8, 4))
    sent_bytes("balanced", None)


def test_latent_attention_projects_to_both_latent_vectors_and_the_positions_at_once():
    scenario = Scenario.model_validate(
        {"topology": "hgx-h200", "model": "deepseek-v3", "workload": "single-user",
         "engine": {"tensor_parallel_size": 8}}
    )  # fmt: skip
    (pool,) = scenario.all_pools.values()
    there = network("hgx-h200", 1)
    price = Pricer(shards_of(pool, scenario, there.gpus)[0], there, frozenset(), formula)
    before, after = layer_ops.attention_block(price, 4096, True)
    seconds = {one.op.name: one.op.seconds for one in (*before, *after)}
    for name, n, k in (
        ("qkv_down", 1536 + 512 + 64, 7168),
        ("q_up", 16 * (128 + 64), 1536),
        ("kv_up", 16 * (128 + 128), 512),
        ("o_proj", 7168, 16 * 128),
    ):
        assert seconds[name] == price.gemm(name, 4096, n, k, sustained=True).op.seconds, name


def test_data_parallel_groups_gather_the_hidden_states_of_all_tokens():
    cost, there = stage("hgx-h200", data_parallel_size=8), network("hgx-h200", 1)
    ops = {op.name: op for op in cost.program(decode([4] * 8)).blocks[-2].ops}
    for name in ("all_gather", "reduce_scatter"):
        alone = collective(there, name, 32 * 7168 * 2, there.gpus).demand
        assert ops[name].demand.n_bytes == pytest.approx(alone.n_bytes)


# ---- latent attention as it was timed, and kernels that fuse or overlap


def ops_of(cost: StageCost, batch: Batch) -> dict[str, float]:
    """Seconds of the ops of the last kind of layer, of equal names the first."""
    found: dict[str, float] = {}
    for op in cost.program(batch).blocks[-2].ops:
        found.setdefault(op.name, op.seconds)
    return found


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
@pytest.mark.parametrize("weights", ["bf16", "fp8_block"])
def test_a_block_of_latent_attention_takes_in_a_step_what_its_fit_says(backend: str, weights: str):
    cost = stage("hgx-h200", precision={"weights": weights}, tensor_parallel_size=8, backend=backend)
    ops = ops_of(cost, decode([4]))
    block = sum(ops[name] for name in ("qkv_down", "q_up", "attention", "kv_up", "o_proj"))
    sizes = {
        "batch": 4, "new": 1, "past": 1999, "heads": 16, "gemm_dtype": weights, "kv_dtype": "bf16",
    }  # fmt: skip
    timed = Measurement("h200-sxm", backend, "mla_decode", "bf16", sizes)
    assert block == pytest.approx(predicted_s(cost.shard.gpu, timed), rel=1e-9)
    assert "rope" not in ops  # it is in the attention's start, and was timed there


def test_norms_behind_an_all_reduce_of_tensorrt_llm_are_part_of_it():
    def norm_s(model: str, sequences: int = 4, backend: str = "trtllm", **engine: Any) -> float:
        precision = {"weights": "bf16"}
        cost = stage("hgx-b200", 1, model, precision, tensor_parallel_size=8, backend=backend, **engine)
        return ops_of(cost, decode([sequences]))["norm"]

    gpu = load_gpu("b200-sxm")
    bytes_s = formula(gpu, "elementwise", n_bytes=4 * 4 * 8192 * 2).total_s
    start_s = formula(gpu, "elementwise", n_bytes=0).total_s
    assert norm_s("llama-3-70b") == pytest.approx(bytes_s - start_s)
    assert norm_s("llama-3-70b", backend="vllm") == pytest.approx(bytes_s)
    # not where the engine calls NCCL, or where a model calls its norms by themselves
    assert norm_s("llama-3-70b", disable_custom_all_reduce=True) > start_s / 2
    assert norm_s("qwen3-32b") > start_s / 2


@pytest.mark.parametrize(("topology", "beside"), [("hgx-h200", True), ("dgx-a100", False)])
def test_kernels_of_tensorrt_llm_start_beside_the_one_before(topology: str, beside: bool):
    def ops(backend: str) -> dict[str, float]:
        cost = stage(topology, 1, "llama-3-8b", {"weights": "bf16"}, backend=backend, tensor_parallel_size=1)
        kernels = KernelParameters()  # the same for both, so that only the launches differ
        shard = replace(cost.shard, gpu=cost.shard.gpu.model_copy(update={"kernels": kernels}))
        return ops_of(StageCost(shard, network(topology, 1)), decode([4]))

    plain, dependent = ops("vllm"), ops("trtllm")
    launches = {"norm": 1, "qkv_proj": 1, "rope": 1, "attention": 3, "o_proj": 1, "down_proj": 1}
    for name, count in launches.items():
        hidden_s = count * DEPENDENT_LAUNCH_S if beside else 0.0
        assert plain[name] - dependent[name] == pytest.approx(hidden_s, abs=1e-12), name


def test_what_starts_beside_the_one_before_takes_no_less_than_its_work():
    short = KernelTiming(1.2e-6, 0.2e-6, 0.0, 1e-6)
    assert beside_the_one_before(short, 1) == pytest.approx((1e-6, 0.0, 0.0, 1e-6))
    many = KernelTiming(*(np.array([value, value]) for value in (3e-6, 2e-6, 0.0, 1e-6)))  # type: ignore[arg-type]
    assert beside_the_one_before(many, 2).total_s == pytest.approx([2.1e-6, 2.1e-6])


def test_products_in_nvfp4_find_their_input_quantised_under_tensorrt_llm():
    gpu = load_gpu("b200-sxm").under("trtllm")
    ops = ops_of(
        stage("hgx-b200", 1, "llama-3-70b", {"weights": "nvfp4"}, tensor_parallel_size=4, backend="trtllm"),
        decode([4]),
    )
    alone = formula(gpu, "gemm", m=4, n=14336, k=8192, dtype="nvfp4", quantised=True).total_s
    assert ops["gate_up_proj"] == pytest.approx(alone - DEPENDENT_LAUNCH_S)
