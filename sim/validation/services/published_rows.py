"""A published row of a service in words of a scenario: its formats, its engine, its requests.

Each module beside this reads one kind of table and makes a scenario of every row (`sim/data/measured/serving/
README.md` has the sources). Where an engine has a constant of its own, the time its host costs, it is fitted
on the rows that are marked so and on no other. A function that ends in `_left_out` says why a row cannot be
expressed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.inputs.model import Model
from sim.scenario.scenario import Scenario

Cells = Mapping[str, str]
"""One published row as it is written, by column."""

PRECISIONS = {
    "fp16": {"weights": "fp16", "kv_cache": "fp16", "activations": "fp16"},
    "bf16": {"weights": "bf16", "kv_cache": "bf16"},
    # NVIDIA's Model Optimizer publishes static scales; TensorRT-LLM's prefill multiplies in 8 bits
    "fp8": {"weights": "fp8", "kv_cache": "fp8", "attention": "fp8", "activation_scales": "static"},
    "fp4": {"weights": "nvfp4", "kv_cache": "fp8", "attention": "fp8", "activation_scales": "static"},
}
ONLINE_SOURCE = "NVIDIA/TensorRT-LLM documentation, performance overview (Apache-2.0)"
# Kernels and collectives are TRT-LLM's and its runtime hides the host: no constant of its own.
TRTLLM: dict[str, Any] = {
    "max_num_seqs": 2048,  # trtllm-bench's max_batch_size
    "max_num_batched_tokens": 8192,  # its max_num_tokens
    "free_gpu_memory_fraction": 0.95,  # the documentation's kv_cache_free_gpu_mem_fraction
    "capacity_scheduler_policy": "guaranteed_no_evict",
    "backend": "trtllm",
    "enable_prefix_caching": False,
}


def precision_of(model: str, precision: str, gpu: str) -> dict[str, str]:
    """Formats of a row of these tables. Only Blackwell multiplies the 4-bit experts of gpt-oss as such."""
    if model != "gpt-oss-120b":
        return PRECISIONS[precision]
    experts = "w4a8" if gpu in ("B200", "GB200") else "w4a16"
    return {"weights": "bf16", "experts": experts, "kv_cache": "fp8", "attention": "fp8"}


def scenario_of(
    topology: str,
    model: str | Model,
    precision: Mapping[str, str],
    engine: Mapping[str, Any],
    workload: Mapping[str, Any],
    replicas: int = 1,
) -> Scenario:
    """A scenario of one pool."""
    return Scenario.model_validate(
        {
            "topology": topology,
            "model": model,
            "precision": dict(precision),
            "engine": dict(engine),
            "workload": dict(workload),
            "replicas": replicas,
        }
    )


def burst(prompt_tokens: int, output_tokens: int, requests: int) -> dict[str, Any]:
    """So many equal requests at once."""
    return {
        "arrivals": {"kind": "burst"},
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "requests": requests,
    }
