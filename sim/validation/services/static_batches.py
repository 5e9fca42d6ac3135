"""Static batches of llama2-70b, with an engine of 2023 that launches every kernel from Python."""

from __future__ import annotations

from collections.abc import Mapping

from sim.catalog import load_model
from sim.reading.published_names import SYSTEMS
from sim.results.compared import Row
from sim.simulate import simulate
from sim.validation.services.published_rows import PRECISIONS, Cells, burst, scenario_of

SPLITWISE_SOURCE = "Mutinifni/splitwise-sim 8f99e7d (MIT), fp16, software of 2023"
# Every kernel is launched from Python and the GPUs wait for it: seconds per launch, as many launches as an
# engine of today has. Fitted on the token time of llama2-70b at TP 8, batch 1: once for each host, whose
# processors differ (`serving_fits`).
SPLITWISE_LAUNCH_S = {"a100-80gb": 43e-6, "h100-80gb": 29e-6}
# The published prompt times of batch 64 are an eighth of those of batch 32: not those of the batch.
LARGEST_BATCH_WITH_PROMPT_TIME = 32
SPLITWISE_FITTED = ("8", "1")  # tensor_parallel, batch_size


def static_batch_left_out(row: Cells) -> str:
    if row["model"].startswith("bloom"):
        return "bloom-176b (ALiBi, no gated MLP) has no model description here"
    return ""


def static_batch_rows(row: Cells, launch_s: Mapping[str, float] = SPLITWISE_LAUNCH_S) -> list[Row]:
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
            Row(
                case, "prompt time", "ms", prompt_ms, first_s * 1e3, "predicted", SPLITWISE_SOURCE,
                size=float(batch * prompt), of=of,
            )
        )  # fmt: skip
    held.append(
        Row(
            case, "token time", "ms", float(row["token_ms"]), (last_s - first_s) / (output - 1) * 1e3,
            "fitted" if fitted else "predicted", SPLITWISE_SOURCE, size=float(batch), of=of,
        )
    )  # fmt: skip
    return held
