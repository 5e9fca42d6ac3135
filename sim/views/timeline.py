"""A run as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open: steps, requests, queues.

The format is the Trace Event Format: a JSON object with `traceEvents`, times in microseconds. A replica is a
process, a pipeline stage a thread in it, or several where batches take turns in it; a span of equal steps is
one slice. A request is an asynchronous track with its queue, prefill and decode; waiting, running and KV
blocks in use are counters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.results.sojourn_times import phases, sojourns

if TYPE_CHECKING:
    import polars

Event = dict[str, Any]

REQUESTS_PROCESS = 0
FIRST_REPLICA_PROCESS = 1
THREADS_APART = 1000  # between the threads of one stage: more than a pipeline has stages


def write_trace(
    requests: polars.DataFrame, steps: polars.DataFrame, kv_blocks: polars.DataFrame, path: Path
) -> Path:
    """Write the trace of a run. One event a line, so that files can be compared."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        separator = ""
        for event in events(requests, steps, kv_blocks):
            file.write(separator + json.dumps(event, separators=(",", ":")))
            separator = ",\n"
        file.write("\n]}\n")
    return path


def events(
    requests: polars.DataFrame, steps: polars.DataFrame, kv_blocks: polars.DataFrame
) -> Iterator[Event]:
    """The events of a trace, in no order of time (viewers sort)."""
    yield _named("process_name", REQUESTS_PROCESS, 0, "requests")
    threads: dict[int, dict[int, list[float]]] = {}  # by replica and stage: when each of its threads is free
    for span in steps.sort("start_s").iter_rows(named=True):
        process = FIRST_REPLICA_PROCESS + span["replica"]
        stages = threads.setdefault(span["replica"], {})
        if not stages:
            yield _named("process_name", process, 0, f"replica {span['replica']}")
        free_s = stages.setdefault(span["stage"], [])
        turn = next((i for i, until_s in enumerate(free_s) if until_s <= span["start_s"]), len(free_s))
        thread = span["stage"] + turn * THREADS_APART
        if turn == len(free_s):
            free_s.append(0.0)
            yield _named("thread_name", process, thread, f"stage {span['stage']}" + " in turns" * bool(turn))
        free_s[turn] = span["end_s"]
        yield _step(span, thread)
        if span["stage"] == 0:
            yield _counter("sequences", process, span["start_s"], span["sequences"])
    for row in kv_blocks.iter_rows(named=True):
        name = f"KV blocks of rank {row['rank']}" if row["rank"] else "KV blocks"
        yield _counter(name, FIRST_REPLICA_PROCESS + row["replica"], row["at_s"], row["blocks"])
    for request in requests.iter_rows(named=True):
        yield from _request(request)
    changes = [
        (at_s, *change)
        for moments_s, change in zip(sojourns(requests), ((1, 0), (-1, 1), (0, -1)), strict=True)
        for at_s in moments_s.tolist()
        if not math.isnan(at_s)
    ]
    waiting = running = 0
    for at_s, more_waiting, more_running in sorted(changes):
        waiting, running = waiting + more_waiting, running + more_running
        yield _counter("requests", REQUESTS_PROCESS, at_s, {"waiting": waiting, "running": running})


def _step(span: dict[str, Any], thread: int) -> Event:
    work = []
    if span["prefill_tokens"]:
        work.append(f"prefill {span['prefill_tokens']}")
    if span["decode_tokens"]:
        work.append(f"decode {span['decode_tokens']}")
    times = f" x{span['steps']}" if span["steps"] > 1 else ""
    return {
        "ph": "X",
        "name": (" + ".join(work) or "step") + times,
        "cat": "step",
        "pid": FIRST_REPLICA_PROCESS + span["replica"],
        "tid": thread,
        "ts": span["start_s"] * 1e6,
        "dur": (span["end_s"] - span["start_s"]) * 1e6,
        "args": {
            name: span[name]
            for name in (
                "steps",
                "sequences",
                "prefill_tokens",
                "decode_tokens",
                "kv_tokens",
                "first_step_s",
                "last_step_s",
                "idle_s",
            )
        },
    }


def _request(request: dict[str, Any]) -> Iterator[Event]:
    """Nested asynchronous slices: the request, and in it its queue, prefill and decode."""
    moments = ("aborted_s", "finished_s", "first_token_s", "admitted_s", "arrival_s")
    last_s = next(request[name] for name in moments if request[name] is not None)
    common: Event = {"cat": "request", "id": request["request_id"], "pid": REQUESTS_PROCESS, "tid": 0}
    whole: Event = {**common, "name": f"request {request['request_id']}"}
    arguments = ("prompt_tokens", "output_tokens", "cached_tokens", "preemptions", "replica", "status")
    shown = {name: request[name] for name in arguments}
    yield {**whole, "ph": "b", "ts": request["arrival_s"] * 1e6, "args": shown}
    for phase, begin_s, end_s in phases(request):
        yield {**common, "name": phase, "ph": "b", "ts": begin_s * 1e6}
        yield {**common, "name": phase, "ph": "e", "ts": end_s * 1e6}
    yield {**whole, "ph": "e", "ts": last_s * 1e6}


def _counter(name: str, process: int, at_s: float, value: float | dict[str, int]) -> Event:
    values = value if isinstance(value, dict) else {name: value}
    return {"ph": "C", "name": name, "pid": process, "tid": 0, "ts": at_s * 1e6, "args": values}


def _named(what: str, process: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}
