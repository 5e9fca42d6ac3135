"""Shapes of a model, where a scenario writes them itself."""

from __future__ import annotations

from sim.effects.rules import Rule, Use, acted, because, dense, given, kv_memory, unless
from sim.results.key_words import ACTED, DidNotBind, Word

_computed = unless(given)
_weights_only = unless(given, then=kv_memory)
_experts = unless(given, dense)
_latent = because(
    lambda use: use.group.model.mla is not None, "latent attention has one vector a token for all heads"
)
_no_dense_layers = because(
    lambda use: use.group.model.is_moe and not use.group.model.dense_layers, "every layer has experts"
)


def _no_latent(use: Use) -> str:
    return "" if use.group.model.mla is not None else "attention is not latent"


def _no_sliding_layers(use: Use) -> str:
    return "" if use.group.model.sliding_layers else "no layer has a sliding window (sliding_layers is 0)"


def _no_window(use: Use) -> str:
    return "" if use.group.model.sliding_window else "there is no sliding_window"


def _window(use: Use) -> Word:
    window = use.group.model.sliding_window or 0
    if use.group.longest_tokens <= window:
        return DidNotBind(f"{window:,} tokens, longest text {use.group.longest_tokens:,}")
    return ACTED


def _window_of_shape(use: Use) -> Word:
    if isinstance(use.value, int) and use.group.longest_tokens <= use.value:
        return DidNotBind(f"{use.value:,} tokens, longest text {use.group.longest_tokens:,}")
    return ACTED


def _chosen(use: Use) -> Word:
    return _window_of_shape(use)


def _no_entries(use: Use) -> str:
    cache = use.group.model.compression
    return "" if cache is not None and cache.ratio else "no entry stands for several tokens"


def _no_output_groups(use: Use) -> str:
    latent = use.group.model.mla
    return "" if latent is not None and latent.output_groups else "mla.output_groups is not given"


def _no_narrow_gates(use: Use) -> str:
    linear = use.group.model.linear
    return "" if linear is not None and linear.kind == "kda" else "no gate is projected by way of few values"


def _group_limit(use: Use) -> str:
    """A limit by groups shows in the traffic between whole experts only."""
    engine = use.group.engine
    if use.group.model.expert_groups == 1 and use.key[-1] == "groups_per_token":
        return "there is one group of experts"
    if use.group.ranks == 1 or not engine.enable_expert_parallel:
        return "enable_expert_parallel is false: no token is sent to the experts of another GPU"
    if engine.expert_routing.placement == "balanced":
        return "a balanced placement spreads every group over all ranks"
    return ""


def _max_context(use: Use) -> Word:
    longest = use.group.longest_tokens
    if isinstance(use.value, int) and longest < use.value:
        return DidNotBind(f"{use.value:,}, longest text {longest:,}")
    return ACTED


def _shared_width(use: Use) -> Word:
    if use.group.model.shared_intermediate and use.group.model.shared_experts:
        return DidNotBind("shared_intermediate says how wide the shared experts are together")
    return ACTED


MODEL: dict[str, Rule] = {
    "": acted,
    "architecture": unless(lambda use: "a word for the family; the shapes say what is computed"),
    "native_weights": unless(lambda use: "says how the weights were published; precision.weights decides"),
    "layers": _computed,
    "hidden": _computed,
    "intermediate": unless(given, _no_dense_layers),
    "heads": _computed,
    "kv_heads": unless(given, _latent),
    "head_dim": unless(given, _latent),
    "vocab": _computed,
    "max_context": unless(given, then=_max_context),
    "tie_embeddings": _weights_only,
    "qkv_bias": _weights_only,
    "output_bias": _weights_only,
    "mlp_bias": _weights_only,
    "qk_norm": _computed,
    "attention_sinks": _weights_only,
    "experts": _computed,
    "experts_per_token": _experts,
    "expert_groups": unless(given, dense, _group_limit),
    "groups_per_token": unless(given, dense, _group_limit),
    "moe_intermediate": _experts,
    "shared_experts": unless(given, dense, then=_shared_width),
    "shared_intermediate": _experts,
    "shared_expert_gate": unless(given, dense, then=kv_memory),
    "router_bias": unless(given, dense, then=kv_memory),
    "dense_layer_indices": _experts,
    "dense_layer_indices[]": _experts,
    "mla.kv_lora_rank": unless(given, _no_latent),
    "mla.rope_head_dim": unless(given, _no_latent),
    "mla.nope_head_dim": unless(given, _no_latent),
    "mla.v_head_dim": unless(given, _no_latent),
    "mla.q_lora_rank": unless(given, _no_latent),
    "mla.keys_are_values": unless(given, _no_latent),
    "mla.output_groups": unless(given, _no_latent),
    "mla.output_rank": unless(given, _no_latent, _no_output_groups),
    "moe_latent": _experts,
    "zero_experts": unless(given, dense),
    "gated_mlp": _computed,
    "attention": _computed,
    "attention_gate": _computed,
    "values_are_keys": unless(given, _latent),
    "v_head_dim": unless(given, _latent),
    "norms_per_layer": _computed,
    "linear.kind": _computed,
    "linear.key_heads": _computed,
    "linear.value_heads": _computed,
    "linear.key_head_dim": _computed,
    "linear.value_head_dim": _computed,
    "linear.conv_kernel": _computed,
    "linear.state_dtype": _computed,
    "linear.gate_rank": unless(given, _no_narrow_gates),
    "indexer.heads": unless(given, _no_latent),
    "indexer.head_dim": unless(given, _no_latent),
    "indexer.topk": unless(given, _no_latent, then=_chosen),
    "shares_index": unless(given, _no_latent),
    "compression.ratio": unless(given, _no_latent),
    "compression.window": unless(given, _no_latent),
    "compression.overlap": unless(given, _no_latent, _no_entries),
    "residual_streams": _computed,
    "sliding_window": unless(given, _no_sliding_layers, then=_window),
    "sliding_layers": unless(given, _no_window, then=_window),
    "layer_shapes": _computed,
    "layer_shapes[].at": _computed,
    "layer_shapes[].at[]": _computed,
    "layer_shapes[].attention": _computed,
    "layer_shapes[].heads": _computed,
    "layer_shapes[].kv_heads": unless(given, _latent),
    "layer_shapes[].head_dim": unless(given, _latent),
    "layer_shapes[].v_head_dim": unless(given, _latent),
    "layer_shapes[].values_are_keys": unless(given, _latent),
    "layer_shapes[].attention_sinks": _weights_only,
    "layer_shapes[].sliding_window": unless(given, then=_window_of_shape),
    "layer_shapes[].indexed": unless(given, _no_latent),
    "layer_shapes[].compression.ratio": unless(given, _no_latent),
    "layer_shapes[].compression.window": unless(given, _no_latent),
    "layer_shapes[].compression.overlap": unless(given, _no_latent),
    "layer_shapes[].linear.kind": _computed,
    "layer_shapes[].linear.key_heads": _computed,
    "layer_shapes[].linear.value_heads": _computed,
    "layer_shapes[].linear.key_head_dim": _computed,
    "layer_shapes[].linear.value_head_dim": _computed,
    "layer_shapes[].linear.conv_kernel": _computed,
    "layer_shapes[].linear.state_dtype": _computed,
    "layer_shapes[].linear.gate_rank": _computed,
    "layer_shapes[].intermediate": _computed,
    "layer_shapes[].experts": _computed,
    "layer_shapes[].shared_intermediate": _experts,
    "layer_shapes[].norms_per_layer": _computed,
    "checkpoint.quantisation": acted,
    "checkpoint.precision.*": acted,
}
