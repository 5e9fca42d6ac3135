"""Seconds of layers that keep a state: one token of each of many sequences, and chunks of prompts.

Decode reads and writes every state once: floor + bytes / (bandwidth * fraction), as of element-wise kernels.
Prefill goes over a text in blocks, as Gated DeltaNet (Yang et al., arXiv 2412.06464) and Mamba-2 (Dao and
Gu, arXiv 2405.21060) do: within a block all pairs of tokens, between blocks the state; memory and compute
overlap as far as the longer hides the shorter. No such kernel was measured here: the fractions of peaks are
those of element-wise kernels and of attention's prefill on the same GPU.
"""

from __future__ import annotations

from sim.cost.kernels.attention import PREFILL, Chunks
from sim.cost.kernels.timing import UNMEASURED, KernelTiming, peak_flops
from sim.inputs.attention_kinds import LinearAttention
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.quantities import DTYPE_BYTES

# Tokens of a block: 64 in flash-linear-attention (`chunk_gated_delta_rule`), 128 and 256 in Mamba-2's configs
BLOCK_TOKENS = {"gated_delta": 64, "kda": 64, "mamba2": 128, "lightning": 256}
# Products of a block's tokens with each other, in widths of keys and of values: scores and values; the delta
# rule solves for its corrections, two more (arXiv 2412.06464, section 3.3)
PRODUCTS_OF_PAIRS = {"gated_delta": 2, "kda": 2, "mamba2": 1, "lightning": 1}


def state_update(gpu: Gpu, batch: int, linear: LinearAttention) -> KernelTiming:
    """One token for each of `batch` sequences, on one rank's heads. InputError: no sequence."""
    if batch < 1:
        raise InputError(f"batch = {batch}: must be at least 1")
    p = (gpu.kernels or UNMEASURED).elementwise
    memory_s = 2.0 * batch * linear.state_bytes / (gpu.hbm_bytes_per_s * p.hbm_fraction)
    return KernelTiming(p.floor_s + memory_s, p.floor_s, 0.0, memory_s)


def state_scan(
    gpu: Gpu, chunks: Chunks, linear: LinearAttention, dtype: str = "bf16", sustained: bool = False
) -> KernelTiming:
    """Chunks of (new tokens, tokens before them), on one rank's heads; what came before is in the state.

    InputError: no chunk, a format that the GPU cannot compute in.
    """
    tokens = sum(new for new, _ in chunks)
    if tokens < 1:
        raise InputError("chunks = []: must hold at least one (new tokens, tokens before), as in [(512, 0)]")
    kernels = gpu.kernels or UNMEASURED
    p = kernels.attention_prefill.get("bf16", PREFILL)
    block, pairs = BLOCK_TOKENS[linear.kind], PRODUCTS_OF_PAIRS[linear.kind]
    keys, values = linear.key_head_dim, linear.value_head_dim
    per_token = 2.0 * pairs * block * (keys + values) + 4.0 * keys * values
    compute_s = tokens * linear.value_heads * per_token / (peak_flops(gpu, dtype) * p.flop_fraction)
    if sustained:
        compute_s /= kernels.sustained_flop_fraction
    through_states = 2.0 * sum(-(-new // block) for new, _ in chunks) * linear.recurrent_bytes
    activations = tokens * 2.0 * (linear.key_width + linear.value_width) * DTYPE_BYTES["bf16"]
    bandwidth = gpu.hbm_bytes_per_s * kernels.elementwise.hbm_fraction
    memory_s = (through_states + activations) / bandwidth
    busy_s = float((compute_s**p.overlap + memory_s**p.overlap) ** (1.0 / p.overlap))
    return KernelTiming(p.floor_s + busy_s, p.floor_s, compute_s, memory_s)
