"""How fast one GPU really runs each kind of kernel: a few numbers per kernel and format, fitted on
measurements.

All are properties of GPU and software together (one engine's kernels). A fraction is of the datasheet
peak in `Gpu`. `sim.cost` has the formulas they belong to, `sim.calibration.kernels` fits them,
`topologies/gpus/kernels/` holds them. The defaults are an H100's under vLLM, rounded; a GPU without
measurements uses them on its own datasheet."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

from sim.inputs.provenance import Provenance
from sim.inputs.quantities import LatencySeconds, Seconds


class _Parameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    floor_s: LatencySeconds
    hbm_fraction: float = Field(gt=0, le=1.5)


class GemmParameters(_Parameters):
    """C[m,n] = A[m,k] B[k,n]; see `sim.cost.kernels.gemm`.

    `floor_s`: launch, ramp and epilogue of the smallest call. `hbm_fraction`: of the bandwidth, for
    weights and activations. `flop_fraction`: of the peak, for full waves of tiles. `s_per_depth`: pace of
    one tile along k. `wave_loss`: 0 when a part-filled last wave costs its share, 1 when it costs a whole
    wave. `overlap`: exponent of the norm that joins the parts, 1 when they add up, large when the longest
    hides the others. `throttle`: by how much power and clocks slow down products that go on for many
    milliseconds. `quantise_s_per_token`, `quantise_passes`: dynamic quantisation of A, per row, and in
    units of reading 16 and writing 8 bits of it at full bandwidth. `l2_share`: of the level-2 cache,
    weights that a repeated call still finds there. `host_s`: what the host needs to launch a call that is
    in no CUDA graph, where the benchmark of this kernel had none."""

    floor_s: LatencySeconds = 2.8e-6
    hbm_fraction: float = Field(default=0.88, gt=0, le=1.5)
    flop_fraction: float = Field(default=0.90, gt=0, le=1.5)
    s_per_depth: Seconds = 1.25e-9
    wave_loss: float = Field(default=0.26, ge=0, le=1)
    overlap: float = Field(default=3.0, ge=1)
    throttle: float = Field(default=0.2, ge=0)
    quantise_s_per_token: Seconds = 0.0
    quantise_passes: float = Field(default=0.0, ge=0)
    l2_share: float = Field(default=0.0, ge=0)
    host_s: Seconds = 0.0


class PrefillParameters(_Parameters):
    """Causal attention of many new tokens; see `sim.cost.kernels.attention`.

    `s_per_kv_token`: a tile of queries walks over its keys at this pace. `tile_tokens`: the causal edge
    costs as if every sequence had this many more keys, for whole tiles are computed. `hbm_fraction`: of
    the bandwidth, for queries, keys, values, output and the new cache entries. `overlap`: as for a matrix
    product, of computing and walking. `l2_share`: of the level-2 cache, what the kernel before leaves in
    it of them."""

    floor_s: LatencySeconds = 12e-6
    hbm_fraction: float = Field(default=0.69, gt=0, le=1.5)
    flop_fraction: float = Field(default=0.69, gt=0, le=1.5)
    s_per_kv_token: Seconds = 11e-9
    tile_tokens: float = Field(default=250.0, ge=0)
    overlap: float = Field(default=4.0, ge=1)
    l2_share: float = Field(default=0.0, ge=0)


class DecodeParameters(_Parameters):
    """Attention of one new token per sequence over its KV cache; see `sim.cost.kernels.attention`.

    `s_per_kv_token`: pace of reading one KV head of one sequence, all that is left when few are in the
    batch; a nanosecond or less where kernels split it. `s_per_unshared_kv_token`: the same where every
    query head has its own KV head. `s_per_sm_kv_token`: pace of an SM with one block, where query heads
    share; `sm_kv_tokens`: tokens of one KV head on each SM beyond which several blocks hide each other's
    waiting. `s_per_sequence_head`: work for each KV head of each sequence whatever its
    length. `split_s`: joining the parts that a long sequence is split into. `l2_share`: of the level-2
    cache, what a repeated call still finds there; `l2_time`: the time that takes over reading it from
    memory. `flop_fraction`: of the peak, where arithmetic matters (latent attention)."""

    floor_s: LatencySeconds = 12.4e-6
    hbm_fraction: float = Field(default=0.92, gt=0, le=1.5)
    s_per_kv_token: Seconds = 0.15e-9
    s_per_unshared_kv_token: Seconds = 0.3e-9
    s_per_sm_kv_token: Seconds = 8e-9
    sm_kv_tokens: float = Field(default=2900.0, gt=0)
    s_per_sequence_head: Seconds = 16e-9
    split_s: Seconds = 3.4e-6
    l2_share: float = Field(default=0.0, ge=0)
    l2_time: float = Field(default=0.4, ge=0, le=1)
    flop_fraction: float = Field(default=1.0, gt=0, le=2)


class MixedParameters(_Parameters):
    """Chunks and decodes in one attention call, for kernels that then treat both as chunks
    (FlashAttention 2).

    `rereading`: the exponent of query heads per KV head with which the reading of decodes' keys and
    values grows, for each query head reads them itself: 0 when the level-2 cache catches all of it, 1
    when none. `l2_share`: of the level-2 cache, the keys and values of one KV head beyond which none is
    caught (0: no such limit). `s_per_idle_block`: a block of threads that finds nothing to do. The others
    are those of prefill."""

    floor_s: LatencySeconds = 10e-6
    hbm_fraction: float = Field(default=0.9, gt=0, le=1.5)
    flop_fraction: float = Field(default=0.5, gt=0, le=1.5)
    s_per_kv_token: Seconds = 22e-9
    tile_tokens: float = Field(default=100.0, ge=0)
    rereading: float = Field(default=0.6, ge=0, le=1.2)
    l2_share: float = Field(default=0.0, ge=0)
    s_per_idle_block: Seconds = 0.0
    overlap: float = Field(default=2.2, ge=1)


class MoeParameters(_Parameters):
    """Grouped expert MLP with routing, permutation and reduction; see `sim.cost.kernels.moe`.

    `tile_tokens`: each expert's tokens are padded to tiles of this many. `k_half`: the width of an expert
    at which prologue and epilogue cost as much as the multiplications. `s_per_pair`: permuting one token
    to one expert. `s_per_token`: routing one token that enters the layer, wherever its experts are.
    `s_per_expert`: setting up the products of one expert of this rank, tokens or none."""

    floor_s: LatencySeconds = 24e-6
    hbm_fraction: float = Field(default=0.91, gt=0, le=1.5)
    flop_fraction: float = Field(default=0.8, gt=0, le=1.5)
    tile_tokens: float = Field(default=60.0, ge=0)
    k_half: float = Field(default=250.0, ge=0)
    overlap: float = Field(default=2.0, ge=1)
    s_per_pair: Seconds = 1e-9
    s_per_token: Seconds = 1e-9
    s_per_expert: Seconds = 0.0


class SmallKernelParameters(_Parameters):
    """Kernels bound by launch and memory: norms, rotary embedding, activation, residual, embedding,
    sampling. `l2_share`: of the level-2 cache, what is found there of what the kernel before has written;
    `l2_time`: the time that takes over reading it from memory.
    """

    floor_s: LatencySeconds = 2.25e-6
    hbm_fraction: float = Field(default=0.75, gt=0, le=1.5)
    l2_share: float = Field(default=0.0, ge=0)
    l2_time: float = Field(default=0.2, ge=0, le=1)


class KernelParameters(BaseModel):
    """What is known of one GPU's kernels under one engine, by kernel and number format.

    `sustained_flop_fraction`: what a long run keeps of the rate that isolated kernels reach, beyond their
    `throttle`. `engines`: the same for other engines, where theirs differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gemm: dict[str, GemmParameters] = {}
    attention_prefill: dict[str, PrefillParameters] = {}
    attention_decode: dict[str, DecodeParameters] = {}
    attention_mixed: dict[str, MixedParameters] = {}
    mla_prefill: dict[str, PrefillParameters] = {}
    mla_decode: dict[str, DecodeParameters] = {}
    moe: dict[str, MoeParameters] = {}
    elementwise: SmallKernelParameters = SmallKernelParameters()
    sampling: SmallKernelParameters = SmallKernelParameters(floor_s=25e-6, hbm_fraction=0.9)
    sustained_flop_fraction: float = Field(default=1.0, gt=0, le=1)
    engines: dict[str, KernelParameters] = {}
    provenance: dict[str, Provenance] = {}

    def lent(self, lender: str, borrower: str) -> KernelParameters:
        """The same for a GPU that was not measured: every set says whose it is. What the lender has borrowed
        itself keeps its first owner.
        """
        provenance = {
            "*": Provenance(tag="assumed", source=_lent(self.provenance.get("*"), lender, borrower))
        }
        for op in _OPS:
            for number_format in getattr(self, op):
                key = f"{op}.{number_format}"
                said = self.provenance.get(key)
                provenance[key] = Provenance(tag="assumed", source=_lent(said, lender, borrower))
        engines = {name: own.lent(lender, borrower) for name, own in self.engines.items()}
        return self.model_copy(update={"provenance": provenance, "engines": engines})


DEFAULT_ENGINE = "vllm"
"""The engine whose kernels a file has outside its block `engines`, unless a source names another."""

_OPS = (
    "gemm",
    "attention_prefill",
    "attention_decode",
    "attention_mixed",
    "mla_prefill",
    "mla_decode",
    "moe",
)
LENT = re.compile(r"not measured on .*: those of ([\w-]+(?: under \w+)?)")
UNDER = re.compile(r" under .*: those of (\w+);")  # measured on this GPU, under another engine


def _lent(said: Provenance | None, lender: str, borrower: str) -> str:
    first = LENT.search(said.source) if said is not None else None
    return f"not measured on {borrower}: those of {first[1] if first else lender}, its stand-in"
