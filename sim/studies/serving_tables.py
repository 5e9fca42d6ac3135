"""Published tables of whole services, each row as a scenario of its own.

Static batches of 2023, TensorRT-LLM's latencies at an offered rate, vLLM services on H100 under a trace, and
vLLM on H200 at prompts of growing length (`sim/data/measured/serving/README.md` has their sources). Where an
engine has a constant of its own, the time its host costs, it is fitted on the rows that are marked so and on
no other. A function that ends in `_left_out` says why a row cannot be expressed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sim.catalog import load_model
from sim.inputs.model import Model
from sim.scenario import Scenario
from sim.simulate import Result, simulate
from sim.studies.ledger import Kind, LedgerRow
from sim.studies.serving_logs import read_rows

Row = Mapping[str, str]

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

# ---- static batches

SPLITWISE_SOURCE = "Mutinifni/splitwise-sim 8f99e7d (MIT), fp16, software of 2023"
# Every kernel is launched from Python and the GPUs wait for it: seconds per kernel, as many kernels as an
# engine of today has. Fitted on the token time of llama2-70b at TP 8, batch 1: once for each host, whose
# processors differ.
SPLITWISE_LAUNCH_S = {"a100-80gb": 63e-6, "h100-80gb": 42e-6}
# The published prompt times of batch 64 are an eighth of those of batch 32: not those of the batch.
LARGEST_BATCH_WITH_PROMPT_TIME = 32
SPLITWISE_FITTED = ("8", "1")  # tensor_parallel, batch_size

# ---- vLLM on H100: before asynchronous scheduling was the default

# The run that the host's time was fitted on, and the one that is simulated identically.
VLLM_H100_FITTED = ("h100_single_dense", "h100_single_dense_prefix_cache")
VLLM_H100: dict[str, Any] = {
    "async_scheduling": False,
    "host": {"step_s": 5.5e-3},  # fitted on the mean TPOT of Llama-3.1-70B at TP4
}

# ---- TensorRT-LLM

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


# ---- static batches


def static_batch_left_out(row: Row) -> str:
    if row["model"].startswith("bloom"):
        return "bloom-176b (ALiBi, no gated MLP) has no model description here"
    return ""


def static_batch_rows(row: Row, launch_s: Mapping[str, float] = SPLITWISE_LAUNCH_S) -> list[LedgerRow]:
    """Prompt and token time of a static batch of llama2-70b."""
    llama2 = load_model("llama-3-70b").model_copy(update={"vocab": 32000, "max_context": 16384})
    batch, prompt, output = int(row["batch_size"]), int(row["prompt_size"]), int(row["token_size"])
    tensor_parallel = int(row["tensor_parallel"])
    engine = {
        "tensor_parallel_size": tensor_parallel,
        "scheduler": "static",
        "enforce_eager": True,
        "host": {"launch_s": launch_s[row["hardware"]]},
        "max_num_seqs": batch,
        "max_num_batched_tokens": max(batch * prompt, 2048),
        "gpu_memory_utilization": 0.97,
        "enable_prefix_caching": False,
        "disable_custom_all_reduce": True,
    }
    load = burst(prompt, output, batch)
    scenario = scenario_of(SYSTEMS[row["hardware"]], llama2, PRECISIONS["fp16"], engine, load)
    requests = simulate(scenario).requests
    first_s = float(requests["first_token_s"].to_numpy().max())
    last_s = float(requests["finished_s"].to_numpy().max())
    case = f"llama2-70b {row['hardware']} TP{tensor_parallel} batch {batch} {prompt}/{output}"
    fitted = (row["tensor_parallel"], row["batch_size"]) == SPLITWISE_FITTED
    of = {"GPU": row["hardware"].split("-")[0].upper(), "TP": str(tensor_parallel), "batch": str(batch)}
    held = []
    if batch <= LARGEST_BATCH_WITH_PROMPT_TIME:
        prompt_ms = float(row["prompt_ms"])
        held.append(
            LedgerRow(
                case, "prompt time", "ms", prompt_ms, first_s * 1e3, "predicted", SPLITWISE_SOURCE,
                size=float(batch * prompt), of=of,
            )
        )  # fmt: skip
    held.append(
        LedgerRow(
            case, "token time", "ms", float(row["token_ms"]), (last_s - first_s) / (output - 1) * 1e3,
            "fitted" if fitted else "predicted", SPLITWISE_SOURCE, size=float(batch), of=of,
        )
    )  # fmt: skip
    return held


# ---- TensorRT-LLM at an offered rate


def online_rows(row: Row) -> list[LedgerRow]:
    """TensorRT-LLM under Poisson arrivals: mean TTFT, mean gap between tokens and throughput.

    Only mean lengths are published, so all requests have them.
    """
    load = burst(int(row["isl_mean"]), int(row["osl_mean"]), int(row["requests"]))
    if row["offered_qps"] != "INF":
        load["arrivals"] = {"kind": "poisson", "rate_per_s": float(row["offered_qps"])}
    engine = {**TRTLLM, "tensor_parallel_size": int(row["tp"])}
    formats = precision_of(row["model"], row["precision"], row["gpu"])
    scenario = scenario_of(SYSTEMS[row["gpu"]], MODELS[row["model"]], formats, engine, load)
    numbers = simulate(scenario).summary()
    lengths = f"{row['isl_mean']}/{row['osl_mean']}"
    case = (
        f"TRT-LLM {row['trtllm']} {row['model']} {row['gpu']} TP{row['tp']} {lengths} "
        f"at {row['offered_qps']}/s"
    )
    of = {
        "model": MODELS[row["model"]], "GPU": row["gpu"], "TP": row["tp"], "lengths": lengths,
        "offered": row["offered_qps"],
    }  # fmt: skip
    named = (
        ("mean TTFT", "ms", "mean_ttft_ms", "mean_ttft_ms"),
        ("mean ITL", "ms", "mean_itl_ms", "mean_itl_ms"),
        ("output throughput", "tok/s", "output_tok_per_s", "output_throughput"),
    )
    return [
        LedgerRow(
            case, quantity, unit, float(row[theirs]), float(numbers[ours]), "predicted", ONLINE_SOURCE, of=of
        )
        for quantity, unit, theirs, ours in named
    ]  # fmt: skip


# ---- vLLM on H100 under a trace

VLLM_SOURCE = "casys-kaist/LLMServingSim, ISPASS 2026 artefact (MIT)"
SERVED = {
    "h100_single_dense": ("Llama-3.1-70B", 1, "llama"),
    "h100_single_dense_prefix_cache": ("Llama-3.1-70B", 1, "llama"),
    "h100_two_instances_dense": ("Llama-3.1-70B", 2, "llama"),
    "h100_single_moe": ("Mixtral-8x7B-v0.1", 1, "mixtral"),
}
"""Model at TP4, replicas, requests of each run on H100."""


@cache
def _served(run: str) -> Result:
    model, replicas, workload = SERVED[run]
    lines = ["arrival_s,prompt_tokens,output_tokens"]
    lines += [
        f"{one['arrival_s']},{one['input_tokens']},{one['output_tokens']}"
        for one in read_rows("vllm_h100_workloads")
        if one["workload"] == workload
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        engine = {"tensor_parallel_size": 4, "enable_prefix_caching": False, **VLLM_H100}
        load = {"arrivals": {"kind": "trace", "path": str(path)}}
        return simulate(scenario_of("nd-h100-v5", MODELS[model], PRECISIONS["bf16"], engine, load, replicas))


def vllm_mean_rows(row: Row) -> list[LedgerRow]:
    """Means of a vLLM service on H100 under the ShareGPT requests it was sent."""
    numbers = _served(row["run"]).summary()
    case = f"vLLM {row['model']} {row['parallelism']} H100"
    held = []
    for quantity, unit, name in (
        ("output throughput", "tok/s", "output_tok_per_s"),
        ("mean TTFT", "ms", "mean_ttft_ms"),
        ("mean TPOT", "ms", "mean_tpot_ms"),
    ):
        ours = numbers["output_throughput" if name == "output_tok_per_s" else name]
        kind: Kind = "fitted" if row["run"] in VLLM_H100_FITTED and "TTFT" not in quantity else "predicted"
        held.append(LedgerRow(case, quantity, unit, float(row[name]), ours, kind, VLLM_SOURCE))
    return held


def per_second_left_out(row: Row) -> str:
    if row["run"] not in SERVED:
        return "the A6000 is not among the shipped GPUs and no kernel of it was measured"
    if float(row["generated_tokens_per_s"]) == 0.0:
        return "nothing was generated in this second, which leaves no relative error"
    return ""


def per_second_rows(row: Row) -> list[LedgerRow]:
    """Tokens generated in one second of a run; of each request they are spread evenly from its first to its
    last. The run with a prefix cache is taken for one without: which prompts share a beginning is not told.
    """
    frame = _served(row["run"]).requests
    first, last = frame["first_token_s"].to_numpy(), frame["finished_s"].to_numpy()
    further = frame["output_tokens"].to_numpy() - 1
    begin = float(row["time_s"])
    inside = np.clip(np.minimum(last, begin + 1.0) - np.maximum(first, begin), 0.0, None)
    shares = inside / np.maximum(last - first, 1e-9)
    ours = float((further * shares).sum() + ((first >= begin) & (first < begin + 1.0)).sum())
    case = f"vLLM {row['run'].removeprefix('h100_')} H100, second {row['time_s']}"
    published = float(row["generated_tokens_per_s"])
    kind: Kind = "fitted" if row["run"] in VLLM_H100_FITTED else "predicted"
    return [
        LedgerRow(
            case, "tokens of one second", "tok/s", published, ours, kind, VLLM_SOURCE,
            size=begin + 1.0, of={"run": row["run"]},
        )
    ]  # fmt: skip


# ---- vLLM on H200 at prompts of growing length

SWEEP_SOURCE = "SemiAnalysisAI/InferenceX 843c625 (Apache-2.0), vLLM nightly of February 2026"


def sweep_left_out(row: Row) -> str:
    if row["model"].startswith("zai-org/GLM"):
        return (
            "GLM-5 (sparse attention, multi-token prediction of unknown acceptance) has no description here"
        )
    if row["model"].startswith("Qwen/Qwen3.5"):
        return "Qwen3.5-397B (linear attention in most layers) has no model description here"
    return ""


def sweep_rows(row: Row) -> list[LedgerRow]:
    """Medians and throughput of MiniMax-M2.5 on eight H200: a closed loop of ten times its users. The host
    set is that of vLLM's closed loops.
    """
    from sim.studies.serving_points import HOSTS

    apart = row["parallelism"].startswith("dep")
    users = int(row["concurrency"])
    engine = {
        "tensor_parallel_size": 1 if apart else 8,
        "data_parallel_size": 8 if apart else 1,
        "enable_expert_parallel": True,
        "enable_prefix_caching": False,
        **HOSTS["vllm"],
    }
    load = {
        "arrivals": {"kind": "closed_loop", "users": users},
        "prompt_tokens": int(row["isl"]),
        "output_tokens": int(row["osl"]),
        "requests": int(row["num_prompts"]),
    }
    formats = {"weights": "fp8_block", "kv_cache": "bf16"}
    numbers = simulate(scenario_of("hgx-h200", "minimax-m2.5", formats, engine, load)).summary()
    layout = "DP8 EP8" if apart else "TP8 EP8"
    case = f"minimax-m2.5 H200 {layout}, {row['isl']}/{row['osl']}, {users} users"
    of = {"model": "minimax-m2.5", "layout": layout, "prompt": row["isl"], "users": str(users)}
    named = (
        ("median TTFT", "ms", "median_ttft_ms", "median_ttft_ms"),
        ("median TPOT", "ms", "median_tpot_ms", "median_tpot_ms"),
        ("output throughput", "tok/s", "output_tok_per_s", "output_throughput"),
    )
    return [
        LedgerRow(
            case, quantity, unit, float(row[theirs]), float(numbers[ours]), "predicted", SWEEP_SOURCE,
            size=float(row["isl"]), of=of,
        )
        for quantity, unit, theirs, ours in named
    ]  # fmt: skip
