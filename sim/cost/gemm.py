"""Seconds of a matrix product.

    total = floor + (compute^p + memory^p)^(1/p) + quantise * m

memory = bytes / (bandwidth * fraction): weights once, activations in and out once. compute = 2 m n k / (peak * fraction),
with two losses that follow from tiles of 128 x 128: a tile's prologue and epilogue cost as much as `k_half` steps of its
depth, and the last wave of tiles over the SMs is part-filled, which split-K and dynamic scheduling make up for in part
(`wave_loss` is the exponent of waves / (tiles / SMs)). Fewer tiles than SMs are one wave.

Where it stops: which tile shape a library picks jumps by 10 to 20 % between neighbouring shapes; the formula runs through
the middle of that.
"""

from __future__ import annotations

from sim.cost.kernel_timing import STAND_INS, UNMEASURED, KernelTiming, number_format, peak_flops
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import GemmParameters

TILE = 128  # rows and columns of C that one SM works on at a time: the usual choice of cuBLAS and CUTLASS from m = 128
MOST_LOSS = 4.0  # fewer than SMs / 4 tiles are always split along k

DEFAULT = GemmParameters()


def gemm_parameters(gpu: Gpu, dtype: str) -> GemmParameters:
    """The fitted set of this GPU and format, or of the nearest format, or an H100's."""
    fitted = (gpu.kernels or UNMEASURED).gemm
    for name in (dtype, *STAND_INS.get(dtype, ())):
        if name in fitted:
            return fitted[name]
    return DEFAULT


def gemm(gpu: Gpu, m: int, n: int, k: int, dtype: str = "bf16", sustained: bool = False) -> KernelTiming:
    """C[m,n] = A[m,k] B[k,n] with weights B in `dtype`, C in 16 bits; `m` tokens, `n` outputs, `k` inputs.

    `sustained`: as one of many in a long run, at the clocks that leaves, rather than alone as benchmarks time it.
    InputError: a size below one, a format that is unknown or that the GPU cannot compute in.
    """
    if m < 1 or n < 1 or k < 1:
        raise InputError(f"m = {m}, n = {n}, k = {k}: every size of a gemm is 1 or more")
    weight_bytes, activation_bytes, _ = number_format(dtype)
    p = gemm_parameters(gpu, dtype)
    fraction = p.flop_fraction
    if sustained and gpu.kernels is not None:
        fraction *= gpu.kernels.sustained_flop_fraction
    tiles = -(-m // TILE) * -(-n // TILE)
    waves = -(-tiles // gpu.sms) * gpu.sms / tiles
    loss = (waves if waves < MOST_LOSS else MOST_LOSS) ** p.wave_loss
    compute_s = 2.0 * m * n * k / (peak_flops(gpu, dtype) * fraction) * (1.0 + p.k_half / k) * loss
    n_bytes = weight_bytes * n * k + activation_bytes * m * k + 2.0 * m * n
    memory_s = n_bytes / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    busy_s = (compute_s**p.overlap + memory_s**p.overlap) ** (1.0 / p.overlap)
    return KernelTiming(p.floor_s + busy_s + p.quantise_s_per_token * m, p.floor_s, compute_s, memory_s)
