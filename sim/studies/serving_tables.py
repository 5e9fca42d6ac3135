"""Published tables of whole services, each row as a scenario of its own.

Four tables (`sim/data/measured/serving/README.md` has their sources): static batches of 2023, TensorRT-LLM's
offline throughput and its latencies at an offered rate, and three vLLM services on H100. Where an engine has
a constant of its own, the time its host costs, it is fitted on the rows that are marked so and on no other.
`left_out` says which rows cannot be expressed, and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sim.catalog import load_model, load_topology
from sim.inputs.model import Model
from sim.scenario import Scenario
from sim.simulate import simulate
from sim.studies.calibrate import with_engine
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
    "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
}
PRECISIONS = {
    "fp16": {"weights": "fp16", "kv_cache": "fp16", "activations": "fp16"},
    "bf16": {"weights": "bf16", "kv_cache": "bf16"},
    "fp8": {"weights": "fp8", "kv_cache": "fp8"},
    "fp4": {"weights": "nvfp4", "kv_cache": "fp8"},
}

# ---- static batches

SPLITWISE_SOURCE = "Mutinifni/splitwise-sim 8f99e7d (MIT), fp16, software of 2023"
# Every kernel is launched from Python and the GPUs wait for it: seconds per kernel, as many kernels as an
# engine of today has. Fitted on the token time of llama2-70b at TP 8, batch 1: once for each host, whose
# processors differ.
SPLITWISE_LAUNCH_S = {"a100-80gb": 63e-6, "h100-80gb": 42e-6}
# The published prompt times of batch 64 are an eighth of those of batch 32: not those of the batch.
LARGEST_BATCH_WITH_PROMPT_TIME = 32
MODELS_OF_STATIC_BATCHES = ("llama2-70b",)
SPLITWISE_FITTED = ("8", "1")  # tensor_parallel, batch_size

# ---- vLLM on H100: before asynchronous scheduling was the default

VLLM_H100_FITTED = "h100_single_dense"
VLLM_H100: dict[str, Any] = {
    "async_scheduling": False,
    "host": {"step_s": 5.5e-3},  # fitted on the mean TPOT of Llama-3.1-70B at TP4
}

# ---- TensorRT-LLM

TRTLLM_SOURCE = "NVIDIA/TensorRT-LLM documentation, performance overview (Apache-2.0)"
# No constant of its own: kernels and collectives are TRT-LLM's, and its runtime hides the host.
TRTLLM: dict[str, Any] = {
    "max_num_seqs": 2048,  # trtllm-bench's max_batch_size
    "max_num_batched_tokens": 8192,  # its max_num_tokens
    "gpu_memory_utilization": 0.95,  # of what is free; the documentation's kv_cache_free_gpu_mem_fraction
    "collectives": "trtllm",
    "capacity_scheduler_policy": "guaranteed_no_evict",
    "enable_prefix_caching": False,
}
# How many requests the documentation had queued, by (input, output) length; elsewhere 1500 (assumed).
TRTLLM_REQUESTS = {
    (128, 128): 30000, (128, 2048): 3000, (128, 4096): 1500, (500, 2000): 3000, (1000, 1000): 3000,
    (1000, 2000): 3000, (2048, 128): 3000, (2048, 2048): 1500, (5000, 500): 1500, (20000, 2000): 1000,
}  # fmt: skip
MOST_REQUESTS = 3000  # enough for start and end not to matter; fewer than the documentation's for short texts


def scenario_of(
    topology: str,
    model: str | Model,
    precision: str,
    engine: Mapping[str, Any],
    workload: Mapping[str, Any],
    replicas: int = 1,
    kernels: str = "vllm",
) -> Scenario:
    """A scenario of one pool, whose GPUs run the kernels of the engine `kernels`."""
    system = load_topology(topology)
    gpus = {name: with_engine(gpu, kernels) for name, gpu in system.gpus.items()}
    return Scenario.model_validate(
        {
            "topology": system.model_copy(update={"gpus": gpus}),
            "model": model,
            "precision": PRECISIONS[precision],
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


def static_batch_rows(
    rows: Iterable[Row], launch_s: Mapping[str, float] = SPLITWISE_LAUNCH_S
) -> list[LedgerRow]:
    """Prompt and token time of static batches of llama2-70b."""
    held: list[LedgerRow] = []
    llama2 = load_model("llama-3-70b").model_copy(update={"vocab": 32000, "max_context": 16384})
    for row in rows:
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
        scenario = scenario_of(SYSTEMS[row["hardware"]], llama2, "fp16", engine, burst(prompt, output, batch))
        requests = simulate(scenario).requests
        first_s = float(requests["first_token_s"].to_numpy().max())
        last_s = float(requests["finished_s"].to_numpy().max())
        case = f"llama2-70b {row['hardware']} TP{tensor_parallel} batch {batch} {prompt}/{output}"
        fitted = (row["tensor_parallel"], row["batch_size"]) == SPLITWISE_FITTED
        prompt_ms, token_ms = float(row["prompt_ms"]), float(row["token_ms"])
        per_token_ms = (last_s - first_s) / (output - 1) * 1e3
        kind: Kind = "fitted" if fitted else "predicted"
        if batch <= LARGEST_BATCH_WITH_PROMPT_TIME:
            held.append(
                LedgerRow(case, "prompt time", "ms", prompt_ms, first_s * 1e3, "predicted", SPLITWISE_SOURCE)
            )
        held.append(LedgerRow(case, "token time", "ms", token_ms, per_token_ms, kind, SPLITWISE_SOURCE))
    return held


def max_throughput_rows(rows: Iterable[Row]) -> list[LedgerRow]:
    """TensorRT-LLM's tokens a second with everything queued at once."""
    held = []
    for row in rows:
        if reason_left_out(row):
            continue
        isl, osl = int(row["isl"]), int(row["osl"])
        requests = min(TRTLLM_REQUESTS.get((isl, osl), 1500), MOST_REQUESTS)
        engine = {
            **TRTLLM,
            "tensor_parallel_size": int(row["tp"]),
            "pipeline_parallel_size": int(row["pp"] or 1),
        }
        scenario = scenario_of(
            SYSTEMS[row["gpu"]],
            MODELS[row["model"]],
            row["precision"],
            engine,
            burst(isl, osl, requests),
            kernels="trtllm",
        )
        per_s = float(simulate(scenario).summary()["output_throughput"])
        pipeline = f" PP{row['pp']}" if int(row["pp"] or 1) > 1 else ""
        service = f"{row['trtllm']} {row['model']} {row['precision']} {row['gpu']} TP{row['tp']}{pipeline}"
        case = f"TRT-LLM {service} {isl}/{osl}"
        published = float(row["output_tok_per_s"])
        held.append(
            LedgerRow(case, "output throughput", "tok/s", published, per_s, "predicted", TRTLLM_SOURCE)
        )
    return held


def reason_left_out(row: Row) -> str:
    """Why a row of the throughput table cannot be expressed; empty if it can."""
    if row["gpu"] not in SYSTEMS:
        return f"no system with {row['gpu']} and its links is shipped as it was measured"
    if row["model"] not in MODELS:
        return f"{row['model']} is not among the shipped models"
    if row["note"]:
        return (
            "attention data parallelism with expert parallelism under TRT-LLM: its balancing is not modelled"
        )
    return ""


def left_out(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows of the throughput table are left out for which reason."""
    counted: dict[str, int] = {}
    for row in rows:
        if reason := reason_left_out(row):
            counted[reason] = counted.get(reason, 0) + 1
    return counted


def online_rows(rows: Iterable[Row]) -> list[LedgerRow]:
    """TensorRT-LLM under Poisson arrivals: mean TTFT and mean gap between tokens.

    Only mean lengths are published, so all requests have them.
    """
    held = []
    for row in rows:
        load = burst(int(row["isl_mean"]), int(row["osl_mean"]), int(row["requests"]))
        if row["offered_qps"] != "INF":
            load["arrivals"] = {"kind": "poisson", "rate_per_s": float(row["offered_qps"])}
        engine = {**TRTLLM, "tensor_parallel_size": int(row["tp"])}
        scenario = scenario_of(
            SYSTEMS[row["gpu"]], MODELS[row["model"]], row["precision"], engine, load, kernels="trtllm"
        )
        numbers = simulate(scenario).summary()
        case = (
            f"TRT-LLM {row['trtllm']} {row['model']} {row['gpu']} TP{row['tp']} "
            f"{row['isl_mean']}/{row['osl_mean']} at {row['offered_qps']}/s"
        )
        for quantity, name in (("mean TTFT", "mean_ttft_ms"), ("mean ITL", "mean_itl_ms")):
            held.append(
                LedgerRow(case, quantity, "ms", float(row[name]), numbers[name], "predicted", TRTLLM_SOURCE)
            )
    return held


def vllm_h100_rows() -> list[LedgerRow]:
    """Means of three vLLM services on H100 under the ShareGPT requests they were sent."""
    import tempfile
    from pathlib import Path

    source = "casys-kaist/LLMServingSim, ISPASS 2026 artefact (MIT)"
    sent = read_rows("vllm_h100_workloads")
    held = []
    for row in read_rows("vllm_h100_means"):
        named = "mixtral" if row["model"].startswith("Mixtral") else "llama"
        lines = ["arrival_s,prompt_tokens,output_tokens"]
        lines += [
            f"{one['arrival_s']},{one['input_tokens']},{one['output_tokens']}"
            for one in sent
            if one["workload"] == named
        ]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "requests.csv"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            engine = {"tensor_parallel_size": 4, "enable_prefix_caching": False, **VLLM_H100}
            load = {"arrivals": {"kind": "trace", "path": str(path)}}
            replicas = 2 if row["parallelism"].startswith("2 x") else 1
            scenario = scenario_of("nd-h100-v5", MODELS[row["model"]], "bf16", engine, load, replicas)
            numbers = simulate(scenario).summary()
        case = f"vLLM {row['model']} {row['parallelism']} H100"
        for quantity, unit, name in (
            ("output throughput", "tok/s", "output_tok_per_s"),
            ("mean TTFT", "ms", "mean_ttft_ms"),
            ("mean TPOT", "ms", "mean_tpot_ms"),
        ):
            ours = numbers["output_throughput" if name == "output_tok_per_s" else name]
            kind: Kind = "fitted" if row["run"] == VLLM_H100_FITTED and "TPOT" in quantity else "predicted"
            held.append(LedgerRow(case, quantity, unit, float(row[name]), ours, kind, source))
    return held
