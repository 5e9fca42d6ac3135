"""Seconds of a matrix product.

    total = floor + norm(compute, memory, walk) + quantisation of A

memory: weights once, activations in and out once, over bandwidth * fraction. compute: 2 m n k over peak *
fraction, times waves / (tiles / SMs) to the power `wave_loss`, for the last wave of 128 x 128 tiles is
part-filled, which split-K and dynamic scheduling make up for in part. walk: one tile goes along k at its
own pace, which is what narrow products wait for; those of a few tiles are split along k. norm: (a^p + b^p +
c^p)^(1/p), for the three overlap. A product that goes on for milliseconds is slowed by up to `throttle`:
power and clocks.

Where it stops: which tile a library picks jumps by 10 to 20 % between neighbouring shapes; the formula
runs through the middle of that. The forms are our own, drawn from public tables of cuBLAS, CUTLASS and
DeepGEMM on A100 to GB200."""

from __future__ import annotations

from sim.cost.kernels.timing import STAND_INS, UNMEASURED, KernelTiming, number_format, peak_flops
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import GemmParameters

TILE = 128  # rows and columns of C that one SM works on at a time: usual in cuBLAS and CUTLASS
MAX_LOSS = 4.0  # fewer than SMs / 4 tiles are always split along k
THROTTLED_S = (
    1e-3  # half of the throttling is there after this long; read off 8192^3 products on H100, H200 and GB200
)

# Products of up to three tiles and long k, as routers of experts are, are computed in parts of k.
# fitted: cuBLAS takes 4.66 to 5.06 us on B200 and 4.34 to 4.85 on B300 for 1 to 16 tokens, n 256 and k 7168,
# as long for n 384 (vllm-project/vllm#44217), of which 2.3 us are the start. Products of six tiles (n 768,
# k 4096) take the pace of one in the tables: in between the number of parts is assumed to fall evenly.
PARTS_OF_DEPTH, SPLIT_UP_TO, WHOLE_FROM = 3.1, 3.0, 6.0
LEAST_DEPTH = 2048  # assumed: shorter parts are not worth a sum

DEFAULT = GemmParameters()


def gemm(
    gpu: Gpu,
    m: int,
    n: int,
    k: int,
    dtype: str = "bf16",
    sustained: bool = False,
    warm: bool = False,
    quantised: bool = False,
) -> KernelTiming:
    """C[m,n] = A[m,k] B[k,n] with weights B in `dtype`, C in 16 bits; `m` tokens, `n` outputs, `k` inputs.

    `sustained`: one of many in a long run, at the clocks that leaves. `warm`: as benchmarks time it, again
    and again on the same weights, of which small ones are still in the level-2 cache, and launched by the
    host where that kernel's benchmark did so. `quantised`: the kernel before has written A in the product's
    format (static scales), so that neither quantisation nor its launch is in here: the floor is that of a
    16-bit product, if that is lower.
    InputError: a size below one, a format that is unknown or that the GPU cannot compute in.
    """
    if m < 1 or n < 1 or k < 1:
        raise InputError(f"m = {m}, n = {n}, k = {k}: each must be at least 1")
    weight_bytes, activation_bytes, _ = number_format(dtype)
    p = _parameters(gpu, dtype)
    compute_s = _compute_s(gpu, m, n, k, dtype, p)
    if m > TILE and _is_borrowed(gpu, dtype):
        # Where a tile more fills the SMs better, a measured kernel may be quicker for it. That another GPU's
        # was so says nothing of this one: here more rows take no less than the whole tiles before them.
        whole = (m - 1) // TILE * TILE
        compute_s = max(compute_s, _compute_s(gpu, whole, n, k, dtype, p))
    if sustained:
        compute_s *= (1.0 + p.throttle) / (gpu.kernels or UNMEASURED).sustained_flop_fraction
    else:
        compute_s *= 1.0 + p.throttle * compute_s / (compute_s + THROTTLED_S)
    n_bytes = weight_bytes * n * k + activation_bytes * m * k + 2.0 * m * n
    memory_s = n_bytes / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    if warm and p.l2_share:
        ratio = n_bytes / (p.l2_share * gpu.l2_bytes)
        memory_s *= 1.0 - 1.0 / (1.0 + ratio * ratio)
    walk_s = p.s_per_depth * _depth(m, n, k)
    norm = p.overlap
    floor_s = min(p.floor_s, _parameters(gpu, "bf16").floor_s) if quantised else p.floor_s
    total_s = floor_s + (compute_s**norm + memory_s**norm + walk_s**norm) ** (1.0 / norm)
    if weight_bytes < 2.0 and activation_bytes < 2.0 and not quantised:
        total_s += m * (p.quantise_s_per_token + p.quantise_passes * 3.0 * k / gpu.hbm_bytes_per_s)
    if warm and total_s < p.host_s:
        return KernelTiming(p.host_s, p.host_s, compute_s, memory_s)
    return KernelTiming(total_s, floor_s, compute_s, memory_s)


def _depth(m: int, n: int, k: int) -> float:
    """How far along k one tile goes by itself.

    >>> _depth(4, 256, 7168) < _depth(4, 512, 7168) < _depth(4, 768, 7168) == 7168
    True
    """
    if k <= LEAST_DEPTH:
        return k
    tiles = -(-m // TILE) * n / TILE
    split = min(1.0, max(0.0, (WHOLE_FROM - tiles) / (WHOLE_FROM - SPLIT_UP_TO)))
    return max(LEAST_DEPTH, k / (1.0 + (PARTS_OF_DEPTH - 1.0) * split))


def _compute_s(gpu: Gpu, m: int, n: int, k: int, dtype: str, p: GemmParameters) -> float:
    """Seconds of the arithmetic alone, before throttling."""
    tiles = -(-m // TILE) * -(-n // TILE)
    waves = -(-tiles // gpu.sms) * gpu.sms / tiles
    loss: float = (waves if waves < MAX_LOSS else MAX_LOSS) ** p.wave_loss
    return 2.0 * m * n * k / (peak_flops(gpu, dtype) * p.flop_fraction) * loss


def _is_borrowed(gpu: Gpu, dtype: str) -> bool:
    """True where the constants of a format were not fitted to this GPU."""
    if gpu.kernels is None:
        return True
    known = gpu.kernels.provenance
    source = known.get(f"gemm.{dtype}") or known.get("gemm") or known.get("*")
    return source is not None and source.tag == "assumed"


def _parameters(gpu: Gpu, dtype: str) -> GemmParameters:
    fitted = (gpu.kernels or UNMEASURED).gemm
    found = fitted.get(dtype)
    if found is not None:
        return found
    return next((fitted[name] for name in STAND_INS[dtype] if name in fitted), DEFAULT)
