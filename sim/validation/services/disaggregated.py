"""Prefill and decode apart: measured rows of InferenceX as pools, nothing fitted on them.

A row names the workers of both stages, and for each its tensor-parallel ranks, its attention data-parallel
ranks, and how experts lie over them (`moe_tp_size` rows of every expert, or `moe_ep_size` whole experts).
The host set of an engine is that of its closed loops.

Where it stops: the rows do not say whether multi-token prediction was on; they are run without, so that
those that had it are simulated too slow. Nor do they say how workers lay on servers: the larger ones take
whole servers first. FP4 checkpoints of DeepSeek keep attention in 16 bits, which is not modelled.
"""

from __future__ import annotations

from typing import Any

from sim.reading.published_names import MODELS, SYSTEMS
from sim.results.compared import Row
from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from sim.validation.services.closed_loops import HOSTS, throughput_of, weighed_ms
from sim.validation.services.published_rows import Cells

DENSE = "Qwen3-32B-NVFP4"
GPUS_PER_NODE = {"h100_sxm": 8, "h200_sxm": 8, "b200_sxm": 8, "gb200": 72}
SOURCE = "SemiAnalysisAI/InferenceX, through NVIDIA aiconfigurator 0.12.0 (Apache-2.0)"
FEW_USERS, ROUNDS, FEWER_ROUNDS = 128, 4, 3  # times the concurrency, simulated; the client sent ten
MAX_TOKENS = 12e6  # generated in one run: a minute of one processor
STAGES = ("prefill", "decode")


def pools_left_out(row: Cells) -> str:
    """Why a row cannot be expressed; empty if it can."""
    if row["model"] not in MODELS:
        return f"{row['model']} has no model description here"
    for stage in STAGES:
        ranks = int(row[f"{stage}_moe_tp_size"]) * int(row[f"{stage}_moe_ep_size"])
        if ranks != _gpus(row, stage) and not row["model"].endswith(DENSE):
            return "ranks of the experts are not those of the attention in a worker"
        if int(row[f"{stage}_moe_tp_size"]) > 1 and int(row[f"{stage}_moe_ep_size"]) > 1:
            return "experts both split and spread in one worker"
    if sum(_gpus(row, stage) * int(row[f"{stage}_num_workers"]) for stage in STAGES) != int(
        row["total_gpus"]
    ):
        return "the workers' GPUs are not the row's GPUs"
    if row["system"] == "gb200" and int(row["total_gpus"]) > GPUS_PER_NODE["gb200"]:
        return "more than a rack of GB200"
    if _rounds(row) * int(row["concurrency"]) * 0.9 * int(row["osl"]) > MAX_TOKENS:
        return f"more than {MAX_TOKENS / 1e6:.0f} million tokens would have to be generated: minutes a row"
    return ""


def _rounds(row: Cells) -> int:
    return ROUNDS if int(row["concurrency"]) <= FEW_USERS else FEWER_ROUNDS


def _gpus(row: Cells, stage: str) -> int:
    """GPUs of one worker."""
    return int(row[f"{stage}_tp_size"]) * int(row[f"{stage}_attention_dp_size"])


def scenario_of(row: Cells) -> Scenario:
    """A row as two pools in a closed loop."""
    users, isl, osl = int(row["concurrency"]), int(row["isl"]), int(row["osl"])
    each = GPUS_PER_NODE[row["system"]]
    pools = {stage: _pool(row, stage) for stage in sorted(STAGES, key=lambda stage: -_gpus(row, stage))}
    return Scenario.model_validate(
        {
            "topology": SYSTEMS[row["system"]],
            "nodes": -(-int(row["total_gpus"]) // each),
            "model": MODELS[row["model"]],
            "precision": _precision(row),
            "pools": pools,
            "hand_over": {"kv": "whole", "first_token": "decode"},
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": users},
                "prompt_tokens": {"kind": "uniform", "low": int(0.8 * isl), "high": isl},
                "output_tokens": {"kind": "uniform", "low": int(0.8 * osl), "high": osl},
                "requests": _rounds(row) * users,
            },
        }
    )


def _precision(row: Cells) -> dict[str, str]:
    weights = {"nvfp4": "nvfp4", "fp8": "fp8_block"}[row["gemm_quant_mode"]]
    experts = {"nvfp4": "nvfp4", "fp8": "fp8_block", "fp8_block": "fp8_block"}[row["moe_quant_mode"]]
    return {"weights": weights, "experts": experts, "kv_cache": "fp8"}


def _pool(row: Cells, stage: str) -> dict[str, Any]:
    workers = int(row[f"{stage}_num_workers"])
    apart, users = int(row[f"{stage}_attention_dp_size"]), int(row["concurrency"])
    backend = row["backend"]
    engine: dict[str, Any] = {
        "backend": backend,
        "tensor_parallel_size": int(row[f"{stage}_tp_size"]),
        "data_parallel_size": apart,
        "enable_expert_parallel": int(row[f"{stage}_moe_ep_size"]) > 1,
        "dispatch_dtype": "nvfp4" if row["moe_quant_mode"] == "nvfp4" and backend == "trtllm" else "fp8",
        "enable_prefix_caching": False,
        "max_num_seqs": max(8, -(-users // (workers * apart))) if stage == "decode" else 256,
        "max_num_batched_tokens": max(8192, int(row["isl"])),
        "max_cudagraph_capture_size": 2048,
        "async_scheduling": True,
        **HOSTS[backend],
    }
    if backend == "trtllm":
        engine["capacity_scheduler_policy"] = "guaranteed_no_evict"
    if backend == "trtllm" and stage == "prefill":  # prompts are computed whole
        engine["enable_chunked_prefill"] = False
        engine["max_num_batched_tokens"] = max(8192, int(row["isl"]) + int(row["osl"]))
    return {"replicas": workers, "engine": engine}


def pool_rows(row: Cells) -> list[Row]:
    """Time per output token, time to first token, and the throughput that the two amount to."""
    frame = simulate(scenario_of(row)).requests
    users, tokens = int(row["concurrency"]), 0.9 * int(row["osl"])
    ttft_ms, tpot_ms = weighed_ms(frame, users)
    real_ttft_ms, real_tpot_ms = float(row["ttft_ms"]), float(row["tpot_ms"])
    model = MODELS[row["model"]]
    layout = "; ".join(f"{row[f'{stage}_num_workers']} x {_named(row, stage)}" for stage in STAGES)
    of = {
        "model": model, "GPU": row["system"].removesuffix("_sxm").upper(), "engine": row["backend"],
        "format": row["moe_quant_mode"], "lengths": f"{row['isl']}/{row['osl']}",
        "decode": _named(row, "decode").split(" ", 1)[0],
        "multi-token prediction": "unknown" if row["mtp_unknown"] == "1" else "none",
    }  # fmt: skip
    case = (
        f"{model} {row['moe_quant_mode']}, {of['GPU']}, {row['backend']}, {layout}, {of['lengths']}, "
        f"{users} users"
    )
    return [
        Row(
            case, quantity, unit, published, simulated, "predicted", SOURCE, size=float(users), of=of
        )
        for quantity, unit, published, simulated in (
            ("time per output token", "ms", real_tpot_ms, tpot_ms),
            ("time to first token", "ms", real_ttft_ms, ttft_ms),
            (
                "output tokens of all users", "1/s",
                throughput_of(users, tokens, real_ttft_ms, real_tpot_ms),
                throughput_of(users, tokens, ttft_ms, tpot_ms),
            ),
        )
    ]  # fmt: skip


def _named(row: Cells, stage: str) -> str:
    apart, ranks = int(row[f"{stage}_attention_dp_size"]), row[f"{stage}_tp_size"]
    experts = f"EP{row[f'{stage}_moe_ep_size']}" if int(row[f"{stage}_moe_ep_size"]) > 1 else "no EP"
    return f"{f'DP{apart}' if apart > 1 else f'TP{ranks}'} {experts}"
