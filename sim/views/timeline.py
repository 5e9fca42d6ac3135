"""A run as a timeline that Perfetto (ui.perfetto.dev) opens: replicas, requests, faults; and, in windows of
time that were recorded, GPUs and links op by op (`timeline_window.py`).

Categories are those of torch's profiler (`kernel`, `gpu_user_annotation`, `user_annotation`), so that the
trace of a real engine opens beside it. Steps of the engine are `user_annotation`; what only a simulator knows
has categories of its own (`request`, `cause`, `transfer`, `fault`). A span of equal steps is one slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sim.results.blame import CAUSES, NEGLIGIBLE
from sim.results.sojourn_times import phases, sojourns
from sim.views.timeline_window import Window, step_name
from sim.views.track_events import Lanes, TrackEvents

if TYPE_CHECKING:
    import polars

    from sim.results.recorded import Recorded
    from sim.results.setting import FaultSetting

TRACE = "trace.perfetto-trace"
REQUESTS_A_GROUP = 100  # that fold away together
LIFE = {"queue": "waiting in the queue", "prefill": "prefill", "decode": "decode"}


class Timed(Protocol):
    """What a timeline draws of a run."""

    @property
    def title(self) -> str: ...
    @property
    def end_s(self) -> float: ...
    @property
    def ended(self) -> str: ...
    @property
    def requests(self) -> polars.DataFrame: ...
    @property
    def steps(self) -> polars.DataFrame: ...
    @property
    def kv_blocks(self) -> polars.DataFrame: ...
    @property
    def hand_overs(self) -> polars.DataFrame: ...
    @property
    def blame(self) -> polars.DataFrame: ...
    @property
    def blame_ttft(self) -> polars.DataFrame: ...


def write_trace(
    run: Timed, path: Path, recorded: Recorded | None = None, faults: Sequence[FaultSetting] = ()
) -> tuple[str, ...]:
    """Write the timeline of a run, with what was `recorded` of it. Returns what is missing from it."""
    with path.open("wb") as file:
        out = TrackEvents(file)
        window = None if recorded is None else Window(out, recorded)
        _whole(out, run, faults, window)
        # Requests first: an arrow begins at the slice that comes first in the file where two begin at once.
        _requests(out, run, window)
        _replicas(out, run, window)
        return () if window is None else window.machine()


def _whole(out: TrackEvents, run: Timed, faults: Sequence[FaultSetting], window: Window | None) -> None:
    """Faults as marks, how the run ended, and how many requests wait and run."""
    process = out.process(run.title)
    if window is not None:
        track = out.track(process, "recorded op by op")
        for begin_s, end_s in window.recorded.windows.spans:
            out.slice(track, begin_s, max(begin_s, min(end_s, run.end_s)), "window", "user_annotation")
    by_what: dict[str, list[FaultSetting]] = {}
    for fault in faults:
        if fault.at_s <= run.end_s:
            by_what.setdefault(fault.what, []).append(fault)
    for what, several in by_what.items():  # a track of its own: faults overlap
        track = out.track(process, f"fault: {what}")
        for fault in sorted(several, key=lambda one: one.at_s):
            until_s = run.end_s if fault.until_s is None else min(fault.until_s, run.end_s)
            out.mark(track, fault.at_s, f"{what} fails", "fault")
            out.slice(track, fault.at_s, until_s, what, "fault")
            if fault.until_s is not None and fault.until_s <= run.end_s:
                out.mark(track, fault.until_s, f"{what} is back", "fault")
    out.mark(out.track(process, "end of the run"), run.end_s, run.ended, "user_annotation")
    _queue_counters(out, process, run.requests)


def _queue_counters(out: TrackEvents, process: int, requests: Mapping[str, Any] | polars.DataFrame) -> None:
    """How many requests wait and how many run."""
    changes = [
        (at_s, *change)
        for moments_s, change in zip(sojourns(requests), ((1, 0), (-1, 1), (0, -1)), strict=True)
        for at_s in moments_s.tolist()
        if not math.isnan(at_s)
    ]
    if not changes:
        return
    tracks = [out.track(process, f"requests {what}", "requests") for what in ("waiting", "running")]
    counts, shown = [0, 0], [-1, -1]
    changes.sort()
    for number, (at_s, *more) in enumerate(changes):
        counts = [count + change for count, change in zip(counts, more, strict=True)]
        if number + 1 < len(changes) and changes[number + 1][0] == at_s:
            continue
        for i, track in enumerate(tracks):
            if counts[i] != shown[i]:
                out.count(track, at_s, counts[i])
        shown = counts


# ---- replicas


def _replicas(out: TrackEvents, run: Timed, window: Window | None) -> None:
    steps = run.steps.sort("replica", "stage", "start_s").partition_by("replica", as_dict=True)
    blocks = run.kv_blocks.partition_by("replica", as_dict=True)
    requests = run.requests.partition_by("replica", as_dict=True)
    for (replica,) in sorted({*steps, *blocks}):
        process = out.process(f"replica {replica}")
        spans = steps.get((replica,))
        if spans is not None:
            for (stage,), rows in spans.partition_by("stage", as_dict=True, maintain_order=True).items():
                _stage(out, process, int(stage), list(rows.iter_rows(named=True)))
                if stage == 0:
                    _batch_counters(out, process, list(rows.iter_rows(named=True)))
        if window is not None:
            window.steps_of(int(replica), process)
        if (replica,) in requests:
            _queue_counters(out, process, requests[replica,])
        if (replica,) in blocks:
            for (rank,), rows in blocks[replica,].partition_by("rank", as_dict=True).items():
                track = out.track(process, f"KV blocks of rank {rank}" if rank else "KV blocks", "blocks")
                for at_s, n_blocks in rows.sort("at_s").select("at_s", "blocks").iter_rows():
                    out.count(track, at_s, n_blocks)


def _stage(out: TrackEvents, process: int, stage: int, spans: Iterable[dict[str, Any]]) -> None:
    """Spans of steps of a stage; those of batches that take turns overlap."""
    lanes = Lanes(out, process, f"stage {stage}")
    for span in spans:
        track = lanes.free(span["start_s"], span["end_s"])
        times = f" x{span['steps']}" if span["steps"] > 1 else ""
        values = {
            name: span[name]
            for name in ("steps", "sequences", "prefill_tokens", "decode_tokens", "kv_tokens")
        }
        if span["steps"] > 1:
            values |= {f"{name}_ms": span[f"{name}_s"] * 1e3 for name in ("first_step", "last_step", "idle")}
        name = step_name(span["prefill_tokens"], span["decode_tokens"]) + times
        out.slice(track, span["start_s"], span["end_s"], name, "user_annotation", values)


def _batch_counters(out: TrackEvents, process: int, spans: Sequence[dict[str, Any]]) -> None:
    """What the batch is made of: zero where no step is under way."""
    columns = {"decode_tokens": "batch: decodes", "prefill_tokens": "batch: prompt tokens"}
    for column, name in columns.items():
        if not any(span[column] for span in spans):
            continue
        track, shown = out.track(process, name, "tokens"), 0
        for number, span in enumerate(spans):
            if span[column] != shown:
                shown = span[column]
                out.count(track, span["start_s"], shown)
            following = spans[number + 1]["start_s"] if number + 1 < len(spans) else math.inf
            if shown and following > span["end_s"]:
                shown = 0
                out.count(track, span["end_s"], shown)


# ---- requests


def _requests(out: TrackEvents, run: Timed, window: Window | None) -> None:
    """A track for each request: its life, and where its time went."""
    if not run.requests.height:
        return
    process = out.process("requests")
    sent = {row["request_id"]: row for row in run.hand_overs.iter_rows(named=True)}
    until_first, in_all = (_causes(frame) for frame in (run.blame_ttft, run.blame))
    group, tracks = -1, 0
    for request in run.requests.iter_rows(named=True):
        number = request["request_id"]
        if number // REQUESTS_A_GROUP != group:
            group = number // REQUESTS_A_GROUP
            first = group * REQUESTS_A_GROUP
            tracks = out.track(process, f"requests {first} to {first + REQUESTS_A_GROUP - 1}")
        track = out.track(tracks, f"request {number}")
        first_causes = until_first.get(number, {})
        causes = {
            name: seconds - first_causes.get(name, 0.0) for name, seconds in in_all.get(number, {}).items()
        }
        _request(out, track, request, sent.get(number), first_causes, causes, window)
        if window is not None:
            window.causes_of(number, tracks)


def _causes(frame: polars.DataFrame) -> dict[int, dict[str, float]]:
    names = frame.columns[1:]
    return {
        number: {name: one for name, one in zip(names, seconds, strict=True) if one}
        for number, *seconds in frame.iter_rows()
    }


def _request(
    out: TrackEvents,
    track: int,
    request: dict[str, Any],
    sent: dict[str, Any] | None,
    until_first: Mapping[str, float],
    after_first: Mapping[str, float],
    window: Window | None,
) -> None:
    """The request, and in it its queue, prefill and decode."""
    number = request["request_id"]
    moments = ("aborted_s", "finished_s", "first_token_s", "admitted_s", "arrival_s")
    last_s = next(request[name] for name in moments if request[name] is not None)
    names = ("prompt_tokens", "output_tokens", "generated_tokens", "cached_tokens", "preemptions")
    values: dict[str, Any] = {name: request[name] for name in names} | {
        "replica": request["replica"],
        "status": request["status"],
        "ms until the first token": _in_order(until_first),
        "ms after it": _in_order(after_first),
    }
    values = {name: value for name, value in values.items() if value != {}}
    out.begin(track, request["arrival_s"], f"request {number}", "request", values)
    for phase, begin_s, end_s in phases(request):
        if begin_s == end_s:
            continue
        flows = [] if window is None else window.arrows_from(number, phase)
        out.begin(track, begin_s, LIFE[phase], "request", None, flows)
        for what, since_s, until_s in _inside(request, phase, sent):
            if begin_s <= since_s <= until_s <= end_s:
                out.slice(track, since_s, until_s, what, "request")
        out.end(track, end_s)
    out.end(track, last_s)


def _inside(
    request: dict[str, Any], phase: str, sent: dict[str, Any] | None
) -> Iterator[tuple[str, float, float]]:
    """What happens within a phase: routing, and the KV cache on its way to another replica."""
    routed_s = request["routed_s"]
    if phase == "queue" and routed_s is not None and routed_s > request["arrival_s"]:
        yield "routing", request["arrival_s"], routed_s
    if phase != "queue" and sent is not None:
        yield "KV cache to another replica", sent["prefilled_s"], sent["arrived_s"]


def _in_order(seconds: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds by cause, in the order of a request's life; negligible ones left out."""
    least = NEGLIGIBLE * sum(seconds.values())
    return {
        name.replace("_", " "): round(seconds[name] * 1e3, 6)
        for name in CAUSES
        if seconds.get(name, 0.0) > least
    }
