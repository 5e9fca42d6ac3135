"""TensorRT-LLM at an offered rate."""

from __future__ import annotations

from sim.reading.published_names import MODELS, SYSTEMS
from sim.results.compared import Row
from sim.simulate import simulate
from sim.validation.services.published_rows import (
    ONLINE_SOURCE,
    TRTLLM,
    Cells,
    burst,
    precision_of,
    scenario_of,
)


def online_rows(row: Cells) -> list[Row]:
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
        Row(
            case, quantity, unit, float(row[theirs]), float(numbers[ours]), "predicted", ONLINE_SOURCE, of=of
        )
        for quantity, unit, theirs, ours in named
    ]  # fmt: skip
