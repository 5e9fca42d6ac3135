"""A run in the words of others: as AIPerf writes its summary, and as `vllm bench serve` writes its result.

AIPerf (github.com/ai-dynamo/aiperf, docs/reference/json-export-schema) has a block for each metric, `{unit,
avg, min, max, p1 ... p99, std, count}`, over the requests that were served; its inter-token latency is of a
request, as vLLM's time per output token is. `vllm bench serve` (vllm/benchmarks/serve.py) has flat names,
which are those of `summary()`, and with `--save-detailed` a list for each column of requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.metrics import summary
from sim.results.records import Records
from sim.version import __version__

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
VLLM_LATENCIES = ("ttft", "tpot", "itl", "e2el")


def aiperf(records: Records) -> dict[str, Any]:
    """A summary as AIPerf writes it."""
    rows = records.requests
    served = rows["status"] == "finished"
    column = {name: rows[name][served] for name in rows.kinds}
    ttft_s = column["first_token_s"] - column["arrival_s"]
    latency_s = column["finished_s"] - column["arrival_s"]
    tokens = column["generated_tokens"]
    several = tokens > 1
    itl_s = ((latency_s - ttft_s) / np.maximum(tokens - 1, 1))[several]
    numbers = summary(records)
    found = {
        "time_to_first_token": _distribution("ms", 1e3 * ttft_s),
        "inter_token_latency": _distribution("ms", 1e3 * itl_s),
        "request_latency": _distribution("ms", 1e3 * latency_s),
        "output_token_throughput_per_user": _distribution("tokens/sec/user", 1.0 / itl_s),
        "input_sequence_length": _distribution("tokens", column["prompt_tokens"]),
        "output_sequence_length": _distribution("tokens", tokens),
        "request_throughput": _single("requests/sec", numbers["request_throughput"]),
        "output_token_throughput": _single("tokens/sec", numbers["output_throughput"]),
        "total_token_throughput": _single("tokens/sec", numbers["total_token_throughput"]),
        "request_count": _single("requests", float(served.sum())),
        "error_request_count": _single("requests", float((~served).sum())),
        "benchmark_duration": _single("sec", numbers["duration"]),
    }
    return {
        "simulator": f"fabricsim {__version__}",
        **{name: block for name, block in found.items() if block},
    }


def _distribution(unit: str, values: NDArray[Any]) -> dict[str, Any]:
    """Empty for no values at all."""
    if not len(values):
        return {}
    # Sample standard deviation, as AIPerf has it; of one value there is none.
    std = {"std": float(np.std(values, ddof=1))} if len(values) > 1 else {}
    return {
        "unit": unit,
        "avg": float(np.mean(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        **{f"p{percent}": float(np.percentile(values, percent)) for percent in PERCENTILES},
        **std,
        "count": len(values),
    }


def _single(unit: str, value: float | None) -> dict[str, Any]:
    return {} if value is None else {"unit": unit, "avg": value}


def vllm(records: Records, model: str, arrivals: Mapping[str, Any]) -> dict[str, Any]:
    """A result as `vllm bench serve --save-detailed` writes it, without lists of gaps between tokens.

    `arrivals` are those of the workload: its rate, burstiness or users.
    """
    numbers = summary(records)
    rows = records.requests
    order = np.lexsort((rows["request_id"], rows["arrival_s"]))
    column = {name: rows[name][order] for name in rows.kinds}
    failed = int((column["status"] != "finished").sum())
    rate = arrivals.get("rate_per_s")
    kept = [
        f"{statistic}_{latency}_ms"
        for latency in VLLM_LATENCIES
        for statistic in ("mean", "median", "std", "p50", "p90", "p95", "p99")
    ]
    return {
        "backend": f"fabricsim {__version__}",
        "model_id": model,
        "num_prompts": len(column["status"]),
        "request_rate": rate if rate is not None else "inf",
        "burstiness": arrivals.get("burstiness") or 1.0,
        "max_concurrency": arrivals.get("users"),
        "duration": numbers["duration"],
        "completed": numbers["completed"],
        "failed": failed,
        "total_input_tokens": numbers["total_input_tokens"],
        "total_output_tokens": numbers["total_generated_tokens"],
        **{name: numbers[name] for name in ("request_throughput", "request_goodput", "output_throughput",
                                            "total_token_throughput")},
        **{name: numbers[name] for name in kept},
        "input_lens": column["prompt_tokens"].tolist(),
        "output_lens": column["generated_tokens"].tolist(),
        "ttfts": np.nan_to_num(column["first_token_s"] - column["arrival_s"]).tolist(),
        "start_times": column["arrival_s"].tolist(),
        "errors": ["" if status == "finished" else status for status in column["status"].tolist()],
    }  # fmt: skip
