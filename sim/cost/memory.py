"""What fits: weights and reserved memory per GPU, and how many KV blocks are left.

Follows vLLM's start-up: usable memory x gpu_memory_utilization, less the weights, less the peak of a
profiling run (activations of `max_num_batched_tokens` tokens and the logits of `max_num_seqs` sequences),
less what NCCL keeps. With `free_gpu_memory_fraction` it follows TensorRT-LLM's: that share of what all of
them leave of the whole memory. Where it stops: fragmentation, LoRA, encoders, CUDA graphs (vLLM captures them
after it has sized its cache, in the memory that gpu_memory_utilization leaves free; only from 0.21 on does it
count them); the profile's peak is a formula with fitted constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from sim.cost.block_groups import BlockGroups, block_groups, counted_kinds, layers_by_group
from sim.cost.drafting import draft_kv_bytes_per_token, draft_weight_bytes
from sim.cost.shard import Shard
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.inputs.hardware import Gpu
from sim.inputs.quantities import DTYPE_BYTES

GIB = 2.0**30
MANY_BLOCKS = 1 << 40  # of a stage that keeps nothing of a text: more than any other one has

# Memory of a process of vLLM beside weights and KV cache. The two fitted constants rest on the rows of
# sim/data/measured/memory/vllm_startup.csv that are marked so; the others are held out (`sim validate
# memory`).
CONTEXT_BYTES = 0.72 * GIB  # fitted: workspaces, fragmentation and what the formulas below leave out
COLLECTIVE_BYTES = 1.80 * GIB  # fitted: NCCL, all-reduce and symmetric-memory buffers of any group
# Kinds of GPU without NVLink, over which all-reduce kernels and symmetric memory do not go: 8 L40S have 0.21
# GiB outside torch in all, which CONTEXT_BYTES covers (fitted on that one log)
WITHOUT_NVLINK = ("l4", "l20", "l40", "rtx")
# measured: what nvidia-smi counts and no process can have. H100 79.65 and 79.19 GiB (torch), L40S 44.99 and
# 44.42, RTX 4090 23.99 and 23.65
DRIVER_BYTES = 0.46 * GIB
# The same for other engines, of which no start-up was measured: as three services of vLLM were fitted before.
RESERVED_BYTES = 0.98 * GIB  # assumed: CUDA context, workspaces and fragmentation of one rank
RESERVED_COLLECTIVE_BYTES = 1.03 * GIB  # assumed: NCCL and custom all-reduce buffers of any group
RESERVED_PER_RANK_BYTES = 0.09 * GIB  # assumed: the same, for each rank of the group
RANKS_WITH_BUFFERS = 8  # assumed: larger groups keep no more; nothing was measured beyond one server
# assumed: fp32 logits, their softmax and a sorted copy live at once in the dummy run of the sampler by which
# vLLM sizes its cache; TensorRT-LLM keeps the one buffer of its engine
LOGITS_COPIES = {"vllm": 3, "sglang": 3, "trtllm": 1}
# Bytes a logit that a sampler which sorts keeps beside these: values and 64-bit indices in order (12), their
# softmax, its running sum, the logits put back (4 each), as in vLLM's `apply_top_k_top_p`. Up to vLLM 0.16
# the peaks of models with and without experts show them (Qwen3-14B 5.64 GiB, 2.23 from 0.17 on, whose kernels
# do not sort: llm-d-planner, accuracy report).
SORT_BYTES = 24  # fitted on vllm#21348
# vLLM's VLLM_FUSED_MOE_CHUNK_SIZE: tokens that the buffers of the expert kernels hold at once
EXPERT_CHUNK_TOKENS = 32_768
# Multiples to which vLLM pads (hidden, intermediate of a rank) of experts in 4 bits for its kernels: Triton
# on Hopper, FlashInfer on Blackwell, Marlin elsewhere (`mxfp4.py`). They tell the sizes that it logs:
# gpt-oss-120b 64.38 GiB on H100 (vllm#33155), 65.97 with Marlin (vllm#23278), gpt-oss-20b 13.72 on A100.
PADDED_TO = {"h": (1, 256), "gh": (1, 256), "b": (256, 256), "gb": (256, 256)}
PADDED_BY_MARLIN = (256, 128)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on the fullest GPU of a replica, and the KV blocks that every stage can hold, of `block_bytes`
    each. `kv_bytes_per_token` is what a token takes where every layer keeps it.
    """

    usable_bytes: float
    weight_bytes: float
    reserved_bytes: float
    kv_bytes: float
    kv_bytes_per_token: float
    blocks: int
    block_bytes: float
    groups: BlockGroups

    @property
    def kv_tokens(self) -> float:
        """Tokens whose KV fits, before they are cut into blocks."""
        return self.kv_bytes / self.kv_bytes_per_token


def default_limits(engine: Engine, gpu: Gpu) -> tuple[int, int]:
    """(max_num_seqs, max_num_batched_tokens) where the engine leaves them open.

    vLLM's defaults for an API server: 1024 sequences and 8192 tokens on GPUs with at least 70 GiB that are
    not A100, else 256 and 2048 (`EngineArgs._set_default_max_num_seqs_and_batched_tokens_args`).
    """
    large = gpu.usable_hbm_bytes >= 70 * GIB and not gpu.name.startswith("a100")
    seqs = engine.max_num_seqs if engine.max_num_seqs is not None else (1024 if large else 256)
    tokens = (
        engine.max_num_batched_tokens
        if engine.max_num_batched_tokens is not None
        else (8192 if large else 2048)
    )
    return seqs, max(tokens, seqs) if engine.max_num_batched_tokens is None else tokens


def shard_weight_bytes(shard: Shard) -> float:
    """Weight bytes on one GPU of a stage; experts are split over all its GPUs, by rows or whole."""
    model, ranks = shard.model, shard.tensor_parallel_size
    width = DTYPE_BYTES[shard.precision.weights]
    expert_width = DTYPE_BYTES[shard.precision.experts or shard.precision.weights]
    qkv_width = DTYPE_BYTES[shard.precision.qkv_weights or shard.precision.weights]
    plain = DTYPE_BYTES[shard.precision.activations] if width < 2 else width  # embedding, head, norms, router
    total = 0.0
    for layer in range(shard.first_layer, shard.first_layer + shard.layers):
        shape = model.shape_of(layer)
        projections = shape.attention_parameters_per_gpu(ranks)
        output = model.hidden * shape.output_width // ranks if shape.attention else 0
        total += (projections - output) * qkv_width + output * width
        total += shape.norm_parameters_per_layer * plain
        if model.is_moe_layer(layer):
            routed = shape.experts * shape.expert_parameters / len(shard.ranks)
            routed += (
                shard.engine.expert_routing.redundant_experts / len(shard.ranks) * shape.expert_parameters
            )
            routed *= _padding(shard)
            shared = shape.shared_expert_parameters_per_layer / ranks
            total += routed * expert_width + shared * width + shape.router_parameters_per_layer * plain
        else:
            total += shape.dense_mlp_parameters / ranks * width
    if shard.is_first or (shard.is_last and model.tie_embeddings):
        total += model.embedding_parameters / ranks * plain
    if shard.is_last:
        total += (model.lm_head_parameters / ranks + model.hidden) * plain
        total += draft_weight_bytes(shard)
    return total


def shard_kv_bytes_per_token(shard: Shard) -> float:
    """KV bytes one token takes on one GPU of a stage."""
    of_layers = shard.model.kv_bytes_of_layers(
        shard.first_layer, shard.layers, shard.tensor_parallel_size, shard.precision.kv_cache
    )
    whole = of_layers + draft_kv_bytes_per_token(shard)
    return whole / shard.engine.decode_context_parallel_size


def reserved_bytes(shard: Shard, max_num_seqs: int, max_num_batched_tokens: int) -> float:
    """Memory of the engine beside weights and KV cache on one GPU.

    In vLLM the activations of the layers are free again when the sampler has its logits, so that the larger
    of the two counts; buffers of expert kernels stay. Of other engines all of them are taken to live at once.
    """
    model, ranks = shard.model, shard.tensor_parallel_size
    width = DTYPE_BYTES[shard.precision.activations]
    layers = max_num_batched_tokens * 4 * model.hidden * width
    mlp = _mlp_values(shard, max_num_batched_tokens) * width
    logits = 0
    if shard.is_last:
        per_logit = 4 * LOGITS_COPIES[shard.engine.backend] + (SORT_BYTES if sorts_logits(shard) else 0)
        logits = per_logit * min(max_num_seqs, max_num_batched_tokens) * model.vocab
    if shard.engine.backend == "vllm":
        kept, passing = (mlp, layers) if model.is_moe else (0.0, layers + mlp)
        over_nvlink = not shard.gpu.name.startswith(WITHOUT_NVLINK)
        collectives = COLLECTIVE_BYTES if ranks > 1 and over_nvlink else 0.0
        return CONTEXT_BYTES + collectives + kept + max(passing, logits)
    collectives = 0.0
    if ranks > 1:
        buffers = min(ranks, RANKS_WITH_BUFFERS)
        collectives = RESERVED_COLLECTIVE_BYTES + RESERVED_PER_RANK_BYTES * buffers
    return RESERVED_BYTES + collectives + layers + mlp + logits


def sorts_logits(shard: Shard) -> bool:
    """Whether the sampler's dummy run sorts all logits, as that of vLLM before 0.17. Left open, vLLM with
    experts is taken to, as most measured services of that kind do, and a dense model not.
    """
    if shard.engine.backend != "vllm":
        return False
    return shard.model.is_moe if shard.engine.sampler == "auto" else shard.engine.sampler == "sort"


def _mlp_values(shard: Shard, tokens: int) -> float:
    """Values that the widest MLP keeps at once for `tokens` tokens.

    vLLM's expert kernels have a row for each of a token's experts: what gate and up give and what down gives
    share one buffer, the input of down has another; the tokens of all data-parallel ranks are gathered, and
    computed in chunks (`fused_moe.py`).
    """
    model, ranks = shard.model, shard.tensor_parallel_size
    dense = 3 * max(shape.intermediate for shape in model.shapes) / ranks * tokens
    if not model.is_moe:
        return dense
    if shard.engine.backend != "vllm":
        return max(dense, 3 * model.experts_per_token * model.moe_intermediate / ranks * tokens)
    rows = min(tokens * len(shard.groups), EXPERT_CHUNK_TOKENS) * model.experts_per_token
    whole = shard.engine.enable_expert_parallel
    width = model.moe_intermediate / (1 if whole else len(shard.ranks))
    return max(dense if model.dense_layers else 0.0, rows * (max(2 * width, model.hidden) + width))


def _padding(shard: Shard) -> float:
    """How many times larger experts in 4 bits are as vLLM's kernels want them."""
    model = shard.model
    if (shard.precision.experts or shard.precision.weights) != "w4a16" or shard.engine.backend != "vllm":
        return 1.0
    family = shard.gpu.name.partition("-")[0].rstrip("0123456789")
    own = PADDED_TO.get(family, PADDED_BY_MARLIN)
    hidden, inner = PADDED_BY_MARLIN if shard.engine.moe_backend == "marlin" else own
    width = model.moe_intermediate / (1 if shard.engine.enable_expert_parallel else len(shard.ranks))
    return -(-model.hidden // hidden) * hidden / model.hidden * (-(-width // inner) * inner / width)


def plan(
    shards: list[Shard],
    max_num_seqs: int,
    max_num_batched_tokens: int,
    gpus: int = 64,
    whole_texts: bool = False,
) -> MemoryPlan:
    """The memory of a replica, from its stages, on a machine of `gpus` GPUs; with `whole_texts` all layers
    keep all tokens, also where they attend to a window.

    InfeasibleError when the weights leave no room for one block, and names what would fit the machine. A
    number of blocks that the user gives (`num_gpu_blocks_override`) stands in for what is left, not for the
    weights.
    """
    plans = []
    model, engine = shards[0].model, shards[0].engine
    if whole_texts and model.state_bytes_per_request:
        raise InfeasibleError(
            f"{model.name} keeps states of texts beside KV caches, which are not sent from prefill to decode "
            "here",
            "one pool with the role both serves it",
        )
    windows = None if whole_texts else block_groups(model, engine, shards[0].precision.kv_cache)
    groups = windows or BlockGroups(engine.block_size)
    for shard in shards:
        usable = _usable_bytes(shard.gpu, shard.engine)
        weights = shard_weight_bytes(shard)
        reserved = reserved_bytes(shard, max_num_seqs, max_num_batched_tokens)
        per_token = shard_kv_bytes_per_token(shard)
        left = (usable - weights - reserved) * (shard.engine.free_gpu_memory_fraction or 1.0)
        block_bytes = _block_bytes(shard, per_token, windows) or _bytes_of_fixed(shard, groups)
        blocks = int(left // block_bytes) if block_bytes else MANY_BLOCKS * (left >= 0.0)
        plans.append(MemoryPlan(usable, weights, reserved, left, per_token, blocks, block_bytes, groups))
    tightest = min(plans, key=lambda one: one.blocks)
    override = engine.num_gpu_blocks_override
    if tightest.blocks < 1 and (override is None or tightest.kv_bytes < 0.0):
        raise InfeasibleError(_too_large(shards[0], tightest), _what_fits(shards[0], gpus))
    if override is None:
        return tightest
    return replace(tightest, kv_bytes=override * tightest.block_bytes, blocks=override)


def _block_bytes(shard: Shard, per_token: float, groups: BlockGroups | None) -> float:
    """Bytes of a block on one GPU of a stage: of all layers, or of those of one group; all groups have blocks
    of the same size, that of the largest, or of a state that is larger.
    """
    engine = shard.engine
    if groups is None:
        return per_token * engine.block_size
    if shard.model.compression is not None:
        return per_token * engine.block_size
    if not shard.model.layer_shapes:
        return per_token * _layers_of_a_block(shard) / shard.layers * engine.block_size
    stage, ranks = range(shard.first_layer, shard.first_layer + shard.layers), shard.tensor_parallel_size
    of = [shard.model.shape_of(layer) for layer in stage]
    pages = [
        shape.kv_bytes_of_layers(0, 1, ranks, shard.precision.kv_cache) * engine.block_size for shape in of
    ]
    pages += [shape.linear.of_rank(ranks).state_bytes for shape in of if shape.linear is not None]
    kinds = counted_kinds(shard.model, shard.first_layer, shard.layers)
    counts = zip(kinds, (groups.whole, groups.windowed, groups.states), strict=True)
    of_each = max(ceil(count / of_kind) for count, of_kind in counts if of_kind)
    return max(pages) * max(1, of_each)


def _bytes_of_fixed(shard: Shard, groups: BlockGroups) -> float:
    """Bytes of a block on a stage that caches nothing of a token: its part of a text's windows."""
    return shard.model.window_bytes_of_layers(
        shard.first_layer, shard.layers, shard.precision.kv_cache
    ) / max(1, groups.beside)


def _layers_of_a_block(shard: Shard) -> int:
    """Layers of a stage that share the blocks of one group: of a kind that the stage has its share of."""
    model = shard.model
    whole, windowed, of_each = layers_by_group(model.layers, model.sliding_layers)
    if shard.layers == model.layers:
        return of_each
    near = shard.layers * model.sliding_layers / model.layers
    return max(ceil((shard.layers - near) / whole) if whole else 0, ceil(near / windowed))


def _usable_bytes(gpu: Gpu, engine: Engine) -> float:
    """All of the memory where the cache gets a share of what the weights leave, else the engine's share."""
    return _visible_bytes(gpu, engine) * _share(engine)


def _visible_bytes(gpu: Gpu, engine: Engine) -> float:
    return gpu.usable_hbm_bytes - (DRIVER_BYTES if engine.backend == "vllm" else 0.0)


def _share(engine: Engine) -> float:
    return engine.gpu_memory_utilization if engine.free_gpu_memory_fraction is None else 1.0


def _too_large(shard: Shard, memory: MemoryPlan) -> str:
    engine, gpu = shard.engine, shard.gpu
    sizes = f"{engine.tensor_parallel_size} x pipeline_parallel_size {engine.pipeline_parallel_size}"
    may_use = f"{_share(engine):g} of {_visible_bytes(gpu, engine) / GIB:.1f} GiB"
    return (
        f"{shard.model.name} in {shard.precision.weights} does not fit {gpu.name} at "
        f"tensor_parallel_size {sizes}: a GPU needs {memory.weight_bytes / GIB:.1f} GiB for weights and "
        f"{memory.reserved_bytes / GIB:.1f} GiB beside them, {-min(memory.kv_bytes, 0.0) / GIB:.1f} GiB "
        f"more than the {memory.usable_bytes / GIB:.1f} GiB it may use ({may_use})"
    )


def _what_fits(shard: Shard, gpus: int) -> str:
    """The nearest change that fits the machine: more ranks, then more stages, then a smaller weight format;
    else how many such GPUs it takes.
    """
    model, engine, gpu = shard.model, shard.engine, shard.gpu
    budget = _usable_bytes(gpu, engine)
    limits = default_limits(engine, gpu)

    def fits(dtype: str, ranks: int, stages: int) -> bool:
        smaller = shard.precision.model_copy(update={"weights": dtype})
        only_sizes = Shard(model, engine, smaller, gpu, (("",) * ranks,), 0, model.layers)
        weights = model.weight_bytes(dtype) / (ranks * stages)
        return weights + reserved_bytes(only_sizes, *limits) < budget

    written, apart = shard.precision.weights, engine.data_parallel_size
    for dtype in dict.fromkeys((written, "fp8", "int4")):
        if DTYPE_BYTES[dtype] > DTYPE_BYTES[written]:
            continue
        for stages in (engine.pipeline_parallel_size, 2, 4, 8):
            for ranks in model.tensor_parallel_sizes:
                if ranks * stages * apart <= gpus and fits(dtype, ranks, stages):
                    pipeline = f" x pipeline_parallel_size {stages}" if stages > 1 else ""
                    how = "fits" if dtype == written else f"with {dtype} weights fits"
                    return f"tensor_parallel_size {ranks}{pipeline} {how}"
    needed = next((n for n in model.tensor_parallel_sizes if fits(written, n, 1)), 0)
    return f"a machine of {needed} such GPUs would hold it" if needed else "no number of such GPUs holds it"
