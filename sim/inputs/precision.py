"""In which number formats a model may be kept and computed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

Dtype = Literal["bf16", "fp16", "fp8", "fp8_block", "int8", "fp4", "nvfp4", "int4", "w4a16", "w4a8"]


class Precision(BaseModel):
    """Storage formats: weights of the linear layers, KV cache entries and activations (also the collectives'
    dtype).

    `experts`: of the routed experts, where it is another than that of the other weights (gpt-oss: `w4a16`
    beside bf16). `qkv_weights`: of the projections that make queries, keys and values, where a checkpoint
    leaves these alone (DeepSeek-R1 in NVFP4: bf16). `activation_scales` static: the kernel before a product
    writes its input in 8 or 4 bits; dynamic: a kernel of its own finds the scales and does so. `attention`:
    what prefill multiplies in, 8 bits where an engine does so on an 8-bit cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Dtype = "bf16"
    kv_cache: Dtype = "bf16"
    activations: Literal["bf16", "fp16"] = "bf16"
    experts: Dtype | None = None
    qkv_weights: Dtype | None = None
    activation_scales: Literal["dynamic", "static"] = "dynamic"
    attention: Literal["bf16", "fp16", "fp8"] | None = None


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
