"""The `quantization_config` of a `config.json` -> the number formats that the checkpoint is served in.

Every producer spells it in its own way (Hugging Face fp8, AWQ, GPTQ, compressed-tensors, ModelOpt, MXFP4),
and most leave modules out: attention, shared experts, the first layers. So the modules of every layer are
looked up by name, and each part that a `Precision` knows gets the format that most of its layers have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import translate
from itertools import accumulate
from typing import Any

from sim.inputs.model import Model
from sim.inputs.precision import Checkpoint

PLAIN = "bf16"  # what is left out of a quantised checkpoint; fp16 has the same size and speed

# Names of the modules of one part, in a layer, under all the spellings of the known families.
_ATTENTION = ("self_attn", "attn", "attention")
_PARTS: dict[str, tuple[str, ...]] = {
    "qkv": tuple(f"{block}.{name}" for block in _ATTENTION
                 for name in ("q_proj", "q_b_proj", "qkv_proj", "wq_b")),
    "output": tuple(f"{block}.{name}" for block in _ATTENTION for name in ("o_proj", "wo_b")),
    "dense": ("mlp.down_proj", "feed_forward.down_proj"),
    "shared": (*(f"mlp.{name}.down_proj" for name in ("shared_experts", "shared_expert")),
               "ffn.shared_experts.w2"),
    "experts": tuple(f"{block}.{name}" for block in ("mlp", "block_sparse_moe", "feed_forward", "ffn")
                     for name in ("experts.0.down_proj", "experts.0.w2", "experts.down_proj", "experts")),
}  # fmt: skip
_WORDS = {
    "qkv": "queries, keys, values",
    "output": "attention output",
    "dense": "dense layers",
    "shared": "shared experts",
    "experts": "experts",
}
_PREFIXES = ("model.", "language_model.model.", "model.language_model.", "")


def checkpoint_of(keys: Mapping[str, Any], model: Model) -> Checkpoint | None:
    """What a config.json says of the number formats of its weights; None where they are not quantised."""
    written = _quantisation(keys)
    if not written:
        return None
    method = str(written.get("quant_method") or written.get("quant_algo") or "no quant_method")
    formats = _Formats(written)
    counted = _formats_of_parts(formats, model)
    if keys.get("expert_dtype") == "fp4" and counted.get("experts", {}).keys() == {"fp8_block"}:
        counted["experts"] = Counter({"w4a8": counted["experts"].total()})  # DeepSeek-V4's own
    parts = {part: layers.most_common(1)[0][0] for part, layers in counted.items()}
    if None in parts.values():
        return Checkpoint(quantisation=f"{method}, which is not known here", precision={})
    precision = _precision(parts, model)
    if formats.static:
        precision["activation_scales"] = "static"
    if _is_fp8_cache(written):
        precision["kv_cache"] = "fp8"
    return Checkpoint(quantisation=_in_words(method, counted), precision=precision)


def _quantisation(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The block itself, under the names and in the places where producers write it."""
    text = keys.get("text_config")
    for block in (keys, text if isinstance(text, Mapping) else {}):
        for name in ("quantization_config", "compression_config", "quantization"):
            written = block.get(name)
            if isinstance(written, Mapping) and written:
                return written
            if isinstance(written, str) and written:
                return {"quant_method": written}
    return {}


class _Modules:
    """A list of modules as producers write it: names, blocks that hold them, single words of a name,
    wildcards, and `re:` before a regular expression.
    """

    def __init__(self, entries: Iterable[object]) -> None:
        written = [str(entry) for entry in entries]
        self._patterns = [
            re.compile(translate(f"{entry}{end}")) for entry in written if "*" in entry for end in ("", ".*")
            if not entry.startswith("re:")
        ]  # fmt: skip
        for entry in written:
            if entry.startswith("re:"):
                with suppress(re.error):
                    self._patterns.append(re.compile(entry[3:]))
        self._names = frozenset(written)

    def __contains__(self, name: str) -> bool:
        words = name.split(".")
        blocks = accumulate(words, "{}.{}".format)
        if not self._names.isdisjoint((*blocks, *words)):
            return True
        return any(pattern.match(name) for pattern in self._patterns)


class _Formats:
    """The format of a module by its name: that of the group that targets it, unless it is left out."""

    def __init__(self, written: Mapping[str, Any]) -> None:
        keys = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules")
        self._ignored = _Modules(entry for key in keys for entry in _listed(written.get(key)))
        self._by_algorithm: dict[str, list[str]] = {}
        for name, found in _mapping(written.get("quantized_layers")).items():
            self._by_algorithm.setdefault(str(_mapping(found).get("quant_algo")), []).append(str(name))
        # ModelOpt's layers of a checkpoint that was FP8 before: the others are as they were
        was_fp8 = self._by_algorithm and written.get("quant_method") == "fp8"
        self._others = (_of_method(written) if was_fp8 else None) or PLAIN
        found = _mapping(written.get("config_groups")).values()
        groups = [group for group in found if isinstance(group, Mapping)]
        self.static = _is_static(written, groups)
        algorithm = str(written.get("quant_algo") or "").upper()
        self._groups: list[tuple[_Modules | None, str | None]]
        if algorithm and algorithm != "MIXED_PRECISION":
            self._groups = [(None, _of_algorithm(algorithm))]
        elif self._by_algorithm:
            self._groups = [
                (_Modules(names), _of_algorithm(key)) for key, names in self._by_algorithm.items()
            ]
        elif groups:
            self._groups = [(_targets(group), _of_group(group, written)) for group in groups]
        else:
            self._groups = [(None, _of_method(written))]

    def __getitem__(self, names: Iterable[str]) -> str | None:
        """The format of a module that has one of these names; None where it is written but not known."""
        names = tuple(names)
        if any(name in self._ignored for name in names):
            return self._others
        for targets, found in self._groups:
            if targets is None or any(name in targets for name in names):
                return found
        return self._others


def _formats_of_parts(formats: _Formats, model: Model) -> dict[str, Counter[str | None]]:
    """How many layers have which format, in each part of the model."""
    parts: dict[str, Counter[str | None]] = {}
    for part in _PARTS:
        layers = [layer for layer in range(model.layers) if _has(model, part, layer)]
        if not layers:
            continue
        parts[part] = Counter(formats[_names(part, layer)] for layer in layers)
    return parts


def _has(model: Model, part: str, layer: int) -> bool:
    moe = model.is_moe_layer(layer)
    if part == "shared":
        return moe and model.shared_intermediate > 0
    return {"dense": not moe, "experts": moe}.get(part, True)


def _names(part: str, layer: int) -> Iterable[str]:
    return (f"{prefix}layers.{layer}.{name}" for prefix in _PREFIXES for name in _PARTS[part])


def _precision(parts: Mapping[str, str | None], model: Model) -> dict[str, str]:
    """The keys of a `Precision`. What is neither a routed expert nor a projection to queries, keys and values
    shares one key; it gets the format that most of those weights have.
    """
    sizes = {
        "output": model.layers * model.hidden * model.output_width,
        "dense": model.dense_layers * model.dense_mlp_parameters,
        "shared": model.moe_layers * model.shared_expert_parameters_per_layer,
    }
    weights = Counter[str]()
    for part, size in sizes.items():
        if part in parts:
            weights[str(parts[part])] += size
    rest = weights.most_common(1)[0][0]
    precision = {"weights": rest}
    if parts.get("experts", rest) != rest:
        precision["experts"] = str(parts["experts"])
    if parts["qkv"] != rest:
        precision["qkv_weights"] = str(parts["qkv"])
    return precision


def _in_words(method: str, parts: Mapping[str, Counter[str | None]]) -> str:
    """Which part has which format, and in how many layers where not in all of them."""
    formats = {found for layers in parts.values() for found in layers}
    if len(formats) == 1:
        return f"{method}: {formats.pop()}"
    by_format: dict[str, list[str]] = {}
    for part, layers in parts.items():
        for found, count in layers.items():
            share = f" of {count} of {layers.total()} layers" if len(layers) > 1 else ""
            by_format.setdefault(str(found), []).append(f"{_WORDS[part]}{share}")
    return f"{method}: " + "; ".join(f"{found} {', '.join(those)}" for found, those in by_format.items())


def _of_method(written: Mapping[str, Any]) -> str | None:
    """The format of a config without groups, by `quant_method` and its width in bits."""
    method = str(written.get("quant_method", "")).lower()
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8_block" if written.get("weight_block_size") else "fp8"
    if method == "mxfp4":
        return "w4a16"
    bits = written.get("bits") or written.get("w_bit")
    if method == "bitsandbytes":
        bits = 4 if written.get("load_in_4bit") or written.get("_load_in_4bit") else 8
    if method in ("awq", "gptq", "gptq_marlin", "awq_marlin", "auto-round", "bitsandbytes"):
        return {4: "w4a16", 8: "int8"}.get(bits if isinstance(bits, int) else 0)
    return None


def _of_algorithm(algorithm: str) -> str | None:
    """ModelOpt's names."""
    name = algorithm.upper()
    if name in ("FP8_PB_WO", "FP8_PB_REAL", "FP8_BLOCK"):
        return "fp8_block"
    if name in ("INT8_SQ", "W8A8_SQ_PER_CHANNEL"):
        return "int8"
    if name in ("W4A8_AWQ", "W4A8_MXFP4_FP8"):
        return "w4a8"
    for start, found in (
        ("FP8", "fp8"),
        ("MXFP8", "fp8"),
        ("NVFP4", "nvfp4"),
        ("W4A16", "w4a16"),
        ("MXFP4", "w4a16"),
    ):
        if name.startswith(start):
            return found
    return None


def _of_group(group: Mapping[str, Any], written: Mapping[str, Any]) -> str | None:
    """The format of a group of compressed-tensors: type and bits of its weights, and what they multiply."""
    weights, inputs = _mapping(group.get("weights")), _mapping(group.get("input_activations"))
    kind, bits, of_inputs = weights.get("type"), weights.get("num_bits"), inputs.get("num_bits")
    layout = str(group.get("format") or written.get("format") or "")
    if (kind, bits) == ("float", 8):
        return "fp8_block" if weights.get("strategy") == "block" else "fp8"
    if (kind, bits) == ("int", 8):
        return "int8"
    if (kind, bits) == ("float", 4):
        if of_inputs is None:
            return "w4a16"
        return "nvfp4" if weights.get("group_size") == 16 or "nvfp4" in layout else "fp4"
    if (kind, bits) == ("int", 4):
        return "w4a8" if of_inputs == 8 else "w4a16"
    return None


def _is_static(written: Mapping[str, Any], groups: list[Mapping[str, Any]]) -> bool:
    """Whether scales of the activations are in the checkpoint, so that no kernel has to find them. The block
    scales of four-bit inputs are found all the same.
    """
    if written.get("activation_scheme") == "static":
        return True
    inputs = [_mapping(group.get("input_activations")) for group in groups]
    return bool(inputs) and all(
        found.get("dynamic") is False and found.get("num_bits") == 8 for found in inputs
    )


def _is_fp8_cache(written: Mapping[str, Any]) -> bool:
    """Whether the checkpoint was made for a KV cache in 8 bits, which `kv_cache_dtype: auto` then takes."""
    scheme = written.get("kv_cache_scheme")
    algorithm = str(written.get("kv_cache_quant_algo") or (scheme if isinstance(scheme, str) else ""))
    return algorithm.upper() == "FP8" or _mapping(scheme).get("num_bits") == 8


def _targets(group: Mapping[str, Any]) -> _Modules | None:
    """Where a group's format lies; None: in all linear layers."""
    targets = _listed(group.get("targets"))
    return None if not targets or "Linear" in targets else _Modules(targets)


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
