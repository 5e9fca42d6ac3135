"""Keys of an engine and of its number formats."""

from __future__ import annotations

from sim.cost.collectives.expert_exchange import gathers
from sim.cost.kernels.timing import FORMATS
from sim.cost.layer_ops import OVERLAP_DECODE_FROM, OVERLAP_PREFILL_FROM
from sim.effects.prices import waits_for_sequences
from sim.effects.rules import (
    Rule,
    Use,
    acted,
    because,
    below,
    dense,
    given,
    kv_blocks,
    kv_memory,
    no_prompts,
    no_sharing,
    no_steps,
    no_tensor_ranks,
    one_server,
    plain,
    unless,
    where,
    without_host,
)
from sim.inputs.quantities import DTYPE_BYTES
from sim.results.key_words import ACTED, DidNotBind, Word


def _other_rule(use: Use) -> str:
    rule = use.group.engine.scheduler
    if rule == "vllm":
        return ""
    return (
        f"scheduler {rule} does not read it"
        if isinstance(rule, str)
        else "a script's scheduler does not read it"
    )


def _one_rank(use: Use) -> str:
    return "one GPU holds all experts of a layer" if use.group.ranks == 1 else ""


_split_experts = because(
    lambda use: not use.group.engine.enable_expert_parallel,
    "enable_expert_parallel is false: every rank has a part of each expert",
)
_one_group = because(
    lambda use: use.group.groups_in_step == 1, "one data-parallel rank: every GPU has all tokens already"
)


def _gathered(use: Use) -> str:
    shard = use.group.plans[0].shards[0]
    if gathers(use.ran.network, shard.ranks, shard.engine.all2all_backend):
        return "all tokens go to all ranks in the format of the activations"
    return ""


def _popularity_is(kind: str) -> Rule:
    why = f"popularity is not {kind}"
    other = because(lambda use: use.group.engine.expert_routing.popularity != kind, why)
    return unless(given, dense, other)


_placed_experts = unless(given, dense, _one_rank, _split_experts)


def _max_num_seqs(use: Use) -> Word:
    if use.group.engine.scheduler == "one_at_a_time":
        return DidNotBind("scheduler one_at_a_time runs one request at a time")
    return below(lambda use: use.group.peak_running)(use)


def _max_num_batched_tokens(use: Use) -> Word:
    """A rule that takes whole prompts stops before one that would not fit: no step shows the limit."""
    group = use.group
    whole = group.engine.scheduler != "vllm" or not group.engine.enable_chunked_prefill
    beside = group.longest_tokens if whole else 0
    return below(lambda use: group.peak_tokens + beside)(use)


def _chunked_prefill(use: Use) -> Word:
    _, budget = use.group.default_limits
    if use.group.peak_tokens < budget:
        return DidNotBind(f"steps of up to {use.group.peak_tokens:,} of {budget:,} tokens cut no prompt")
    return ACTED


def _long_prefill(use: Use) -> Word:
    longest = int(use.ran.requests["prompt_tokens"].max(initial=0))
    if use.value and longest <= use.value and not use.group.preemptions:
        return DidNotBind(f"{use.value:,}, longest prompt {longest:,}")
    return ACTED


def _max_model_len(use: Use) -> Word:
    return below(lambda use: use.group.longest_tokens, "longest text")(use)


def _by_priority(use: Use) -> Word:
    if len({kind.priority for kind in use.ran.classes.values()}) > 1 or use.group.preemptions:
        return ACTED
    return DidNotBind("all requests have one priority")


def _no_stages(use: Use) -> str:
    return "" if use.group.engine.pipeline_parallel_size > 1 else "pipeline_parallel_size is 1"


def _largest_graph(use: Use) -> int:
    """Tokens of the largest captured graph; 0 where none is captured."""
    engine = use.group.engine
    if engine.enforce_eager or engine.max_cudagraph_capture_size == 0:
        return 0
    if engine.max_cudagraph_capture_size is not None:
        return engine.max_cudagraph_capture_size
    seqs, tokens = use.group.default_limits
    drafts = engine.speculation.num_speculative_tokens if engine.speculation else 0
    return min(512, 2 * seqs * (1 + drafts), tokens)


def pays_for_launches(use: Use) -> bool:
    """Whether any step was launched kernel by kernel."""
    return use.group.peak_tokens > _largest_graph(use)


_in_graphs = because(lambda use: not pays_for_launches(use), "every step replays a CUDA graph")


def _capture_size(use: Use) -> Word:
    if use.value and use.group.peak_tokens < use.value:
        return DidNotBind(f"{use.value:,}, largest step {use.group.peak_tokens:,} tokens")
    return ACTED


_eager = because(
    lambda use: use.group.engine.enforce_eager, "enforce_eager is true, and no graph is captured"
)
_asynchronous = because(
    lambda use: use.group.engine.schedules_async,
    "scheduling is asynchronous, and the GPUs wait for async_step_s alone",
)
_synchronous = because(
    lambda use: not use.group.engine.schedules_async,
    "scheduling is not asynchronous, and step_s is what counts",
)


def _executor_decides_nothing(use: Use) -> str:
    if use.group.engine.async_scheduling is not None:
        return "async_scheduling is written, and the executor decides nothing else"
    return "" if use.group.engine.pipeline_parallel_size == 1 else "pipeline stages are never scheduled ahead"


def _overlapped(use: Use) -> Word:
    """Dual-batch overlap begins at so many tokens of a rank."""
    of_rank = use.group.peak_tokens / max(1, use.group.groups_in_step)
    if use.group.peak_tokens < OVERLAP_DECODE_FROM:
        return DidNotBind(
            f"it begins at {OVERLAP_DECODE_FROM} decodes or {OVERLAP_PREFILL_FROM} tokens of a rank, peak "
            f"{plain(of_rank)}"
        )
    return ACTED


_decodes_nothing = because(lambda use: use.group.pool.role == "prefill", "a prefill pool decodes nothing")
_no_requests_enter = because(
    lambda use: use.group.pool.role == "decode", "requests enter by the prefill pools"
)
_16_bits = because(
    lambda use: all(
        DTYPE_BYTES[dtype] >= 2
        for dtype in (use.group.pool.precision.weights, use.group.pool.precision.qkv_weights or "bf16")
    ),
    "the weights have 16 bits, and so have the inputs of their products",
)


def _few_bits(use: Use) -> Word:
    formats = (use.group.pool.precision.weights, use.group.pool.precision.qkv_weights or "bf16")
    if all(FORMATS[dtype].activation_bytes >= 2 for dtype in formats):
        return DidNotBind("products of these weights take inputs of 16 bits")
    return ACTED


def _tier(use: Use) -> str:
    return str(use.key[-2])


def _stored(use: Use) -> float:
    return use.ran.tier_sum("stored_bytes", (_tier(use),))


def _reloaded(use: Use) -> float:
    return use.ran.tier_sum("reloaded_bytes", (_tier(use),))


def _moved(use: Use) -> float:
    return _stored(use) + _reloaded(use)


def _tier_capacity(use: Use) -> Word:
    if use.ran.tier_sum("evicted_bytes", (_tier(use),)) or use.ran.tier_sum("lost_bytes", (_tier(use),)):
        return ACTED
    rows = use.ran.kv_tier_rows
    of_tier = [row for row in range(len(rows)) if rows.columns["tier"][row] == _tier(use)]
    peak = max((float(rows["peak_bytes"][row]) for row in of_tier), default=0.0)
    if use.value is not None and peak < float(use.value):
        return DidNotBind(f"{plain(float(use.value))} bytes, peak {plain(peak)}")
    return ACTED


_not_stored = "nothing was written to this tier"
TIER_KEYS: dict[str, Rule] = {
    "capacity_bytes": unless(no_sharing, then=_tier_capacity),
    "read_bytes_per_s": unless(
        no_sharing, then=where(lambda use: use.ran.tier_sum("reloaded_bytes", (_tier(use),)) or _stored(use),
        _not_stored)
    ),
    "write_bytes_per_s": unless(no_sharing, then=where(_stored, _not_stored)),
    "latency_s": unless(no_sharing, then=where(_reloaded, "nothing was read back from it")),
    "staging_bytes": unless(
        no_sharing,
        then=where(lambda use: use.ran.tier_sum("lost_bytes", (_tier(use),)), "all that came had room"),
    ),
    "place": unless(no_sharing, then=where(_moved, "nothing went to or from this tier")),
}  # fmt: skip

_computed = unless(given)
_no_rank_counts = because(
    lambda use: use.group.given and use.group.engine.jitter is None,
    "service_time is given, and no GPU is at work",
)
_host = unless(given, without_host, _asynchronous)
_hidden = because(
    lambda use: use.group.engine.schedules_async and not waits_for_sequences(use.ran, use.group),
    "scheduling is asynchronous, and every step took longer than the host",
)


def _straggler(use: Use) -> Word:
    """A slow rank sets the pace of its stage where no other rank is as slow."""
    engine, plan = use.group.engine, use.group.plans[0]
    if engine.jitter is not None:
        return ACTED
    slow = {one.rank: one.factor for one in engine.stragglers}
    place = use.key[use.key.index("stragglers") + 1]
    mine = engine.stragglers[int(place)]
    ranks = list(range(engine.world_size))
    for shard in plan.shards:
        here = [rank for rank in ranks if plan.gpus[rank] in shard.ranks]
        if mine.rank in here:
            ranks = here
            break
    others = max((slow.get(rank, 1.0) for rank in ranks if rank != mine.rank), default=0.0)
    if mine.factor > others:
        return ACTED
    return DidNotBind(f"{plain(mine.factor)} times as long, and another rank takes {plain(others)} times")


def _format_of_experts(use: Use) -> str:
    precision = use.group.pool.precision
    return str(precision.experts or precision.weights)


ENGINE: dict[str, Rule] = {
    "tensor_parallel_size": unless(_no_rank_counts),
    "pipeline_parallel_size": acted,
    "data_parallel_size": acted,
    "data_parallel_lock_step": unless(
        because(lambda use: use.group.engine.data_parallel_size == 1, "data_parallel_size is 1")
    ),
    "enable_expert_parallel": unless(given, dense, _one_rank),
    "expert_routing": unless(given, dense),
    "expert_routing.popularity": unless(given, dense),
    "expert_routing.exponent": _popularity_is("zipf"),
    "expert_routing.weights": _popularity_is("given"),
    "expert_routing.weights[]": _popularity_is("given"),
    "expert_routing.redundant_experts": unless(given, dense),
    "expert_routing.placement": _placed_experts,
    "dispatch_dtype": unless(given, dense, _split_experts, _one_group, _gathered),
    "all2all_backend": unless(given, dense, _split_experts, _one_group),
    "enable_dbo": unless(given, dense, _split_experts, _one_group, _gathered, then=_overlapped),
    "backend": _computed,
    "scheduler": acted,
    "scheduling_policy": _by_priority,
    "max_num_seqs": _max_num_seqs,
    "max_num_batched_tokens": _max_num_batched_tokens,
    "max_model_len": _max_model_len,
    "enable_chunked_prefill": unless(_other_rule, then=_chunked_prefill),
    "batch_wait_timeout_iters": where(
        lambda use: use.group.peak_running > 1, "no request came while another was running"
    ),
    "long_prefill_token_threshold": unless(_other_rule, then=_long_prefill),
    "scheduler_reserve_full_isl": kv_blocks,
    "capacity_scheduler_policy": unless(_decodes_nothing, then=kv_blocks),
    "async_scheduling": acted,
    "pipeline_split": unless(_no_stages, _other_rule),
    "block_size": where(
        lambda use: not use.group.given or use.ran.caches_prefixes or use.group.blocks_bind,
        "no prefix is kept, and KV blocks never ran short",
    ),
    "gpu_memory_utilization": unless(
        given,
        because(
            lambda use: use.group.engine.free_gpu_memory_fraction is not None,
            "free_gpu_memory_fraction is given",
        ),
        then=kv_memory,
    ),
    "free_gpu_memory_fraction": unless(given, then=kv_memory),
    "num_gpu_blocks_override": unless(given, then=kv_blocks),
    "enable_prefix_caching": unless(
        no_sharing,
        then=where(
            lambda use: not use.value or use.ran.requests["cached_tokens"].any(),
            "no prompt found its beginning kept",
        ),
    ),
    "watermark": kv_blocks,
    "disable_hybrid_kv_cache_manager": unless(
        given,
        because(
            lambda use: not (use.group.model.sliding_layers and use.group.model.sliding_window),
            "no layer has a sliding window",
        ),
        then=kv_memory,
    ),
    "moe_backend": unless(
        given,
        dense,
        because(
            lambda use: use.group.engine.backend != "vllm" or _format_of_experts(use) != "w4a16",
            "only vLLM's kernels of 4-bit experts pad weights",
        ),
        then=kv_memory,
    ),
    "enforce_eager": _computed,
    "max_cudagraph_capture_size": unless(given, _eager, then=_capture_size),
    "sampler": unless(
        given,
        because(lambda use: use.group.engine.backend != "vllm", "only vLLM's sampler sorts"),
        then=kv_memory,
    ),
    "disable_custom_all_reduce": unless(given, no_tensor_ranks),
    "collectives": unless(
        given,
        no_tensor_ranks,
        because(lambda use: use.group.engine.disable_custom_all_reduce, "disable_custom_all_reduce is true"),
    ),
    "executor": unless(_executor_decides_nothing),
    "inter_node": unless(given, one_server),
    "host.step_s": _host,
    "host.stage_s": unless(given, without_host, _asynchronous, _no_stages),
    "host.async_step_s": unless(given, without_host, _synchronous),
    "host.sequence_s": unless(given, without_host, _hidden),
    "host.launch_s": unless(given, without_host, _in_graphs),
    "frontend_s": unless(without_host, _no_requests_enter),
    "frontend_token_s": unless(without_host, _no_requests_enter),
    "step_gap_s": unless(given, without_host),
    "speculation.num_speculative_tokens": unless(_decodes_nothing),
    "speculation.acceptance_rate": unless(_decodes_nothing),
    "speculation.draft": unless(given),
    **{
        f"speculation.draft.{key}": unless(given)
        for key in (
            "layers",
            "hidden",
            "intermediate",
            "heads",
            "kv_heads",
            "head_dim",
            "vocab",
            "fused_states",
        )
    },
    "decode_context_parallel_size": unless(given),
    "speculation.draft_s": unless(
        given,
        because(
            lambda use: "kernel_latency" in use.ran.scenario.without,
            "`without` takes kernel_latency as nothing",
        ),
    ),
    "jitter.kind": unless(no_steps),
    "jitter.cv": unless(no_steps),
    "stragglers[].rank": unless(no_steps, then=_straggler),
    "stragglers[].factor": unless(no_steps, then=_straggler),
    "service_time.step_s": unless(no_steps),
    "service_time.sequence_s": unless(no_steps),
    "service_time.token_s": unless(no_steps),
    "kv_tiers.write": unless(no_sharing),
    **{
        f"kv_tiers.{tier}.{name}": rule
        for tier in ("host", "nvme", "remote")
        for name, rule in TIER_KEYS.items()
        if name != "place" or tier == "remote"
    },
}

PRECISION: dict[str, Rule] = {
    "weights": _computed,
    "kv_cache": _computed,
    "activations": _computed,
    "experts": unless(given, dense),
    "qkv_weights": _computed,
    "activation_scales": unless(given, _16_bits, then=_few_bits),
    "attention": unless(given, no_prompts),
}
