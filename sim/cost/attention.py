"""Seconds of attention: causal prefill of chunks, decode over a KV cache, and both for latent attention (MLA).

Prefill: total = floor + bytes / (bandwidth * fraction) + sqrt(compute^2 + walk^2). compute = 4 * heads * head_dim FLOPs for
each pair of a query and a key it sees, over peak * fraction. walk = pace * keys of the longest chunk: one tile of queries
goes over its keys one block after the other, and that is what short batches of long prompts wait for.

Decode: total = floor + KV bytes / (bandwidth * fraction) + pace * mean context. The last term is the reading of one KV
head of one sequence by few SMs; it vanishes beside the second when many heads and sequences are read at once.

Chunks of one step add their pairs and bytes; floor and walk are paid once. Sources of both forms: the shape of public
kernel tables (FlashAttention 2 and 3, FlashInfer, TRT-LLM on A100 to GB200), whose parameters `sim calibrate` fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.cost.kernel_timing import UNMEASURED, KernelTiming, number_format, peak_flops
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import DecodeParameters, PrefillParameters
from sim.inputs.model import LatentAttention
from sim.inputs.quantities import DTYPE_BYTES

PREFILL = PrefillParameters()
DECODE = DecodeParameters()
MLA_PREFILL = PrefillParameters()
MLA_DECODE = DecodeParameters()

Chunks = Sequence[tuple[int, int]]


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
    """Causal attention of chunks of (new tokens, tokens already in the cache), as one call, on one rank's heads.

    InputError: no chunk, a size below one, a format that the GPU cannot compute in.
    """
    _check(heads, kv_heads, head_dim)
    new, seen, longest, pairs = _pairs(chunks)
    fitted = (gpu.kernels or UNMEASURED).attention_prefill
    p = fitted.get("fp8" if dtype == "fp8" else kv_dtype) or fitted.get("bf16", PREFILL)
    kv_bytes = _kv_bytes(kv_dtype)
    n_bytes = 4.0 * new * heads * head_dim + 2.0 * (2.0 * new + seen * kv_bytes) * kv_heads * head_dim
    return _prefill(gpu, p, dtype, 4.0 * pairs * heads * head_dim, n_bytes, longest, sustained)


def attention_decode(
    gpu: Gpu, batch: int, kv_tokens: Any, heads: int, kv_heads: int, head_dim: int, kv_dtype: str = "bf16"
) -> KernelTiming:
    """One new token for each of `batch` sequences with `kv_tokens` cached tokens in all, on one rank's heads.

    `kv_tokens` may be a numpy array (one value for each of many steps); every element is then the same to the last bit as
    the result for that number. Heads do not cost: they share the reading of their KV head. InputError: sizes below one.
    """
    _check(heads, kv_heads, head_dim)
    if batch < 1:
        raise InputError(f"batch = {batch} sequences do not decode; 1 or more do")
    fitted = (gpu.kernels or UNMEASURED).attention_decode
    p = fitted.get(kv_dtype) or fitted.get("bf16", DECODE)
    per_token = 2.0 * kv_heads * head_dim * _kv_bytes(kv_dtype)
    return _decode(gpu, p, batch, kv_tokens, per_token, 0.0)


def mla_prefill(
    gpu: Gpu,
    chunks: Chunks,
    heads: int,
    mla: LatentAttention,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    sustained: bool = False,
) -> KernelTiming:
    """Prefill with latent attention: keys and values are expanded from the latent vector and attended to as usual.

    The projections around it are GEMMs of the layer and not in here.
    """
    _check(heads, 1, mla.v_head_dim)
    new, seen, longest, pairs = _pairs(chunks)
    fitted = (gpu.kernels or UNMEASURED).mla_prefill
    p = fitted.get(kv_dtype) or fitted.get("bf16", MLA_PREFILL)
    per_pair = 2.0 * heads * (mla.qk_head_dim + mla.v_head_dim)
    n_bytes = 2.0 * new * heads * (mla.qk_head_dim + mla.v_head_dim)
    n_bytes += 2.0 * (new + seen) * heads * (mla.qk_head_dim + mla.v_head_dim)
    return _prefill(gpu, p, dtype, per_pair * pairs, n_bytes, longest, sustained)


def mla_decode(
    gpu: Gpu, batch: int, kv_tokens: Any, heads: int, mla: LatentAttention, kv_dtype: str = "bf16"
) -> KernelTiming:
    """Decode with latent attention: all heads share one cached vector per token, so arithmetic counts too.

    Each head multiplies with all `kv_lora_rank + rope_head_dim` values for the score and `kv_lora_rank` for the output.
    `kv_tokens` may be an array, as in `attention_decode`. The projections around it are GEMMs of the layer.
    """
    _check(heads, 1, mla.v_head_dim)
    if batch < 1:
        raise InputError(f"batch = {batch} sequences do not decode; 1 or more do")
    fitted = (gpu.kernels or UNMEASURED).mla_decode
    p = fitted.get(kv_dtype) or fitted.get("bf16", MLA_DECODE)
    flops = 2.0 * heads * (2 * mla.kv_lora_rank + mla.rope_head_dim)
    return _decode(gpu, p, batch, kv_tokens, mla.cached_values * _kv_bytes(kv_dtype), flops)


def _prefill(
    gpu: Gpu, p: PrefillParameters, dtype: str, flops: float, n_bytes: float, longest: int, sustained: bool
) -> KernelTiming:
    fraction = p.flop_fraction
    if sustained and gpu.kernels is not None:
        fraction *= gpu.kernels.sustained_flop_fraction
    compute_s = flops / (peak_flops(gpu, dtype) * fraction)
    walk_s = p.s_per_kv_token * longest
    memory_s = n_bytes / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    total_s = p.floor_s + memory_s + (compute_s * compute_s + walk_s * walk_s) ** 0.5
    return KernelTiming(total_s, p.floor_s, compute_s, memory_s)


def _decode(
    gpu: Gpu, p: DecodeParameters, batch: int, kv_tokens: Any, bytes_per_token: float, flops_per_token: float
) -> KernelTiming:
    # Only + and * below: numpy and Python round them alike, which keeps many steps at once equal to one by one.
    memory_s = kv_tokens * (bytes_per_token / (gpu.hbm_bytes_per_s * p.hbm_fraction))
    floor_s = p.floor_s + batch * p.s_per_sequence
    compute_s = kv_tokens * (p.s_per_kv_token / batch)
    if flops_per_token:
        compute_s = compute_s + kv_tokens * (flops_per_token / peak_flops(gpu, "bf16"))
    return KernelTiming(floor_s + memory_s + compute_s, floor_s, compute_s, memory_s)


def _pairs(chunks: Chunks) -> tuple[int, int, int, float]:
    """New tokens, cached tokens, the longest context, and pairs of a query and a key that it sees."""
    new = seen = longest = 0
    pairs = 0.0
    for n, past in chunks:
        if n < 1 or past < 0:
            raise InputError(f"a chunk of {n} new and {past} cached tokens is none; 1 or more and 0 or more are")
        new += n
        seen += past
        longest = max(longest, n + past)
        pairs += n * (past + 0.5 * n)
    if not new:
        raise InputError("there is no chunk to attend; give (new tokens, cached tokens), as in [(512, 0)]")
    return new, seen, longest, pairs


def _check(heads: int, kv_heads: int, head_dim: int) -> None:
    if heads < 1 or kv_heads < 1 or head_dim < 1:
        raise InputError(f"heads = {heads}, kv_heads = {kv_heads}, head_dim = {head_dim}: each is 1 or more")


def _kv_bytes(kv_dtype: str) -> float:
    n_bytes = DTYPE_BYTES.get(kv_dtype)
    return number_format(kv_dtype).weight_bytes if n_bytes is None else n_bytes
