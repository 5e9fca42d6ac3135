"""vLLM on H200 at prompts of growing length."""

from __future__ import annotations

from sim.results.compared import Row
from sim.simulate import simulate
from sim.validation.services.closed_loops import HOSTS
from sim.validation.services.published_rows import Cells, scenario_of

SWEEP_SOURCE = "SemiAnalysisAI/InferenceX 843c625 (Apache-2.0), vLLM nightly of February 2026"


def sweep_left_out(row: Cells) -> str:
    if row["model"].startswith("zai-org/GLM"):
        return (
            "GLM-5 (sparse attention, multi-token prediction of unknown acceptance) has no description here"
        )
    if row["model"].startswith("Qwen/Qwen3.5"):
        return "Qwen3.5-397B (linear attention in most layers) has no model description here"
    return ""


def sweep_rows(row: Cells) -> list[Row]:
    """Medians and throughput of MiniMax-M2.5 on eight H200: a closed loop of ten times its users. The host
    set is that of vLLM's closed loops.
    """
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
        Row(
            case, quantity, unit, float(row[theirs]), float(numbers[ours]), "predicted", SWEEP_SOURCE,
            size=float(row["isl"]), of=of,
        )
        for quantity, unit, theirs, ours in named
    ]  # fmt: skip
