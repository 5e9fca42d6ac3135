"""vLLM services on H100 under the requests of a trace, before asynchronous scheduling was its default."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from sim.reading.published_names import MODELS
from sim.results.compared import Row, RowKind
from sim.simulate import Result, simulate
from sim.validation.services.published_rows import PRECISIONS, Cells, scenario_of
from sim.validation.services.request_logs import read_rows
from sim.validation.tokens_in_time import tokens_between

# The run that the host's time was fitted on, and the one that is simulated identically.
VLLM_H100_FITTED = ("h100_single_dense", "h100_single_dense_prefix_cache")
STEP_S = 5.1e-3  # fitted on the mean TPOT of Llama-3.1-70B at TP4 (`host_fits.py`)

VLLM_SOURCE = "casys-kaist/LLMServingSim, ISPASS 2026 artefact (MIT)"
SERVED = {
    "h100_single_dense": ("Llama-3.1-70B", 1, "llama"),
    "h100_single_dense_prefix_cache": ("Llama-3.1-70B", 1, "llama"),
    "h100_two_instances_dense": ("Llama-3.1-70B", 2, "llama"),
    "h100_single_moe": ("Mixtral-8x7B-v0.1", 1, "mixtral"),
}
"""Model at TP4, replicas, requests of each run on H100."""


@cache
def served(run: str, step_s: float = STEP_S) -> Result:
    """The service of a run, whose host takes `step_s` for a step, under the requests that it was sent."""
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
        engine = {
            "tensor_parallel_size": 4,
            "enable_prefix_caching": False,
            "async_scheduling": False,
            # All of it by the step: with the time of a sequence that later releases show, the other runs of
            # this service are further off (two replicas -5.9 instead of +3.0 %).
            "host": {"step_s": step_s, "sequence_s": 0.0},
        }
        load = {"arrivals": {"kind": "trace", "path": str(path)}}
        return simulate(scenario_of("nd-h100-v5", MODELS[model], PRECISIONS["bf16"], engine, load, replicas))


def vllm_mean_rows(row: Cells) -> list[Row]:
    """Means of a vLLM service on H100 under the ShareGPT requests it was sent."""
    numbers = served(row["run"]).summary()
    case = f"vLLM {row['model']} {row['parallelism']} H100"
    held = []
    for quantity, unit, name in (
        ("output throughput", "tok/s", "output_tok_per_s"),
        ("mean TTFT", "ms", "mean_ttft_ms"),
        ("mean TPOT", "ms", "mean_tpot_ms"),
    ):
        ours = numbers["output_throughput" if name == "output_tok_per_s" else name]
        kind: RowKind = "fitted" if row["run"] in VLLM_H100_FITTED and "TTFT" not in quantity else "predicted"
        held.append(Row(case, quantity, unit, float(row[name]), ours, kind, VLLM_SOURCE))
    return held


def per_second_left_out(row: Cells) -> str:
    if row["run"] not in SERVED:
        return "the A6000 is not among the shipped GPUs and no kernel of it was measured"
    if float(row["generated_tokens_per_s"]) == 0.0:
        return "nothing was generated in this second, which leaves no relative error"
    return ""


def per_second_rows(row: Cells) -> list[Row]:
    """Tokens generated in one second of a run; of each request they are spread evenly from its first to its
    last. The run with a prefix cache is taken for one without: its log does not say which prompts share a
    beginning.
    """
    begin = float(row["time_s"])
    ours = tokens_between(served(row["run"]).records.requests, begin, begin + 1.0)
    case = f"vLLM {row['run'].removeprefix('h100_')} H100, second {row['time_s']}"
    published = float(row["generated_tokens_per_s"])
    kind: RowKind = "fitted" if row["run"] in VLLM_H100_FITTED else "predicted"
    return [
        Row(
            case, "tokens of one second", "tok/s", published, ours, kind, VLLM_SOURCE,
            size=begin + 1.0, of={"run": row["run"]},
        )
    ]  # fmt: skip
