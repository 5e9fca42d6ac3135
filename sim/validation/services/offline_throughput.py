"""TensorRT-LLM's offline throughput: all requests queued at once, so many tokens a second.

Kernels and collectives are TensorRT-LLM's. Its runtime hides the host, but for what it spends on a running
sequence: that is fitted on the two rows of `FITTED`. Requests are as many as the documentation had queued,
but for the shortest texts.

Where it stops: attention data-parallel rows start without the waits by which TensorRT-LLM evens out the
prompts of its ranks; requests of one length are even by themselves.
"""

from __future__ import annotations

import re

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

# How many requests the documentation had queued, by (input, output) length; elsewhere 1500 (assumed).
REQUESTS = {
    (128, 128): 30000, (128, 2048): 3000, (128, 4096): 1500, (500, 2000): 3000, (1000, 1000): 3000,
    (1000, 2000): 3000, (2048, 128): 3000, (2048, 2048): 1500, (5000, 500): 1500, (20000, 2000): 1000,
}  # fmt: skip
APART = re.compile(r"attention DP(\d+)")
FITTED = ("0.17", "Mixtral-8x7B", "fp8", "H200", "8", "128")  # `HIDDEN_SEQUENCE_S`: 128 and 2048 tokens out
MAX_REQUESTS = 3000  # of 128/128, which has no more than 2,048 of them at once: start and end are 2 % of it


def throughput_left_out(row: Cells) -> str:
    """Why a row cannot be expressed; empty if it can."""
    if row["model"] not in MODELS:
        return f"{row['model']} has no model description here"
    if row["gpu"] not in SYSTEMS:
        return f"no system with {row['gpu']} and its links is shipped"
    return ""


def throughput_rows(row: Cells) -> list[Row]:
    """Output tokens a second of one row."""
    isl, osl = int(row["isl"]), int(row["osl"])
    model, pipeline = MODELS[row["model"]], int(row["pp"] or 1)
    noted = APART.search(row["note"])
    apart = int(noted[1]) if noted else 1
    engine = {
        **TRTLLM,
        "tensor_parallel_size": int(row["tp"]),
        "pipeline_parallel_size": pipeline,
        "data_parallel_size": apart,
        "enable_expert_parallel": apart > 1,
    }
    load = burst(isl, osl, min(REQUESTS.get((isl, osl), 1500), MAX_REQUESTS))
    formats = precision_of(row["model"], row["precision"], row["gpu"])
    scenario = scenario_of(SYSTEMS[row["gpu"]], model, formats, engine, load)
    per_s = float(simulate(scenario).summary()["output_throughput"])
    layout = (
        f"TP{row['tp']}" + (f" PP{pipeline}" if pipeline > 1 else "") + (f" DP{apart}" if apart > 1 else "")
    )
    case = f"TRT-LLM {row['trtllm']} {row['model']} {row['precision']} {row['gpu']} {layout} {isl}/{osl}"
    of = {
        "model": model, "GPU": row["gpu"], "format": row["precision"], "layout": layout,
        "lengths": f"{isl}/{osl}", "release": row["trtllm"],
    }  # fmt: skip
    told = tuple(row[key] for key in ("trtllm", "model", "precision", "gpu", "tp", "isl"))
    is_fitted = told == FITTED and osl in (128, 2048) and pipeline == apart == 1
    return [
        Row(
            case, "output throughput", "tok/s", float(row["output_tok_per_s"]), per_s,
            "fitted" if is_fitted else "predicted",
            ONLINE_SOURCE, size=float(isl + osl), of=of,
        )
    ]  # fmt: skip
