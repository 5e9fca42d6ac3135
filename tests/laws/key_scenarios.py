"""Small scenarios in which every key of the schema stands: each is run in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import sim
from sim.effects.ran import Ran
from tests.laws.every_key import KERNELS, Key, walk


@dataclass(frozen=True)
class Case:
    """A small scenario, and its run as it was before anything is changed."""

    written: Mapping[str, Any] = field(repr=False)
    only: tuple[str, ...] = ("",)
    """The beginnings of the keys that it is there for."""

    @cached_property
    def scenario(self) -> sim.Scenario:
        return sim.Scenario.model_validate(dict(self.written))

    @cached_property
    def result(self) -> sim.Result:
        return sim.simulate(self.scenario)

    @cached_property
    def ran(self) -> Ran:
        return self.result.ran

    @cached_property
    def keys(self) -> dict[str, list[Key]]:
        found: dict[str, list[Key]] = {}
        for key in walk(self.scenario):
            if not key.name.startswith(self.only):
                continue
            found.setdefault(key.name, []).append(key)
        for name, keys in found.items():
            if name.startswith(KERNELS):
                found[name] = [replace(keys[0], also=tuple(key.path for key in keys[1:]))]
        return found

    def with_(self, **changes: Any) -> sim.Scenario:
        return sim.with_changes(self.scenario, changes)


@cache
def small(name: str, layers: int = 4, **changes: Any) -> dict[str, Any]:
    """A shipped model with few layers."""
    model = sim.load_model(name).model_dump()
    return {**model, "layers": layers, "name": f"{name} with {layers} layers", **changes}


def chat(requests: int = 12, rate_per_s: float = 40.0, **more: Any) -> dict[str, Any]:
    """Traffic of prompts and answers of mixed lengths."""
    return {
        "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
        "prompt_tokens": {"kind": "uniform", "low": 30, "high": 900},
        "output_tokens": {"kind": "uniform", "low": 2, "high": 40},
        "requests": requests,
        **more,
    }


def server(**workload: Any) -> dict[str, Any]:
    """A textbook server: its service times are given, no GPU is at work."""
    traffic = {**chat(20, 5.0), **workload}
    given = {"step_s": 0.01, "sequence_s": 0.001, "token_s": 1e-4}
    engine = {"service_time": given, "max_num_seqs": 4, "enable_prefix_caching": "prefix" in workload}
    return {"topology": "a100-x4", "model": small("llama-3-8b"), "engine": engine, "workload": traffic}


POOL = {"tensor_parallel_size": 4}
SESSIONS = {
    "kind": "sessions",
    "starts": {"kind": "poisson", "rate_per_s": 10.0},
    "turns": 3,
    "tool_delay_s": 0.05,
    "max_context_tokens": 4000,
}
TIERS = {
    "host": {"capacity_bytes": 3e7, "read_bytes_per_s": 2e9, "write_bytes_per_s": 2e9, "staging_bytes": 1e7},
    "nvme": {"capacity_bytes": 5e7, "read_bytes_per_s": 1e9, "write_bytes_per_s": 1e9},
    "remote": {"capacity_bytes": 1e9, "place": "node1.host0"},
}

BASES: dict[str, dict[str, Any]] = {
    "tensor parallel": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {"tensor_parallel_size": 8},
        "workload": chat(),
    },
    "one GPU": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b", 8),
        "precision": {"weights": "fp8"},
        "prices": {"gpu_hour": 2.5, "kwh": 0.08},
        "workload": chat(prompt_tokens=3000),
    },
    "capped GPUs": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "power": {"gpu_cap_w": 420.0},
        "workload": chat(),
    },
    "capped racks": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "engine": {"tensor_parallel_size": 8},
        "power": {"rack_cap_w": 14.2e3, "servers_per_rack": 2},
        "workload": chat(),
    },
    "two servers": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "engine": {"tensor_parallel_size": 16},
        "workload": chat(),
    },
    "two servers, typical InfiniBand": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "engine": {"tensor_parallel_size": 16, "inter_node": "ib-typical"},
        "workload": chat(6),
    },
    "two servers, degraded InfiniBand": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "engine": {"tensor_parallel_size": 16, "inter_node": "ib-degraded"},
        "workload": chat(6),
    },
    "two servers, TCP": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "engine": {"tensor_parallel_size": 16, "inter_node": "tcp-eth0"},
        "workload": chat(6),
    },
    "pipeline": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b", 6),
        "engine": {
            "tensor_parallel_size": 8,
            "pipeline_parallel_size": 2,
            "executor": "ray",
            "step_gap_s": 1e-4,
            "frontend_s": 1e-3,
            "frontend_token_s": 1e-6,
            "long_prefill_token_threshold": 400,
        },
        "workload": chat(),
    },
    "experts": {
        "topology": "nd-h100-v5",
        "model": small("deepseek-v3", 6, dense_layer_indices=(0, 1, 2)),
        "precision": {"weights": "fp8_block", "kv_cache": "fp8"},
        "engine": {
            "data_parallel_size": 8,
            "enable_expert_parallel": True,
            "expert_routing": {"popularity": "zipf", "redundant_experts": 8, "placement": "balanced"},
        },
        "workload": chat(),
    },
    "layers with states": {
        "topology": "nd-h100-v5",
        "model": {
            "name": "states",
            "architecture": "any",
            "layers": 6,
            "hidden": 1024,
            "intermediate": 4096,
            "heads": 16,
            "kv_heads": 4,
            "head_dim": 128,
            "vocab": 32_000,
            "experts": 16,
            "experts_per_token": 4,
            "zero_experts": 4,
            "moe_intermediate": 512,
            "moe_latent": 512,
            "shared_experts": 1,
            "shared_intermediate": 512,
            "norms_per_layer": 2,
            "linear": {
                "kind": "kda",
                "key_heads": 16,
                "value_heads": 16,
                "key_head_dim": 128,
                "value_head_dim": 128,
                "conv_kernel": 4,
                "state_dtype": "fp32",
                "gate_rank": 128,
            },
            "layer_shapes": [
                {
                    "at": [1, 3],
                    "heads": 8,
                    "kv_heads": 2,
                    "head_dim": 64,
                    "v_head_dim": 32,
                    "intermediate": 2048,
                    "experts": 0,
                    "norms_per_layer": 4,
                    "sliding_window": 256,
                    "linear": {
                        "kind": "mamba2",
                        "key_heads": 8,
                        "value_heads": 16,
                        "key_head_dim": 64,
                        "value_head_dim": 64,
                        "conv_kernel": 4,
                        "gate_rank": 0,
                    },
                },
                {"at": [5], "shared_intermediate": 1024},
            ],
        },
        "workload": chat(),
    },
    "layers of three shapes": {
        "topology": "nd-h100-v5",
        "model": {
            "name": "shapes",
            "architecture": "any",
            "layers": 6,
            "hidden": 1024,
            "intermediate": 4096,
            "heads": 16,
            "kv_heads": 4,
            "head_dim": 128,
            "vocab": 32_000,
            "layer_shapes": [
                {
                    "at": [1, 3],
                    "heads": 8,
                    "kv_heads": 2,
                    "head_dim": 64,
                    "v_head_dim": 32,
                    "sliding_window": 64,
                },
                {
                    "at": [5],
                    "linear": {
                        "kind": "kda",
                        "key_heads": 16,
                        "value_heads": 16,
                        "key_head_dim": 128,
                        "value_head_dim": 128,
                        "conv_kernel": 4,
                        "gate_rank": 64,
                    },
                },
            ],
        },
        "workload": chat(),
    },
    "tokens that an indexer chooses": {
        "topology": "nd-h100-v5",
        "model": small("deepseek-v3", 5, dense_layer_indices=(0, 1, 2))
        | {"indexer": {"heads": 64, "head_dim": 128, "topk": 128}},
        "precision": {"weights": "fp8_block"},
        "engine": {"tensor_parallel_size": 8},
        "workload": chat(),
    },
    "entries of several tokens": {
        "topology": "nd-h100-v5",
        "model": small("deepseek-v3", 5, dense_layer_indices=(0, 1, 2))
        | {
            "mla": {
                "kv_lora_rank": 448,
                "rope_head_dim": 64,
                "nope_head_dim": 448,
                "v_head_dim": 512,
                "q_lora_rank": 1536,
                "keys_are_values": True,
                "output_groups": 16,
                "output_rank": 1024,
            },
            "indexer": {"heads": 64, "head_dim": 128, "topk": 32},
            "compression": {"ratio": 4, "window": 128, "overlap": True},
            "residual_streams": 4,
            "layer_shapes": [{"at": [4], "compression": {"ratio": 128, "window": 64}, "indexed": False}],
        },
        "precision": {"weights": "fp8_block"},
        "engine": {"tensor_parallel_size": 8},
        "workload": chat(),
    },
    "drafts of an EAGLE head": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {
            "tensor_parallel_size": 2,
            "speculation": {
                "num_speculative_tokens": 3,
                "acceptance_rate": 0.7,
                "draft": {
                    "layers": 1,
                    "hidden": 4096,
                    "intermediate": 14_336,
                    "heads": 32,
                    "kv_heads": 8,
                    "head_dim": 128,
                    "vocab": 32_000,
                    "fused_states": 3,
                },
            },
        },
        "workload": chat(),
    },
    "values narrower than keys": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b", v_head_dim=64),
        "workload": chat(),
    },
    "experts of two servers": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("deepseek-v3", 5, dense_layer_indices=(0, 1, 2)),
        "precision": {"weights": "fp8_block", "kv_cache": "fp8"},
        "engine": {"data_parallel_size": 16, "enable_expert_parallel": True},
        "workload": chat(),
    },
    "experts counted": {
        "topology": "nd-h100-v5",
        "model": small("mixtral-8x7b"),
        "engine": {
            "data_parallel_size": 4,
            "enable_expert_parallel": True,
            "expert_routing": {"popularity": "given", "weights": (5, 1, 1, 1, 1, 1, 1, 1)},
        },
        "workload": chat(),
    },
    "experts under tensor parallel": {
        "topology": "nd-h100-v5",
        "model": small("gpt-oss-120b", sliding_layers=2),
        "precision": {"experts": "w4a16"},
        "engine": {"tensor_parallel_size": 2},
        "workload": chat(),
    },
    "experts of one GPU": {
        "topology": "nd-h100-v5",
        "model": small("qwen3-30b-a3b"),
        "workload": chat(),
    },
    "prompts and answers apart": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "pools": {
            "prefill": {"replicas": 1, "engine": POOL},
            "decode": {"replicas": 3, "engine": POOL},
        },
        "hand_over": {"router": {"kind": "nearest", "requests_per_hop": 0.4}},
        "workload": chat(16, 200.0),
    },
    "tiers": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "engine": {"num_gpu_blocks_override": 150, "kv_tiers": TIERS},
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "drives": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "kv_reload": "always",
        "engine": {"num_gpu_blocks_override": 150, "kv_tiers": {"nvme": {"capacity_bytes": 1e9}}},
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "drives that hold up": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "kv_reload": "always",
        "engine": {
            "num_gpu_blocks_override": 150,
            "kv_tiers": {
                "nvme": {
                    "capacity_bytes": 5e7,
                    "read_bytes_per_s": 1e8,
                    "write_bytes_per_s": 1e8,
                    "staging_bytes": 1e7,
                },
            },
        },
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "a remote store": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "kv_reload": "always",
        "engine": {
            "num_gpu_blocks_override": 150,
            "kv_tiers": {
                "remote": {
                    "capacity_bytes": 5e7,
                    "place": "node1.host1",
                    "read_bytes_per_s": 1e8,
                    "write_bytes_per_s": 1e8,
                    "staging_bytes": 1e7,
                },
            },
        },
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "a remote store as fast as its links": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "kv_reload": "always",
        "engine": {
            "num_gpu_blocks_override": 150,
            "kv_tiers": {"remote": {"capacity_bytes": 1e9, "place": "node1.host1"}},
        },
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "tiers written on eviction, over PCIe 4": {
        "topology": "l40s-12",
        "model": small("llama-3-8b"),
        "engine": {
            "num_gpu_blocks_override": 150,
            "kv_tiers": {"write": "on_eviction", "host": {"capacity_bytes": 1e9}},
        },
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "sessions behind PCIe switches": {
        "topology": "l40s-12",
        "model": small("llama-3-8b"),
        "replicas": 3,
        "router": {"kind": "prefix_aware", "load_weight": 0.3},
        "router_staleness_s": 0.01,
        "engine": {"tensor_parallel_size": 4, "num_gpu_blocks_override": 400},
        "placement": {"kind": "strided", "stride": 3},
        "workload": chat(24, arrivals=SESSIONS, prompt_tokens=150, output_tokens=20),
    },
    "PCIe servers": {
        "topology": "l40s-12",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "replicas": 3,
        "placement": "strided",
        "engine": {"tensor_parallel_size": 8},
        "workload": chat(6),
    },
    "two tiers of switches": {
        "topology": {
            **sim.load_topology("l40s-12").model_dump(),
            "scale_out": [
                {
                    "of": "nic",
                    "link": "infiniband-hdr",
                    "latency_s": 1.3e-7,
                    "switch_ports": 4,
                    "down_ports": 2,
                    "rails": 1,
                }
            ],
        },
        "nodes": 3,
        "model": small("llama-3-8b"),
        "replicas": 4,
        "placement": "strided",
        "engine": {"tensor_parallel_size": 8},
        "workload": chat(8, 400.0),
    },
    "texts too long for the model": {
        "topology": "a100-x4",
        "model": small("llama-3-8b", max_context=700),
        "workload": chat(),
    },
    "every query head with keys of its own": {
        "topology": "hgx-b300",
        "model": small("llama-3-8b", kv_heads=32),
        "engine": {"gpu_memory_utilization": 0.0295, "max_num_batched_tokens": 1024},
        "workload": chat(24, 400.0),
    },
    "staged in host memory": {
        "topology": "a100-x4-no-p2p",
        "model": small("llama-3-8b"),
        "engine": {"tensor_parallel_size": 4},
        "workload": chat(6),
    },
    "routers of many": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "replicas": 4,
        "router": {"kind": "power_of_choices", "choices": 2},
        "router_staleness_s": 0.01,
        "workload": chat(24, 150.0),
    },
    "speculation": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {
            "tensor_parallel_size": 2,
            "speculation": {"num_speculative_tokens": 3, "acceptance_rate": 0.7, "draft_s": 2e-4},
        },
        "workload": chat(),
    },
    "faults": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "replicas": 2,
        "engine": {"tensor_parallel_size": 4},
        "faults": [
            {"at_s": 0.05, "until_s": 0.1, "replica": 1},
            {"at_s": 0.12, "until_s": 0.2, "link": "node0.gpu0->nvlink0", "capacity": 0.2},
        ],
        "workload": chat(),
    },
    "links that die, and an engine on a spare": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "engine": {"tensor_parallel_size": 8, "pipeline_parallel_size": 2},
        "faults": [
            {"at_s": 0.05, "until_s": 0.3, "place": "node0.nic3"},
            {"at_s": 0.4, "until_s": 0.7, "link": "nvlink0->node0.gpu2"},
            {"at_s": 1.0, "until_s": 1.6, "gpu": "node1.gpu3"},
        ],
        "recovery": {
            "transport_timeout_s": 0.1,
            "executor_timeout_s": 0.1,
            "detection_s": 0.05,
            "on_loss": "spare",
            "spares": 1,
            "process_start_s": 0.05,
            "graph_capture_s": 0.02,
            "weights_bytes_per_s": "100 GB/s",
            "cordon_trays": 2,
        },
        "workload": chat(48, 30.0),
    },
    "experts that lose a rank": {
        "topology": "nd-h100-v5",
        "model": small("qwen3-30b-a3b", 2),
        "engine": {
            "data_parallel_size": 4,
            "enable_expert_parallel": True,
            "expert_routing": {"redundant_experts": 128},
        },
        "faults": [{"at_s": 0.1, "until_s": 0.2, "gpu": "node0.gpu1"}],
        "recovery": {"on_loss": "shrink", "shrink_pause_s": 0.03, "rejoin_pause_s": 0.01},
        "workload": chat(16, 60.0),
    },
    "few blocks": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {
            "tensor_parallel_size": 2,
            "num_gpu_blocks_override": 80,
            "max_num_seqs": 6,
            "max_num_batched_tokens": 256,
            "max_model_len": 1000,
            "watermark": 0.05,
            "async_scheduling": False,
            "host": {"sequence_s": 1e-5},
        },
        "workload": chat(16, 200.0),
    },
    "whole prompts, kernel by kernel": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {
            "backend": "trtllm",
            "enforce_eager": True,
            "batch_wait_timeout_iters": 3,
            "max_num_batched_tokens": 2048,
            "max_num_seqs": 8,
            "free_gpu_memory_fraction": 0.001,
            "capacity_scheduler_policy": "guaranteed_no_evict",
        },
        "workload": chat(16, 300.0),
    },
    "memory that is short": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-70b", 40),
        "engine": {"gpu_memory_utilization": 0.98, "max_model_len": 2000},
        "workload": chat(16, 300.0),
    },
    "closed loop": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "engine": {"tensor_parallel_size": 4},
        "workload": chat(arrivals={"kind": "closed_loop", "users": 3, "think_time_s": 0.02, "ramp_s": 0.1}),
    },
    "second copies": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "replicas": 2,
        "hedge": {"after_s": 0.02},
        "workload": chat(24, 300.0),
    },
    "uneven ranks": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "engine": {
            "pipeline_parallel_size": 2,
            "jitter": {"cv": 0.3},
            "stragglers": [{"rank": 1, "factor": 1.5}],
        },
        "workload": chat(6),
    },
    "textbook server": {**server(), "time_limit_s": 3.0, "warmup": 0.2, "cooldown": 0.1},
    "impatient clients": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "engine": {"max_num_seqs": 2},
        "workload": chat(
            24,
            100.0,
            patience_s=0.1,
            timeout_s=0.2,
            duration_s=0.2,
            slo={"ttft_ms": 30, "tpot_ms": 5, "e2el_ms": 100},
            classes={
                "one": {"share": 1.0, "priority": 1, "slo": {"ttft_ms": 30, "tpot_ms": 4, "e2el_ms": 90}},
                "other": {"share": 2.0, "priority": 2},
            },
        )
        | {"name": ""},
    },
    "by priority": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "engine": {"max_num_seqs": 2, "scheduling_policy": "priority"},
        "workload": chat(
            24,
            400.0,
            classes={"one": {"priority": 1}, "other": {"priority": 2}, "third": {"priority": 3}},
        ),
    },
}

LENGTHS: tuple[Any, ...] = (
    {"kind": "fixed", "tokens": 40},
    {"kind": "uniform", "low": 20, "high": 60},
    {"kind": "lognormal", "mean": 40, "cv": 1.0, "low": 20, "high": 100},
    {"kind": "zipf", "exponent": 1.1, "low": 5, "high": 60},
    {"kind": "pareto", "shape": 1.2, "low": 20, "high": 60},
    {"kind": "geometric", "mean": 40, "high": 80},
    {"kind": "empirical", "values": (20, 60, 90), "weights": (1.0, 2.0, 1.0)},
    {"kind": "trace", "name": "azure-llm-2023-conversation", "low": 600, "high": 1200},
    {"kind": "trace", "name": "azure-llm-2023-conversation", "low": 100, "high": 200},
)
TURNS: tuple[Any, ...] = (
    {"kind": "fixed", "tokens": 2},
    {"kind": "uniform", "low": 2, "high": 4},
    {"kind": "lognormal", "mean": 2, "cv": 1.0, "low": 2, "high": 3},
    {"kind": "zipf", "exponent": 1.1, "low": 2, "high": 4},
    {"kind": "pareto", "shape": 1.2, "low": 2, "high": 4},
    {"kind": "geometric", "mean": 2, "high": 3},
    {"kind": "empirical", "values": (1, 2, 4), "weights": (1.0, 2.0, 1.0)},
)
WAITS: tuple[Any, ...] = (
    {"kind": "fixed", "value_s": 0.1},
    {"kind": "exponential", "mean_s": 0.1},
    {"kind": "uniform", "low_s": 0.05, "high_s": 0.2},
    {"kind": "lognormal", "mean_s": 0.1, "cv": 1.0},
)
ARRIVALS: tuple[Any, ...] = (
    {"kind": "poisson", "rate_per_s": 20.0},
    {"kind": "constant", "rate_per_s": 20.0},
    {"kind": "gamma", "rate_per_s": 20.0, "cv": 2.0},
    {"kind": "gamma", "rate_per_s": 20.0, "burstiness": 2.0},
    {"kind": "weibull", "rate_per_s": 20.0, "shape": 0.7},
    {"kind": "on_off", "on_rate_per_s": 40.0, "off_rate_per_s": 2.0, "mean_on_s": 0.1, "mean_off_s": 0.1},
    {"kind": "mmpp", "states": ({"rate_per_s": 40.0, "mean_stay_s": 0.1}, {"rate_per_s": 2.0,
    "mean_stay_s": 0.1})},
    {"kind": "time_varying", "pieces": ({"rate_per_s": 40.0, "duration_s": 0.1}, {"rate_per_s": 2.0,
    "duration_s": 0.1})},
    {"kind": "burst", "at_s": 0.1},
)  # fmt: skip
TRACE = {
    "kind": "trace",
    "name": "azure-llm-2023-conversation",
    "speedup": 2.0,
    "limit": 12,
    "duration_s": 60.0,
    "start_s": 1.0,
}


def _laws() -> Iterator[tuple[str, dict[str, Any]]]:
    """The textbook server with every law in every place where one can stand."""

    def with_prefix(law: Any) -> dict[str, Any]:
        return {"prefix": {"tokens": law, "groups": 30, "popularity": 0.5, "share": 0.7}}

    classes: Callable[[dict[str, Any]], dict[str, Any]] = lambda of: {"classes": {"one": of, "other": {}}}  # noqa: E731
    sessions = {**SESSIONS, "block_tokens": 16}
    places: tuple[tuple[str, Sequence[Any], Callable[[Any], dict[str, Any]]], ...] = (
        ("prompt_tokens", LENGTHS, lambda law: {"prompt_tokens": law}),
        ("output_tokens", LENGTHS, lambda law: {"output_tokens": law}),
        ("prefix", LENGTHS, with_prefix),
        ("prompt_tokens of a class", LENGTHS, lambda law: classes({"prompt_tokens": law})),
        ("output_tokens of a class", LENGTHS, lambda law: classes({"output_tokens": law})),
        ("prefix of a class", LENGTHS, lambda law: classes(with_prefix(law)) | {"prefix": {"tokens": 30}}),
        ("turns", TURNS, lambda law: {"arrivals": {**sessions, "turns": law}, "prompt_tokens": 30,
        "requests": 40}),
        ("tool_delay_s", WAITS, lambda law: {"arrivals": {**sessions, "tool_delay_s": law},
        "prefix": {"tokens": 32}}),
        ("think_time_s", WAITS, lambda law: {"arrivals": {"kind": "closed_loop", "users": 3,
        "think_time_s": law}}),
        ("patience_s", WAITS, lambda law: {"patience_s": law}),
        ("timeout_s", WAITS, lambda law: {"timeout_s": law}),
        ("patience_s of a class", WAITS, lambda law: classes({"patience_s": law})),
        ("timeout_s of a class", WAITS, lambda law: classes({"timeout_s": law})),
        ("arrivals", (*ARRIVALS, TRACE), lambda law: {"arrivals": law}),
        ("clients", ARRIVALS[:-1], lambda law: {"arrivals": {"kind": "clients", "clients": {"one": law}},
        "classes": {"one": {}}}),
        ("starts", ARRIVALS, lambda law: {"arrivals": {**sessions, "starts": law}, "prefix": {"tokens": 32}}),
    )  # fmt: skip
    for place, laws, workload in places:
        for number, law in enumerate(laws):
            yield f"{place} {law['kind']} {number}", server(**workload(law))


def _routers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Several replicas behind routers with knobs, and answers handed over by such routers."""
    for kind, knob in (
        ("nearest", "requests_per_hop"),
        ("power_of_choices", "choices"),
        ("prefix_aware", "load_weight"),
    ):
        rule = {"kind": kind, knob: 1}
        shared = chat(24, 150.0, prefix={"tokens": 300, "groups": 6})
        near = {**BASES["PCIe servers"], "placement": "packed", "router": rule, "workload": shared}
        yield f"router {kind}", near
        apart = {**BASES["prompts and answers apart"], "hand_over": {"router": rule}, "workload": shared}
        yield f"handed over by {kind}", apart


def _outages() -> Iterator[tuple[str, dict[str, Any]]]:
    """Parts that fail: as stated, by the time between failures of a kind, and by shares of classes."""
    two = {key: value for key, value in BASES["faults"].items() if key != "faults"}
    at = [
        {"kind": "gpu", "name": "node0.gpu5", "at_s": 0.05, "until_s": 0.1},
        {"kind": "hbm_stack", "name": "node0.gpu1.hbm0", "at_s": 0.02, "until_s": 0.2, "slower": 2.0},
        {"kind": "nvswitch_chip", "name": "node0.nvswitch1", "at_s": 0.02, "until_s": 0.3, "capacity": 0.2},
    ]
    yield "parts that fail", {**two, "outages": {"at": at}}
    drawn = {
        "until_s": 0.4,
        "repair_mean_s": 0.04,
        "repair_median_s": 0.02,
        "weibull_shape": 0.7,
        "acceleration": 2.0,
        "repair_acceleration": 2.0,
        "together": {"host": 0.2},
        "warned": 0.5,
        "warned_before_s": 0.01,
    }
    yield "parts that fail at random", {
        **two, "outages": {"random": {**drawn, "rates": {"gpu": 2.0}}, "seed": 1}
    }  # fmt: skip
    by_shares = {**drawn, "rates": "crusoe", "gpu_time_between_failures_s": 1.0}
    yield "parts that fail by shares", {**two, "outages": {"random": by_shares}}


SCENARIOS: dict[str, Case] = {
    **{name: Case(written, ("outages",)) for name, written in _outages()},
    **{name: Case(written) for name, written in BASES.items()},
    **{name: Case(written, ("router", "hand_over")) for name, written in _routers()},
    **{name: Case(written, ("workload",)) for name, written in _laws()},
}
SCENARIOS["every query head with keys of its own"] = replace(
    SCENARIOS["every query head with keys of its own"], only=("topology.gpus",)
)
_SHARED_UPLINKS = {
    name: number
    for name, number in BASES["two tiers of switches"]["topology"]["scale_out"][0].items()
    if name != "down_ports"
}
SCENARIOS["uplinks that NICs share"] = Case(
    {
        **BASES["two tiers of switches"],
        "topology": {
            **BASES["two tiers of switches"]["topology"],
            "scale_out": [{**_SHARED_UPLINKS, "oversubscription": 1.0}],
        },
    },
    ("topology.scale_out",),
)
KERNEL_SCENARIOS = (
    "one GPU",
    "tensor parallel",
    "experts",
    "experts of one GPU",
    "every query head with keys of its own",
    "two tiers of switches",
    "impatient clients",
    "experts under tensor parallel",
    "PCIe servers",
    "whole prompts, kernel by kernel",
)
"""Where kernels' parameters are changed: each of them stands in every scenario."""
SCENARIOS["textbook server"] = replace(
    SCENARIOS["textbook server"],
    only=("engine", "workload", "time_limit_s", "warmup", "cooldown", "replicas"),
)
