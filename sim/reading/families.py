"""Families of models whose layers are alike: one small function each, since each spells its shapes its own
way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.inputs.model_bounds import MAX_EXPERTS, MAX_LAYERS
from sim.reading.config_keys import Config


def dense(config: Config) -> dict[str, Any]:
    heads = max(1, config.count("num_attention_heads"))
    hidden = config.count("hidden_size")
    return {
        "layers": config.count("num_hidden_layers", most=MAX_LAYERS),
        "hidden": hidden,
        "intermediate": config.count(
            "intermediate_size", default=0 if "moe_intermediate_size" in config.keys else None
        ),
        "heads": heads,
        "kv_heads": config.count("num_key_value_heads", default=heads),
        "head_dim": config.count("head_dim", default=hidden // heads),
        "vocab": config.count("vocab_size"),
        "max_context": config.count("max_position_embeddings", default=0),
        "tie_embeddings": config.flag("tie_word_embeddings"),
    }


def llama(config: Config) -> dict[str, Any]:
    bias = config.flag("attention_bias")
    return dense(config) | {"qkv_bias": bias, "output_bias": bias, "mlp_bias": config.flag("mlp_bias")}


def mistral(config: Config) -> dict[str, Any]:
    return dense(config) | sliding(config, every_layer=True)


def qwen2(config: Config) -> dict[str, Any]:
    window = sliding(config, every_layer=True) if config.flag("use_sliding_window") else {}
    return dense(config) | {"qkv_bias": True} | window


def qwen3(config: Config) -> dict[str, Any]:
    bias = config.flag("attention_bias")
    window = sliding(config, every_layer=True) if config.flag("use_sliding_window") else {}
    return dense(config) | {"qk_norm": "head", "qkv_bias": bias, "output_bias": bias} | window


def sparse_layers(config: Config, layers: int) -> tuple[int, ...]:
    step = max(1, config.count("decoder_sparse_step", default=1))
    only = {int(layer) for layer in config.keys.get("mlp_only_layers") or ()}
    return tuple(layer for layer in range(layers) if layer in only or (layer + 1) % step)


def qwen3_moe(config: Config) -> dict[str, Any]:
    shapes = qwen3(config)
    return shapes | {
        "experts": config.count("num_experts", "num_local_experts", most=MAX_EXPERTS),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("moe_intermediate_size"),
        "dense_layer_indices": sparse_layers(config, shapes["layers"]),
    }


def qwen2_moe(config: Config) -> dict[str, Any]:
    return qwen3_moe(config) | {
        "qk_norm": None,
        "qkv_bias": True,
        "output_bias": False,
        "shared_experts": 1,
        "shared_intermediate": config.count("shared_expert_intermediate_size"),
        "shared_expert_gate": True,
    }


def mixtral(config: Config) -> dict[str, Any]:
    return mistral(config) | {
        "experts": config.count("num_local_experts"),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("intermediate_size"),
    }


def experts_of_one_width(config: Config, experts: str, chosen: str, shared: str) -> dict[str, int]:
    """Routed experts and shared ones as wide as they, by the keys of their numbers."""
    width, always = config.count("moe_intermediate_size"), config.count(shared, default=0)
    return {
        "experts": config.count(experts, most=MAX_EXPERTS),
        "experts_per_token": config.count(chosen),
        "moe_intermediate": width,
        "shared_experts": always,
        "shared_intermediate": always * width,
    }


def with_first_dense(config: Config, shapes: dict[str, Any]) -> dict[str, Any]:
    first = config.count("first_k_dense_replace", default=0)
    step = max(1, config.count("moe_layer_freq", default=1))
    return shapes | {
        **experts_of_one_width(config, "n_routed_experts", "num_experts_per_tok", "n_shared_experts"),
        **group_limit(config),
        "dense_layer_indices": tuple(n for n in range(shapes["layers"]) if n < first or n % step),
    }


def group_limit(config: Config) -> dict[str, int]:
    """The groups of experts that a token is held to; `greedy` routing (DeepSeek-V2-Lite) ignores them."""
    groups = config.count("n_group", default=1)
    if groups <= 1 or config.keys.get("topk_method") == "greedy":
        return {}
    return {"expert_groups": groups, "groups_per_token": config.count("topk_group", default=groups)}


def deepseek(config: Config) -> dict[str, Any]:
    nope, rope = config.count("qk_nope_head_dim"), config.count("qk_rope_head_dim")
    mla = {
        "kv_lora_rank": config.count("kv_lora_rank"),
        "rope_head_dim": rope,
        "nope_head_dim": nope,
        "v_head_dim": config.count("v_head_dim"),
        "q_lora_rank": config.count("q_lora_rank", default=0) or None,
    }
    shapes = dense(config) | {"mla": mla, "head_dim": nope + rope}
    # "noaux_tc" routing adds one learnt correction per expert
    shapes["router_bias"] = config.keys.get("topk_method", "noaux_tc") == "noaux_tc"
    return with_first_dense(config, shapes)


def glm4_moe(config: Config) -> dict[str, Any]:
    norm = "head" if config.flag("use_qk_norm") else None
    shapes = dense(config) | {
        "qkv_bias": config.flag("attention_bias"),
        "qk_norm": norm,
        "router_bias": True,
    }
    return with_first_dense(config, shapes)


def gpt_oss(config: Config) -> dict[str, Any]:
    return llama(config) | sliding(config) | {
        "qkv_bias": config.flag("attention_bias", default=True),
        "output_bias": config.flag("attention_bias", default=True),
        "mlp_bias": True,
        "attention_sinks": True,
        "router_bias": True,
        "experts": config.count("num_local_experts"),
        "experts_per_token": config.count("num_experts_per_tok", "experts_per_token"),
        "moe_intermediate": config.count("intermediate_size"),
    }  # fmt: skip


def minimax_m2(config: Config) -> dict[str, Any]:
    norm = {"per_layer": "layer", "per_head": "head"}[str(config.keys.get("qk_norm_type", "per_layer"))]
    return dense(config) | {
        "qk_norm": norm if config.flag("use_qk_norm", default=True) else None,
        "experts": config.count("num_local_experts"),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("intermediate_size"),
        "router_bias": config.flag("use_routing_bias", default=True),
    }


def sliding(config: Config, every_layer: bool = False) -> dict[str, Any]:
    window = config.count("sliding_window", default=0)
    if not window:
        return {}
    kinds = config.keys.get("layer_types")
    if kinds is None and every_layer:
        return {"sliding_window": window, "sliding_layers": config.count("num_hidden_layers")}
    return {
        "sliding_window": window,
        "sliding_layers": sum(kind == "sliding_attention" for kind in kinds or ()),
    }


def _like_llama(config: Config) -> dict[str, Any]:
    """Shapes of Llama, biases under the names that other families have for them."""
    bias = config.flag("attention_bias", config.flag("use_bias", config.flag("bias")))
    return dense(config) | {
        "qkv_bias": config.flag("qkv_bias", bias),
        "output_bias": config.flag("attention_out_bias", bias),
        "mlp_bias": config.flag("mlp_bias", config.flag("use_bias")),
    }


def _phi3(config: Config) -> dict[str, Any]:
    """Engines serve it as a Llama: queries, keys and values in one matrix, gate and up in another."""
    return dense(config)


def _seed_oss(config: Config) -> dict[str, Any]:
    return _like_llama(config) | {"qkv_bias": config.flag("attention_bias", default=True)}


def _mimo(config: Config) -> dict[str, Any]:
    bias = config.flag("attention_bias", default=True)
    return dense(config) | {"qkv_bias": bias}


def _olmo(config: Config) -> dict[str, Any]:
    return _like_llama(config) | _layers_with_window(config) | {"qk_norm": "layer"}


def _with_head_norms(config: Config) -> dict[str, Any]:
    """Exaone 4, Hunyuan: a Llama with norms of queries and keys."""
    return _like_llama(config) | _layers_with_window(config) | {"qk_norm": "head"}


def _chatglm(config: Config) -> dict[str, Any]:
    heads = max(1, config.count("num_attention_heads"))
    grouped = config.flag("multi_query_attention")
    return {
        "layers": config.count("num_layers", most=MAX_LAYERS),
        "hidden": config.count("hidden_size"),
        "intermediate": config.count("ffn_hidden_size"),
        "heads": heads,
        "kv_heads": config.count("multi_query_group_num") if grouped else heads,
        "head_dim": config.count("kv_channels", default=config.count("hidden_size") // heads),
        "vocab": config.count("padded_vocab_size", "vocab_size"),
        "max_context": config.count("seq_length", default=0),
        "qkv_bias": config.flag("add_qkv_bias"),
    }


def _glm4(config: Config) -> dict[str, Any]:
    return dense(config) | {"qkv_bias": config.flag("attention_bias"), "norms_per_layer": 4}


def _gemma(config: Config) -> dict[str, Any]:
    return dense(config) | {"tie_embeddings": config.flag("tie_word_embeddings", default=True)}


def _gemma2(config: Config) -> dict[str, Any]:
    """Every other layer attends to a window; norms stand before and after both blocks."""
    windowed = _layers_with_window(config, every=2)
    return _gemma(config) | windowed | {"norms_per_layer": 4}


# What `Gemma3TextConfig` of transformers has where a published config.json leaves a key out, as that of
# gemma-3-27b-it does.
_GEMMA3 = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}


def _gemma3(config: Config) -> dict[str, Any]:
    """Five layers with a window to one without (`sliding_window_pattern`)."""
    filled = config.with_defaults(_GEMMA3)
    pattern = max(1, filled.count("sliding_window_pattern"))
    windowed = _layers_with_window(filled, every=pattern)
    return _gemma(filled) | windowed | {"norms_per_layer": 4, "qk_norm": "head"}


def _layers_with_window(config: Config, every: int = 0) -> dict[str, Any]:
    """Layers with a window: those that `layer_types` names, else all but every `every`-th."""
    window = config.count("sliding_window", default=0)
    if not window:
        return {}
    if config.keys.get("layer_types") is not None or not every:
        return sliding(config)
    layers = config.count("num_hidden_layers", most=MAX_LAYERS)
    return {"sliding_window": window, "sliding_layers": layers - layers // every}


def _ernie(config: Config) -> dict[str, Any]:
    bias = config.flag("use_bias")
    tied = config.flag("tie_word_embeddings", default=True)
    return dense(config) | {
        "qkv_bias": bias, "output_bias": bias, "mlp_bias": bias, "tie_embeddings": tied,
    }  # fmt: skip


def _ernie_moe(config: Config) -> dict[str, Any]:
    shapes = _ernie(config)
    first = config.count("moe_layer_start_index", default=0)
    last = config.count("moe_layer_end_index", default=shapes["layers"] - 1)
    step = max(1, config.count("moe_layer_interval", default=1))
    return shapes | {
        **experts_of_one_width(config, "moe_num_experts", "moe_k", "moe_num_shared_experts"),
        "router_bias": True,
        "dense_layer_indices": tuple(
            n for n in range(shapes["layers"]) if not first <= n <= last or (n + 1) % step
        ),
    }


def _granite_moe(config: Config) -> dict[str, Any]:
    shared = config.count("shared_intermediate_size", default=0)
    return _like_llama(config) | {
        "experts": config.count("num_local_experts", most=MAX_EXPERTS),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("intermediate_size"),
        "shared_experts": int(shared > 0),
        "shared_intermediate": shared,
    }


def _llama4(config: Config) -> dict[str, Any]:
    """Every `interleave_moe_layer_step`-th layer has experts, one shared; three of four layers attend within
    chunks of the text, taken here as windows of that length: a text of whole chunks sees half of it on
    average.
    """
    shapes = dense(config)
    layers, step = shapes["layers"], max(1, config.count("interleave_moe_layer_step", default=1))
    width = config.count("intermediate_size")
    written = config.keys.get("moe_layers")
    sparse = {int(n) for n in written} if written else {n for n in range(layers) if (n + 1) % step == 0}
    without_rope = config.keys.get("no_rope_layers") or [(n + 1) % 4 != 0 for n in range(layers)]
    chunk = config.count("attention_chunk_size", default=0)
    return shapes | {
        "intermediate": config.count("intermediate_size_mlp", default=width),
        "experts": config.count("num_local_experts", most=MAX_EXPERTS),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": width,
        "shared_experts": 1,
        "shared_intermediate": width,
        "dense_layer_indices": tuple(n for n in range(layers) if n not in sparse),
        **({"sliding_window": chunk, "sliding_layers": sum(map(bool, without_rope))} if chunk else {}),
    }


def _mistral_params(config: Config) -> dict[str, Any]:
    """Mistral's own `params.json`, by the names of a config.json."""
    keys, experts = config.keys, config.keys.get("moe") or {}
    names = {
        "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads", "intermediate_size": "hidden_dim", "head_dim": "head_dim",
        "vocab_size": "vocab_size", "tie_word_embeddings": "tied_embeddings", "q_lora_rank": "q_lora_rank",
        "kv_lora_rank": "kv_lora_rank", "qk_rope_head_dim": "qk_rope_head_dim", "v_head_dim": "v_head_dim",
        "qk_nope_head_dim": "qk_nope_head_dim",
    }  # fmt: skip
    renamed = {name: keys.get(own) for name, own in names.items()}
    renamed["max_position_embeddings"] = keys.get("max_seq_len") or keys.get("max_position_embeddings")
    renamed["sliding_window"] = keys.get("sliding_window")
    if not experts:
        return mistral(config.like(renamed))
    renamed |= {
        "num_local_experts": experts.get("num_experts"),
        "num_experts_per_tok": experts.get("num_experts_per_tok"),
        "n_routed_experts": experts.get("num_experts"),
        "n_shared_experts": experts.get("num_shared_experts"),
        "moe_intermediate_size": experts.get("expert_hidden_dim"),
        "first_k_dense_replace": experts.get("first_k_dense_replace"),
    }
    return (deepseek if keys.get("kv_lora_rank") else mixtral)(config.like(renamed))


FAMILIES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen2_moe": qwen2_moe,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "mixtral": mixtral,
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "kimi_k2": deepseek,
    "glm4_moe": glm4_moe,
    "gpt_oss": gpt_oss,
    "minimax_m2": minimax_m2,
    "phi3": _phi3,
    "seed_oss": _seed_oss,
    "internlm2": _like_llama,
    "internlm3": _like_llama,
    "granite": _like_llama,
    "smollm3": _like_llama,
    "ministral": mistral,
    "ministral3": mistral,
    "mimo": _mimo,
    "olmo2": _olmo,
    "olmo3": _olmo,
    "exaone4": _with_head_norms,
    "hunyuan_v1_dense": _with_head_norms,
    "chatglm": _chatglm,
    "glm": _like_llama,
    "glm4": _glm4,
    "glm4_moe_lite": deepseek,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "ernie4_5": _ernie,
    "ernie4_5_moe": _ernie_moe,
    "granitemoe": _granite_moe,
    "granitemoeshared": _granite_moe,
    "llama4": _llama4,
    "mistral_params": _mistral_params,
}
