"""Seconds of attention: causal prefill of chunks, decode over a KV cache, and both for latent attention
(MLA).

Prefill: total = floor + memory + norm(compute, walk). memory: queries, keys, values, output and new cache
entries over bandwidth * fraction, less what the kernel before has left in the level-2 cache: r^2 / (1 +
r^2) of it, where r is the bytes over a share of that cache. compute: 4 * heads * head_dim FLOPs for each
pair of a query and a key it sees, plus the other half of the tiles that the causal edge cuts, over peak *
fraction. walk: a tile of queries goes over its keys block after block, which short batches of long
prompts wait for. Chunks of one step add their pairs and bytes.

Decode: total = floor + norm(stream, walk) + split + units * `s_per_sequence_head`. stream: the KV cache,
queries and output, over bandwidth * fraction, joined as the root of squares with what an SM needs for its
share of the tokens while each has one block to work on (several blocks later hide each other's waiting).
walk: where one KV head of one sequence is not split over SMs, it is read at a block's own pace. norm: (a^4
+ b^4)^(1/4), for the longer all but hides the shorter. split: joining the parts of long sequences. units:
KV heads times sequences. In latent attention, memory and compute join as the root of squares, then walk.

The forms are our own, drawn from public tables of FlashAttention 2 and 3, FlashInfer and TRT-LLM on A100
to GB200."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sim.cost.kernels.timing import FORMATS, UNMEASURED, KernelTiming, number_format, peak_flops
from sim.inputs.attention_kinds import LatentAttention
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import DecodeParameters, PrefillParameters

# Sequences of about this many tokens begin to be split over several blocks whose results are joined: read
# off the tables, where vLLM's and TRT-LLM's times step up by 2 to 5 us between 256 and 1024.
SPLIT_TOKENS = 500.0

BLOCK_TOKENS = 64  # queries of a block in FlashAttention 2 with heads of 128 (flash_fwd_launch_template.h)

PREFILL = PrefillParameters()
DECODE = DecodeParameters()

Chunks = Sequence[tuple[int, int]]

DecodeCurve = Callable[[Any], KernelTiming]
"""Seconds of a decode over so many cached tokens in all: a number, or an array with one for each of many
steps.
"""


def prefill_variant(dtype: str, kv_dtype: str) -> str:
    """The name of the fitted set: "bf16", "kv_fp8" (16-bit arithmetic on an 8-bit cache) or "fp8"."""
    if dtype == "fp8":
        return "fp8"
    return "kv_fp8" if number_format(kv_dtype).weight_bytes == 1 else "bf16"


def attention_prefill(
    gpu: Gpu,
    chunks: Chunks,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    sustained: bool = False,
) -> KernelTiming:
    """Causal attention of chunks of (new tokens, tokens already in the cache), as one call, on one rank's
    heads.

    InputError: no chunk, a size below one, a format that the GPU cannot compute in.
    """
    _check(heads, kv_heads, head_dim)
    fitted = (gpu.kernels or UNMEASURED).attention_prefill
    p = fitted.get(prefill_variant(dtype, kv_dtype)) or fitted.get("bf16", PREFILL)
    new, seen, longest, pairs = _pairs(chunks, p.tile_tokens)
    n_bytes = 4.0 * new * heads * head_dim
    n_bytes += 2.0 * (4.0 * new + seen * number_format(kv_dtype).weight_bytes) * kv_heads * head_dim
    return _prefill(gpu, p, dtype, 4.0 * pairs * heads * head_dim, n_bytes, longest, sustained)


def attention_decode(
    gpu: Gpu,
    batch: int,
    kv_tokens: Any,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str = "bf16",
    warm: bool = False,
) -> KernelTiming:
    """One new token for each of `batch` sequences with `kv_tokens` cached tokens in all, on one rank's heads.

    `kv_tokens` may be a numpy array (one value for each of many steps); every element is then the same to
    the last bit as the result for that number alone. `warm`: repeated on the same small cache, as
    benchmarks do, which the level-2 cache then holds. InputError: sizes below one."""
    return decode_curve(gpu, batch, heads, kv_heads, head_dim, kv_dtype, warm)(kv_tokens)


def decode_curve(
    gpu: Gpu, batch: int, heads: int, kv_heads: int, head_dim: int, kv_dtype: str = "bf16", warm: bool = False
) -> DecodeCurve:
    """`attention_decode` as a function of the cached tokens alone: what else it depends on is worked out
    once.
    """
    _check(heads, kv_heads, head_dim)
    if batch < 1:
        raise InputError(f"batch = {batch}: must be at least 1")
    fitted = (gpu.kernels or UNMEASURED).attention_decode
    p = fitted.get(kv_dtype) or _nearest(fitted, kv_dtype)
    bandwidth = gpu.hbm_bytes_per_s * p.hbm_fraction
    per_token = 2.0 * kv_heads * head_dim * number_format(kv_dtype).weight_bytes
    s_per_token = per_token / bandwidth
    l2_per_token = per_token / (p.l2_share * gpu.l2_bytes) if warm and p.l2_share else 0.0
    l2_saves = 1.0 - p.l2_time
    queries_s = 4.0 * batch * heads * head_dim / bandwidth
    split_per_token = 1.0 / (SPLIT_TOKENS * batch)
    split_s = p.split_s
    has_shares = heads > kv_heads
    share_per_token = kv_heads / gpu.sms
    sm_kv_tokens = p.sm_kv_tokens
    sm_squared = p.s_per_sm_kv_token * p.s_per_sm_kv_token
    walk_per_token = (p.s_per_kv_token if has_shares else p.s_per_unshared_kv_token) / batch
    fixed_s = p.floor_s + batch * kv_heads * p.s_per_sequence_head

    def timing(kv_tokens: Any) -> KernelTiming:
        # Only sums, products and square roots of the varying size: numpy and Python round them alike.
        memory_s = kv_tokens * s_per_token
        if l2_per_token:
            ratio = kv_tokens * l2_per_token
            squared = ratio * ratio
            memory_s = memory_s * (1.0 - l2_saves / (1.0 + squared * squared))
        memory_s = memory_s + queries_s
        ratio = kv_tokens * split_per_token
        squared = ratio * ratio
        joining_s = split_s * (squared / (1.0 + squared))
        squared = memory_s * memory_s
        if has_shares:
            share = kv_tokens * share_per_token
            ratio = share / sm_kv_tokens
            squared = squared + share * share * sm_squared / (1.0 + ratio * ratio)
        busy_s = _longer(squared, kv_tokens * walk_per_token)
        return KernelTiming(fixed_s + busy_s + joining_s, fixed_s, 0.0, memory_s)

    return timing


def attention_mixed(
    gpu: Gpu,
    chunks: Chunks,
    batch: int,
    kv_tokens: float,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    sustained: bool = False,
    curve: DecodeCurve | None = None,
) -> KernelTiming:
    """Chunks and `batch` decodes in one call, as a step with chunked prefill has them.

    Where kernels tell the two apart, their times add up but for one floor. Where they do not (a GPU with
    fitted `attention_mixed`: those on FlashAttention 2), a decode is a chunk of one token: unsplit, it
    walks over its keys at a block's pace, every query head reads them for itself, and it is given as many
    blocks as the longest chunk needs, of which all but one find nothing to do. What another query head has
    read is found in the level-2 cache, as far as one KV head of all decodes fits in there. InputError as
    in the two alone. `curve` is the `decode_curve` of these decodes, where the caller has it."""
    prefill = attention_prefill(gpu, chunks, heads, kv_heads, head_dim, dtype, kv_dtype, sustained)
    decode = (curve or decode_curve(gpu, batch, heads, kv_heads, head_dim, kv_dtype))(kv_tokens)
    p = (gpu.kernels or UNMEASURED).attention_mixed.get(kv_dtype)
    if p is None:
        floor_s = max(prefill.floor_s, decode.floor_s)
        total_s = prefill.total_s + decode.total_s - min(prefill.floor_s, decode.floor_s)
        return KernelTiming(total_s, floor_s, prefill.compute_s, prefill.memory_s + decode.memory_s)
    _, _, longest, pairs = _pairs(chunks, p.tile_tokens)
    compute_s = 4.0 * pairs * heads * head_dim / (peak_flops(gpu, dtype) * p.flop_fraction)
    of_one_head = 2.0 * kv_tokens * head_dim * number_format(kv_dtype).weight_bytes
    beyond = (of_one_head / (p.l2_share * gpu.l2_bytes)) ** 4 if p.l2_share else 0.0
    sharers = heads / kv_heads
    readings = (sharers**p.rereading + beyond * sharers) / (1.0 + beyond)
    memory_s = kv_heads * of_one_head * readings / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    idle_blocks = batch * heads * -(-max(new for new, _ in chunks) // BLOCK_TOKENS)
    walk_s = p.s_per_kv_token * max(longest, kv_tokens / batch)
    busy_s = compute_s + memory_s + idle_blocks * p.s_per_idle_block
    busy_s = (busy_s**p.overlap + walk_s**p.overlap) ** (1.0 / p.overlap)
    return KernelTiming(p.floor_s + busy_s, p.floor_s, compute_s, memory_s)


def mla_prefill(
    gpu: Gpu,
    chunks: Chunks,
    heads: int,
    mla: LatentAttention,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    sustained: bool = False,
) -> KernelTiming:
    """Prefill with latent attention: keys and values are expanded from the latent vector and attended to
    as usual; where it is key and value itself, all heads read that one vector.

    The projections around it, the expansion too, are matrix products of the layer and not in here.
    """
    _check(heads, 1, mla.v_head_dim)
    fitted = (gpu.kernels or UNMEASURED).mla_prefill
    p = fitted.get(prefill_variant(dtype, kv_dtype)) or fitted.get("bf16", PREFILL)
    new, seen, longest, pairs = _pairs(chunks, p.tile_tokens)
    width = heads * (mla.qk_head_dim + mla.v_head_dim)
    cached = mla.cached_values if mla.keys_are_values else width
    n_bytes = 2.0 * (width * new + cached * (new + seen))
    return _prefill(gpu, p, dtype, 2.0 * pairs * width, n_bytes, longest, sustained)


def mla_decode(
    gpu: Gpu, batch: int, kv_tokens: Any, heads: int, mla: LatentAttention, kv_dtype: str = "bf16"
) -> KernelTiming:
    """Decode with latent attention: all heads share one cached vector per token, so arithmetic counts too.

    Each head multiplies with all `kv_lora_rank + rope_head_dim` values for the score and `kv_lora_rank`
    for the output. `kv_tokens` may be an array, as in `attention_decode`. The projections around it are
    matrix products of the layer."""
    return mla_decode_curve(gpu, batch, heads, mla, kv_dtype)(kv_tokens)


def mla_decode_curve(
    gpu: Gpu, batch: int, heads: int, mla: LatentAttention, kv_dtype: str = "bf16"
) -> DecodeCurve:
    """`mla_decode` as a function of the cached tokens alone."""
    _check(heads, 1, mla.v_head_dim)
    if batch < 1:
        raise InputError(f"batch = {batch}: must be at least 1")
    fitted = (gpu.kernels or UNMEASURED).mla_decode
    p = fitted.get(kv_dtype) or _nearest(fitted, kv_dtype)
    per_token = mla.cached_values * number_format(kv_dtype).weight_bytes
    memory_per_token = per_token / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    flops = 2.0 * heads * mla.attended_values
    compute_per_token = flops / (peak_flops(gpu, "bf16") * p.flop_fraction)
    walk_per_token = p.s_per_kv_token / batch
    fixed_s = p.floor_s + batch * p.s_per_sequence_head

    def timing(kv_tokens: Any) -> KernelTiming:
        memory_s = kv_tokens * memory_per_token
        compute_s = kv_tokens * compute_per_token
        squared = memory_s * memory_s + compute_s * compute_s
        busy_s = _longer(squared, kv_tokens * walk_per_token)
        return KernelTiming(fixed_s + busy_s, fixed_s, compute_s, memory_s)

    return timing


def _prefill(
    gpu: Gpu, p: PrefillParameters, dtype: str, flops: float, n_bytes: float, longest: int, sustained: bool
) -> KernelTiming:
    compute_s = flops / (peak_flops(gpu, dtype) * p.flop_fraction)
    if sustained:
        compute_s /= (gpu.kernels or UNMEASURED).sustained_flop_fraction
    walk_s = p.s_per_kv_token * longest
    memory_s = n_bytes / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    if p.l2_share:
        ratio = n_bytes / (p.l2_share * gpu.l2_bytes)
        memory_s *= 1.0 - 1.0 / (1.0 + ratio * ratio)
    busy_s = (compute_s**p.overlap + walk_s**p.overlap) ** (1.0 / p.overlap)
    return KernelTiming(p.floor_s + memory_s + busy_s, p.floor_s, compute_s, memory_s)


def _longer(squared: Any, other_s: Any) -> Any:
    """The fourth root of the sum of fourth powers, of a time given by its square and of another."""
    other = other_s * other_s
    powers = squared * squared + other * other
    if isinstance(powers, np.ndarray):
        return np.sqrt(np.sqrt(powers))
    return math.sqrt(math.sqrt(powers))


def _nearest(fitted: dict[str, DecodeParameters], kv_dtype: str) -> DecodeParameters:
    same_size = number_format(kv_dtype).weight_bytes
    for name, parameters in fitted.items():
        if FORMATS[name].weight_bytes == same_size:
            return parameters
    return fitted.get("bf16", DECODE)


def _pairs(chunks: Chunks, tile_tokens: float) -> tuple[int, int, int, float]:
    """New tokens, cached tokens, the longest context, and pairs of a query and a key that are computed."""
    new = seen = longest = 0
    pairs = 0.0
    for n, past in chunks:
        if n < 1 or past < 0:
            raise InputError(
                f"chunk ({n}, {past}): its new tokens must be at least 1, its cached tokens at least 0"
            )
        new += n
        seen += past
        longest = max(longest, n + past)
        pairs += n * (past + 0.5 * (n + tile_tokens))
    if not new:
        raise InputError("chunks = []: must hold at least one (new tokens, cached tokens), as in [(512, 0)]")
    return new, seen, longest, pairs


def _check(heads: int, kv_heads: int, head_dim: int) -> None:
    if heads < 1 or kv_heads < 1 or head_dim < 1:
        raise InputError(
            f"heads = {heads}, kv_heads = {kv_heads}, head_dim = {head_dim}: each must be at least 1"
        )
