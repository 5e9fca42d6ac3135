"""Seconds of the routed experts of one layer on one rank: grouped gate/up and down products, routing and permutation.

    total = floor + (compute^p + memory^p)^(1/p) + pairs * s_per_pair

memory: the weights of the experts that are hit, and the activations of the token-expert pairs. compute: 6 * hidden * inter
FLOPs for each pair, after each expert's tokens are padded to part of a tile. Experts hit by T tokens that pick k of E evenly
at random: E (1 - (1 - k/E)^T). Communication between ranks is not in here.
"""

from __future__ import annotations

from sim.cost.kernel_timing import STAND_INS, UNMEASURED, KernelTiming, number_format, peak_flops
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import MoeParameters

DEFAULT = MoeParameters()


def experts_hit(tokens: float, experts: int, topk: int, balanced: bool = False) -> float:
    """How many experts get at least one token. `balanced`: as a benchmark that forces an even spread."""
    if balanced:
        return min(float(experts), tokens * topk)
    return float(experts * (1.0 - (1.0 - topk / experts) ** tokens))


def moe(
    gpu: Gpu,
    tokens: int,
    hidden: int,
    inter: int,
    experts: int,
    topk: int,
    tp: int = 1,
    ep: int = 1,
    dtype: str = "bf16",
    balanced: bool = False,
    load: float = 1.0,
    hit: float | None = None,
    sustained: bool = False,
) -> KernelTiming:
    """`tokens` entering the layer (over all ranks), each sent to `topk` of `experts`; this rank has 1/ep of the experts
    and 1/tp of every expert's width.

    `load`: token-expert pairs of this rank over an even share (the slowest rank sets the step). `hit`: experts of this
    rank that are hit, where the caller knows; else an even random choice, or an even spread when `balanced`.
    InputError: sizes below one, a split that leaves no expert or no width, a format that the GPU cannot compute in.
    """
    if min(tokens, hidden, inter, experts, topk, tp, ep) < 1:
        raise InputError("every size of moe (tokens, hidden, inter, experts, topk, tp, ep) is 1 or more")
    if topk > experts or ep > experts or tp > inter:
        raise InputError(f"topk = {topk} of experts = {experts} over ep = {ep} ranks, inter = {inter} over tp = {tp}")
    weights = dtype
    if dtype == "fp4" and not {"fp4", "nvfp4"} & gpu.flops.keys():
        weights = "w4a16"  # without 4-bit arithmetic the weights are expanded to 16 bits in the kernel
    weight_bytes, activation_bytes, _ = number_format(weights)
    p = _parameters(gpu, weights)
    local, width = experts / ep, inter / tp
    pairs = tokens * topk / ep * load
    if hit is None:
        hit = min(experts_hit(tokens, experts, topk, balanced) / ep, pairs) if pairs >= 1 else pairs
    hit = min(hit, local)
    fraction = p.flop_fraction
    if sustained and gpu.kernels is not None:
        fraction *= gpu.kernels.sustained_flop_fraction
    padded = pairs + hit * (p.tile_tokens / 2.0)
    compute_s = 6.0 * padded * hidden * width / (peak_flops(gpu, weights) * fraction)
    n_bytes = 3.0 * hit * hidden * width * weight_bytes
    n_bytes += pairs * (hidden * (activation_bytes + 4.0) + width * (6.0 + activation_bytes))
    memory_s = n_bytes / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    busy_s = (compute_s**p.overlap + memory_s**p.overlap) ** (1.0 / p.overlap)
    return KernelTiming(p.floor_s + busy_s + pairs * p.s_per_pair, p.floor_s, compute_s, memory_s)


def _parameters(gpu: Gpu, dtype: str) -> MoeParameters:
    fitted = (gpu.kernels or UNMEASURED).moe
    for name in (dtype, *STAND_INS.get(dtype, ())):
        if name in fitted:
            return fitted[name]
    return DEFAULT
