"""Kinds of attention other than that of all heads to all tokens: latent, indexed, linear; what each weighs,
caches and keeps.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sim.inputs.model_bounds import Heads, Width
from sim.inputs.quantities import DTYPE_BYTES, NotBoolean

MAX_RATIO = 1 << 20  # tokens of an entry: no context is longer


class LatentAttention(BaseModel):
    """Multi-head latent attention (DeepSeek-V2/V3): keys and values of all heads live in one small vector.

    The cache holds `kv_lora_rank + rope_head_dim` values per token and layer, on every tensor-parallel rank.
    With `keys_are_values` (DeepSeek-V4) it is key and value of all heads as it stands, and nothing is
    expanded from it. With `output_groups` the output projection has two factors: each group of heads is
    projected to `output_rank` values, and those of all groups to the hidden state.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kv_lora_rank: Width = Field(gt=0)
    rope_head_dim: Width = Field(gt=0)
    nope_head_dim: Width = Field(gt=0)
    v_head_dim: Width = Field(gt=0)
    q_lora_rank: Width | None = Field(default=None, gt=0)
    keys_are_values: bool = False
    output_groups: Heads | None = None
    output_rank: Width = 0

    @property
    def cached_values(self) -> int:
        """Values per token and layer in the KV cache: 576 for DeepSeek-V3."""
        return self.kv_lora_rank + self.rope_head_dim

    @property
    def qk_head_dim(self) -> int:
        return self.nope_head_dim + self.rope_head_dim

    @property
    def attended_values(self) -> int:
        """Values that a head multiplies for each cached token: for its score, and for its output."""
        return 2 * self.cached_values if self.keys_are_values else self.cached_values + self.kv_lora_rank

    def groups_of(self, heads: int, all_heads: int) -> int:
        """Groups of the output projection that `heads` of `all_heads` heads have."""
        return (self.output_groups or 0) * heads // all_heads

    def parameters(self, hidden: int, heads: int, all_heads: int | None = None) -> int:
        """Projections and norms of the latent vectors, for `heads` of `all_heads` heads (default: all)."""
        query = heads * self.qk_head_dim
        if self.q_lora_rank is None:
            queries = hidden * query
        else:
            queries = hidden * self.q_lora_rank + self.q_lora_rank + self.q_lora_rank * query
        keys_values = hidden * self.cached_values
        keys_values += self.cached_values if self.keys_are_values else self.kv_lora_rank
        if not self.keys_are_values:
            keys_values += self.kv_lora_rank * heads * (self.nope_head_dim + self.v_head_dim)
        out = heads * self.v_head_dim * (self.output_rank if self.output_groups else hidden)
        return (
            queries
            + keys_values
            + out
            + self.groups_of(heads, all_heads or heads) * self.output_rank * hidden
        )


class CompressedCache(BaseModel):
    """A cache with one entry for `ratio` tokens, beside the last `window` tokens each as it is (DeepSeek-V4:
    every fourth token and the best of them, or every 128th and all). `ratio: 0` keeps the window alone.

    An entry is a weighted mean of what two projections say of its tokens, or with `overlap` of twice as
    many; until it is whole, a request keeps both in 32 bits for all of them (vLLM's compressor state).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: Annotated[int, NotBoolean] = Field(ge=0, le=MAX_RATIO)
    window: Width = Field(gt=0)
    overlap: bool = False

    @property
    def lengths(self) -> int:
        """Lengths of `ratio` tokens that an entry is made of."""
        return 2 if self.overlap else 1

    def entries(self, values: float) -> float:
        """What `values` for every token come to for every entry."""
        return values / self.ratio if self.ratio else 0.0

    def columns(self, width: int) -> int:
        """Columns of the projections that entries of `width` values are made from."""
        return 2 * self.lengths * width if self.ratio else 0

    def parameters(self, hidden: int, width: int) -> int:
        """Two projections, a place for each token of an entry, and the entry's norm."""
        if not self.ratio:
            return 0
        return self.columns(width) * hidden + self.ratio * self.lengths * width + width

    def state_bytes(self, width: int) -> float:
        """What a request keeps of the tokens whose entry of `width` values is not whole."""
        return self.lengths * self.ratio * self.columns(width) * DTYPE_BYTES["fp32"]


class Indexer(BaseModel):
    """The indexer of sparse attention (DeepSeek-V3.2): a few small heads score every cached token for each
    new one, which then attends to the `topk` best.

    Its keys are a cache of their own, one vector of `head_dim` values in 8 bits and a 32-bit scale a token
    and layer, on every tensor-parallel rank (vLLM's `DeepseekV32IndexerCache`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: Heads
    head_dim: Width = Field(gt=0)
    topk: Width = Field(gt=0)

    @property
    def cached_bytes(self) -> int:
        """Bytes per token and layer: 132 for heads of 128."""
        return self.head_dim + 4

    def parameters(self, hidden: int, query_width: int) -> int:
        """Queries from the latent query, one key, its norm with bias, and a weight a head."""
        queries = query_width * self.heads * self.head_dim
        return queries + hidden * self.head_dim + 2 * self.head_dim + hidden * self.heads


class LinearAttention(BaseModel):
    """A layer that keeps a state of fixed size for a request, and no KV cache.

    `gated_delta` is Gated DeltaNet (Qwen3-Next), `kda` Kimi Delta Attention, `mamba2` a state-space layer
    (Nemotron-H; `key_heads` are its groups, `key_head_dim` its state size), `lightning` MiniMax-01's. Each of
    `value_heads` heads has a state of `key_head_dim` x `value_head_dim` values in `state_dtype`; a short
    convolution of `conv_kernel` taps keeps its last inputs in 16 bits. `gate_rank` is the width between the
    two factors of a gate's projection (`kda`); 0: the output gate is one whole projection.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["gated_delta", "kda", "mamba2", "lightning"]
    key_heads: Heads
    value_heads: Heads
    key_head_dim: Width = Field(gt=0)
    value_head_dim: Width = Field(gt=0)
    conv_kernel: Width = 0
    state_dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    gate_rank: Width = 0

    @property
    def key_width(self) -> int:
        return self.key_heads * self.key_head_dim

    @property
    def value_width(self) -> int:
        return self.value_heads * self.value_head_dim

    def splits(self, tp: int) -> bool:
        """Whether `tp` ranks can share the heads; groups of a state-space layer are replicated."""
        keys = self.key_heads % tp == 0 or (self.kind == "mamba2" and tp % self.key_heads == 0)
        return self.value_heads % tp == 0 and keys

    def of_rank(self, tp: int) -> LinearAttention:
        """What one of `tp` ranks has."""
        heads = {"key_heads": max(1, self.key_heads // tp), "value_heads": self.value_heads // tp}
        return self.model_copy(update=heads)

    @property
    def conv_width(self) -> int:
        """Channels of the short convolution: queries, keys and values, or those of a state-space layer."""
        return 2 * self.key_width + self.value_width if self.conv_kernel else 0

    @property
    def in_width(self) -> int:
        """Columns of the projections that read the hidden state: queries, keys, values, gates."""
        per_head = {"gated_delta": 2, "kda": 1, "mamba2": 1, "lightning": 0}[self.kind]
        gates = self.value_width
        if self.kind == "kda":
            gates = self.head_of_gates + (self.gate_rank or self.value_width)
        return 2 * self.key_width + self.value_width + gates + per_head * self.value_heads

    @property
    def head_of_gates(self) -> int:
        """The width between the two factors of the decay's projection in `kda`: one head's."""
        return self.value_head_dim

    @property
    def gate_parameters(self) -> int:
        """The second factors of gates that are projected by way of a narrow vector."""
        if self.kind != "kda":
            return 0
        return (self.head_of_gates + self.gate_rank) * self.value_width

    def parameters(self, hidden: int) -> int:
        """Projections, convolution, decays and the norm before the output projection."""
        found = hidden * self.in_width + self.gate_parameters + self.conv_kernel * self.conv_width
        if self.kind == "mamba2":
            found += self.conv_width + 3 * self.value_heads + self.value_width
        elif self.kind == "kda":
            found += self.value_heads + self.value_width + self.value_head_dim
        elif self.kind == "gated_delta":
            found += 2 * self.value_heads + self.value_head_dim
        else:
            found += self.value_width
        return found + self.value_width * hidden

    @property
    def recurrent_bytes(self) -> float:
        """The state that every token reads and writes."""
        return self.value_width * self.key_head_dim * DTYPE_BYTES[self.state_dtype]

    @property
    def state_bytes(self) -> float:
        """What a layer keeps for a request: the state, and the last inputs of the convolution."""
        return self.recurrent_bytes + max(0, self.conv_kernel - 1) * self.conv_width * DTYPE_BYTES["bf16"]
