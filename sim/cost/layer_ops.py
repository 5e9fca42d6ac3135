"""The ops of one layer, before and after its attention, and of what stands before and behind the layers.

Sharding is Megatron's: QKV and gate/up by columns, attention output and down by rows, an all-reduce after
each pair (Shoeybi et al., arXiv 1909.08053); kv heads are replicated when there are more ranks than heads.
Experts are split by rows over the tensor-parallel ranks, or whole over all GPUs of the stage (expert
parallelism); with data-parallel attention tokens then travel to their experts and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sim.cost import kernels
from sim.cost.expert_exchange import exchange
from sim.cost.expert_load import expert_load
from sim.cost.pricing import Priced, Pricer, seconds_of
from sim.inputs.quantities import DTYPE_BYTES

Ops = tuple[Priced, ...]
Load = Callable[[float], float]  # token-expert pairs -> load of the busiest rank over an even one


def attention_block(
    price: Pricer, tokens: int, heads: int, kv_heads: int, sustained: bool
) -> tuple[Ops, Ops]:
    """The ops of `tokens` tokens around the attention kernel of one rank's heads."""
    model, gemm = price.shard.model, partial(price.gemm, sustained=sustained)
    hidden = model.hidden
    norm = price.elementwise("norm", 4 * tokens * hidden)
    if model.mla is not None:
        mla = model.mla
        query_width = heads * (mla.nope_head_dim + mla.rope_head_dim)
        down = (mla.q_lora_rank or 0) + mla.kv_lora_rank + mla.rope_head_dim
        before = [norm, gemm("qkv_down", tokens, down, hidden)]
        if mla.q_lora_rank:
            before.append(gemm("q_up", tokens, query_width, mla.q_lora_rank))
        else:
            before.append(gemm("q", tokens, query_width, hidden))
        before.append(price.elementwise("rope", 2 * tokens * heads * mla.rope_head_dim))
        absorbed = heads * (mla.nope_head_dim + mla.v_head_dim)
        after = [
            gemm("kv_up", tokens, absorbed, mla.kv_lora_rank),
            gemm("o_proj", tokens, hidden, heads * mla.v_head_dim),
        ]
    else:
        width = (heads + 2 * kv_heads) * model.head_dim
        before = [
            norm,
            gemm("qkv_proj", tokens, width, hidden),
            price.elementwise("rope", 2 * tokens * (heads + kv_heads) * model.head_dim),
        ]
        after = [gemm("o_proj", tokens, hidden, heads * model.head_dim)]
    return tuple(before), (*after, *price.all_reduce(tokens))


def mlp(price: Pricer, tokens: int, sustained: bool) -> Ops:
    """A dense gated MLP."""
    model, ranks = price.shard.model, price.shard.tensor_parallel_size
    width = -(-model.intermediate // ranks)
    return (
        price.elementwise("norm", 4 * tokens * model.hidden),
        price.gemm("gate_up_proj", tokens, 2 * width, model.hidden, sustained=sustained),
        price.elementwise("activation", 3 * tokens * width),
        price.gemm("down_proj", tokens, model.hidden, width, sustained=sustained),
        *price.all_reduce(tokens),
    )


def experts(price: Pricer, tokens: int, all_tokens: int, sustained: bool) -> Ops:
    """Router, routed and shared experts. `tokens` of the fullest data-parallel rank, `all_tokens` of all
    of them.
    """
    shard = price.shard
    model, engine = shard.model, shard.engine
    norm = price.elementwise("norm", 4 * tokens * model.hidden)
    router = price.gemm("router", tokens, model.experts, model.hidden, dtype=shard.precision.activations)
    shared = _shared_experts(price, tokens, sustained)
    if len(shard.groups) == 1:
        routed = _routed(price, tokens, 1.0, sustained)
        return (norm, router, routed, *shared, *price.all_reduce(tokens))
    if not engine.enable_expert_parallel:
        gathered = price.collective("all_gather", all_tokens * model.hidden * 2)
        scattered = price.collective("reduce_scatter", all_tokens * model.hidden * 2)
        return (norm, router, *gathered, _routed(price, all_tokens, 1.0, sustained), *scattered, *shared)
    load = expert_load(engine.expert_routing, model.experts, len(shard.ranks))
    if engine.enable_dbo and tokens > 1:
        return (norm, router, *_two_batches(price, tokens, all_tokens, load.busiest, sustained, shared))
    busiest = load.busiest(all_tokens * model.experts_per_token)
    dispatch, combine = (_exchange(price, phase, tokens, busiest) for phase in ("dispatch", "combine"))
    return (norm, router, dispatch, _routed(price, all_tokens, busiest, sustained), combine, *shared)


def embedding(price: Pricer, tokens: int) -> Ops:
    """Before the first layer."""
    return (price.elementwise("embedding", 2 * tokens * price.shard.model.hidden), *price.all_reduce(tokens))


def head(price: Pricer, sampled: int) -> Ops:
    """Behind the last layer: norm, logits of the sampled sequences, gathered over the vocabulary, and
    drawing.
    """
    shard = price.shard
    model, ranks = shard.model, shard.tensor_parallel_size
    ops: list[Priced] = []
    if sampled:
        activations = shard.precision.activations
        ops.append(price.elementwise("norm", 2 * sampled * model.hidden))
        ops.append(price.gemm("lm_head", sampled, -(-model.vocab // ranks), model.hidden, dtype=activations))
        ops += price.collective("all_gather", sampled * model.vocab * DTYPE_BYTES[activations])
        ops.append(price.kernel("sample", kernels.sampling(shard.gpu, sampled, model.vocab)))
        speculation = shard.engine.speculation
        if speculation is not None:
            seconds = speculation.num_speculative_tokens * speculation.draft_s
            ops.append(price.kernel("draft", kernels.KernelTiming(seconds, 0.0, 0.0, seconds)))
    return (*ops, *price.host("step gap", shard.engine.step_gap_s))


def _routed(price: Pricer, tokens: int, load: float, sustained: bool) -> Priced:
    """The routed experts of the busiest rank, `tokens` of all ranks entering the layer."""
    shard = price.shard
    model, ranks = shard.model, len(shard.ranks)
    whole = ranks if shard.engine.enable_expert_parallel else 1
    timing = kernels.moe(
        shard.gpu,
        tokens=tokens,
        hidden=model.hidden,
        inter=model.moe_intermediate,
        experts=model.experts,
        topk=model.experts_per_token,
        tp=ranks // whole,
        ep=whole,
        dtype=shard.precision.weights,
        load=load,
        sustained=sustained,
    )
    return price.kernel("experts", timing)


def _shared_experts(price: Pricer, tokens: int, sustained: bool) -> Ops:
    model, ranks = price.shard.model, price.shard.tensor_parallel_size
    if not model.shared_experts:
        return ()
    width = -(-(model.shared_intermediate or model.shared_experts * model.moe_intermediate) // ranks)
    return (
        price.gemm("shared_gate_up", tokens, 2 * width, model.hidden, sustained=sustained),
        price.elementwise("activation", 3 * tokens * width),
        price.gemm("shared_down", tokens, model.hidden, width, sustained=sustained),
    )


def _exchange(price: Pricer, phase: str, tokens: float, load: float) -> Priced:
    shard = price.shard
    dtype = shard.engine.dispatch_dtype if phase == "dispatch" else shard.precision.activations
    demand = exchange(
        price.network,
        phase,
        shard.ranks,
        tokens / shard.tensor_parallel_size,
        shard.model.hidden,
        shard.model.experts,
        shard.model.experts_per_token,
        DTYPE_BYTES[dtype],
        load=load,
    )
    return price.transfer(phase, demand)


def _two_batches(
    price: Pricer, tokens: int, all_tokens: int, load: Load, sustained: bool, shared: Ops
) -> Ops:
    """Dual-batch overlap: the tokens in two halves, one of them on the network while the other is computed.

    Dispatch and combine of one half run behind the experts (and shared experts) of the other: such a
    transfer takes at least as long as the computation it hides behind, and the last combine is left over.
    """
    half, all_half = -(-tokens // 2), -(-all_tokens // 2)
    busiest = load(all_half * price.shard.model.experts_per_token)
    dispatch, combine = (_exchange(price, phase, half, busiest) for phase in ("dispatch", "combine"))
    routed = _routed(price, all_half, busiest, sustained)
    return (
        _behind(price, dispatch, seconds_of(shared)),
        _behind(price, dispatch, routed.op.seconds),
        _behind(price, combine, routed.op.seconds),
        combine,
    )


def _behind(price: Pricer, transfer: Priced, compute_s: float) -> Priced:
    """A transfer with computation in its shadow: it takes at least the computation's time."""
    demand = transfer.op.demand
    assert demand is not None
    least_s = max(demand.least_s, compute_s - demand.latency_s)
    covered = price.transfer(transfer.op.name, replace(demand, least_s=least_s))
    hidden_s = min(compute_s, covered.op.seconds)
    exposed_s = covered.op.seconds - hidden_s
    causes = covered.causes._replace(
        compute=hidden_s,
        collective_latency=min(exposed_s, transfer.causes.collective_latency),
        collective_bytes=exposed_s - min(exposed_s, transfer.causes.collective_latency),
    )
    return Priced(covered.op, causes)
