"""Which way to split twelve L40S survives rising load, and where does each saturate?

Four patterns of one box without NVLink, all serving Llama-3-70B in INT4 to the same chat traffic (lengths as
recorded by Azure in 2023, 1,150 tokens in and 259 out on average): A, 12 single GPUs; B, 6 x TP2 on the
pairs of one PCIe switch; C, 3 x TP4; D, 3 pipelines of 4. Requests come as a Poisson stream whose rate rises
from run to run; the same seed gives every pattern the same requests. A pattern is saturated where the number
in the system keeps growing while requests come (more than 5 % of the arrivals are left behind).

Hand estimate: the box computes no more than peak / (2 x parameters) tokens a second, prompts included, and a
prompt runs at 40 to 70 % of peak; what is left is lost to all-reduces over PCIe, bubbles and decode steps, so
the simulation should saturate at 0.15 to 0.7 of it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import sim
from sim.deployment import memory_of, shards_of
from sim.scenario.scenario import Scenario
from sim.views.answer import Answer, Row, tell

QUESTION = "Which way to split twelve L40S survives rising load?"
MODEL = "llama-3-70b"
PATTERNS: dict[str, dict[str, int]] = {
    "A: 12 x 1 GPU": {"replicas": 12, "tensor_parallel_size": 1, "pipeline_parallel_size": 1},
    "B: 6 x TP2": {"replicas": 6, "tensor_parallel_size": 2, "pipeline_parallel_size": 1},
    "C: 3 x TP4": {"replicas": 3, "tensor_parallel_size": 4, "pipeline_parallel_size": 1},
    "D: 3 x PP4": {"replicas": 3, "tensor_parallel_size": 1, "pipeline_parallel_size": 4},
}
RATES_PER_S = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0)
QUICK_RATES_PER_S = (1.0, 6.0)
SECONDS, QUICK_SECONDS = 240.0, 120.0  # during which requests arrive
TRACE = {"kind": "trace", "name": "azure-llm-2023-conversation"}
MEAN_TOKENS = 1409.0  # of a request of that trace, prompt and answer


def scenario(pattern: str, rate_per_s: float, seconds: float) -> Scenario:
    """The box, split by a pattern, under one rate."""
    sizes = dict(PATTERNS[pattern])
    return Scenario.model_validate(
        {
            "topology": "l40s-12",
            "model": MODEL,
            "precision": {"weights": "int4", "kv_cache": "fp8"},
            "replicas": sizes.pop("replicas"),
            "router": "shortest_tokens",
            "engine": {**sizes, "max_model_len": 8192, "pipeline_split": "even"},
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
                "prompt_tokens": TRACE,
                "output_tokens": TRACE,
                "duration_s": seconds,
            },
        }
    )


def curves(quick: bool) -> list[dict[str, Any]]:
    """Throughput of each pattern at each rate; a pattern's curve ends one rate after it is saturated."""
    points: list[dict[str, Any]] = []
    seconds = QUICK_SECONDS if quick else SECONDS
    for pattern in PATTERNS:
        lost = 0
        for rate_per_s in QUICK_RATES_PER_S if quick else RATES_PER_S:
            numbers = sim.simulate(scenario(pattern, rate_per_s, seconds), seed=0).summary()
            points.append(
                {
                    "pattern": pattern,
                    "rate_per_s": rate_per_s,
                    "p90_ttft_s": numbers["p90_ttft_ms"] / 1e3,
                    "median_tpot_ms": numbers["median_tpot_ms"],
                    "tokens_per_s": numbers["output_throughput"],
                    "saturated": bool(numbers["saturated"]),
                }
            )
            lost += bool(numbers["saturated"])
            if lost == 2:
                break
    return points


def kv_tokens(pattern: str) -> int:
    """Tokens that the KV caches of all replicas hold."""
    box = scenario(pattern, 1.0, 1.0)
    pool = next(iter(box.all_pools.values()))
    gpus = tuple(box.topology.graph.graph["gpus"][: pool.engine.world_size])
    memory, _ = memory_of(pool, shards_of(pool, box, gpus))
    return pool.replicas * memory.blocks * pool.engine.block_size


def answer(quick: bool) -> Answer:
    """Curves of every pattern under rising load, and where each of them saturates."""
    points = curves(quick)
    l40s = sim.load_topology("l40s-12").gpus["l40s"]
    peak_per_s = 12 * l40s.flops["bf16"] / (2.0 * sim.load_model(MODEL).parameters) / MEAN_TOKENS
    rows: list[Row] = []
    survives: dict[str, float] = {}
    for pattern in PATTERNS:
        mine = [point for point in points if point["pattern"] == pattern]
        held = [point for point in mine if not point["saturated"]]
        last = max((point["rate_per_s"] for point in held), default=0.0)
        survives[pattern] = last
        best = max(point["tokens_per_s"] for point in mine)
        rows += [
            Row(pattern, "KV cache of the box", "tokens", None, kv_tokens(pattern)),
            Row(pattern, "highest rate not saturated", "requests/s", None, last, estimate=peak_per_s),
            Row(pattern, "most output tokens", "tok/s", None, best),
            Row(pattern, "p90 TTFT at the lowest rate", "s", None, mine[0]["p90_ttft_s"]),
            Row(pattern, "median TPOT at the lowest rate", "ms", None, mine[0]["median_tpot_ms"]),
        ]
        if held:
            rows.append(Row(pattern, "p90 TTFT at that rate", "s", None, held[-1]["p90_ttft_s"]))
    order = sorted(survives, key=lambda pattern: -survives[pattern])
    light = {point["pattern"]: point["median_tpot_ms"] for point in reversed(points)}
    quickest = min(PATTERNS, key=lambda pattern: light[pattern])
    takeaway = (
        f"{order[0]} holds out longest ({survives[order[0]]:g}/s), then "
        + ", ".join(f"{pattern} ({survives[pattern]:g}/s)" for pattern in order[1:])
        + f"; at light load tokens come fastest from {quickest}. "
        "Singles spend their memory on weights and have a seventh of the KV cache of pairs; fours pay for an "
        "all-reduce over PCIe at every layer; a pipeline adds a stage's time to every token for each stage."
    )
    notes = (
        "INT4 weights so that one GPU holds the model: 35 GB of 48, which leaves A little KV cache.",
        "Rates are a grid: saturation lies between the rate told and the next.",
    )
    return Answer(QUESTION, tuple(rows), takeaway, notes, partial(charts, points))


def charts(points: list[dict[str, Any]], folder: Path) -> list[Path]:
    import altair as alt

    from sim.views.files import rows, save_chart

    color = alt.Color("pattern:N", title="pattern", sort=list(PATTERNS))
    x = alt.X("rate_per_s:Q", title="requests/s that come to the box", axis=alt.Axis(grid=False))
    titles = (
        ("p90_ttft_s", "p90 time to first token, s (log scale)", "log"),
        ("median_tpot_ms", "median time per token, ms", "linear"),
        ("tokens_per_s", "output tokens/s of the box", "linear"),
    )
    panels = []
    for field, title, scale in titles:
        y = alt.Y(f"{field}:Q", title=title, scale=alt.Scale(type=scale, zero=scale == "linear"))
        lines = alt.Chart(rows(points)).mark_line().encode(x=x, y=y, color=color)
        dots = (
            alt.Chart(rows(points))
            .mark_point(filled=True, size=60)
            .encode(
                x=x,
                y=y,
                color=color,
                shape=alt.Shape(
                    "saturated:N",
                    title="saturated",
                    scale=alt.Scale(domain=[False, True], range=["circle", "cross"]),
                ),
            )
        )
        panels.append((lines + dots).properties(width=300, height=280))
    title = alt.Title(
        "Llama-3-70B INT4 on twelve L40S under rising load",
        subtitle="Poisson arrivals, lengths of an Azure chat service; crosses: more comes than is served",
        anchor="start",
    )
    chart = (
        alt.hconcat(*panels, title=title)
        .configure_axis(labelFontSize=12, titleFontSize=13)
        .configure_legend(labelFontSize=12, titleFontSize=12)
        .configure_title(fontSize=16, subtitleFontSize=12)
    )
    return [save_chart(chart, folder / "twelve_l40s_under_load.png")]


if __name__ == "__main__":
    tell(answer)
