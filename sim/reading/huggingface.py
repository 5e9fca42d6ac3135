"""A Hugging Face `config.json` -> `Model`: the family, by its class or model_type, and the number formats.
Of a wrapper with several modalities the language model is read.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.inputs.attention_kinds import LatentAttention
from sim.inputs.errors import InputError, Problem
from sim.inputs.model import Model
from sim.reading.config_keys import Config, shown
from sim.reading.families import FAMILIES as UNIFORM
from sim.reading.mixed_families import MIXED
from sim.reading.quantisation import checkpoint_of
from sim.reading.text_files import text_of

MAX_BYTES = 4_000_000  # the largest config.json known to the author has 60 kB


def _native_weights(keys: Mapping[str, Any]) -> str:
    """The number format in which the checkpoint is published (of its experts, where they have their own)."""
    quantisation = keys.get("quantization_config") or {}
    if isinstance(quantisation, str):  # some producers write the method alone
        quantisation = {"quant_method": quantisation}
    if not isinstance(quantisation, Mapping):
        raise TypeError(f"quantization_config = {shown(quantisation)}: must be an object, as in {{...}}")
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
    keys = text_part(keys)
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
    return Problem(f"{what}, not {shown(given)!r}", file, None, ".".join(map(str, where)))


# Where wrappers of several modalities keep the language model, and endings that its family then has.
_TEXT_PARTS = ("text_config", "language_config", "llm_config", "language_model", "thinker_config")
_TEXT_ENDINGS = ("_text", "_language")


def text_part(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model of a wrapper (vision, audio), with what the wrapper says for all of it; other keys
    as they are.
    """
    found = next((keys[name] for name in _TEXT_PARTS if isinstance(keys.get(name), Mapping)), None)
    if found is None:
        return keys
    inner = text_part(found)
    both = {name: keys[name] for name in _OF_ALL if keys.get(name) is not None}
    wrapper = {"architectures": inner.get("architectures") or keys.get("architectures")}
    own = {key: value for key, value in inner.items() if value is not None or key not in both}
    return {**both, **own, **wrapper, "wrapper_type": keys.get("model_type")}


_OF_ALL = (
    "quantization_config", "compression_config", "quantization", "tie_word_embeddings", "torch_dtype",
"dtype", )  # fmt: skip


def _family(config: Config) -> tuple[str, Callable[[Config], dict[str, Any]]]:
    keys = config.keys
    if "n_layers" in keys and "dim" in keys and "model_type" not in keys:
        return "mistral_params", FAMILIES["mistral_params"]
    architectures = keys.get("architectures") or []
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    for written in (ARCHITECTURES.get(str(first)), keys.get("model_type"), keys.get("wrapper_type")):
        found = _known_as(written)
        if found:
            return found, FAMILIES[found]
    written = shown(first or keys.get("model_type") or "")
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


def _known_as(written: object) -> str | None:
    """The family of a model_type, also under the name of its wrapper."""
    if not isinstance(written, str):
        return None
    names = [written, *(written.removesuffix(ending) for ending in _TEXT_ENDINGS)]
    return next((WRAPPERS.get(name, name) for name in names if WRAPPERS.get(name, name) in FAMILIES), None)


def _known() -> str:
    return ", ".join(FAMILIES)


FAMILIES: dict[str, Callable[[Config], dict[str, Any]]] = {**UNIFORM, **MIXED}

# Model types that are a known family under another name, most of them wrappers with a vision tower.
WRAPPERS: dict[str, str] = {
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_omni_moe": "qwen3_moe",
    "mistral3": "mistral",
    "pixtral": "mistral",
    "llava": "llama",
    "kimi_k25": "deepseek_v3",
    "kimi_vl": "deepseek_v3",
    "kimi_k3": "kimi_linear",
    "glm4v": "glm4",
    "glm4v_moe": "glm4_moe",
    "step3p5_flash": "step3p5",
    "step3p7_flash": "step3p7",
    "minimax_m1": "minimax_text_01",
    "minimax": "minimax_text_01",
    "ernie4_5_vl_moe": "ernie4_5_moe",
    "longcat": "longcat_flash",
    "glm5": "glm_moe_dsa",
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
    "Phi3ForCausalLM": "phi3",
    "SeedOssForCausalLM": "seed_oss",
    "InternLM2ForCausalLM": "internlm2",
    "InternLM3ForCausalLM": "internlm3",
    "GraniteForCausalLM": "granite",
    "SmolLM3ForCausalLM": "smollm3",
    "MiMoForCausalLM": "mimo",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo3",
    "Exaone4ForCausalLM": "exaone4",
    "HunYuanDenseV1ForCausalLM": "hunyuan_v1_dense",
    "ChatGLMModel": "chatglm",
    "GlmForCausalLM": "glm",
    "Glm4ForCausalLM": "glm4",
    "Glm4MoeLiteForCausalLM": "glm4_moe_lite",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Gemma4ForConditionalGeneration": "gemma4",
    "Ernie4_5ForCausalLM": "ernie4_5",
    "Ernie4_5_MoeForCausalLM": "ernie4_5_moe",
    "GraniteMoeForCausalLM": "granitemoe",
    "GraniteMoeSharedForCausalLM": "granitemoeshared",
    "GraniteMoeHybridForCausalLM": "granitemoehybrid",
    "Llama4ForCausalLM": "llama4",
    "Llama4ForConditionalGeneration": "llama4",
    "Qwen2_5_VLForConditionalGeneration": "qwen2",
    "Qwen2VLForConditionalGeneration": "qwen2",
    "Qwen3VLForConditionalGeneration": "qwen3",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_moe",
    "DeciLMForCausalLM": "nemotron-nas",
    "MiMoV2FlashForCausalLM": "mimo_v2_flash",
    "Step3p5ForCausalLM": "step3p5",
    "Step3p5FlashForCausalLM": "step3p5",
    "Step3p7FlashForCausalLM": "step3p7",
    "LongcatFlashForCausalLM": "longcat_flash",
    "Qwen3NextForCausalLM": "qwen3_next",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5_moe",
    "Qwen3_5ForCausalLM": "qwen3_5",
    "Qwen3_5MoeForCausalLM": "qwen3_5_moe",
    "NemotronHForCausalLM": "nemotron_h",
    "KimiLinearForCausalLM": "kimi_linear",
    "KimiK3ForConditionalGeneration": "kimi_linear",
    "MiniMaxText01ForCausalLM": "minimax_text_01",
    "MiniMaxM1ForCausalLM": "minimax_text_01",
    "MiniMaxForCausalLM": "minimax_text_01",
    "DeepseekV32ForCausalLM": "deepseek_v32",
    "GlmMoeDsaForCausalLM": "glm_moe_dsa",
    "DeepseekV4ForCausalLM": "deepseek_v4",
}
