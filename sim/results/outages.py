"""What outages did to a run, from its rows: how much was up, what came out before, during and after, how long
until it came as before, and what was lost.

**During** is the time in which anything was out, **before** what came ahead of the first outage, and
**after** the rest. Rates of the three end at the last arrival, as far as outages began before it: what comes
then is the service running dry. **Availability** is of the engines, by GPU: the share of their time in which
nothing that an engine runs on was out. **Recovery** is looked at by the output tokens of intervals of the
run: from an outage's begin until a mean over three intervals is 95 % of the rate before the first outage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.blame import CAUSES, BlameRecords
from sim.results.over_time import spread_until
from sim.results.records import Records

Floats = NDArray[np.float64]
Windows = Sequence[tuple[float, float]]

INTERVALS = 120  # as charts over time have
LOOKED_AT = 3  # intervals whose mean is held against the rate before
RECOVERED = 0.95
SHOWN = 50
FLAT = ("availability", "time_to_recover_s", "hurt_requests")
"""Numbers that stand beside those of every run too, so that studies have columns of them."""


@dataclass(frozen=True, slots=True)
class OutageRow:
    """One outage: what failed and when, the class that it was drawn from, and which engines it stopped."""

    kind: str
    name: str
    cause: str
    at_s: float
    until_s: float | None
    warned_s: float | None
    engines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EngineDown:
    """An engine on so many GPUs, and when it was out."""

    gpus: int
    windows: tuple[tuple[float, float | None], ...]


def merged(windows: Iterable[tuple[float, float | None]], end_s: float) -> list[tuple[float, float]]:
    """Windows that do not overlap, up to the end of the run, in order.

    >>> merged([(3.0, None), (1.0, 2.0), (1.5, 2.5)], 10.0)
    [(1.0, 2.5), (3.0, 10.0)]
    """
    found: list[tuple[float, float]] = []
    for begin_s, until_s in sorted((begin, np.inf if until is None else until) for begin, until in windows):
        stop_s = min(until_s, end_s)
        if stop_s <= begin_s:
            continue
        if found and begin_s <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop_s))
        else:
            found.append((begin_s, stop_s))
    return found


def availability(engines: Sequence[EngineDown], end_s: float) -> float | None:
    """The share of the GPU time of all engines in which they were not out; None without any.

    >>> availability([EngineDown(2, ((0.0, 5.0),)), EngineDown(6, ())], 10.0)
    0.875
    """
    whole = sum(engine.gpus for engine in engines) * end_s
    lost = sum(
        engine.gpus * (until_s - begin_s)
        for engine in engines
        for begin_s, until_s in merged(engine.windows, end_s)
    )
    return float(1.0 - lost / whole) if whole else None


def outages_summary(
    rows: Sequence[OutageRow],
    engines: Sequence[EngineDown],
    records: Records,
    blame: BlameRecords,
    kept: tuple[Mapping[str, NDArray[Any]], NDArray[np.bool_], NDArray[np.bool_]],
    lost_at_s: Collection[float],
) -> dict[str, Any]:
    """The numbers of `summary()["outages"]`. `kept` are the requests that a summary counts, which of them
    keep their objectives, and which have some; `lost_at_s` is when requests ended because their engine had
    failed.
    """
    end_s = records.end_s
    begun = [row for row in rows if row.at_s < end_s]
    numbers: dict[str, Any] = {
        "count": len(begun),
        "warned": sum(row.warned_s is not None for row in begun),
        "availability": availability(engines, end_s),
    }
    if not begun:
        return numbers
    requests = {name: records.requests[name] for name in records.requests.kinds}
    first_s = min(row.at_s for row in begun)
    last_arrival_s = float(requests["arrival_s"].max(initial=0.0))
    until_s = last_arrival_s if last_arrival_s > first_s else end_s
    out = [(a, min(b, until_s)) for a, b in merged([(row.at_s, row.until_s) for row in begun], end_s)]
    out = [(a, b) for a, b in out if b > a]
    rest = _between(out, first_s, until_s)
    for name, windows in (("before", [(0.0, first_s)]), ("during", out), ("after", rest)):
        numbers[name] = _rates(records, windows, kept)
    numbers |= _recoveries(records, begun, numbers["before"]["output_throughput"], until_s)
    numbers |= _losses(records, lost_at_s, blame)
    return numbers


def _between(out: Windows, first_s: float, until_s: float) -> list[tuple[float, float]]:
    """What of the time from the first outage on is in none of them."""
    found, here = [], first_s
    for begin_s, stop_s in out:
        if begin_s > here:
            found.append((here, begin_s))
        here = max(here, stop_s)
    return [*found, (here, until_s)] if until_s > here else found


def _tokens_at(records: Records, edges: Floats) -> Floats:
    """Output tokens up to each of some instants."""
    steps = {name: records.steps[name] for name in records.steps.kinds}
    first = steps["stage"] == 0
    tokens = (steps["steps"] * steps["decode_tokens"]).astype(np.float64)
    return spread_until(edges, steps["start_s"][first], steps["end_s"][first], tokens[first])


def _rates(
    records: Records,
    windows: Windows,
    kept: tuple[Mapping[str, NDArray[Any]], NDArray[np.bool_], NDArray[np.bool_]],
) -> dict[str, Any]:
    """Seconds, output tokens/s, and requests/s that kept their objectives, in some windows of the run."""
    seconds = sum(stop_s - begin_s for begin_s, stop_s in windows)
    found: dict[str, Any] = {"seconds": seconds, "output_throughput": None, "request_goodput": None}
    if not seconds:
        return found
    edges = np.array(sorted({instant for window in windows for instant in window}))
    at = dict(zip(edges.tolist(), _tokens_at(records, edges).tolist(), strict=True))
    found["output_throughput"] = sum(at[stop_s] - at[begin_s] for begin_s, stop_s in windows) / seconds
    columns, met, promised = kept
    if promised.any():
        done_s = columns["finished_s"][met]
        good = sum(int(((done_s >= begin_s) & (done_s < stop_s)).sum()) for begin_s, stop_s in windows)
        found["request_goodput"] = good / seconds
    return found


def recovery_s(edges: Floats, tokens: Floats, at_s: float, before: float) -> float | None:
    """Seconds from `at_s` until the mean rate over three intervals is 95 % of `before`; 0 where it never fell
    below within these, None where it does not come back. `tokens` are those up to each of the `edges`.

    >>> edges = np.arange(11.0)
    >>> recovery_s(edges, np.cumsum([0, 9, 9, 9, 0, 0, 0, 9, 9, 9, 9]), 3.0, 9.0)
    6.0
    """
    width_s = float(edges[1] - edges[0])
    means = (tokens[LOOKED_AT:] - tokens[:-LOOKED_AT]) / (LOOKED_AT * width_s)
    first = min(int(np.searchsorted(edges, at_s, side="right")) - 1, len(means) - 1)
    low = means[first:] < RECOVERED * before
    fell = np.flatnonzero(low[: LOOKED_AT + 1])
    if not len(fell):
        return 0.0
    back = np.flatnonzero(~low[fell[0] :])
    if not len(back):
        return None
    # The window that is back to the rate ends then: what it has seen is what says so.
    return max(0.0, float(edges[first + fell[0] + back[0] + LOOKED_AT]) - at_s)


def _recoveries(
    records: Records, begun: Sequence[OutageRow], before: float | None, until_s: float
) -> dict[str, Any]:
    """The longest recovery from outages that stopped an engine, how many of them the rate did not come back
    from, and the list of all. Of others the rate says nothing: it moves by chance as well.
    """
    edges = np.linspace(0.0, until_s, INTERVALS + 1)
    tokens = _tokens_at(records, edges)
    listed, longest, never, stopping = [], 0.0, 0, 0
    for row in begun:
        back_s = None
        if row.engines and before:
            back_s = recovery_s(edges, tokens, row.at_s, before) if row.at_s < until_s else None
            longest = max(longest, back_s or 0.0)
            never += back_s is None
            stopping += 1
        listed.append(
            {
                "what": f"{row.kind.replace('_', ' ')} {row.name}",
                "cause": row.cause,
                "at_s": row.at_s,
                "until_s": row.until_s,
                "warned_s": row.warned_s,
                "engines": list(row.engines),
                "recovered_after_s": back_s,
            }
        )
    return {
        "time_to_recover_s": longest if never < stopping else None,
        "stopping": sum(bool(row.engines) for row in begun),
        "not_recovered": never if stopping else None,
        "recovery_resolution_s": float(edges[1]),
        "list": listed[:SHOWN],
    }


def _losses(records: Records, lost_at_s: Collection[float], blame: BlameRecords) -> dict[str, Any]:
    """Requests hurt, tokens lost and computed again, and where the time of the hurt and of others went."""
    rows = {name: records.requests[name] for name in records.requests.kinds}
    steps = {name: records.steps[name] for name in records.steps.kinds}
    cut = (rows["status"] == "aborted") & np.isin(rows["aborted_s"], np.array(sorted(lost_at_s)))
    hurt = (rows["resubmissions"] > 0) | cut
    first = steps["stage"] == 0
    prompts = int((steps["steps"] * steps["prefill_tokens"])[first].sum())
    answered = ~np.isnan(rows["first_token_s"])
    needed = int((rows["prompt_tokens"] - rows["cached_tokens"])[answered].sum())
    again = not (~answered & ~np.isnan(rows["admitted_s"])).any()  # else parts of prompts are not known apart
    ids, seconds = blame.of("e2el", {name: rows[name] for name in BLAMED})
    of_hurt = np.isin(ids, rows["request_id"][hurt])
    return {
        "hurt_requests": int(hurt.sum()),
        "lost_requests": int(cut.sum()),
        "lost_tokens": int(rows["generated_tokens"][cut].sum()),
        "recomputed_tokens": max(0, prompts - needed) if again else None,
        "recompute_s": float(seconds[:, CAUSES.index("recompute")].sum()),
        "blame": {"hurt": _mean_ms(seconds[of_hurt]), "others": _mean_ms(seconds[~of_hurt])},
    }


BLAMED = ("request_id", "first_token_s", "generated_tokens")


def _mean_ms(seconds: Floats) -> dict[str, float] | None:
    """The mean of a request by cause, of those causes that count."""
    if not len(seconds):
        return None
    means = 1e3 * seconds.mean(axis=0)
    return {cause: float(mean) for cause, mean in zip(CAUSES, means, strict=True) if mean > 0.0}


def outage_rows(numbers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What outages did, as rows of a table: what, before, during, after."""
    phases = [numbers[name] for name in ("before", "during", "after")] if "before" in numbers else []
    words = {
        "seconds": "seconds",
        "output_throughput": "output tokens/s",
        "request_goodput": "requests/s within their objectives",
    }
    return [
        (text, *("-" if phase[name] is None else f"{phase[name]:,.4g}" for phase in phases))
        for name, text in words.items()
        if any(phase[name] is not None for phase in phases)
    ]


def outage_lines(numbers: Mapping[str, Any]) -> list[str]:
    """The rest of it in words."""
    up = numbers["availability"]
    count = numbers["count"]
    if not count:
        return ["outages: none began before the end of the run"]
    warned = f", {numbers['warned']} with a warning" if numbers["warned"] else ""
    found = [f"outages: {count}{warned}; engines were up {up:.3%} of their GPUs' time" if up is not None
             else f"outages: {count}{warned}"]  # fmt: skip
    back_s, never = numbers["time_to_recover_s"], numbers["not_recovered"]
    stopping = numbers["stopping"]
    if not stopping:
        found.append("recovery: no engine stopped")
    elif never is None:
        found.append("recovery: the first outage began before there was a rate to come back to")
    else:
        what = "not within the run" if back_s is None else f"{back_s:.3g} s at the longest"
        more = f"; {never} of {stopping} not before the last arrival" if never and back_s is not None else ""
        what = "at once" if back_s == 0.0 and not more else what
        within = numbers["recovery_resolution_s"]
        found.append(f"recovery to 95 % of the output before: {what}{more} (to {within:.2g} s)")
    again = numbers["recomputed_tokens"]
    recomputed = "not known apart" if again is None else f"{again:,}"
    ended = numbers["lost_requests"]
    found.append(
        f"hurt: {numbers['hurt_requests']:,} requests, of which {ended:,} ended there; tokens lost "
        f"{numbers['lost_tokens']:,}, computed again {recomputed}"
    )
    blame = numbers["blame"]
    if blame["hurt"] and blame["others"]:
        more_ms = {
            cause: blame["hurt"].get(cause, 0.0) - blame["others"].get(cause, 0.0)
            for cause in {*blame["hurt"], *blame["others"]}
        }
        top = sorted(more_ms.items(), key=lambda one: -one[1])[:3]
        said = ", ".join(f"{cause} {ms:+,.4g} ms" for cause, ms in top if ms > 0.0)
        if said:
            found.append(f"a hurt request beside the others, in the mean: {said}")
    return found
