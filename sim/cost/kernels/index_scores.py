"""Seconds of an indexer: scores of every cached token for each new one, and the choice of the best.

Scores are products in 8 bits over the index cache (DeepSeek-V3.2's `fp8_mqa_logits`), in 16 bits on GPUs
without; the logits are written and read once. Memory and compute join as the root of squares. No such kernel
was measured here: the fractions are those of latent attention's decode and attention's prefill on the same
GPU, and the two kernels start like element-wise ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sim.cost.kernels.attention import DECODE, PREFILL, Chunks
from sim.cost.kernels.timing import UNMEASURED, KernelTiming, peak_flops
from sim.inputs.attention_kinds import Indexer
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu

LOGIT_BYTES = 8.0  # a score in 32 bits, written and read


def index_decode(gpu: Gpu, batch: int, kv_tokens: Any, indexer: Indexer) -> KernelTiming:
    """One new token for each of `batch` sequences with `kv_tokens` cached tokens in all, which may be an
    array with one value for each of many steps.
    """
    if batch < 1:
        raise InputError(f"batch = {batch}: must be at least 1")
    kernels = gpu.kernels or UNMEASURED
    p = kernels.mla_decode.get("bf16", DECODE)
    memory_s = kv_tokens * ((indexer.cached_bytes + LOGIT_BYTES) / (gpu.hbm_bytes_per_s * p.hbm_fraction))
    compute_s = kv_tokens * (_flops(indexer) / (_peak_flops(gpu) * p.flop_fraction))
    floor_s = 2.0 * kernels.elementwise.floor_s
    squared = memory_s * memory_s + compute_s * compute_s
    busy_s: Any = np.sqrt(squared) if isinstance(squared, np.ndarray) else math.sqrt(squared)
    return KernelTiming(floor_s + busy_s, floor_s, compute_s, memory_s)


def index_prefill(gpu: Gpu, chunks: Chunks, indexer: Indexer, sustained: bool = False) -> KernelTiming:
    """Chunks of (new tokens, tokens already in the cache): scores of every pair that causality allows."""
    if not chunks:
        raise InputError("chunks = []: must hold at least one (new tokens, cached tokens), as in [(512, 0)]")
    kernels = gpu.kernels or UNMEASURED
    p = kernels.attention_prefill.get("bf16", PREFILL)
    pairs = sum(new * (past + 0.5 * new) for new, past in chunks)
    compute_s = pairs * _flops(indexer) / (_peak_flops(gpu) * p.flop_fraction)
    if sustained:
        compute_s /= kernels.sustained_flop_fraction
    n_bytes = pairs * LOGIT_BYTES + sum(new + past for new, past in chunks) * indexer.cached_bytes
    memory_s = n_bytes / (gpu.hbm_bytes_per_s * kernels.elementwise.hbm_fraction)
    floor_s = 2.0 * kernels.elementwise.floor_s
    busy_s = math.sqrt(memory_s * memory_s + compute_s * compute_s)
    return KernelTiming(floor_s + busy_s, floor_s, compute_s, memory_s)


def _flops(indexer: Indexer) -> float:
    """Of one pair of tokens."""
    return 2.0 * indexer.heads * indexer.head_dim


def _peak_flops(gpu: Gpu) -> float:
    return peak_flops(gpu, "fp8" if "fp8" in gpu.flops else "bf16")
