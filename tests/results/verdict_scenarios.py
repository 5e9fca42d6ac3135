"""Runs whose limit is known by how they are built, and the one word that it has in a verdict."""

from __future__ import annotations

from typing import Any

from sim.scenario import Scenario, with_changes

BURST = {"arrivals": {"kind": "burst"}, "prompt_tokens": 100, "output_tokens": 60, "requests": 24}


def poisson(rate_per_s: float, requests: int = 40, prompt: int = 100, output: int = 20) -> dict[str, Any]:
    arrivals = {"kind": "poisson", "rate_per_s": rate_per_s}
    return {"arrivals": arrivals, "prompt_tokens": prompt, "output_tokens": output, "requests": requests}


def users(users: int, requests: int, prompt: int = 100, output: int = 20) -> dict[str, Any]:
    arrivals = {"kind": "closed_loop", "users": users}
    return {"arrivals": arrivals, "prompt_tokens": prompt, "output_tokens": output, "requests": requests}


def pool(replicas: int, role: str, **engine: Any) -> dict[str, Any]:
    return {"replicas": replicas, "role": role, "model": "llama-3-8b", "engine": engine}


def described(**rest: Any) -> Scenario:
    changes = rest.pop("changes", {})
    served = {"topology": "nd-h100-v5", "model": "llama-3-8b", **rest}
    return with_changes(Scenario.model_validate(served), changes)


KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    # All-reduces of long prompts over PCIe without peer-to-peer copies.
    "tensor parallelism over PCIe": (
        "prompts, collectives",
        {"topology": "l40s-12", "engine": {"tensor_parallel_size": 4}, "workload": users(4, 12, 4000, 2)},
    ),
    # One request in flight is in one stage of four at a time.
    "a pipeline with one user": (
        "bubbles",
        {"engine": {"pipeline_parallel_size": 4}, "workload": users(1, 4)},
    ),
    # Prompts are ready at three engines, and the only decode engine has room for four of them.
    "pools with too few decodes": (
        "KV blocks",
        {
            "pools": {
                "prefill": pool(3, "prefill"),
                "decode": pool(1, "decode", num_gpu_blocks_override=45, max_model_len=400),
            },
            "workload": BURST | {"requests": 40},
        },
    ),
    # Room for 640 tokens, where each request comes to 160.
    "few KV blocks": (
        "KV blocks",
        {"engine": {"num_gpu_blocks_override": 40, "max_model_len": 400}, "workload": BURST},
    ),
    "two seats": ("seats", {"engine": {"max_num_seqs": 2}, "workload": BURST}),
    # 16 ranks dispatch and combine long prompts over NICs of 2 GB/s.
    "experts over NICs": (
        "interference, collectives",
        {
            "topology": "hgx-h200",
            "nodes": 2,
            "model": "deepseek-v3",
            "engine": {
                "data_parallel_size": 16,
                "enable_expert_parallel": True,
                "max_num_batched_tokens": 8192,
            },
            "workload": users(16, 32, 8000, 1),
            "changes": {"topology.links.infiniband-ndr.bytes_per_s": "2 GB/s"},
        },
    ),
    # 20 ms on the host for a step that takes 5 ms on the GPU.
    "a slow host": (
        "host",
        {"engine": {"host": {"step_s": 0.02}, "async_scheduling": False}, "workload": users(2, 6)},
    ),
    "whole batches": (
        "batch",
        {"engine": {"scheduler": "static", "max_num_seqs": 8}, "workload": BURST},
    ),
    "few requests": ("nothing", {"workload": poisson(0.5, 10)}),
    # 400,000 tokens of prompts a second, one token out.
    "prompts alone": (
        "prompts, arithmetic",
        {"engine": {"max_num_batched_tokens": 2048}, "workload": poisson(100, 40, 4000, 1)},
    ),
    "every engine down": (
        "down",
        {"faults": [{"at_s": 0.1, "until_s": 5.0, "replica": 0}], "workload": poisson(50)},
    ),
    "one user": ("memory", {"workload": users(1, 4)}),
    "a given service time": (
        "service",
        {
            "engine": {"scheduler": "one_at_a_time", "service_time": {"token_s": "1 ms"}},
            "workload": users(1, 10),
        },
    ),
}
