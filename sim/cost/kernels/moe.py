"""Seconds of the routed experts of one layer on one rank: grouped gate/up and down products, routing and
permutation.

    total = floor + norm(compute, memory) + pairs * s_per_pair + tokens * s_per_token + experts * s_per_expert

memory: the weights of the experts that are hit, and the activations of the token-expert pairs. compute: 6
* hidden * inter FLOPs for each pair, after each expert's tokens are padded to tiles, over peak *
fraction. experts: all of this rank, hit or not, where a grouped product looks at each. norm: (a^p +
b^p)^(1/p). Experts hit by T tokens that pick k of E at random: E (1 - (1 - k/E)^T). Communication between
ranks is not in here."""

from __future__ import annotations

from typing import NamedTuple

from sim.cost.kernels.timing import STAND_INS, UNMEASURED, KernelTiming, number_format, peak_flops
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import MoeParameters

DEFAULT = MoeParameters()


class Routing(NamedTuple):
    """How tokens spread over experts: `even` forces the spread that hits most; else a random choice.

    `effective`: the share of tokens that hit as many experts when their choice is even (popular experts
    are hit often). `crowding`: the fullest of R ranks gets R to this power of an even share."""

    even: bool = False
    effective: float = 1.0
    crowding: float = 0.0


ROUTINGS: dict[str, Routing] = {
    "uniform": Routing(),
    "balanced": Routing(even=True),
    # fitted: the "power_law_1.2" rows of NVIDIA aiconfigurator's expert tables (Apache-2.0), TRT-LLM on
    # H100 to GB200
    "power_law_1.2": Routing(effective=0.85, crowding=0.45),
}


def experts_hit(tokens: float, experts: int, topk: int, routing: str = "uniform") -> float:
    """How many experts get at least one of `tokens` tokens that each pick `topk`."""
    spread = _routing(routing)
    if spread.even:
        return min(float(experts), tokens * topk)
    return float(experts * (1.0 - (1.0 - topk / experts) ** (tokens * spread.effective)))


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
    routing: str = "uniform",
    load: float | None = None,
    hit: float | None = None,
    present: float | None = None,
    sustained: bool = False,
    gated: bool = True,
) -> KernelTiming:
    """`tokens` entering the layer (over all ranks), each sent to `topk` of `experts`; this rank has 1/ep
    of the experts and 1/tp of every expert's width.

    `load`: token-expert pairs of this rank over an even share (the fullest rank sets the step); `hit`:
    experts of this rank that are hit; both default to what `routing` (uniform, balanced, power_law_1.2)
    gives. `present`: tokens that this rank sees at all and has to sort, where a dispatch has brought it only
    its own; by default all, as where every rank has all tokens and keeps what its experts are for. Experts
    that are not `gated` have two matrices, and no gate. 4-bit
    weights on a GPU without 4-bit arithmetic are expanded to 16 bits in the kernel.
    InputError: sizes below one, a split that leaves no expert or no width, a format that the GPU cannot
    compute in."""
    if min(tokens, hidden, inter, experts, topk, tp, ep) < 1:
        raise InputError(
            f"tokens = {tokens}, hidden = {hidden}, inter = {inter}, experts = {experts}, topk = {topk}, "
            f"tp = {tp}, ep = {ep}: each must be at least 1"
        )
    if topk > experts or ep > experts or tp > inter:
        raise InputError(
            f"topk = {topk}, ep = {ep}: each must be at most experts = {experts}; "
            f"tp = {tp}: must be at most inter = {inter}"
        )
    if dtype == "fp4" and "fp4" not in gpu.flops and "nvfp4" not in gpu.flops:
        dtype = "w4a16"
    weight_bytes, activation_bytes, _ = number_format(dtype)
    p = _parameters(gpu, dtype)
    width = inter / tp
    crowded = tokens if load is None else tokens * load
    if load is None:
        load = ep ** _routing(routing).crowding
    pairs = min(tokens * topk / ep * load, float(tokens * min(topk, experts / ep)))
    if hit is None:
        hit = max(experts_hit(crowded, experts, topk, routing) / ep, min(1.0, pairs))
    hit = min(hit, experts / ep)
    padded = pairs + hit * (0.5 * p.tile_tokens)
    matrices = 3.0 if gated else 2.0
    compute_s = (
        2.0 * matrices * padded * hidden * (width + p.k_half) / (peak_flops(gpu, dtype) * p.flop_fraction)
    )
    if sustained:
        compute_s /= (gpu.kernels or UNMEASURED).sustained_flop_fraction
    n_bytes = matrices * hit * hidden * width * weight_bytes
    n_bytes += pairs * (hidden * (activation_bytes + 4.0) + width * (activation_bytes + 6.0))
    memory_s = n_bytes / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    busy_s = (compute_s**p.overlap + memory_s**p.overlap) ** (1.0 / p.overlap)
    floor_s = p.floor_s + experts / ep * p.s_per_expert
    total_s = floor_s + busy_s + pairs * p.s_per_pair
    total_s += (tokens if present is None else present) * p.s_per_token
    return KernelTiming(total_s, floor_s, compute_s, memory_s)


def _routing(name: str) -> Routing:
    found = ROUTINGS.get(name)
    if found is None:
        raise InputError(f"routing = {name!r}: must be one of {', '.join(ROUTINGS)}")
    return found


def _parameters(gpu: Gpu, dtype: str) -> MoeParameters:
    fitted = (gpu.kernels or UNMEASURED).moe
    found = fitted.get(dtype)
    if found is not None:
        return found
    return next((fitted[name] for name in STAND_INS[dtype] if name in fitted), DEFAULT)
