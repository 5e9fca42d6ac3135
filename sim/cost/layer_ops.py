"""The ops of one layer, before and after its attention, and of what stands before and behind the layers.

Sharding is Megatron's: QKV and gate/up by columns, attention output and down by rows, an all-reduce after
each pair (Shoeybi et al., arXiv 1909.08053); kv heads are replicated when there are more ranks than heads.
Experts are split by rows over the tensor-parallel ranks, or whole over all GPUs of the stage (expert
parallelism); with data-parallel attention tokens then travel to their experts and back.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sim.cost.batch import Causes, StepTokens
from sim.cost.collectives.choice import collective
from sim.cost.collectives.expert_exchange import ExpertChoice, Phase, exchange, gathers
from sim.cost.expert_load import expert_load, hits, limit_in_traffic
from sim.cost.kernels.timing import KernelTiming
from sim.cost.launches import expert_launches
from sim.cost.pricing import Priced, Pricer, causes_of, launches_of, seconds_of, together
from sim.cost.program import Op
from sim.cost.shard import Shard
from sim.inputs.attention_kinds import CompressedCache, Indexer, LinearAttention
from sim.inputs.quantities import DTYPE_BYTES

Ops = tuple[Priced, ...]

NORMS_OF_TWO_BLOCKS = 2  # one before attention, one before the MLP; Gemma has one behind each as well

# Tokens of a rank from which a step is split for dual-batch overlap: vLLM's defaults of
# --dbo-decode-token-threshold and --dbo-prefill-token-threshold (ParallelConfig, 0.11).
OVERLAP_DECODE_FROM, OVERLAP_PREFILL_FROM = 32, 512
# Tokens of a rank up to which shared experts run beside the routed ones. vLLM:
# VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD (vllm#28406); SGLang: DUAL_STREAM_TOKEN_THRESHOLD of its DeepSeek
# models; TensorRT-LLM: whatever is in a CUDA graph.
SHARED_BESIDE_UP_TO = {"vllm": 256, "sglang": 1024, "trtllm": 1 << 30}
PHASES: tuple[Phase, Phase] = ("dispatch", "combine")


def layer_around(price: Pricer, step: StepTokens, is_moe: bool) -> tuple[Ops, Ops]:
    """The ops of one layer before and after its attention kernel."""
    if is_moe and _overlaps(price, step):
        return _two_batches(price, step)
    before, after = mixer(price, step.of_rank, step.has_prefill)
    rest = experts(price, step) if is_moe else mlp(price, step.of_rank, step.has_prefill)
    return before, (*after, *rest)


def mixer(price: Pricer, tokens: int, has_prefill: bool) -> tuple[Ops, Ops]:
    """The ops around what mixes the tokens of a text: attention, a state, or nothing."""
    model = price.shard.model
    if not model.attention:
        return (), ()
    if model.linear is not None:
        return _state_block(price, model.linear, tokens, has_prefill)
    before, after = attention_block(price, tokens, has_prefill)
    if price.shard.engine.decode_context_parallel_size == 1 or has_prefill:
        return before, after
    queries, outputs = _over_the_context(price, tokens)
    return (*before, *queries), (*outputs, *after)


def _over_the_context(price: Pricer, tokens: int) -> tuple[Ops, Ops]:
    """Decode context parallelism: the queries of all heads to every rank that has a part of the tokens, and
    what each of them says back, added up. Where it stops: steps with prompts are taken not to gather.
    """
    shard, mla = price.shard, price.shard.model.mla
    heads = shard.heads_of_rank * shard.engine.decode_context_parallel_size
    width = tokens * heads * DTYPE_BYTES[shard.precision.activations]
    of_query = shard.model.head_dim if mla is None else mla.cached_values
    of_output = shard.model.head_dim if mla is None else mla.kv_lora_rank
    return (
        price.among_context_ranks("all_gather", width * of_query),
        price.among_context_ranks("reduce_scatter", width * of_output),
    )


def _state_block(price: Pricer, linear: LinearAttention, tokens: int, has_prefill: bool) -> tuple[Ops, Ops]:
    """The ops of `tokens` tokens around the kernel that reads and writes the states of one rank's heads."""
    model, ranks = price.shard.model, price.shard.tensor_parallel_size
    gemm = partial(price.gemm, sustained=has_prefill)
    own = linear.of_rank(ranks)
    before = [
        *_norms(price, tokens),
        gemm("state_in_proj", tokens, own.in_width, model.hidden),
    ]
    if own.gate_parameters:
        before.append(
            gemm("state_gate_proj", tokens, own.value_width, own.gate_parameters // own.value_width)
        )
    if own.conv_kernel:
        before.append(price.elementwise("convolution", 2 * tokens * own.conv_width))
    after = (
        price.elementwise("gated_norm", 3 * tokens * own.value_width),
        gemm("o_proj", tokens, model.hidden, own.value_width),
    )
    return tuple(before), (*after, *price.all_reduce(tokens))


def _norms(price: Pricer, tokens: int) -> Ops:
    """The norm before a block of a layer, and one behind it where layers have four."""
    model = price.shard.model
    norm = price.norm(tokens)
    if model.residual_streams > 1:
        return (*_mixed_streams(price, tokens), norm)
    return (norm, norm) if model.norms_per_layer > NORMS_OF_TWO_BLOCKS else (norm,)


def _mixed_streams(price: Pricer, tokens: int) -> Ops:
    """Hyper-connections around a block: the streams are read for its input, and read and written behind it
    (one kernel each, as vLLM fuses them).
    """
    streams, hidden = price.shard.model.residual_streams, price.shard.model.hidden
    return (
        price.elementwise("streams_in", (streams + 1) * tokens * hidden),
        price.elementwise("streams_out", (2 * streams + 1) * tokens * hidden),
    )


def attention_block(price: Pricer, tokens: int, has_prefill: bool) -> tuple[Ops, Ops]:
    """The ops of `tokens` tokens around the attention kernel of one rank's heads."""
    model, gemm = price.shard.model, partial(price.gemm, sustained=has_prefill)
    heads, kv_heads = price.shard.heads_of_rank, price.shard.kv_heads_of_rank
    hidden = model.hidden
    norms = _norms(price, tokens)
    if model.mla is not None:
        gemm = partial(gemm, quantised=not has_prefill)  # as the block was timed and fitted
    qkv = partial(gemm, dtype=price.shard.precision.qkv_weights or price.shard.precision.weights)
    if model.mla is not None:
        mla = model.mla
        query_width = heads * (mla.nope_head_dim + mla.rope_head_dim)
        down = (mla.q_lora_rank or 0) + mla.kv_lora_rank + mla.rope_head_dim
        before = [*norms, qkv("qkv_down", tokens, down, hidden)]
        if mla.q_lora_rank:
            before.append(qkv("q_up", tokens, query_width, mla.q_lora_rank))
        else:
            before.append(qkv("q", tokens, query_width, hidden))
        # The block was timed with the norms of the latent vectors and the rotary embedding, which are in the
        # attention's start: here they are launches and no seconds.
        before[-1] = replace(before[-1], launches=before[-1].launches + 1)
        if model.indexer is not None and not model.shares_index:
            before += _indexer(price, model.indexer, tokens, has_prefill)
        if model.compression is not None:
            before += _compressor(price, model.compression, tokens, has_prefill)
        absorbed = heads * (mla.nope_head_dim + mla.v_head_dim)
        after = [
            *(() if mla.keys_are_values else (qkv("kv_up", tokens, absorbed, mla.kv_lora_rank),)),
            *_output_gate(price, tokens, heads * mla.v_head_dim),
        ]
        if mla.output_groups:
            groups = mla.groups_of(heads, model.heads)
            after.append(gemm("o_down", tokens, groups * mla.output_rank, heads * mla.v_head_dim // groups))
            after.append(gemm("o_proj", tokens, hidden, groups * mla.output_rank))
        else:
            after.append(gemm("o_proj", tokens, hidden, heads * mla.v_head_dim))
        if model.attention_gate:
            before.append(gemm("gate_proj", tokens, heads * mla.v_head_dim, hidden))
    else:
        value_dim = model.v_head_dim or model.head_dim
        width = heads * model.head_dim * (2 if model.attention_gate else 1)
        width += kv_heads * (model.head_dim + (0 if model.values_are_keys else value_dim))
        before = [
            *norms,
            qkv("qkv_proj", tokens, width, hidden),
            *_qk_norm(price, tokens, heads, kv_heads),
            price.elementwise("rope", 2 * tokens * (heads + kv_heads) * model.head_dim),
        ]
        after = [
            *_output_gate(price, tokens, heads * value_dim),
            gemm("o_proj", tokens, hidden, heads * value_dim),
        ]
    return tuple(before), (*after, *price.all_reduce(tokens))


def _output_gate(price: Pricer, tokens: int, width: int) -> Ops:
    if not price.shard.model.attention_gate:
        return ()
    return (price.elementwise("output_gate", 3 * tokens * width),)


def _indexer(price: Pricer, indexer: Indexer, tokens: int, has_prefill: bool) -> Ops:
    """Queries, key and head weights of the indexer, whole on every rank; its scores are in the attention."""
    model = price.shard.model
    assert model.mla is not None
    queries = indexer.heads * indexer.head_dim
    own = indexer.heads + (indexer.head_dim if model.compression is None else 0)
    return (
        price.gemm("index_q", tokens, queries, model.mla.q_lora_rank or model.hidden, sustained=has_prefill),
        price.gemm("index_k", tokens, own, model.hidden, sustained=has_prefill),
        price.elementwise("index_rope", 2 * tokens * (queries + indexer.head_dim)),
    )


def _compressor(price: Pricer, cache: CompressedCache, tokens: int, has_prefill: bool) -> Ops:
    """What compressed entries are made from, whole on every rank: two projections of every token, weights
    and sums of an entry's, and the same for the keys of an indexer.
    """
    model = price.shard.model
    assert model.mla is not None
    columns = cache.columns(model.mla.cached_values)
    if model.indexer is not None and not model.shares_index:
        columns += cache.columns(model.indexer.head_dim)
    if not columns:
        return ()
    return (
        price.gemm("compress", tokens, columns, model.hidden, sustained=has_prefill),
        price.elementwise("compressed", 2 * tokens * columns),
    )


def _qk_norm(price: Pricer, tokens: int, heads: int, kv_heads: int) -> Ops:
    """Norms of queries and keys, one kernel. Over the width of a layer the ranks first add up squares."""
    model = price.shard.model
    if model.qk_norm is None:
        return ()
    norm = price.elementwise("qk_norm", 2 * tokens * (heads + kv_heads) * model.head_dim)
    if model.qk_norm == "head":
        return (norm,)
    sums = 2 * 4 * tokens  # a 32-bit sum of squares of the queries and one of the keys of each token
    return (*price.collective("all_reduce", sums), norm)


def mlp(price: Pricer, tokens: int, has_prefill: bool) -> Ops:
    """A dense MLP; nothing in a layer without."""
    model, ranks = price.shard.model, price.shard.tensor_parallel_size
    width, matrices = -(-model.intermediate // ranks), model.matrices_in
    if not width:
        return ()
    return (
        *_norms(price, tokens),
        price.gemm("gate_up_proj", tokens, matrices * width, model.hidden, sustained=has_prefill),
        price.elementwise("activation", (matrices + 1) * tokens * width),
        price.gemm("down_proj", tokens, model.hidden, width, sustained=has_prefill),
        *price.all_reduce(tokens),
    )


def experts(price: Pricer, step: StepTokens) -> Ops:
    """Router, routed and shared experts.

    In one tensor-parallel group every rank has all tokens: each computes its experts, or its rows of all,
    and an all-reduce adds up. With data-parallel attention tokens go to their experts and back (expert
    parallelism), or all of them to all ranks, which each have rows of all experts.
    """
    shard, (tokens, all_tokens, has_prefill) = price.shard, step
    before = _before_experts(price, tokens)
    shared = _shared_experts(price, tokens, has_prefill)
    beside = partial(
        _beside_each_other, shared=shared, apart=has_prefill or tokens > _max_tokens_beside(shard)
    )
    # Three ways for tokens to meet their experts. One group: every rank has all tokens already.
    if len(shard.groups) == 1:
        return (*before, *beside(_routed(price, tokens, has_prefill)), *price.all_reduce(tokens))
    # Several groups, experts by rows: all tokens to all ranks, and partial sums back.
    if not shard.engine.enable_expert_parallel:
        gathered, scattered = (
            _between_groups(price, op, all_tokens) for op in ("all_gather", "reduce_scatter")
        )
        routed = beside(_routed(price, all_tokens, has_prefill))
        return (*before, gathered, *routed, scattered, *price.all_reduce(tokens))
    # Several groups, whole experts: each token to the ranks of its experts, or everything everywhere.
    if _gathers(price):
        dispatch, combine = _gather(price, all_tokens), _scatter(price, all_tokens)
    else:
        dispatch, combine = (_exchange(price, phase, all_tokens, has_prefill) for phase in PHASES)
    routed = beside(_routed(price, all_tokens, has_prefill))
    return (*before, dispatch, *routed, combine, *price.all_reduce(tokens))


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
        ops.append(price.kernel("sample", price.timing("sampling", sequences=sampled, vocab=model.vocab)))
        speculation = shard.engine.speculation
        if speculation is not None and speculation.draft is None:
            seconds = speculation.num_speculative_tokens * speculation.draft_s
            ops.append(price.kernel("draft", KernelTiming(seconds, 0.0, 0.0, seconds)))
    return (*ops, *price.host("step gap", shard.engine.step_gap_s))


def _before_experts(price: Pricer, tokens: int) -> Ops:
    model = price.shard.model
    activations = price.shard.precision.activations
    return (
        *_norms(price, tokens),
        price.gemm("router", tokens, model.experts + model.zero_experts, model.hidden, dtype=activations),
    )


def _busiest(price: Pricer, tokens: int) -> float:
    """Load of the rank that gets most of `tokens` tokens, over an even one; rows of experts are even."""
    shard = price.shard
    if not shard.engine.enable_expert_parallel:
        return 1.0
    if tokens not in price.busiest:
        price.busiest[tokens] = price.expert_load.busiest(tokens * shard.model.experts_per_token)
    return price.busiest[tokens]


def _experts_hit(price: Pricer, tokens: int, load: float) -> float | None:
    """Experts hit on the rank that sets the step, whose pairs are `load` times an even share; None leaves it
    to the kernel, which knows uniform popularity.

    What crowds pairs on a rank is a few popular experts, which are hit once each. That a rank has more
    experts hit than another is chance, and as much of it as with uniform popularity.
    """
    shard = price.shard
    model, routing = shard.model, shard.engine.expert_routing
    topk = model.experts_per_token
    law = hits(routing, model.experts, topk)
    if law is None:
        return None
    if not shard.engine.enable_expert_parallel:
        return law.of(tokens)
    ranks = len(shard.ranks)
    even = expert_load(routing.uniform, model.experts, ranks, topk, model.group_limit)
    pairs = tokens * topk / ranks * load
    return max(law.of(tokens * even.busiest(tokens * topk)) / ranks, min(1.0, pairs))


def _expert_choice(shard: Shard) -> ExpertChoice:
    """How the tokens of a model choose experts, as far as it shows in the traffic between ranks."""
    limit = limit_in_traffic(shard.engine.expert_routing, shard.model.group_limit)
    # Tokens choose among copies as among experts, but groups are of experts: within them copies are left out.
    experts = shard.experts_with_copies if limit is None else shard.model.experts
    return ExpertChoice(experts, shard.model.experts_per_token, limit)


def _routed(price: Pricer, tokens: int, has_prefill: bool) -> Priced:
    """The routed experts of the busiest rank, `tokens` of all ranks entering the layer."""
    shard = price.shard
    model, ranks = shard.model, len(shard.ranks)
    whole = ranks if shard.engine.enable_expert_parallel else 1
    load, present = _busiest(price, tokens), None
    if whole > 1 and len(shard.groups) > 1 and not _gathers(price):
        # dispatched: a rank has the tokens that chose its experts
        reached = _expert_choice(shard).distinct(ranks) / ranks
        present = tokens * min(1.0, reached * load)
    dtype = shard.precision.experts or shard.precision.weights
    timing = price.timing(
        "moe",
        tokens=tokens,
        hidden=model.expert_hidden,
        inter=model.moe_intermediate,
        experts=shard.experts_with_copies,
        topk=model.experts_per_token,
        tp=ranks // whole,
        ep=whole,
        dtype=dtype,
        load=load,
        hit=_experts_hit(price, tokens, load),
        present=present,
        sustained=has_prefill,
        gated=model.gated_mlp,
    )
    routed = price.kernel("experts", timing, expert_launches(dtype))
    return routed if not model.moe_latent else _in_latent_width(price, routed, tokens, has_prefill)


def _in_latent_width(price: Pricer, routed: Priced, tokens: int, has_prefill: bool) -> Priced:
    """Experts with the projections of their tokens to a width of their own and back, whole on every rank."""
    model = price.shard.model
    own = -(-tokens // len(price.shard.groups))
    ops = (
        price.gemm("latent_down", own, model.moe_latent, model.hidden, sustained=has_prefill),
        routed,
        price.gemm("latent_up", own, model.hidden, model.moe_latent, sustained=has_prefill),
    )
    return Priced(Op("experts", seconds_of(ops)), causes_of(ops), launches_of(ops))


def _shared_experts(price: Pricer, tokens: int, has_prefill: bool) -> Ops:
    model, ranks = price.shard.model, price.shard.tensor_parallel_size
    if not model.shared_experts:
        return ()
    width = -(-(model.shared_intermediate or model.shared_experts * model.moe_intermediate) // ranks)
    return (
        price.gemm("shared_gate_up", tokens, model.matrices_in * width, model.hidden, sustained=has_prefill),
        price.elementwise("activation", (model.matrices_in + 1) * tokens * width),
        price.gemm("shared_down", tokens, model.hidden, width, sustained=has_prefill),
    )


def _max_tokens_beside(shard: Shard) -> int:
    """Tokens up to which an engine computes shared experts on a stream of their own."""
    engine = shard.engine
    return 0 if engine.enforce_eager else SHARED_BESIDE_UP_TO[engine.backend]


def _beside_each_other(routed: Priced, shared: Ops, apart: bool) -> Ops:
    """Routed and shared experts, one after the other or as one op on two streams.

    On two streams starts and waits of the one are hidden behind the other, arithmetic and memory traffic are
    not: together they take as long as the longer of the two, and no less than all that is not start. With
    vLLM, DeepSeek-R1 on eight B200 and 32 sequences it saved 22 us a layer (vllm#26440).
    """
    if apart or not shared:
        return (routed, *shared)
    shared_s, extra = seconds_of(shared), causes_of(shared)
    busy_s = shared_s - extra.kernel_latency + routed.op.seconds - routed.causes.kernel_latency
    seconds = max(routed.op.seconds, shared_s, busy_s)
    share = (seconds - routed.op.seconds) / shared_s
    causes = Causes(*(one + share * other for one, other in zip(routed.causes, extra, strict=True)))
    return (Priced(Op(routed.op.name, seconds), causes, launches_of((routed, *shared))),)


def _between_groups(price: Pricer, op: str, all_tokens: int) -> Priced:
    """A collective of all tokens' hidden states over the data-parallel groups, at every place in a group."""
    shard = price.shard
    n_bytes = all_tokens * shard.model.hidden * DTYPE_BYTES[shard.precision.activations]
    columns = list(zip(*shard.groups, strict=True))
    return price.transfer(
        op, together([collective(price.network, op, n_bytes, column).demand for column in columns])
    )


def _gathers(price: Pricer) -> bool:
    shard = price.shard
    return gathers(price.network, shard.ranks, shard.engine.all2all_backend)


def _gather(price: Pricer, all_tokens: int) -> Priced:
    """All tokens to all ranks, each with the numbers (4 bytes) and weights (4) of its experts."""
    model = price.shard.model
    token_bytes = model.hidden * DTYPE_BYTES[price.shard.precision.activations] + 8 * model.experts_per_token
    gathered = collective(price.network, "all_gather", all_tokens * token_bytes, price.shard.ranks)
    return price.transfer("dispatch", gathered.demand)


def _scatter(price: Pricer, all_tokens: int) -> Priced:
    """What the experts of each rank say to every token, added up and back where the token is from."""
    n_bytes = all_tokens * price.shard.model.hidden * DTYPE_BYTES[price.shard.precision.activations]
    scattered = collective(price.network, "reduce_scatter", n_bytes, price.shard.ranks)
    return price.transfer("combine", scattered.demand)


def _exchange(price: Pricer, phase: Phase, all_tokens: int, has_prefill: bool) -> Priced:
    """Dispatch or combine of `all_tokens` tokens, every rank sending as many (a tensor-parallel rank its
    slice of its group's).
    """
    shard = price.shard
    dtype = shard.engine.dispatch_dtype if phase == "dispatch" else shard.precision.activations
    demand = exchange(
        price.network,
        phase,
        shard.ranks,
        all_tokens / len(shard.ranks),
        shard.model.expert_hidden * DTYPE_BYTES[dtype],
        _expert_choice(shard),
        has_prefill=has_prefill,
        library=shard.engine.all2all_backend,
        load=_busiest(price, all_tokens),
    )
    return price.transfer(phase, demand)


# ---- dual-batch overlap


def _overlaps(price: Pricer, step: StepTokens) -> bool:
    engine = price.shard.engine
    if not (engine.enable_dbo and engine.enable_expert_parallel and len(price.shard.groups) > 1):
        return False
    if _gathers(price):  # vLLM overlaps the exchanges of DeepEP only
        return False
    return step.of_rank >= (OVERLAP_PREFILL_FROM if step.has_prefill else OVERLAP_DECODE_FROM)


def _two_batches(price: Pricer, step: StepTokens) -> tuple[Ops, Ops]:
    """Dual-batch overlap: the tokens in two halves, one of them on the network while the other is computed.

    The combine of the second half (of the layer before) runs behind the products before attention, the
    dispatch of the first behind those after it, and the two other exchanges behind the experts of the other
    half. Products and experts of both halves are paid for, each with its own start and its own reading of
    the weights. Where it stops: nothing is hidden behind the attention kernel itself, so that long contexts
    gain more than this says.
    """
    half, all_half, has_prefill = -(-step.of_rank // 2), -(-step.of_all // 2), step.has_prefill
    before, after = mixer(price, half, has_prefill)
    after = (*after, *_before_experts(price, half))
    inner = (
        _routed(price, all_half, has_prefill),
        *_shared_experts(price, half, has_prefill),
        *price.all_reduce(half),
    )
    dispatch, combine = (_exchange(price, phase, all_half, has_prefill) for phase in PHASES)
    return (_behind(price, combine, (*before, *before)),), (
        _behind(price, dispatch, (*after, *after)),
        _behind(price, dispatch, inner),
        _behind(price, combine, inner),
    )


def _behind(price: Pricer, transfer: Priced, work: Ops) -> Priced:
    """A transfer with other ops in its shadow: it takes at least their time, and what is longer is its own.

    Where those ops have transfers themselves (all-reduces of tensor-parallel ranks), their bytes are not on
    the links.
    """
    demand, work_s = transfer.op.demand, seconds_of(work)
    assert demand is not None
    covered = replace(demand, min_flow_s=max(demand.min_flow_s, work_s - demand.latency_s))
    seconds = covered.isolated_s(price.network.capacity)
    exposed_s = max(0.0, seconds - work_s)
    latency_s = min(exposed_s, demand.latency_s)
    causes = causes_of(work)
    causes = causes._replace(
        collective_latency=causes.collective_latency + latency_s,
        collective_bytes=causes.collective_bytes + exposed_s - latency_s,
    )
    return Priced(Op(transfer.op.name, seconds, covered), causes, launches_of((transfer, *work)))
