"""Results of benchmarks of real services: JSON of `vllm bench serve`, of AIPerf and of genai-perf, under the
names of `summary()`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.inputs.errors import InputError, Problem
from sim.reading.text_files import text_of

MAX_BYTES = 1 << 30
# Of AIPerf and genai-perf: the metric -> the name in summary() of its mean and percentiles, or of its value.
LATENCIES = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "tpot",  # of a request, (latency - ttft) / (tokens - 1)
    "request_latency": "e2el",
}
VALUES = {
    "request_throughput": "request_throughput",
    "output_token_throughput": "output_throughput",
    "total_token_throughput": "total_token_throughput",
    "request_count": "completed",
    "benchmark_duration": "duration",
}
LENGTHS = {"input_sequence_length": "mean_input_tokens", "output_sequence_length": "mean_output_tokens"}
IN_MS = {"ms": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "ns": 1e-6}
_METRICS = ("throughput", "goodput", "_ms")
_ABOUT = ("completed", "failed", "duration", "max_concurrency", "request_rate", "burstiness", "model_id")


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark measured, under the names of `summary()`, and what it says of its traffic."""

    kind: str
    numbers: Mapping[str, float]
    about: Mapping[str, Any]


def read_benchmark_result(path: str | Path) -> BenchmarkResult:
    """The result in a file. InputError for what is no such result, with what it is."""
    path = Path(path)
    text = text_of(path, "a result of vllm bench serve or AIPerf", MAX_BYTES)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        # `--append-result` writes one result a line; the last one is the newest.
        last = (text.strip().splitlines() or [""])[-1]
        try:
            found = json.loads(last)
        except (ValueError, RecursionError) as error:
            what = f"is no JSON of vllm bench serve or AIPerf: {str(error)[:100]}"
            raise InputError(Problem(what, str(path))) from None
    if isinstance(found, Mapping):
        if any(isinstance(found.get(name), Mapping) and "unit" in found[name] for name in LATENCIES):
            return _aiperf(found, path)
        if any(str(name).endswith(("_ttft_ms", "_tpot_ms")) for name in found):
            return _vllm(found)
        if isinstance(found.get("records"), Mapping):  # AIPerf before 0.2
            return _aiperf(found["records"], path)
    what = (
        "is no result of vllm bench serve (mean_ttft_ms ...) and no summary of AIPerf or genai-perf "
        "(time_to_first_token: {unit, avg, ...}); AIPerf writes profile_export_aiperf.json"
    )
    raise InputError(Problem(what, str(path)))


def summary_in(path: Path) -> dict[str, Any]:
    """The summary of a run in a file. InputError for what is none."""
    text = text_of(path, "the summary of a run", MAX_BYTES)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    needed = ("completed", "total_input_tokens", "total_generated_tokens", "mean_ttft_ms")
    lacking = [name for name in needed if not isinstance(found, dict) or name not in found]
    if lacking:
        what = f"is no summary of a run (it lacks {lacking[0]}); name a folder of sim run --out"
        raise InputError(Problem(what, str(path)))
    return dict(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _vllm(found: Mapping[str, Any]) -> BenchmarkResult:
    numbers = {
        str(name).replace("_e2e_latency_ms", "_e2el_ms"): float(
            value
        )  # SGLang's bench_serving has the former
        for name, value in found.items()
        if _is_number(value) and name.endswith(_METRICS) and not name.startswith("max_output")
    }
    about = {name: found[name] for name in _ABOUT if found.get(name) is not None}
    completed = found.get("completed")
    if _is_number(completed) and completed:
        for name, mean in (("total_input_tokens", "input"), ("total_output_tokens", "output")):
            if _is_number(found.get(name)):
                about[f"mean_{mean}_tokens"] = found[name] / completed
    return BenchmarkResult("vllm bench serve", numbers, about)


def _aiperf(found: Mapping[str, Any], path: Path) -> BenchmarkResult:
    numbers: dict[str, float] = {}
    about: dict[str, Any] = {}
    for metric, name in LATENCIES.items():
        block = found.get(metric)
        if not isinstance(block, Mapping):
            continue
        unit = str(block.get("unit"))
        if unit not in IN_MS:
            what = f"{metric} is in {unit!r}: must be one of {', '.join(IN_MS)}"
            raise InputError(Problem(what, str(path)))
        for statistic, value in block.items():
            if _is_number(value) and statistic not in ("count", "sum", "min"):
                word = {"avg": "mean"}.get(statistic, statistic)
                numbers[f"{word}_{name}_ms"] = float(value) * IN_MS[unit]
        if f"p50_{name}_ms" in numbers:
            numbers[f"median_{name}_ms"] = numbers[f"p50_{name}_ms"]
    for metric, name in (*VALUES.items(), *LENGTHS.items()):
        block = found.get(metric)
        value = block.get("avg") if isinstance(block, Mapping) else None
        if value is None or not _is_number(value):
            continue
        if name in ("completed", "duration") or metric in LENGTHS:
            about[name] = value
        else:
            numbers[name] = float(value)
    return BenchmarkResult("AIPerf", numbers, about)
