"""What published tables of whole services name, in words of a scenario: systems, models, formats, engines.

The tables are read by `serving_static`, `serving_offered_rate`, `serving_under_trace`,
`serving_prompt_sweep` and `serving_throughput`, each row as a scenario of its own
(`sim/data/measured/serving/README.md` has their sources). Where an engine has a constant of its own, the time
its host costs, it is fitted on the rows that are marked so and on no other. A function that ends in
`_left_out` says why a row cannot be expressed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.inputs.model import Model
from sim.scenario.scenario import Scenario

Cells = Mapping[str, str]
"""One published row as it is written, by column."""

SYSTEMS = {
    "A100-SXM": "dgx-a100",
    "a100-80gb": "dgx-a100",
    "H100": "nd-h100-v5",
    "h100-80gb": "nd-h100-v5",
    "H200": "hgx-h200",
    "B200": "hgx-b200",
    "GB200": "gb200-nvl72",
    "L40S": "l40s-8",
    "RTX-PRO-6000-Server": "rtx-pro-6000-x8",
}
MODELS = {
    "Llama-3.1-8B": "llama-3.1-8b",
    "Llama-3.1-70B": "llama-3.1-70b",
    "Llama-3.3-70B": "llama-3.1-70b",  # the same architecture
    "Llama-3.1-405B": "llama-3.1-405b",
    "Mixtral-8x7B": "mixtral-8x7b",
    "Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "Mixtral-8x22B": "mixtral-8x22b",
    "DeepSeek-R1-0528": "deepseek-v3",  # the same architecture
    "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
    "gpt-oss-120b": "gpt-oss-120b",
}
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
