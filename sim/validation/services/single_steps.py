"""Single steps of the engines whose request logs are replayed: where seconds went by without a prompt, the
tokens of a second over those running are its steps.

Where it stops: a log does not say which requests were preempted between the first token and the last, so that
only a log without preemptions says which requests ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from sim.cost.batch import Batch
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.deployment import shards_of
from sim.results.compared import Row
from sim.scenario.scenario import Scenario

LONGEST_S, SHORTEST_S = 3, 2  # of a stretch: a second's count of tokens is off by up to one step

Columns = Mapping[str, NDArray[np.float64]]


def stretches(seconds: list[dict[str, str]]) -> Iterator[tuple[float, float, float]]:
    """Begin, end and decoded tokens of stretches of seconds in which no prompt was computed."""
    together: list[tuple[float, float]] = []
    for row in [*seconds, None]:
        quiet = row is not None and float(row["prompt_throughput"]) == 0.0
        if row is not None and quiet:
            together.append((float(row["t"]), float(row["gen_throughput"])))
        if together and (not quiet or len(together) == LONGEST_S):
            if len(together) >= SHORTEST_S:
                yield together[0][0] - 1.0, together[-1][0], sum(tokens for _, tokens in together)
            together = []


def running_and_context(log: Columns, begin_s: float, end_s: float) -> tuple[float, float] | None:
    """Requests that decode, and the mean length of their texts, over a stretch of time; None where half of
    them or more come or go meanwhile.
    """
    first, last = log["first_token_s"], log["last_token_s"]
    counts, texts = [], []
    for now in np.linspace(begin_s, end_s, 101):
        there = (first <= now) & (now < last)
        share = (now - first[there]) / (last[there] - first[there])
        counts.append(int(there.sum()))
        texts.append(float((log["input_tokens"][there] + share * log["output_tokens"][there]).sum()))
    if min(counts) <= max(counts) / 2:
        return None
    return float(np.mean(counts)), sum(texts) / sum(counts)


def step_rows(
    run: str, scenario: Scenario, log: Columns, seconds: list[dict[str, str]], source: str
) -> list[Row]:
    """Decode steps of a log beside those of its service, the ranks taken to be equally full."""
    (pool,) = scenario.all_pools.values()
    network = Network(scenario.wired.graph)
    shards = shards_of(pool, scenario, network.gpus[: pool.engine.world_size])
    cost, ranks = StageCost(shards[0], network), pool.engine.data_parallel_size
    rows = []
    for begin_s, end_s, tokens in stretches(seconds):
        found = running_and_context(log, begin_s, end_s)
        if found is None or found[0] < ranks:
            continue
        running, context = found
        decodes = round(running / ranks)
        batch = Batch((), decodes, decodes * context, decodes)
        seconds_of_step, _ = cost.step(Batch.of_ranks([batch] * ranks) if ranks > 1 else batch)
        quantity = f"decode step of {running:.0f} running, at {begin_s:.0f} s"
        measured_ms = (end_s - begin_s) * running / tokens * 1e3
        rows.append(
            Row(run, quantity, "ms", measured_ms, seconds_of_step * 1e3, "predicted", source, size=running)
        )
    return rows
