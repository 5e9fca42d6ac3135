"""A transformer as its shapes: what it weighs, what a token reads of it, what a token leaves in the KV cache.

Every figure is an exact sum over the tensors of the published checkpoint, not a rounded "70B". Multi-token
prediction layers are not counted: they are a second, optional model (DeepSeek-V3: 671 B without, 685 B with).
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, NamedTuple

from annotated_types import MaxLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sim.inputs.errors import InfeasibleError
from sim.inputs.precision import Precision
from sim.inputs.quantities import DTYPE_BYTES, NotBoolean

MAX_LAYERS = 4096  # sums run over layers; the deepest published transformer (DeepNet) has 1000
MAX_HEADS = 65_536
MAX_EXPERTS = 65_536  # each has a popularity and a place of its own
MAX_WIDTH = 10**9
Width = Annotated[int, NotBoolean, Field(ge=0, le=MAX_WIDTH)]
Heads = Annotated[int, NotBoolean, Field(gt=0, le=MAX_HEADS)]
Experts = Annotated[int, NotBoolean, Field(ge=0, le=MAX_EXPERTS)]


class LatentAttention(BaseModel):
    """Multi-head latent attention (DeepSeek-V2/V3): keys and values of all heads live in one small vector.

    The cache holds `kv_lora_rank + rope_head_dim` values per token and layer, on every tensor-parallel rank.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kv_lora_rank: Width = Field(gt=0)
    rope_head_dim: Width = Field(gt=0)
    nope_head_dim: Width = Field(gt=0)
    v_head_dim: Width = Field(gt=0)
    q_lora_rank: Width | None = Field(default=None, gt=0)

    @property
    def cached_values(self) -> int:
        """Values per token and layer in the KV cache: 576 for DeepSeek-V3."""
        return self.kv_lora_rank + self.rope_head_dim

    @property
    def qk_head_dim(self) -> int:
        return self.nope_head_dim + self.rope_head_dim

    def parameters(self, hidden: int, heads: int) -> int:
        """Projections and the norms of the latent vectors, for `heads` heads."""
        query = heads * self.qk_head_dim
        if self.q_lora_rank is None:
            queries = hidden * query
        else:
            queries = hidden * self.q_lora_rank + self.q_lora_rank + self.q_lora_rank * query
        keys_values = hidden * self.cached_values + self.kv_lora_rank
        keys_values += self.kv_lora_rank * heads * (self.nope_head_dim + self.v_head_dim)
        return queries + keys_values + heads * self.v_head_dim * hidden


class GroupLimit(NamedTuple):
    """Experts lie in `groups` equal groups, and those of one token in `chosen` of them (DeepSeek's
    `n_group`, `topk_group`).
    """

    groups: int
    chosen: int


class Checkpoint(BaseModel):
    """What a published checkpoint says of its number formats: in words, and as keys of `Precision`.

    No keys where its format is not known here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantisation: str
    precision: dict[str, str] = {}

    @field_validator("precision")
    @classmethod
    def _are_keys_of_precision(cls, formats: dict[str, str]) -> dict[str, str]:
        known = Precision.model_fields
        for key, written in formats.items():
            if key not in known:
                raise ValueError(f"{key!r}: must be one of {', '.join(known)}")
            try:
                Precision.model_validate({key: written})
            except ValidationError as refusal:
                what = refusal.errors()[0]["msg"].removeprefix("Input ")
                raise ValueError(f"{key} = {written!r}: {what}") from None
        return formats


class Model(BaseModel):
    """The shapes of one decoder-only transformer, dense or with experts.

    `intermediate` is the width of a dense MLP, `moe_intermediate` that of one expert; all MLPs are gated
    (gate, up, down). `shared_intermediate` is the summed width of the shared experts.
    `dense_layer_indices` are the layers of a mixture-of-experts model that have a plain MLP.
    With `expert_groups` a token's experts are of `groups_per_token` of as many groups (DeepSeek-V3: 4 of 8).
    `sliding_layers` layers attend to the last `sliding_window` tokens only.
    `checkpoint` is there where the published weights are quantised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    layers: Annotated[int, NotBoolean] = Field(gt=0, le=MAX_LAYERS)
    hidden: Width = Field(gt=0)
    intermediate: Width = Field(ge=0)
    heads: Heads
    kv_heads: Heads
    head_dim: Width = Field(gt=0)
    vocab: Width = Field(gt=0)
    max_context: Width = Field(default=0, ge=0)
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: str | None = Field(default=None, pattern="^(head|layer)$")
    attention_sinks: bool = False
    experts: Experts = Field(default=0, ge=0)
    experts_per_token: Experts = Field(default=0, ge=0)
    expert_groups: Experts = Field(default=1, ge=1)
    groups_per_token: Experts = Field(default=1, ge=1)
    moe_intermediate: Width = Field(default=0, ge=0)
    shared_experts: Experts = Field(default=0, ge=0)
    shared_intermediate: Width = Field(default=0, ge=0)
    shared_expert_gate: bool = False
    router_bias: bool = False
    dense_layer_indices: Annotated[tuple[Annotated[int, NotBoolean], ...], MaxLen(MAX_LAYERS)] = ()
    mla: LatentAttention | None = None
    sliding_window: Width | None = Field(default=None, gt=0)
    sliding_layers: Annotated[int, NotBoolean] = Field(default=0, ge=0, le=MAX_LAYERS)
    native_weights: str = "bf16"
    checkpoint: Checkpoint | None = None

    @model_validator(mode="after")
    def _groups_have_the_experts(self) -> Model:
        groups, chosen = self.expert_groups, self.groups_per_token
        if groups == 1:
            return self
        if self.experts % groups:
            raise ValueError(f"{groups} groups do not divide {self.experts} experts")
        if not chosen <= min(groups, self.experts_per_token):
            raise ValueError(
                f"a token cannot choose {chosen} groups: there are {groups}, and it has "
                f"{self.experts_per_token} experts"
            )
        if chosen * (self.experts // groups) < self.experts_per_token:
            raise ValueError(
                f"{chosen} groups of {self.experts // groups} experts do not hold the "
                f"{self.experts_per_token} that a token has"
            )
        return self

    @property
    def is_moe(self) -> bool:
        return self.experts > 0

    @property
    def group_limit(self) -> GroupLimit | None:
        """Between how many groups of experts a token chooses; None where it may choose any experts."""
        if self.groups_per_token >= self.expert_groups:
            return None
        return GroupLimit(self.expert_groups, self.groups_per_token)

    @property
    def dense_layers(self) -> int:
        """Layers with a plain MLP: all of a dense model."""
        return len(self.dense_layer_indices) if self.is_moe else self.layers

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers

    def is_moe_layer(self, layer: int) -> bool:
        return self.is_moe and layer not in self.dense_layer_indices

    @property
    def query_width(self) -> int:
        return self.heads * (self.mla.qk_head_dim if self.mla else self.head_dim)

    @property
    def output_width(self) -> int:
        """What the heads hand to the output projection."""
        return self.heads * (self.mla.v_head_dim if self.mla else self.head_dim)

    @property
    def attention_parameters_per_layer(self) -> int:
        """Projections, their biases, norms of queries and keys, sinks."""
        return self.attention_parameters_per_gpu(1)

    def attention_parameters_per_gpu(self, tensor_parallel_size: int) -> int:
        """One layer's attention on one of `tensor_parallel_size` ranks: heads are split, one KV head at
        least.

        Latent attention splits only what belongs to heads; its down-projections are on every rank.
        """
        tp = self.check_tensor_parallel(tensor_parallel_size)
        heads, kv_heads = self.heads // tp, self.kv_heads_per_gpu(tp)
        if self.mla is not None:
            return self.mla.parameters(self.hidden, heads)
        qkv = (heads + 2 * kv_heads) * self.head_dim
        parameters = self.hidden * qkv + heads * self.head_dim * self.hidden
        parameters += qkv if self.qkv_bias else 0
        parameters += self.hidden if self.output_bias else 0
        parameters += heads if self.attention_sinks else 0
        if self.qk_norm == "head":
            parameters += 2 * self.head_dim
        elif self.qk_norm == "layer":
            parameters += (heads + kv_heads) * self.head_dim
        return parameters

    @property
    def norm_parameters_per_layer(self) -> int:
        return 2 * self.hidden

    @property
    def dense_mlp_parameters(self) -> int:
        return self._gated_mlp(self.intermediate)

    @property
    def expert_parameters(self) -> int:
        """One routed expert."""
        return self._gated_mlp(self.moe_intermediate) if self.is_moe else 0

    @property
    def shared_expert_parameters_per_layer(self) -> int:
        gate = self.hidden if self.shared_expert_gate else 0
        return self._gated_mlp(self.shared_intermediate) + gate if self.shared_intermediate else 0

    @property
    def router_parameters_per_layer(self) -> int:
        return self.hidden * self.experts + (self.experts if self.router_bias else 0)

    def _gated_mlp(self, width: int) -> int:
        return 3 * self.hidden * width + (2 * width + self.hidden if self.mlp_bias else 0)

    def mlp_parameters_per_layer(self, layer: int) -> int:
        """A dense MLP, or router, all experts and shared experts of one layer."""
        if not self.is_moe_layer(layer):
            return self.dense_mlp_parameters
        routed = self.experts * self.expert_parameters
        return self.router_parameters_per_layer + routed + self.shared_expert_parameters_per_layer

    def active_mlp_parameters_per_layer(self, layer: int) -> int:
        """What one token uses of `mlp_parameters_per_layer`."""
        idle = self.experts - self.experts_per_token if self.is_moe_layer(layer) else 0
        return self.mlp_parameters_per_layer(layer) - idle * self.expert_parameters

    def layer_parameters(self, layer: int) -> int:
        return (
            self.attention_parameters_per_layer
            + self.norm_parameters_per_layer
            + self.mlp_parameters_per_layer(layer)
        )

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def lm_head_parameters(self) -> int:
        """Weights of the output projection alone: none where it is tied to the embedding, which is read
        instead.
        """
        return 0 if self.tie_embeddings else self.vocab * self.hidden

    @cached_property
    def parameters(self) -> int:
        layers = sum(self.layer_parameters(layer) for layer in range(self.layers))
        return layers + self.embedding_parameters + self.lm_head_parameters + self.hidden

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that one token passes: all but the experts it is not sent to. The embedding counts."""
        return (
            self.parameters
            - self.moe_layers * (self.experts - self.experts_per_token) * self.expert_parameters
        )

    def weight_bytes(self, dtype: str, expert_dtype: str | None = None, unquantised: str = "bf16") -> float:
        """Bytes of the weights with projections in `dtype` and routed experts in `expert_dtype` (default:
        the same).

        Below 16 bits, embedding, lm_head, norms and router stay in `unquantised`, as in published FP8 and
        FP4 checkpoints. Scale factors of FP8 blocks (a thousandth of the bytes) are left out; NVFP4
        counts 4.5 bits."""
        weights = DTYPE_BYTES[dtype]
        kept = DTYPE_BYTES[unquantised] if weights < 2 else weights
        routed = self.moe_layers * self.experts * self.expert_parameters
        plain = self.embedding_parameters + self.lm_head_parameters + self.hidden
        plain += (
            self.layers * self.norm_parameters_per_layer + self.moe_layers * self.router_parameters_per_layer
        )
        rest = self.parameters - routed - plain
        return rest * weights + routed * DTYPE_BYTES[expert_dtype or dtype] + plain * kept

    @property
    def kv_values_per_token_per_layer(self) -> int:
        return self.mla.cached_values if self.mla else 2 * self.kv_heads * self.head_dim

    def kv_bytes_per_token(self, dtype: str = "bf16") -> float:
        """KV cache of one token over all layers, before any sharding."""
        return self.layers * self.kv_values_per_token_per_layer * DTYPE_BYTES[dtype]

    def kv_heads_per_gpu(self, tensor_parallel_size: int) -> int:
        """At least one: beyond `kv_heads` ranks, KV heads are replicated."""
        return max(1, self.kv_heads // tensor_parallel_size)

    def kv_bytes_per_token_per_gpu(
        self, tensor_parallel_size: int = 1, dtype: str = "bf16", layers: int = 0
    ) -> float:
        """KV cache of one token on one tensor-parallel rank that holds `layers` layers (default: all).

        More ranks than KV heads replicate them; a latent cache is on every rank whole.
        """
        tp = self.check_tensor_parallel(tensor_parallel_size)
        values = self.mla.cached_values if self.mla else 2 * self.kv_heads_per_gpu(tp) * self.head_dim
        return (layers or self.layers) * values * DTYPE_BYTES[dtype]

    def check_tensor_parallel(self, tensor_parallel_size: int) -> int:
        """The size itself when the heads can be split so; else InfeasibleError with the sizes that can."""
        if self._splits(tensor_parallel_size):
            return tensor_parallel_size
        able = self.tensor_parallel_sizes
        what = f"{self.heads} attention heads and {self.kv_heads} KV heads"
        if tensor_parallel_size > 0 and self.heads % tensor_parallel_size:
            what = f"{self.heads} attention heads"
        raise InfeasibleError(
            f"tensor_parallel_size {tensor_parallel_size} does not divide {what} of {self.name}",
            f"{', '.join(map(str, able))} {'do' if len(able) > 1 else 'does'}",
        )

    @property
    def tensor_parallel_sizes(self) -> list[int]:
        """The tensor-parallel sizes that split the heads evenly."""
        return [size for size in range(1, self.heads + 1) if self._splits(size)]

    def _splits(self, tp: int) -> bool:
        if tp < 1 or self.heads % tp:
            return False
        return self.mla is not None or self.kv_heads % tp == 0 or tp % self.kv_heads == 0
