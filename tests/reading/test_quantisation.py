"""What a checkpoint's `quantization_config` says of its number formats, as producers write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.inputs.model import Model
from sim.reading.data_files import workloads
from sim.reading.huggingface import model_of, read_model

DENSE, EXPERTS, GPT_OSS = "llama-3-8b", "qwen3-30b-a3b", "gpt-oss-120b"


def keys_of(shipped: str) -> dict[str, Any]:
    keys: dict[str, Any] = json.loads((workloads() / "models" / f"{shipped}.json").read_text())
    keys.pop("quantization_config", None)
    return keys


def quantised(shipped: str, config: Any) -> Model:
    return model_of(keys_of(shipped) | {"quantization_config": config}, "tried")


def precision(shipped: str, config: Any) -> dict[str, str]:
    checkpoint = quantised(shipped, config).checkpoint
    assert checkpoint is not None
    return checkpoint.precision


def group(
    bits: int, kind: str, inputs: dict[str, Any] | None, targets: str = "Linear", **weights: Any
) -> Any:
    written = {"num_bits": bits, "type": kind, **weights}
    return {"weights": written, "input_activations": inputs, "targets": [targets]}


def tensors(*groups: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": dict(enumerate(groups))}


EIGHT = {"num_bits": 8, "type": "float", "dynamic": True}
FOUR = {"num_bits": 4, "type": "float", "dynamic": False, "group_size": 16}


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "w4a16"),
        ({"quant_method": "gptq", "bits": 4}, "w4a16"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "mxfp4"}, "w4a16"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "w4a16"),
        (tensors(group(8, "float", EIGHT)), "fp8"),
        (tensors(group(8, "float", EIGHT, strategy="block")), "fp8_block"),
        (tensors(group(4, "int", None)), "w4a16"),
        (tensors(group(8, "int", {"num_bits": 8})), "int8"),
        (tensors(group(4, "int", {"num_bits": 8})), "w4a8"),
        (tensors(group(4, "float", FOUR, group_size=16)), "nvfp4"),
        (tensors(group(4, "float", None)), "w4a16"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "w4a16"),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}, "fp8_block"),
        ("fp8", "fp8"),
    ],
)  # fmt: skip
def test_every_producers_spelling_is_read(config: Any, weights: str) -> None:
    assert precision(DENSE, config) == {"weights": weights}


def test_a_config_without_quantisation_has_none() -> None:
    assert model_of(keys_of(DENSE), "x").checkpoint is None


def test_static_scales_and_an_8_bit_cache_are_taken_with_the_weights() -> None:
    static = {"num_bits": 8, "type": "float", "dynamic": False}
    config = {
        "quant_algo": "FP8",
        "config_groups": {"g": group(8, "float", static)},
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    }
    assert precision(DENSE, config) == {"weights": "fp8", "activation_scales": "static", "kv_cache": "fp8"}


@pytest.mark.parametrize(
    "left_out",
    [
        ["model.layers.*.self_attn", "lm_head"],
        [f"model.layers.{layer}.self_attn*" for layer in range(48)],
        ["re:.*self_attn.*"],
        ["self_attn"],
        [f"language_model.model.layers.{layer}.self_attn" for layer in range(48)],
        [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(48) for name in "qkvo"],
    ],
)
@pytest.mark.parametrize("key", ["ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers"])
def test_attention_that_is_left_out_stays_in_16_bits(left_out: list[str], key: str) -> None:
    config = {"quant_method": "modelopt", "quant_algo": "NVFP4", key: left_out}
    assert precision(EXPERTS, config) == {"weights": "bf16", "experts": "nvfp4"}


def test_a_head_and_routers_that_are_left_out_change_nothing() -> None:
    routers = [f"model.layers.{layer}.mlp.gate" for layer in range(48)]
    config = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head", *routers]}
    assert precision(EXPERTS, config) == {"weights": "fp8"}


def test_only_the_projections_to_queries_keys_and_values_can_be_left_out() -> None:
    names = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(32) for name in "qkv"]
    config = tensors(group(8, "float", EIGHT)) | {"ignore": names}
    assert precision(DENSE, config) == {"weights": "fp8", "qkv_weights": "bf16"}


def test_a_part_mixed_by_layer_takes_what_most_layers_have_and_says_so() -> None:
    config = {
        "quant_method": "fp8",
        "modules_to_not_convert": [f"model.layers.{layer}" for layer in range(3)],
    }
    checkpoint = quantised(EXPERTS, config).checkpoint
    assert checkpoint is not None
    assert checkpoint.precision == {"weights": "fp8"}
    assert "bf16 queries, keys, values of 3 of 48 layers" in checkpoint.quantisation


def test_formats_by_module_are_read() -> None:
    layers = {f"model.layers.{n}.mlp.experts": {"quant_algo": "NVFP4"} for n in range(48)}
    layers |= {
        f"model.layers.{n}.self_attn.{p}_proj": {"quant_algo": "FP8"} for n in range(48) for p in "qkvo"
    }
    config = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    assert precision(EXPERTS, config) == {"weights": "fp8", "experts": "nvfp4"}


def test_published_gpt_oss_has_experts_in_4_bits_beside_bf16() -> None:
    checkpoint = read_model(workloads() / "models" / f"{GPT_OSS}.json").checkpoint
    assert checkpoint is not None
    assert checkpoint.precision == {"weights": "bf16", "experts": "w4a16"}


@pytest.mark.parametrize(
    "config", [{"quant_method": "gptq", "bits": 3}, {"quant_method": "new"}, {"bits": 4}]
)
def test_a_format_that_is_not_known_is_said_and_decides_nothing(config: dict[str, Any]) -> None:
    checkpoint = quantised(DENSE, config).checkpoint
    assert checkpoint is not None
    assert checkpoint.precision == {}
    assert "not known here" in checkpoint.quantisation


def test_modelopts_file_beside_the_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(keys_of(DENSE)))
    beside = {
        "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    }
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    checkpoint = read_model(tmp_path / "config.json").checkpoint
    assert checkpoint is not None
    assert checkpoint.precision == {"weights": "nvfp4", "kv_cache": "fp8"}
