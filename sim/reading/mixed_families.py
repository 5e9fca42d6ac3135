"""Families whose layers are not all alike: shapes that change from layer to layer, states instead of KV
caches, sparse attention with an indexer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.inputs.model_bounds import MAX_EXPERTS, MAX_LAYERS
from sim.reading.config_keys import Config
from sim.reading.families import deepseek, dense, experts_of_one_width, group_limit, qwen3

Shapes = dict[str, Any]

_STATE_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def _layers(config: Config) -> int:
    return config.count("num_hidden_layers", "num_layers", most=MAX_LAYERS)


def _where(flags: list[bool]) -> tuple[int, ...]:
    return tuple(layer for layer, is_so in enumerate(flags) if is_so)


def _listed(config: Config, key: str, layers: int) -> list[Any] | None:
    """A list with one entry a layer; None where the key is absent."""
    written = config.keys.get(key)
    if written is None:
        return None
    if not isinstance(written, list) or len(written) < layers:
        config.problem(key, f"has {len(written) if isinstance(written, list) else 'no'} entries; it has one "
                       f"for each of {layers} layers")  # fmt: skip
        return None
    return written[:layers]


# ---- layers of different shape


def _nemotron_nas(config: Config) -> Shapes:
    """Llamas that a search has pruned: some layers have no attention, widths of the MLP differ
    (`block_configs`; its rounding is that of `DeciLMConfig`).
    """
    layers = _layers(config)
    blocks = _listed(config, "block_configs", layers)
    if blocks is None:
        config.problem(
            "block_configs", f"is missing; a config.json of {config.keys.get('model_type')!r} has it"
        )
        return dense(config.with_defaults({"intermediate_size": 1}))
    hidden, heads = config.count("hidden_size"), max(1, config.count("num_attention_heads"))
    kinds: dict[tuple[int, int], list[int]] = {}
    for layer, block in enumerate(blocks):
        attention, mlp = block.get("attention") or {}, block.get("ffn") or {}
        if any(part.get("replace_with_linear") for part in (attention, mlp)):
            raise ValueError(f"block_configs: layer {layer} has replace_with_linear, which is not known here")
        kv_heads = 0 if attention.get("no_op") else heads // int(attention.get("n_heads_in_group") or 1)
        width = 0
        if not mlp.get("no_op"):
            width = -(-int(2 * float(mlp.get("ffn_mult") or 0.0) * hidden / 3) // 256) * 256
        kinds.setdefault((kv_heads, width), []).append(layer)
    whole = max(kinds, key=lambda kind: (kind[0] > 0, len(kinds[kind])))
    filled = config.like(
        {**config.keys, "intermediate_size": whole[1], "num_key_value_heads": whole[0] or heads}
    )
    shapes = [
        {
            "at": at, "intermediate": width, "norms_per_layer": max(1, (kv_heads > 0) + (width > 0)),
            **({"kv_heads": kv_heads} if kv_heads else {"attention": False}),
        }
        for (kv_heads, width), at in kinds.items() if (kv_heads, width) != whole
    ]  # fmt: skip
    return dense(filled) | {"layer_shapes": shapes}


def _gemma4(config: Config) -> Shapes:
    """Gemma 4: layers without a window have wider and fewer heads, whose values are their keys; an MLP
    stands beside the experts of every layer.
    """
    layers = _layers(config)
    kinds = _listed(config, "layer_types", layers) or []
    shapes: Shapes = dense(config) | {
        "tie_embeddings": config.flag("tie_word_embeddings", default=True),
        "norms_per_layer": 4,
        "qk_norm": "head",
    }
    for key in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
        if config.count(key, default=0):
            raise ValueError(f"{key} is not 0: layers that share KV or have embeddings are not known here")
    if config.flag("enable_moe_block"):
        shapes |= {
            "experts": config.count("num_experts", most=MAX_EXPERTS),
            "experts_per_token": config.count("top_k_experts", "num_experts_per_tok"),
            "moe_intermediate": config.count("moe_intermediate_size"),
            "shared_experts": 1,
            "shared_intermediate": shapes["intermediate"],
            "intermediate": 0,
            "norms_per_layer": 7,  # one more before the experts, one behind them, one behind the MLP
        }
    whole = {
        "head_dim": config.count("global_head_dim", default=shapes["head_dim"]),
        "kv_heads": config.count("num_global_key_value_heads", default=shapes["kv_heads"]),
        "values_are_keys": config.flag("attention_k_eq_v"),
    }
    near = {"sliding_window": config.count("sliding_window", default=0) or None}
    return shapes | {
        "layer_shapes": [
            {"at": _where([kind == "full_attention" for kind in kinds]), **whole},
            {"at": _where([kind == "sliding_attention" for kind in kinds]), **near},
        ]
    }


def _mimo_v2(config: Config) -> Shapes:
    """MiMo-V2-Flash: five layers with a window and their own heads to one without."""
    shapes: Shapes = dense(config) | {
        "v_head_dim": config.count("v_head_dim", default=0) or None,
        "attention_sinks": config.flag("add_full_attention_sink_bias"),
        "router_bias": config.keys.get("topk_method", "noaux_tc") == "noaux_tc",
    }
    layers = shapes["layers"]
    windowed = _listed(config, "hybrid_layer_pattern", layers) or []
    sparse = _listed(config, "moe_layer_freq", layers)
    near = {
        "heads": config.count("swa_num_attention_heads", default=shapes["heads"]),
        "kv_heads": config.count("swa_num_key_value_heads", default=shapes["kv_heads"]),
        "head_dim": config.count("swa_head_dim", default=shapes["head_dim"]),
        "v_head_dim": config.count("swa_v_head_dim", default=0) or shapes["v_head_dim"],
        "attention_sinks": config.flag("add_swa_attention_sink_bias"),
        "sliding_window": config.count("sliding_window", "sliding_window_size"),
    }
    return shapes | group_limit(config) | {
        **experts_of_one_width(config, "n_routed_experts", "num_experts_per_tok", "n_shared_experts"),
        "dense_layer_indices": _where([not is_sparse for is_sparse in sparse or []]),
        "layer_shapes": [{"at": _where([bool(is_near) for is_near in windowed]), **near}],
    }  # fmt: skip


def _step3p(config: Config) -> Shapes:
    """Step-3.5 and 3.7 Flash: three layers with a window, some with more heads, to one without."""
    names = {
        "num_key_value_heads": ("num_attention_groups",),
        "n_routed_experts": ("num_experts", "moe_num_experts"),
        "num_experts_per_tok": ("moe_top_k",),
    }
    keys = dict(config.keys)
    for name, spellings in names.items():
        for other in spellings:
            keys.setdefault(name, keys.get(other))
    listed = keys.get("moe_layers_enum")
    named = config.like(keys)
    shapes: Shapes = dense(named) | {"qk_norm": "head", "router_bias": named.flag("use_moe_router_bias")}
    layers = shapes["layers"]
    if isinstance(listed, str):
        sparse = {int(layer) for layer in listed.split(",") if layer.strip()}
    else:
        sparse = set(range(named.count("first_k_dense_replace", default=0), layers))
    kinds = _listed(named, "layer_types", layers) or []
    others = keys.get("attention_other_setting") or {}
    near: Shapes = {"sliding_window": named.count("sliding_window")}
    if others.get("attention_type", "sliding_attention") == "sliding_attention":
        sizes = {"heads": "num_attention_heads", "kv_heads": "num_attention_groups", "head_dim": "head_dim"}
        near |= {size: others[key] for size, key in sizes.items() if key in others}
    shared = named.count("share_expert_dim", "share_expert_dims", default=0)
    return shapes | {
        "experts": named.count("n_routed_experts", most=MAX_EXPERTS),
        "experts_per_token": named.count("num_experts_per_tok"),
        "moe_intermediate": named.count("moe_intermediate_size"),
        "shared_experts": int(shared > 0),
        "shared_intermediate": shared,
        "dense_layer_indices": tuple(layer for layer in range(layers) if layer not in sparse),
        "layer_shapes": [{"at": _where([kind == "sliding_attention" for kind in kinds]), **near}],
    }


def _longcat(config: Config) -> Shapes:
    """LongCat-Flash: a layer has two attentions and two plain MLPs, and experts beside the second half; here
    it is two layers, of which the second has the MLP as a shared expert. Where it stops: the experts are not
    taken to run behind the first half, and a token is sent to as many of them as it is on average.
    """
    layers, width = _layers(config), config.count("ffn_hidden_size")
    experts, zero = (
        config.count("n_routed_experts", most=MAX_EXPERTS),
        config.count("zero_expert_num", default=0),
    )
    chosen = config.count("moe_topk")
    filled = config.like(
        {**config.keys, "num_hidden_layers": 2 * layers, "intermediate_size": width,
         "first_k_dense_replace": 0, "moe_intermediate_size": config.count("expert_ffn_hidden_size"),
    "num_experts_per_tok": chosen} )  # fmt: skip
    return deepseek(filled) | {
        "experts_per_token": max(1, round(chosen * experts / max(1, experts + zero))),
        "zero_experts": zero,
        "shared_experts": 1,
        "shared_intermediate": width,
        "dense_layer_indices": tuple(range(0, 2 * layers, 2)),
    }


# ---- states instead of KV caches


def _qwen3_next(config: Config) -> Shapes:
    """Three layers with Gated DeltaNet to one with gated attention."""
    shapes: Shapes = qwen3(config.with_defaults({"intermediate_size": 0}))
    layers = shapes["layers"]
    every = max(1, config.count("full_attention_interval", default=4))
    kinds = _listed(config, "layer_types", layers)
    linear = (
        [kind == "linear_attention" for kind in kinds]
        if kinds
        else [(n + 1) % every != 0 for n in range(layers)]
    )
    state = {
        "kind": "gated_delta",
        "key_heads": config.count("linear_num_key_heads"),
        "value_heads": config.count("linear_num_value_heads"),
        "key_head_dim": config.count("linear_key_head_dim"),
        "value_head_dim": config.count("linear_value_head_dim"),
        "conv_kernel": config.count("linear_conv_kernel_dim"),
        "state_dtype": _STATE_DTYPES.get(str(config.keys.get("mamba_ssm_dtype")), "bf16"),
    }
    shapes |= {
        "attention_gate": config.flag("attn_output_gate", default=True),
        "layer_shapes": [{"at": _where(linear), "linear": state}],
    }
    experts = config.count("num_experts", default=0, most=MAX_EXPERTS)
    if not experts:
        return shapes
    step = max(1, config.count("decoder_sparse_step", default=1))
    only = {int(layer) for layer in config.keys.get("mlp_only_layers") or ()}
    return shapes | {
        "experts": experts,
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("moe_intermediate_size"),
        "shared_experts": 1,
        "shared_intermediate": config.count("shared_expert_intermediate_size"),
        "shared_expert_gate": True,
        "dense_layer_indices": tuple(n for n in range(layers) if n in only or (n + 1) % step),
    }


_NEMOTRON_BLOCKS = {"mamba": "M", "attention": "*", "moe": "E", "mlp": "-"}


def _nemotron_h(config: Config) -> Shapes:
    """Nemotron-H and Nemotron-3: every layer is one block alone: Mamba-2 (M), attention (*), experts (E) or
    an MLP (-), none of them gated.
    """
    pattern = config.keys.get("hybrid_override_pattern")
    if not isinstance(pattern, str):
        written = config.keys.get("layers_block_type") or []
        pattern = "".join(_NEMOTRON_BLOCKS.get(str(block), "?") for block in written)
    unknown = set(pattern) - set("M*E-")
    if unknown or not pattern:
        config.problem("hybrid_override_pattern", f"{pattern[:40]!r} is not a pattern of M, *, E and -")
        return dense(config)
    layers = len(pattern)
    shapes: Shapes = dense(
        config.like({**config.keys, "num_hidden_layers": layers,
                     "head_dim": config.keys.get("head_dim") or config.keys.get("attention_head_dim")})
    ) | {"gated_mlp": False, "norms_per_layer": 1}  # fmt: skip
    state = {
        "kind": "mamba2",
        "key_heads": config.count("n_groups"),
        "value_heads": config.count("mamba_num_heads"),
        "key_head_dim": config.count("ssm_state_size"),
        "value_head_dim": config.count("mamba_head_dim"),
        "conv_kernel": config.count("conv_kernel"),
        "state_dtype": _STATE_DTYPES.get(str(config.keys.get("mamba_ssm_cache_dtype")), "bf16"),
    }
    at = {block: _where([found == block for found in pattern]) for block in "M*E-"}
    kinds: list[Shapes] = [
        {"at": at["M"], "linear": state, "intermediate": 0, "experts": 0},
        {"at": at["*"], "intermediate": 0, "experts": 0},
        {"at": at["-"], "attention": False, "experts": 0},
        {"at": at["E"], "attention": False},
    ]
    shapes["layer_shapes"] = [kind for kind in kinds if kind["at"]]
    if not at["E"]:
        return shapes
    return shapes | {
        "experts": config.count("n_routed_experts", most=MAX_EXPERTS),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("moe_intermediate_size"),
        "moe_latent": config.count("moe_latent_size", default=0),
        "shared_experts": config.count("n_shared_experts", default=0),
        "shared_intermediate": config.count("moe_shared_expert_intermediate_size", default=0)
        * config.count("n_shared_experts", default=0),
        "router_bias": True,
        **group_limit(config),
    }


def _granite_hybrid(config: Config) -> Shapes:
    """Granite 4: Mamba-2 and attention, each with experts, a shared MLP, or that alone."""
    shared = config.count("shared_intermediate_size", default=0)
    experts = config.count("num_local_experts", default=0, most=MAX_EXPERTS)
    shapes: Shapes = dense(config) | {"intermediate": 0 if experts else shared}
    kinds = _listed(config, "layer_types", shapes["layers"]) or []
    heads = config.count("mamba_n_heads")
    state = {
        "kind": "mamba2",
        "key_heads": config.count("mamba_n_groups", default=1),
        "value_heads": heads,
        "key_head_dim": config.count("mamba_d_state"),
        "value_head_dim": config.count("mamba_d_head", default=2 * shapes["hidden"] // max(1, heads)),
        "conv_kernel": config.count("mamba_d_conv"),
    }
    shapes["layer_shapes"] = [{"at": _where([kind == "mamba" for kind in kinds]), "linear": state}]
    if not experts:
        return shapes
    return shapes | {
        "experts": experts,
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("intermediate_size"),
        "shared_experts": int(shared > 0),
        "shared_intermediate": shared,
    }


def _kimi_linear(config: Config) -> Shapes:
    """Kimi Linear and K3: three layers with Kimi Delta Attention to one with latent attention."""
    written = config.keys.get("linear_attn_config")
    if not isinstance(written, dict):
        config.problem("linear_attn_config", "is missing; a config.json of 'kimi_linear' has it")
        written = {}
    keys = dict(config.keys) | {
        "n_routed_experts": config.keys.get("num_experts"),
        "n_shared_experts": config.keys.get("num_shared_experts"),
        "num_experts_per_tok": config.keys.get("num_experts_per_token"),
        "n_group": config.keys.get("num_expert_group"),
    }
    shapes = deepseek(config.like(keys))
    linear = config.like(written)
    heads, width = linear.count("num_heads"), linear.count("head_dim")
    state = {
        "kind": "kda",
        "key_heads": heads,
        "value_heads": heads,
        "key_head_dim": width,
        "value_head_dim": width,
        "conv_kernel": linear.count("short_conv_kernel_size"),
        "state_dtype": "fp32",  # vLLM's `MambaStateDtypeCalculator.kda_state_dtype`
        "gate_rank": 0 if linear.flag("use_full_rank_gate") else width,
    }
    at = tuple(int(layer) - 1 for layer in written.get("kda_layers") or ())  # counted from 1
    return shapes | {
        "attention_gate": config.flag("mla_use_output_gate"),
        "moe_latent": config.count("routed_expert_hidden_size", default=0),
        "layer_shapes": [{"at": at, "linear": state}],
    }


def _minimax_01(config: Config) -> Shapes:
    """MiniMax-Text-01 and M1: seven layers with lightning attention to one with attention."""
    shapes: Shapes = dense(config)
    kinds = _listed(config, "attn_type_list", shapes["layers"])
    if kinds is None:
        words = _listed(config, "layer_types", shapes["layers"]) or []
        kinds = [int(word != "linear_attention") for word in words]
    state = {
        "kind": "lightning",
        "key_heads": shapes["heads"],
        "value_heads": shapes["heads"],
        "key_head_dim": shapes["head_dim"],
        "value_head_dim": shapes["head_dim"],
        "state_dtype": "fp32",  # vLLM's `MambaStateDtypeCalculator.linear_attention_state_dtype`
    }
    return shapes | {
        "experts": config.count("num_local_experts", most=MAX_EXPERTS),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("intermediate_size"),
        "layer_shapes": [{"at": _where([not kind for kind in kinds]), "linear": state}],
    }


# ---- sparse attention with an indexer


def _deepseek_v32(config: Config) -> Shapes:
    """DeepSeek-V3.2 and GLM-5: latent attention to the tokens that an indexer chooses; in GLM-5.2 most layers
    take the choice of a layer before (`indexer_types`).
    """
    shapes = deepseek(config) | {
        "indexer": {
            "heads": config.count("index_n_heads"),
            "head_dim": config.count("index_head_dim"),
            "topk": config.count("index_topk"),
        }
    }
    kinds = _listed(config, "indexer_types", shapes["layers"])
    shared = _where([kind == "shared" for kind in kinds or ()])
    return shapes | ({"layer_shapes": [{"at": shared, "indexed": False}]} if shared else {})


def _deepseek_v4(config: Config) -> Shapes:
    """DeepSeek-V4: one vector a token that is key and value of all heads; every layer attends to a window,
    and by its `compress_ratios` to the best of entries of four tokens, to all entries of 128, or to nothing
    more. Streams are mixed around every block, and experts are in every layer.
    """
    layers = _layers(config)
    width, rope = config.count("head_dim"), config.count("qk_rope_head_dim")
    window = config.count("sliding_window")
    ratios = [int(ratio) for ratio in _listed(config, "compress_ratios", layers) or [0] * layers]
    shapes: Shapes = dense(config.like({**config.keys, "intermediate_size": 0})) | {
        "mla": {
            "kv_lora_rank": width - rope,
            "rope_head_dim": rope,
            "nope_head_dim": width - rope,
            "v_head_dim": width,
            "q_lora_rank": config.count("q_lora_rank"),
            "keys_are_values": True,
            "output_groups": config.count("o_groups"),
            "output_rank": config.count("o_lora_rank"),
        },
        "router_bias": True,
        "residual_streams": config.count("hc_mult", default=1),
        "indexer": {
            "heads": config.count("index_n_heads"),
            "head_dim": config.count("index_head_dim"),
            "topk": config.count("index_topk"),
        },
        "compression": {"ratio": _CHOSEN_OF, "window": window, "overlap": True},
        **experts_of_one_width(config, "n_routed_experts", "num_experts_per_tok", "n_shared_experts"),
    }  # fmt: skip
    return shapes | {
        "layer_shapes": [
            {
                "at": _where([found == ratio for found in ratios]),
                "compression": {"ratio": ratio, "window": window},
                "indexed": False,
            }
            for ratio in sorted(set(ratios) - {_CHOSEN_OF})
        ]
    }


_CHOSEN_OF = 4  # tokens of an entry in layers with an indexer, made from twice as many (the model's code)

MIXED: dict[str, Callable[[Config], Shapes]] = {
    "nemotron-nas": _nemotron_nas,
    "gemma4": _gemma4,
    "mimo_v2_flash": _mimo_v2,
    "step3p5": _step3p,
    "step3p7": _step3p,
    "longcat_flash": _longcat,
    "qwen3_next": _qwen3_next,
    "qwen3_5": _qwen3_next,
    "qwen3_5_moe": _qwen3_next,
    "nemotron_h": _nemotron_h,
    "granitemoehybrid": _granite_hybrid,
    "kimi_linear": _kimi_linear,
    "minimax_text_01": _minimax_01,
    "deepseek_v32": _deepseek_v32,
    "glm_moe_dsa": _deepseek_v32,
    "deepseek_v4": _deepseek_v4,
}
