"""How fast one GPU really runs each kind of kernel: a few numbers per kernel and number format, fitted on measurements.

All are properties of GPU and software together (one engine's kernels). A fraction is of the datasheet peak in `Gpu`.
`sim.cost` has the formulas they belong to, `sim calibrate` fits them, `topologies/gpus/kernels/` holds the results.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sim.inputs.provenance import Provenance
from sim.inputs.quantities import LatencySeconds, Seconds


class GemmParameters(BaseModel):
    """C[m,n] = A[m,k] B[k,n]; see `sim.cost.gemm`.

    `floor_s`: launch, ramp and epilogue of the smallest call. `hbm_fraction`: share of the memory bandwidth that weights
    and activations are streamed at. `flop_fraction`: share of the peak of a full wave of tiles with long k.
    `k_half`: the depth at which prologue and epilogue of a tile cost as much as its multiplications.
    `wave_loss`: 0 when a part-filled last wave costs only its share, 1 when it costs a whole wave.
    `overlap`: exponent of the norm that joins memory and compute time; infinite is perfect overlap, 1 none.
    `quantise_s_per_token`: dynamic quantisation of one row of A, zero where A is not quantised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    floor_s: LatencySeconds = 3.6e-6
    hbm_fraction: float = Field(default=0.87, gt=0, le=1.5)
    flop_fraction: float = Field(default=0.86, gt=0, le=1.5)
    k_half: float = Field(default=100.0, ge=0)
    wave_loss: float = Field(default=0.3, ge=0, le=1)
    overlap: float = Field(default=4.0, ge=1)
    quantise_s_per_token: Seconds = 0.0


class PrefillParameters(BaseModel):
    """Causal attention of many new tokens; see `sim.cost.attention`.

    `s_per_kv_token`: a query tile walks over its keys at this pace, which bounds short batches of long prompts.
    `hbm_fraction`: reading queries, keys, values and writing the output and the new cache entries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    floor_s: LatencySeconds = 13e-6
    flop_fraction: float = Field(default=0.66, gt=0, le=1.5)
    s_per_kv_token: Seconds = 7e-9
    hbm_fraction: float = Field(default=0.6, gt=0, le=1.5)


class DecodeParameters(BaseModel):
    """Attention of one new token per sequence over its KV cache; see `sim.cost.attention`.

    `s_per_kv_token`: one KV head of one sequence is read by a limited number of SMs, at this pace for 16-bit caches of
    128 values a head. It is what remains when few heads and sequences are in the batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    floor_s: LatencySeconds = 12.4e-6
    hbm_fraction: float = Field(default=0.9, gt=0, le=1.5)
    s_per_kv_token: Seconds = 0.14e-9
    s_per_sequence: Seconds = 0.0


class MoeParameters(BaseModel):
    """Grouped expert MLP with routing, permutation and reduction; see `sim.cost.moe_kernels`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    floor_s: LatencySeconds = 30e-6
    hbm_fraction: float = Field(default=0.85, gt=0, le=1.5)
    flop_fraction: float = Field(default=0.65, gt=0, le=1.5)
    tile_tokens: float = Field(default=64.0, ge=1)
    overlap: float = Field(default=3.0, ge=1)
    s_per_pair: Seconds = 0.0


class SmallKernelParameters(BaseModel):
    """Kernels bound by launch and memory: norms, rotary embedding, activation, residual, embedding, sampling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    floor_s: LatencySeconds = 2.25e-6
    hbm_fraction: float = Field(default=0.75, gt=0, le=1.5)


class KernelParameters(BaseModel):
    """What is known of one GPU's kernels, by number format. The defaults are an H100's, for a GPU nobody measured.

    `sustained_flop_fraction`: what a long run keeps of the rate that an isolated kernel reaches: power and clocks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str = "vllm"
    gemm: dict[str, GemmParameters] = {}
    attention_prefill: dict[str, PrefillParameters] = {}
    attention_decode: dict[str, DecodeParameters] = {}
    mla_prefill: dict[str, PrefillParameters] = {}
    mla_decode: dict[str, DecodeParameters] = {}
    moe: dict[str, MoeParameters] = {}
    elementwise: SmallKernelParameters = SmallKernelParameters()
    sampling: SmallKernelParameters = SmallKernelParameters(floor_s=25e-6, hbm_fraction=0.4)
    sustained_flop_fraction: float = Field(default=1.0, gt=0, le=1)
    provenance: dict[str, Provenance] = {}
