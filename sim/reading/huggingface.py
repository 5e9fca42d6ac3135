"""A Hugging Face `config.json` -> `Model`. One small function per family: each spells its shapes its own
way.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.inputs.errors import InputError, Problem
from sim.inputs.model import MAX_EXPERTS, MAX_LAYERS, LatentAttention, Model
from sim.reading.quantisation import checkpoint_of
from sim.reading.text_files import text_of

MAX_BYTES = 4_000_000  # the largest config.json known to the author has 60 kB


class Config:
    """The keys of one config.json; remembers what is missing or no number, so that all of it is reported at
    once.
    """

    def __init__(self, keys: Mapping[str, Any], file: str, text: str) -> None:
        self.keys, self.file, self.text = keys, file, text
        self.problems: list[Problem] = []

    def problem(self, key: str, what: str) -> None:
        found = re.search(rf'"{re.escape(key)}"\s*:', self.text)
        line = self.text.count("\n", 0, found.start()) + 1 if found else None
        self.problems.append(Problem(what, self.file, line, key))

    def count(self, *names: str, default: int | None = None, most: int = 10**9) -> int:
        """A whole number from 0 to `most` under the first of `names` that is there."""
        for name in names:
            value = self.keys.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                shown = str(value)[:40] if isinstance(value, bool | float | str) else _shown(value)
                self.problem(name, f"{shown!r} is not a count; a whole number from 0 to {most} is")
                return 1
            return value
        if default is None:
            self.problem(names[0], f"is missing; a config.json of {self.keys.get('model_type')!r} has it")
            return 1
        return default

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.keys.get(name)
        return default if value is None else bool(value)


def _dense(config: Config) -> dict[str, Any]:
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


def _llama(config: Config) -> dict[str, Any]:
    bias = config.flag("attention_bias")
    return _dense(config) | {"qkv_bias": bias, "output_bias": bias, "mlp_bias": config.flag("mlp_bias")}


def _mistral(config: Config) -> dict[str, Any]:
    return _dense(config) | _sliding(config, every_layer=True)


def _qwen2(config: Config) -> dict[str, Any]:
    window = _sliding(config, every_layer=True) if config.flag("use_sliding_window") else {}
    return _dense(config) | {"qkv_bias": True} | window


def _qwen3(config: Config) -> dict[str, Any]:
    bias = config.flag("attention_bias")
    window = _sliding(config, every_layer=True) if config.flag("use_sliding_window") else {}
    return _dense(config) | {"qk_norm": "head", "qkv_bias": bias, "output_bias": bias} | window


def _sparse_layers(config: Config, layers: int) -> tuple[int, ...]:
    step = max(1, config.count("decoder_sparse_step", default=1))
    only = {int(layer) for layer in config.keys.get("mlp_only_layers") or ()}
    return tuple(layer for layer in range(layers) if layer in only or (layer + 1) % step)


def _qwen3_moe(config: Config) -> dict[str, Any]:
    shapes = _qwen3(config)
    return shapes | {
        "experts": config.count("num_experts", "num_local_experts", most=MAX_EXPERTS),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("moe_intermediate_size"),
        "dense_layer_indices": _sparse_layers(config, shapes["layers"]),
    }


def _qwen2_moe(config: Config) -> dict[str, Any]:
    return _qwen3_moe(config) | {
        "qk_norm": None,
        "qkv_bias": True,
        "output_bias": False,
        "shared_experts": 1,
        "shared_intermediate": config.count("shared_expert_intermediate_size"),
        "shared_expert_gate": True,
    }


def _mixtral(config: Config) -> dict[str, Any]:
    return _mistral(config) | {
        "experts": config.count("num_local_experts"),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("intermediate_size"),
    }


def _with_first_dense(config: Config, shapes: dict[str, Any]) -> dict[str, Any]:
    width, shared = config.count("moe_intermediate_size"), config.count("n_shared_experts", default=0)
    first = config.count("first_k_dense_replace", default=0)
    step = max(1, config.count("moe_layer_freq", default=1))
    return shapes | {
        "experts": config.count("n_routed_experts", most=MAX_EXPERTS),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": width,
        "shared_experts": shared,
        "shared_intermediate": shared * width,
        **_group_limit(config),
        "dense_layer_indices": tuple(n for n in range(shapes["layers"]) if n < first or n % step),
    }


def _group_limit(config: Config) -> dict[str, int]:
    """The groups of experts that a token is held to; `greedy` routing (DeepSeek-V2-Lite) ignores them."""
    groups = config.count("n_group", default=1)
    if groups <= 1 or config.keys.get("topk_method") == "greedy":
        return {}
    return {"expert_groups": groups, "groups_per_token": config.count("topk_group", default=groups)}


def _deepseek(config: Config) -> dict[str, Any]:
    nope, rope = config.count("qk_nope_head_dim"), config.count("qk_rope_head_dim")
    mla = {
        "kv_lora_rank": config.count("kv_lora_rank"),
        "rope_head_dim": rope,
        "nope_head_dim": nope,
        "v_head_dim": config.count("v_head_dim"),
        "q_lora_rank": config.count("q_lora_rank", default=0) or None,
    }
    shapes = _dense(config) | {"mla": mla, "head_dim": nope + rope}
    # "noaux_tc" routing adds one learnt correction per expert
    shapes["router_bias"] = config.keys.get("topk_method", "noaux_tc") == "noaux_tc"
    return _with_first_dense(config, shapes)


def _glm4_moe(config: Config) -> dict[str, Any]:
    norm = "head" if config.flag("use_qk_norm") else None
    shapes = _dense(config) | {
        "qkv_bias": config.flag("attention_bias"),
        "qk_norm": norm,
        "router_bias": True,
    }
    return _with_first_dense(config, shapes)


def _gpt_oss(config: Config) -> dict[str, Any]:
    return _llama(config) | _sliding(config) | {
        "qkv_bias": config.flag("attention_bias", default=True),
        "output_bias": config.flag("attention_bias", default=True),
        "mlp_bias": True,
        "attention_sinks": True,
        "router_bias": True,
        "experts": config.count("num_local_experts"),
        "experts_per_token": config.count("num_experts_per_tok", "experts_per_token"),
        "moe_intermediate": config.count("intermediate_size"),
    }  # fmt: skip


def _minimax_m2(config: Config) -> dict[str, Any]:
    norm = {"per_layer": "layer", "per_head": "head"}[str(config.keys.get("qk_norm_type", "per_layer"))]
    return _dense(config) | {
        "qk_norm": norm if config.flag("use_qk_norm", default=True) else None,
        "experts": config.count("num_local_experts"),
        "experts_per_token": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("intermediate_size"),
        "router_bias": config.flag("use_routing_bias", default=True),
    }


def _sliding(config: Config, every_layer: bool = False) -> dict[str, Any]:
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


def _native_weights(keys: Mapping[str, Any]) -> str:
    """The number format in which the checkpoint is published (of its experts, where they have their own)."""
    quantisation = keys.get("quantization_config") or {}
    if isinstance(quantisation, str):  # some producers write the method alone
        quantisation = {"quant_method": quantisation}
    if not isinstance(quantisation, Mapping):
        raise TypeError(f"quantization_config = {_shown(quantisation)}: must be an object, as in {{...}}")
    method = str(quantisation.get("quant_method", "") or quantisation.get("quant_algo", "")).lower()
    if method in ("fp8", "mxfp4", "nvfp4"):
        return {"fp8": "fp8", "mxfp4": "fp4", "nvfp4": "nvfp4"}[method]
    dtype = str(keys.get("torch_dtype") or keys.get("dtype") or "bfloat16")
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(dtype, "bf16")


def read_model(path: str | Path, name: str | None = None) -> Model:
    """The model that a `config.json` describes; `name` defaults to the file's or its folder's name.

    InputError with every problem at once: no such file, not JSON, an architecture that is not known, keys
    that are missing or make no sense.
    """
    path = Path(path)
    file = str(path)
    text = text_of(path, "a config.json", MAX_BYTES)
    try:
        keys = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(Problem(f"is not JSON: {error.msg}", file, error.lineno)) from None
    except (RecursionError, ValueError):
        raise InputError(Problem("is not JSON text in UTF-8; a config.json is", file)) from None
    if not isinstance(keys, dict):
        raise InputError(
            Problem("is not a JSON object; a config.json is one, with keys such as hidden_size", file)
        )
    name = name or (path.parent.name if path.name == "config.json" else path.stem)
    return model_of({**_quantisation_beside(path), **keys}, name, file, text)


def _quantisation_beside(path: Path) -> dict[str, Any]:
    """The number formats that ModelOpt writes into a file of their own, where there is one."""
    beside = path.with_name("hf_quant_config.json")
    if path.name != "config.json" or not beside.is_file() or beside.stat().st_size > MAX_BYTES:
        return {}
    try:
        written = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(Problem("is not JSON text; quantization_config is", str(beside))) from None
    found = written.get("quantization") if isinstance(written, dict) else None
    return {"quantization": found} if isinstance(found, dict) else {}


def model_of(keys: Mapping[str, Any], name: str, file: str = "", text: str = "") -> Model:
    """The model that the keys of a config.json describe."""
    config = Config(keys, file, text)
    family, shapes_of = _family(config)
    try:
        shapes, native_weights = shapes_of(config), _native_weights(keys)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(Problem(f"does not look like a config.json of {family}: {error}", file)) from None
    if config.problems:
        raise InputError(config.problems)
    mla = shapes.pop("mla", None)
    try:
        latent = LatentAttention(**mla) if mla else None
        model = Model(name=name, architecture=family, mla=latent, native_weights=native_weights, **shapes)
    except ValidationError as error:
        raise InputError(
            [_problem(file, found["loc"], found["msg"], found["input"]) for found in error.errors()]
        ) from None
    checkpoint = checkpoint_of(keys, model)
    return model if checkpoint is None else model.model_copy(update={"checkpoint": checkpoint})


def _problem(file: str, where: tuple[int | str, ...], what: str, given: object) -> Problem:
    return Problem(f"{what}, not {_shown(given)!r}", file, None, ".".join(map(str, where)))


def _shown(given: object) -> str:
    """The beginning of a value: one of a million digits cannot be written out whole."""
    if isinstance(given, int) and abs(given) > 10**60:
        return "a number of more than 60 digits"
    return str(given)[:60]


def _family(config: Config) -> tuple[str, Callable[[Config], dict[str, Any]]]:
    architectures = config.keys.get("architectures") or []
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    for written in (ARCHITECTURES.get(str(first)), config.keys.get("model_type")):
        if isinstance(written, str) and written in FAMILIES:
            return str(written), FAMILIES[str(written)]
    written = _shown(first or config.keys.get("model_type") or "")
    if not written:
        config.problem("architectures", f"is missing, and so is model_type; known are {_known()}")
    else:
        near = difflib.get_close_matches(written, [*ARCHITECTURES, *FAMILIES], n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        key = "architectures" if first else "model_type"
        config.problem(
            key, f"{written!r} is an architecture that is not known here; known are {_known()}{meant}"
        )
    raise InputError(config.problems)


def _known() -> str:
    return ", ".join(FAMILIES)


FAMILIES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2_moe,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "kimi_k2": _deepseek,
    "glm4_moe": _glm4_moe,
    "gpt_oss": _gpt_oss,
    "minimax_m2": _minimax_m2,
}

ARCHITECTURES: dict[str, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "MixtralForCausalLM": "mixtral",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "Glm4MoeForCausalLM": "glm4_moe",
    "GptOssForCausalLM": "gpt_oss",
    "MiniMaxM2ForCausalLM": "minimax_m2",
}
