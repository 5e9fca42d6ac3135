"""A run beside a benchmark of the same workload on a real service: every metric that both have, its error,
and which causes could explain it.

A cause is said only where its size fits. Where the run is slower than what was measured, it must have had at
least the missing time in the run; where it is faster, what a simulation leaves out, or has borrowed, is
looked for: first of all whether the traffic was the same, and whether the measured value lies in the band of
errors that measured services had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sim.results.column_words import CAUSE_WORDS

SAME = 0.05  # relative difference of lengths, counts and rates up to which two workloads count as the same
NEAR = 0.10
"""Relative error of a metric below which no cause is looked for: benchmarks of one service, repeated, differ
by up to that (assumed)."""
STATISTICS = ("mean", "median", "p90", "p95", "p99")
LATENCIES = ("ttft", "tpot", "itl", "e2el")
THROUGHPUTS = ("request_throughput", "output_throughput", "total_token_throughput", "request_goodput")
CAUSES_OF = {"ttft": "ttft", "tpot": "itl", "itl": "itl", "e2el": "e2el"}
LEFT_OUT = {
    "ttft": "work before the engine (HTTP, tokenizing, the benchmark's client), prompts that were not cached "
    "there, or a queue that arrivals made there",
    "tpot": "host time of every step (eager mode, an older engine, detokenizing), lower clocks, or another "
    "number format than the run's",
    "e2el": "what holds for its first and its further tokens",
}


@dataclass(frozen=True)
class MetricBeside:
    """One metric of both. `error` is (simulated - measured) / measured."""

    metric: str
    simulated: float
    measured: float
    in_band: bool | None = None

    @property
    def error(self) -> float:
        return self.simulated / self.measured - 1.0

    def as_dict(self) -> dict[str, Any]:
        """As a row of JSON."""
        return {
            "metric": self.metric,
            "simulated": self.simulated,
            "measured": self.measured,
            "error": self.error,
            "in_band": self.in_band,
        }


def metrics_beside(numbers: Mapping[str, Any], measured: Mapping[str, float]) -> list[MetricBeside]:
    """The metrics that a summary and a benchmark share, throughputs first."""
    bands = (numbers.get("basis") or {}).get("bands") or {}
    names = [*THROUGHPUTS, *(f"{one}_{latency}_ms" for latency in LATENCIES for one in STATISTICS)]
    found = []
    for name in names:
        simulated, real = numbers.get(name), measured.get(name)
        if simulated is None or not real:
            continue
        band = bands.get(name)
        found.append(MetricBeside(name, simulated, real, bool(band[0] <= real <= band[1]) if band else None))
    return found


def differences_of_traffic(numbers: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    """What says that the benchmark had another workload than the run."""
    count = numbers["completed"] or 1
    ours = {
        "completed": numbers["completed"],
        "mean_input_tokens": numbers["total_input_tokens"] / count,
        "mean_output_tokens": numbers["total_generated_tokens"] / count,
    }
    words = {
        "completed": "requests finished",
        "mean_input_tokens": "mean tokens of a prompt",
        "mean_output_tokens": "mean tokens of an answer",
    }
    for name, ran in ours.items():
        real = about.get(name)
        if real and abs(ran / real - 1.0) > SAME:
            yield f"{words[name]}: {ran:.6g} in the run, {real:.6g} measured"
    if about.get("failed"):
        yield f"{about['failed']} requests failed in the benchmark"


def causes_beside(numbers: Mapping[str, Any], rows: list[MetricBeside]) -> list[str]:
    """Sentences on what could explain the errors of mean latencies, of tails and of throughputs."""
    by_name = {row.metric: row for row in rows}
    told: list[str] = []
    for latency in LATENCIES:
        mean = by_name.get(f"mean_{latency}_ms")
        if mean is None or (latency == "itl" and "mean_tpot_ms" in by_name):
            continue
        told += _of_mean(latency, mean, numbers)
        told += _of_tail(latency, mean, by_name)
    told += _of_throughput(by_name)
    return told


def _of_mean(latency: str, mean: MetricBeside, numbers: Mapping[str, Any]) -> Iterator[str]:
    name, off_ms = latency.upper(), mean.simulated - mean.measured
    if abs(mean.error) <= NEAR:
        return
    if mean.in_band:
        of = (numbers.get("basis") or {}).get("bands_of") or "measured services"
        yield f"{name} {mean.error:+.0%}: inside the band of the run ({of})"
    if off_ms < 0:
        yield f"{name} {-off_ms:.3g} ms too short: {LEFT_OUT.get(latency, LEFT_OUT['tpot'])}"
        return
    blame = ((numbers.get("blame") or {}).get(CAUSES_OF[latency]) or {}).get("mean") or {}
    able = sorted(((ms, cause) for cause, ms in blame.items() if ms >= off_ms), reverse=True)
    if able:
        listed = "; ".join(f"{cause}, {ms:.3g} ms ({CAUSE_WORDS[cause]})" for ms, cause in able[:4])
        yield f"{name} {off_ms:.3g} ms too long: the causes that have as much in the run are {listed}"
    else:
        yield f"{name} {off_ms:.3g} ms too long: no single cause of the run has as much; several together do"


def _of_tail(latency: str, mean: MetricBeside, by_name: Mapping[str, MetricBeside]) -> Iterator[str]:
    tail = by_name.get(f"p99_{latency}_ms")
    if tail is None or abs(tail.error) <= NEAR or abs(tail.error) <= 2 * abs(mean.error):
        return
    if tail.error < 0:
        yield (
            f"p99 {latency.upper()} {tail.error:+.0%}, its mean {mean.error:+.0%}: the measured tail is of "
            "single steps (garbage collection, other processes, bursts of arrivals), which the run lacks"
        )
    else:
        yield (
            f"p99 {latency.upper()} {tail.error:+.0%}, its mean {mean.error:+.0%}: the order of arrivals or "
            "the scheduler's limits (max_num_batched_tokens, max_num_seqs) may differ"
        )


def _of_throughput(by_name: Mapping[str, MetricBeside]) -> Iterator[str]:
    rate, tpot = by_name.get("output_throughput"), by_name.get("mean_tpot_ms")
    if rate is None or tpot is None or abs(rate.error) <= NEAR or abs(tpot.error) > NEAR:
        return
    yield (
        f"throughput {rate.error:+.0%} although TPOT is right: the number of users or the rate of arrivals "
        "differs, or the benchmark has counted its ramp and drain"
    )
