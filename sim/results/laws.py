"""What must hold of any run, and what its rows say about load: Little, conservation, saturation, warm-up."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.results.records import Records
from sim.results.sojourn_times import sojourns

Floats = NDArray[np.float64]

GROWTH_SHARE = 0.05
"""Share of the arrivals that must be left behind to call a system saturated: an overload of 5 %."""
GROWTH_DEVIATIONS = 2.0
"""And standard deviations of a Poisson count, so that chance is seldom called overload. Both are assumed."""
FEWEST_ARRIVALS = 20
"""Below this many arrivals in the second half no verdict is given (assumed)."""
BATCH_OF_MSER = 5
"""White, Cobb and Spratt, "A comparison of five steady-state truncation heuristics", WSC 2000: MSER-5."""


class Little(NamedTuple):
    """Both sides of L = X W over a run: mean number in the system, arrivals per second, mean time in it."""

    concurrency: float
    rate_per_s: float
    sojourn_s: float


def little(records: Records) -> Little | None:
    """Little's law over the whole run, its sides computed apart: L by sweeping over arrivals and departures,
    W by adding up each request's time in the system. Exact for every run, if a request that is still there
    when the run ends counts up to that moment. None if no time passed or nothing arrived.
    """
    arrival_s, departure_s = _sojourns(records)
    if not len(arrival_s):
        return None
    begin_s, end_s = float(arrival_s.min()), float(departure_s.max())
    if end_s <= begin_s:
        return None
    times_s = np.concatenate((arrival_s, departure_s))
    changes = np.repeat([1, -1], len(arrival_s))
    order = np.argsort(times_s, kind="stable")
    inside = np.cumsum(changes[order])
    area = math.fsum((inside[:-1] * np.diff(times_s[order])).tolist())
    sojourn_s = math.fsum((departure_s - arrival_s).tolist()) / len(arrival_s)
    return Little(area / (end_s - begin_s), len(arrival_s) / (end_s - begin_s), sojourn_s)


def violations(
    records: Records, *, one_token_a_step: bool = True, longest_text: int | None = None
) -> list[str]:
    """What no run may do, each in a sentence; empty if all is well.

    A finished request has all the tokens it asked for, or its text is `longest_text` (the engine's
    max_model_len) tokens long, and its times are in order. Every token but the first
    of each request ends one gap, so that gaps and tokens agree to the last one; with drafts, of which a step
    may accept several, there are at most as many gaps.
    """
    rows = records.requests
    found: list[str] = []
    ids, status = rows["request_id"], rows["status"]
    finished = status == "finished"
    short = finished & (rows["generated_tokens"] != rows["output_tokens"])
    if longest_text is not None:
        short &= rows["prompt_tokens"] + rows["generated_tokens"] < longest_text
    if short.any():
        found.append(f"{int(short.sum())} finished without all their tokens, request {ids[short][0]} for one")
    if len(np.unique(ids)) != len(ids):
        found.append("a request_id has more than one row")
    times = ["arrival_s", "routed_s", "admitted_s", "first_token_s", "finished_s", "aborted_s"]
    latest_s = rows["arrival_s"]
    for name in times[1:]:
        time_s = rows[name]
        early = time_s < latest_s
        if early.any():
            found.append(
                f"{int(early.sum())} have {name} before what must come before it, as {ids[early][0]}"
            )
        latest_s = np.fmax(latest_s, time_s)
    lacking = finished & np.isnan(rows["finished_s"])
    if lacking.any():
        found.append(f"{int(lacking.sum())} finished without a finished_s, request {ids[lacking][0]} for one")
    if ((status == "aborted") == np.isnan(rows["aborted_s"])).any():
        found.append("a request has an aborted_s and was not aborted, or the other way round")
    steps, gaps = records.steps, records.gaps
    counted = int(np.sum(steps["steps"] * steps["gaps"])) + int(np.sum(gaps["gaps"] * gaps["sequences"]))
    owed = int(np.sum(np.maximum(rows["generated_tokens"] - 1, 0)))
    if (len(steps) or len(gaps)) and (counted != owed if one_token_a_step else counted > owed):
        found.append(f"{counted} gaps between tokens, but the requests' tokens have {owed}")
    return found


def backlog_growth_per_s(records: Records) -> float | None:
    """Slope of the number in the system over the second half of the arrivals (least squares), in requests
    per second.

    None if fewer than `FEWEST_ARRIVALS` arrive in that half, or all at once.
    """
    fitted = _growth(records)
    return fitted[0] if fitted else None


def saturated(records: Records) -> bool | None:
    """Whether requests come faster than they are served: the number in the system grows over the second half
    of the arrivals by more than `GROWTH_SHARE` of them, and by more than `GROWTH_DEVIATIONS` times their
    square root.

    None where there is no verdict (see `backlog_growth_per_s`). Closed loops are never saturated in this
    sense: a client that waits for an answer sends no more.
    """
    fitted = _growth(records)
    if fitted is None:
        return None
    slope_per_s, half_s, arrivals = fitted
    growth = slope_per_s * half_s
    return bool(growth > GROWTH_SHARE * arrivals and growth > GROWTH_DEVIATIONS * math.sqrt(arrivals))


def mser5(values: Floats) -> int:
    """How many of the first values to leave out as warm-up, by MSER-5: the cut (at most the first half)
    after which the standard error of the mean of batches of five is least. 0 for fewer than 20 values.
    """
    batches = len(values) // BATCH_OF_MSER
    if batches < 4:
        return 0
    means = values[: batches * BATCH_OF_MSER].reshape(batches, BATCH_OF_MSER).mean(axis=1)
    left = np.arange(batches, 0, -1)
    means = means - means.mean()  # for the sake of the digits: the variance below is a difference
    sums, squares = np.cumsum(means[::-1])[::-1], np.cumsum((means**2)[::-1])[::-1]
    errors = (squares - sums**2 / left) / left.astype(np.float64) ** 2
    return int(np.argmin(errors[: batches // 2 + 1])) * BATCH_OF_MSER


def _sojourns(records: Records) -> tuple[Floats, Floats]:
    """Arrival and departure of each request that was let in; those still there depart as the run ends."""
    arrival_s, _, departure_s = sojourns(records.requests)
    known_s = departure_s[~np.isnan(departure_s)]
    last_s = max(
        records.end_s, float(known_s.max()) if len(known_s) else 0.0, float(arrival_s.max(initial=0.0))
    )
    return arrival_s, np.where(np.isnan(departure_s), last_s, departure_s)


def _growth(records: Records) -> tuple[float, float, int] | None:
    arrival_s, departure_s = _sojourns(records)
    if len(arrival_s) < 2:
        return None
    arrival_s, departure_s = np.sort(arrival_s), np.sort(departure_s)
    begin_s, end_s = float(arrival_s[0] + arrival_s[-1]) / 2, float(arrival_s[-1])
    arrivals = int(np.sum(arrival_s >= begin_s))
    if end_s <= begin_s or arrivals < FEWEST_ARRIVALS:
        return None
    at_s = np.linspace(begin_s, end_s, 200)
    inside = np.searchsorted(arrival_s, at_s, side="right") - np.searchsorted(departure_s, at_s, side="right")
    slope = np.polynomial.polynomial.polyfit(at_s - begin_s, inside.astype(np.float64), 1)[1]
    return float(slope), end_s - begin_s, arrivals
