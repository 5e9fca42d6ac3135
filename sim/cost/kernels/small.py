"""Seconds of kernels that only launch and move bytes: norms, rotary embedding, activation, sampling."""

from __future__ import annotations

from sim.cost.kernels.gemm import gemm
from sim.cost.kernels.timing import UNMEASURED, KernelTiming
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu

SAMPLER_BYTES_PER_LOGIT = 8.0  # assumed: the logits are read and written once in 32 bits


def elementwise(gpu: Gpu, n_bytes: float) -> KernelTiming:
    """A fused element-wise kernel that reads and writes `n_bytes` in all: floor + bytes / (bandwidth *
    fraction), less what the level-2 cache saves: 1 / (1 + r^2) of `1 - l2_time`, where r is the bytes over a
    share of that cache.
    """
    if n_bytes < 0:
        raise InputError(f"n_bytes = {n_bytes}: must be at least 0")
    p = (gpu.kernels or UNMEASURED).elementwise
    memory_s = n_bytes / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    if p.l2_share:
        ratio = n_bytes / (p.l2_share * gpu.l2_bytes)
        memory_s *= 1.0 - (1.0 - p.l2_time) / (1.0 + ratio * ratio)
    return KernelTiming(p.floor_s + memory_s, p.floor_s, 0.0, memory_s)


def sampling(gpu: Gpu, sequences: int, vocab: int) -> KernelTiming:
    """Drawing the next token of `sequences` sequences from `vocab` logits each."""
    if sequences < 1 or vocab < 1:
        raise InputError(f"sequences = {sequences}, vocab = {vocab}: each must be at least 1")
    p = (gpu.kernels or UNMEASURED).sampling
    memory_s = sequences * vocab * SAMPLER_BYTES_PER_LOGIT / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    return KernelTiming(p.floor_s + memory_s, p.floor_s, 0.0, memory_s)


def lm_head(gpu: Gpu, sequences: int, vocab: int, hidden: int, dtype: str = "bf16") -> KernelTiming:
    """Logits of `sequences` sampled tokens over (this rank's share of) the vocabulary: one matrix product."""
    return gemm(gpu, sequences, vocab, hidden, dtype)
