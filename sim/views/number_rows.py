"""The numbers of a run as rows of a table, with the words for them: in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.results.blame import CAUSES, METRICS, NEGLIGIBLE
from sim.views.table_html import shown

LATENCIES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "between tokens",
    "e2el": "end to end",
    "queue": "in the queue",
}
STATISTICS = ("mean", "median", "p90", "p95", "p99", "p99.9", "max", "std")
GROUPS = ("mean", "slowest_tenth")  # of `numbers["blame"]`
BLAME_COLUMNS = (
    "where the time went (ms)",
    *(f"{metric}{of}" for metric in METRICS for of in ("", ", slowest tenth")),
    "share of e2el",
)
ROUNDING = 1e-9  # a spread below this is that of the clock's last digits
COUNTS = {
    "completed": "requests finished",
    "unfinished": "requests unfinished",
    "aborted": "requests aborted",
    "rejected": "requests rejected",
    "cut_answers": "answers cut at max_model_len",
    "warmup_requests": "requests left out as warm-up",
    "cooldown_requests": "requests left out as cool-down",
    "duration": "duration (s)",
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
    "total_token_throughput": "tokens/s, prompts too",
    "output_throughput_per_gpu": "output tokens/s per GPU",
    "request_goodput": "requests/s within their objectives",
    "slo_attainment": "share within their objectives",
    "mean_concurrency": "requests at a time (mean)",
    "preemptions": "preemptions",
    "prefix_hit_rate": "prompt tokens found in the cache",
    "mean_gpu_w": "W a GPU (mean)",
    "peak_w": "W of all GPUs at most",
    "gpu_j_per_output_token": "J of GPUs an output token",
    "j_per_output_token": "J an output token, servers too",
    "output_tokens_per_s_per_mw": "output tokens/s a provisioned MW",
    "output_tokens_per_s_per_drawn_mw": "output tokens/s a drawn MW",
    "usd_per_million_output_tokens": "dollars a million output tokens",
    "saturated": "saturated",
}


def counts_rows(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Counts and throughputs, with the words for them; what does not apply is left out."""
    return [(words, shown(numbers[name])) for name, words in COUNTS.items() if numbers.get(name) is not None]


def latency_rows(numbers: Mapping[str, Any], statistics: Sequence[str] = STATISTICS) -> list[list[str]]:
    """One row per kind of latency, its statistics in ms; those that were not measured are left out."""
    found = []
    for name, words in LATENCIES.items():
        values = [numbers.get(f"{statistic}_{name}_ms") for statistic in statistics]
        if values[-1] is not None and values[0] and values[-1] < ROUNDING * values[0]:
            values[-1] = 0.0
        if any(value is not None for value in values):
            found.append([words, *(shown(value) for value in values)])
    return found


def blame_rows(numbers: Mapping[str, Any]) -> list[list[str]]:
    """One row per cause that counts in any of the latencies: ms of the mean request and of the slowest tenth
    by that latency; of the time between tokens, per token.
    """
    blame = numbers.get("blame") or {}
    groups = [blame.get(metric, {}).get(group) or {} for metric in METRICS for group in GROUPS]
    totals = [sum(group.values()) for group in groups]
    found = []
    for cause in CAUSES:
        values = [group.get(cause, 0.0) for group in groups]
        counts = [value > NEGLIGIBLE * total for value, total in zip(values, totals, strict=True)]
        if any(counts):
            cells = [shown(value if there else 0.0) for value, there in zip(values, counts, strict=True)]
            whole = totals[-2]
            found.append([cause, *cells, f"{values[-2] / whole:.1%}" if whole else ""])
    return found
