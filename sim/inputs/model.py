"""A language model as its shapes: what it weighs, what a token reads of it, what a token leaves in the KV
cache, and what a request keeps as state.

Every figure is an exact sum over the tensors of the published checkpoint, not a rounded "70B". Multi-token
prediction layers are not counted: they are a second, optional model (DeepSeek-V3: 671 B without, 685 B with).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, NamedTuple

from annotated_types import MaxLen
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.inputs.attention_kinds import CompressedCache, Indexer, LatentAttention, LinearAttention
from sim.inputs.errors import InfeasibleError
from sim.inputs.model_bounds import MAX_LAYERS, Experts, Heads, Width
from sim.inputs.precision import Checkpoint
from sim.inputs.quantities import DTYPE_BYTES, NotBoolean


class LayerShape(BaseModel):
    """Layers whose shapes are not the model's: `at` says which, every other key what they have instead.

    `attention: false` is a layer without attention, `experts: 0` one with a plain MLP, `intermediate: 0` one
    without; with `linear` it keeps a state instead of a KV cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Annotated[tuple[Annotated[int, NotBoolean], ...], MaxLen(MAX_LAYERS)]
    attention: bool | None = None
    heads: Heads | None = None
    kv_heads: Heads | None = None
    head_dim: Width | None = Field(default=None, gt=0)
    v_head_dim: Width | None = Field(default=None, gt=0)
    values_are_keys: bool | None = None
    attention_sinks: bool | None = None
    sliding_window: Width | None = Field(default=None, gt=0)
    indexed: bool | None = None
    compression: CompressedCache | None = None
    linear: LinearAttention | None = None
    intermediate: Width | None = None
    experts: Experts | None = None
    shared_intermediate: Width | None = None
    norms_per_layer: Annotated[int, NotBoolean] | None = Field(default=None, ge=1, le=8)


class GroupLimit(NamedTuple):
    """Experts lie in `groups` equal groups, and those of one token in `chosen` of them (DeepSeek's
    `n_group`, `topk_group`).
    """

    groups: int
    chosen: int


class Model(BaseModel):
    """The shapes of one decoder-only transformer, dense or with experts.

    `intermediate` is the width of a dense MLP, `moe_intermediate` that of one expert; all MLPs are gated
    (gate, up, down). `shared_intermediate` is the summed width of the shared experts.
    `dense_layer_indices` are the layers of a mixture-of-experts model that have a plain MLP.
    With `expert_groups` a token's experts are of `groups_per_token` of as many groups (DeepSeek-V3: 4 of 8).
    `sliding_layers` layers attend to the last `sliding_window` tokens only.
    `moe_latent` is the width in which experts compute, where it is not `hidden` (Nemotron-3).
    With `residual_streams` (DeepSeek-V4's hyper-connections) as many copies of the hidden state go from block
    to block, mixed before and behind each.
    `zero_experts` are choices of the router that compute nothing (LongCat).
    `layer_shapes` are the layers that differ from the rest.
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
    moe_latent: Width = 0
    zero_experts: Experts = 0
    gated_mlp: bool = True
    attention: bool = True
    attention_gate: bool = False
    values_are_keys: bool = False
    v_head_dim: Width | None = Field(default=None, gt=0)
    norms_per_layer: Annotated[int, NotBoolean] = Field(default=2, ge=1, le=8)
    linear: LinearAttention | None = None
    indexer: Indexer | None = None
    shares_index: bool = False
    compression: CompressedCache | None = None
    residual_streams: Annotated[int, NotBoolean] = Field(default=1, ge=1, le=64)
    dense_layer_indices: Annotated[tuple[Annotated[int, NotBoolean], ...], MaxLen(MAX_LAYERS)] = ()
    mla: LatentAttention | None = None
    sliding_window: Width | None = Field(default=None, gt=0)
    sliding_layers: Annotated[int, NotBoolean] = Field(default=0, ge=0, le=MAX_LAYERS)
    layer_shapes: Annotated[tuple[LayerShape, ...], MaxLen(64)] = ()
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

    @model_validator(mode="after")
    def _every_layer_has_one_shape(self) -> Model:
        seen: set[int] = set()
        for shape in self.layer_shapes:
            for layer in shape.at:
                if not 0 <= layer < self.layers:
                    raise ValueError(f"layer_shapes: layer {layer} is none of {self.layers}, counted from 0")
                if layer in seen:
                    raise ValueError(f"layer_shapes: layer {layer} has two shapes; one is")
                seen.add(layer)
        return self

    @cached_property
    def _shapes(self) -> tuple[Model, ...]:
        """Of every layer, the model as if all its layers were like it; equal ones are one object."""
        if not self.layer_shapes:
            return (self,) * self.layers
        of_layer = [self._with({})] * self.layers
        for shape in self.layer_shapes:
            model = self._with({key: value for key, value in shape if value is not None and key != "at"})
            for layer in shape.at:
                of_layer[layer] = model
        return tuple(of_layer)

    def _with(self, changes: dict[str, Any]) -> Model:
        """The model with other shapes in all its layers."""
        indexed = changes.pop("indexed", True)
        found = (
            {name: getattr(self, name) for name in type(self).model_fields} | changes | {"layer_shapes": ()}
        )
        if "sliding_window" in changes:
            found["sliding_layers"] = self.layers
        if not indexed:
            found["shares_index"] = True
        if not found["experts"]:
            found["dense_layer_indices"] = ()
        return Model.model_construct(**found)

    def shape_of(self, layer: int) -> Model:
        """The model as if all its layers were like this one; the same object for equal layers."""
        return self._shapes[layer] if self.layer_shapes else self

    @property
    def shapes(self) -> tuple[Model, ...]:
        """The kinds of layers, each as a model of them alone; for a model of equal layers itself."""
        if not self.layer_shapes:
            return (self,)
        return tuple({id(shape): shape for shape in self._shapes}.values())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Model:
        """A copy, without what was worked out from the shapes of this one."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("_shapes", "parameters", "active_parameters", "state_bytes_per_request"):
            copied.__dict__.pop(name, None)
        return copied

    @property
    def keeps_kv(self) -> bool:
        """Whether layers of this kind keep keys and values."""
        return self.attention and self.linear is None

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
        if self.layer_shapes:
            return sum(not self.is_moe_layer(layer) for layer in range(self.layers))
        return len(self.dense_layer_indices) if self.is_moe else self.layers

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers

    def is_moe_layer(self, layer: int) -> bool:
        return self.shape_of(layer).is_moe and layer not in self.dense_layer_indices

    @property
    def query_width(self) -> int:
        return self.heads * (self.mla.qk_head_dim if self.mla else self.head_dim)

    @property
    def output_width(self) -> int:
        """What the heads hand to the output projection."""
        if self.linear is not None:
            return self.linear.value_width
        return self.heads * (self.mla.v_head_dim if self.mla else self.v_head_dim or self.head_dim)

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
        if not self.attention:
            return 0
        if self.linear is not None:
            return self.linear.of_rank(tp).parameters(self.hidden)
        if self.mla is not None:
            return self.mla.parameters(self.hidden, heads, self.heads) + self._latent_additions(heads)
        value_dim = self.v_head_dim or self.head_dim
        queries = heads * self.head_dim * (2 if self.attention_gate else 1)
        qkv = queries + kv_heads * (self.head_dim + (0 if self.values_are_keys else value_dim))
        parameters = self.hidden * qkv + heads * value_dim * self.hidden
        parameters += qkv if self.qkv_bias else 0
        parameters += self.hidden if self.output_bias else 0
        parameters += heads if self.attention_sinks else 0
        if self.qk_norm == "head":
            parameters += 2 * self.head_dim
        elif self.qk_norm == "layer":
            parameters += (heads + kv_heads) * self.head_dim
        return parameters

    def _latent_additions(self, heads: int) -> int:
        """An output gate, and on every rank whole what compresses the cache, and the indexer."""
        assert self.mla is not None
        found = self.hidden * heads * self.mla.v_head_dim if self.attention_gate else 0
        if self.compression is not None:
            found += self.compression.parameters(self.hidden, self.mla.cached_values)
        if self.indexer is None or self.shares_index:
            return found
        queries = self.mla.q_lora_rank or self.hidden
        if self.compression is None:
            return found + self.indexer.parameters(self.hidden, queries)
        keys = self.compression.parameters(self.hidden, self.indexer.head_dim)
        return found + keys + self.indexer.heads * (queries * self.indexer.head_dim + self.hidden)

    @property
    def norm_parameters_per_layer(self) -> int:
        """Norms, and what mixes the streams before and behind each block."""
        return self.norms_per_layer * self.hidden + 2 * self._mixing_parameters(self.residual_streams + 2)

    def _mixing_parameters(self, of_each: int) -> int:
        """Of `of_each` weights for every stream, worked out from all streams, each with an offset."""
        streams = self.residual_streams
        return streams * of_each * (streams * self.hidden + 1) if streams > 1 else 0

    @property
    def dense_mlp_parameters(self) -> int:
        return self._mlp(self.intermediate, self.hidden)

    @property
    def expert_parameters(self) -> int:
        """One routed expert."""
        return self._mlp(self.moe_intermediate, self.expert_hidden) if self.is_moe else 0

    @property
    def expert_hidden(self) -> int:
        """The width in which routed experts compute."""
        return self.moe_latent or self.hidden

    @property
    def shared_expert_parameters_per_layer(self) -> int:
        gate = self.hidden if self.shared_expert_gate else 0
        return self._mlp(self.shared_intermediate, self.hidden) + gate if self.shared_intermediate else 0

    @property
    def router_parameters_per_layer(self) -> int:
        """Of a layer with experts, with the projections to and from their own width."""
        choices = self.experts + self.zero_experts
        router = self.hidden * choices + (choices if self.router_bias else 0)
        return router + 2 * self.hidden * self.moe_latent

    @property
    def matrices_in(self) -> int:
        """Matrices that read the input of an MLP: gate and up, or up alone."""
        return 2 if self.gated_mlp else 1

    def _mlp(self, width: int, hidden: int) -> int:
        if not width:
            return 0
        bias = self.matrices_in * width + hidden if self.mlp_bias else 0
        return (self.matrices_in + 1) * hidden * width + bias

    def mlp_parameters_per_layer(self, layer: int) -> int:
        """A dense MLP, or router, all experts and shared experts of one layer."""
        shape = self.shape_of(layer)
        if not self.is_moe_layer(layer):
            return shape.dense_mlp_parameters
        routed = shape.experts * shape.expert_parameters
        return shape.router_parameters_per_layer + routed + shape.shared_expert_parameters_per_layer

    def active_mlp_parameters_per_layer(self, layer: int) -> int:
        """What one token uses of `mlp_parameters_per_layer`."""
        idle = self.experts - self.experts_per_token if self.is_moe_layer(layer) else 0
        return self.mlp_parameters_per_layer(layer) - idle * self.expert_parameters

    def layer_parameters(self, layer: int) -> int:
        shape = self.shape_of(layer)
        return (
            shape.attention_parameters_per_layer
            + shape.norm_parameters_per_layer
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
        ends = self.embedding_parameters + self.lm_head_parameters + self.hidden
        return layers + ends + self._mixing_parameters(1)

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
        norms = sum(shape.norm_parameters_per_layer for shape in self._shapes)
        plain += norms + self.moe_layers * self.router_parameters_per_layer
        rest = self.parameters - routed - plain
        return rest * weights + routed * DTYPE_BYTES[expert_dtype or dtype] + plain * kept

    @property
    def kv_values_per_token_per_layer(self) -> float:
        """Of a layer of this kind; none where it keeps a state instead. A cache of compressed entries has a
        share of one, beside a window that does not grow.
        """
        return self._kv_values(self.kv_heads)

    def _kv_values(self, kv_heads: int) -> float:
        if not self.keeps_kv:
            return 0
        if self.mla is not None:
            values = self.mla.cached_values
            return values if self.compression is None else self.compression.entries(values)
        return kv_heads * (self.head_dim + (self.v_head_dim or self.head_dim))

    @property
    def index_bytes_per_token_per_layer(self) -> float:
        """Keys of an indexer, where layers of this kind have one of their own."""
        if self.indexer is None or self.shares_index:
            return 0
        n_bytes = self.indexer.cached_bytes
        return n_bytes if self.compression is None else self.compression.entries(n_bytes)

    def window_bytes_of_layers(self, first: int, layers: int, dtype: str = "bf16") -> float:
        """What a request keeps beside compressed entries, however long it is: the last tokens, and those
        whose entry is not whole.
        """
        return sum(self.shape_of(layer)._window_bytes(dtype) for layer in range(first, first + layers))

    def _window_bytes(self, dtype: str) -> float:
        if self.compression is None or self.mla is None:
            return 0.0
        kept = self.compression.window * self.mla.cached_values * DTYPE_BYTES[dtype]
        kept += self.compression.state_bytes(self.mla.cached_values)
        if self.indexer is not None and not self.shares_index:
            kept += self.compression.state_bytes(self.indexer.head_dim)
        return kept

    def kv_bytes_per_token(self, dtype: str = "bf16") -> float:
        """KV cache of one token over all layers, before any sharding."""
        return self._sum_kv_bytes(1, dtype, range(self.layers))

    @cached_property
    def state_bytes_per_request(self) -> float:
        """What a request keeps beside its KV cache, however long it is, over all layers."""
        return sum(shape.linear.state_bytes for shape in self._shapes if shape.linear is not None)

    def kv_heads_per_gpu(self, tensor_parallel_size: int) -> int:
        """At least one: beyond `kv_heads` ranks, KV heads are replicated."""
        return max(1, self.kv_heads // tensor_parallel_size)

    def kv_bytes_per_token_per_gpu(
        self, tensor_parallel_size: int = 1, dtype: str = "bf16", layers: int = 0
    ) -> float:
        """KV cache of one token on one tensor-parallel rank that holds `layers` layers (default: all).

        More ranks than KV heads replicate them; a latent cache is on every rank whole.
        """
        return self._sum_kv_bytes(tensor_parallel_size, dtype, range(layers or self.layers))

    def kv_bytes_of_layers(
        self, first: int, layers: int, tensor_parallel_size: int = 1, dtype: str = "bf16"
    ) -> float:
        """As `kv_bytes_per_token_per_gpu`, of `layers` layers from `first` on."""
        return self._sum_kv_bytes(tensor_parallel_size, dtype, range(first, first + layers))

    def _sum_kv_bytes(self, tensor_parallel_size: int, dtype: str, layers: range) -> float:
        tp = self.check_tensor_parallel(tensor_parallel_size)
        if not self.layer_shapes:
            return len(layers) * self._kv_bytes_per_layer(tp, dtype)
        return sum(self.shape_of(layer)._kv_bytes_per_layer(tp, dtype) for layer in layers)

    def _kv_bytes_per_layer(self, tp: int, dtype: str) -> float:
        return self._kv_values(self.kv_heads_per_gpu(tp)) * DTYPE_BYTES[dtype] + (
            self.index_bytes_per_token_per_layer
        )

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
        if self.layer_shapes:
            return all(shape._splits(tp) for shape in self.shapes)
        if self.linear is not None and tp >= 1:
            return self.linear.splits(tp)
        if tp < 1 or self.heads % tp:
            return False
        if self.mla is not None:
            return (self.mla.output_groups or tp) % tp == 0
        return self.kv_heads % tp == 0 or tp % self.kv_heads == 0
