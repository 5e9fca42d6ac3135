"""Why the stages of a pipeline stand idle, looked at in many instants of a run.

At an instant at which a stage does not compute, the reason is looked for along the pipeline: no request is in
the engine; the batch that the stage computes next is on its way over a link; the stage before it still
computes that batch; or the engine has as many batches in flight as it has stages, or no other request to make
a batch of, and waits for one to come out at the end. Before the first step of a stage since the engine was
empty, and after its last, it is filled or drained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.results.records import Records
from sim.results.setting import PoolSetting
from sim.results.stations import requests_of, visits_of
from sim.theory.pipeline import bubble

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STATES: dict[str, str] = {
    "computes": "the stage computes a step",
    "fill and drain": "first batches have not come to it yet, or the last ones have left it",
    "upstream late": "the stage before it still computes the batch that comes next",
    "waiting on a link": "the next batch is on its way from the stage before",
    "downstream blocked": "as many batches as stages are in flight, and one must come out at the end first",
    "no work": "no request is in the engine, or all of them are in batches of other stages",
}
NAMES = tuple(STATES)
LOOKS = 4000  # instants: a share of a half is then right to 0.8 points (one standard deviation)
MOST_STEPS = 400_000  # that are laid out one by one; of a longer run the instants are looked at in windows
WINDOWS = 40


@dataclass(frozen=True)
class StageUse:
    """What a stage of an engine did: the share of the run for each of STATES."""

    replica: int
    stage: int
    shares: dict[str, float]


@dataclass(frozen=True)
class Pipeline:
    """The stages of an engine; `in_flight` batches in the mean of the time with requests. `textbook` is the
    idle share of equal stages that so many micro-batches fill and drain once; `going_round`, that of stages
    that they go round in; `with_requests`, the share of the run in which the engine has requests.
    """

    replica: int
    stages: tuple[StageUse, ...]
    in_flight: float
    textbook: float
    going_round: float
    with_requests: float


def pipelines(pool: PoolSetting, records: Records) -> tuple[Pipeline, ...]:
    """Every engine of a pool that has several stages."""
    if pool.stages < 2 or not records.end_s:
        return ()
    visits = visits_of(pool, records, requests_of(records))
    found = []
    for replica in pool.replicas:
        here = visits.replica == replica
        if here.any():
            found.append(_pipeline(pool, records, replica, visits.start_s[here], visits.end_s[here]))
    return tuple(found)


def _pipeline(pool: PoolSetting, records: Records, replica: int, come_s: Floats, gone_s: Floats) -> Pipeline:
    at_s, windows = _instants(records, replica)
    stages = [_steps(records, replica, stage, windows) for stage in range(pool.stages)]
    come_s, gone_s = np.sort(come_s), np.sort(gone_s)
    there = np.searchsorted(come_s, at_s, side="right") > np.searchsorted(gone_s, at_s, side="right")
    begun = np.searchsorted(stages[0][0], at_s, side="right")
    ended = np.searchsorted(np.sort(stages[-1][1]), at_s, side="right")
    in_flight = np.maximum(begun - ended, 0)
    since_s, until_s = _with_requests(come_s, gone_s, at_s)
    states: Ints = np.zeros(len(at_s), np.int64)
    busy_before = np.zeros(len(at_s), bool)
    found = []
    for stage, (starts, ends) in enumerate(stages):
        last = np.searchsorted(starts, at_s, side="right") - 1
        busy = (last >= 0) & (at_s < ends[np.maximum(last, 0)]) if len(starts) else np.zeros(len(at_s), bool)
        following = last + 1
        next_s = np.where(following < len(starts), np.append(starts, np.inf)[following], np.inf)
        if stage == 0:
            idle = np.where(
                in_flight >= pool.stages, NAMES.index("downstream blocked"), NAMES.index("no work")
            )
        else:
            before = stages[stage - 1][1]
            place = np.searchsorted(before, next_s * (1.0 + 1e-12), side="right") - 1
            ready_s = np.where(place >= 0, np.append(before, np.inf)[place], np.inf)
            late = np.where(busy_before, NAMES.index("upstream late"), states)
            idle = np.where(at_s >= ready_s, NAMES.index("waiting on a link"), late)
            first_s = np.append(starts, np.inf)[np.searchsorted(starts, since_s, side="left")]
            outside = (at_s < first_s) | (next_s > until_s)
            idle = np.where(outside, NAMES.index("fill and drain"), idle)
        idle = np.where(there, idle, NAMES.index("no work"))
        states = np.where(busy, NAMES.index("computes"), idle)
        busy_before = busy
        counts = np.bincount(states, minlength=len(NAMES)) / max(1, len(at_s))
        found.append(StageUse(replica, stage, dict(zip(NAMES, counts.tolist(), strict=True))))
    batches = float(in_flight[there].mean()) if there.any() else 0.0
    return Pipeline(
        replica,
        tuple(found),
        batches,
        bubble(pool.stages, max(1, round(batches))),
        max(0.0, 1.0 - batches / pool.stages),
        float(there.mean()),
    )


def _instants(records: Records, replica: int) -> tuple[Floats, list[tuple[float, float]]]:
    """Where to look, and the windows that hold these instants."""
    end_s = records.end_s
    mine = (records.steps["replica"] == replica) & (records.steps["stage"] == 0)
    total = int(records.steps["steps"][mine].sum())
    if total <= MOST_STEPS:
        return (np.arange(LOOKS) + 0.5) / LOOKS * end_s, [(0.0, end_s)]
    width_s = end_s * MOST_STEPS / total / WINDOWS
    windows = [((number + 0.5) * end_s / WINDOWS - width_s / 2, width_s) for number in range(WINDOWS)]
    each = LOOKS // WINDOWS
    inside = 0.25 + (np.arange(each) + 0.5) / each / 2  # clear of both ends, where a step's neighbours lack
    at_s = np.concatenate([begin_s + inside * length_s for begin_s, length_s in windows])
    return at_s, [(begin_s, begin_s + length_s) for begin_s, length_s in windows]


def _steps(
    records: Records, replica: int, stage: int, windows: list[tuple[float, float]]
) -> tuple[Floats, Floats]:
    """Start and end of every step of a stage that lies in a window or beside it, in order."""
    table = records.steps
    mine = (table["replica"] == replica) & (table["stage"] == stage)
    start_s, end_s, n, first_s, last_s, idle_s = (
        table[name][mine] for name in ("start_s", "end_s", "steps", "first_step_s", "last_step_s", "idle_s")
    )
    starts, ends = [np.empty(0)], [np.empty(0)]
    for begin_s, until_s in windows:
        near = np.flatnonzero((end_s >= begin_s) & (start_s <= until_s))
        each_s = np.maximum(end_s[near] - start_s[near], 1e-300) / n[near]
        low = np.clip(np.floor((begin_s - start_s[near]) / each_s) - 2, 0, n[near] - 1).astype(np.int64)
        high = np.clip(np.ceil((until_s - start_s[near]) / each_s) + 2, low + 1, n[near]).astype(np.int64)
        row = np.repeat(near, high - low)
        count = high - low
        number = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
        slope_s = (last_s[row] - first_s[row]) / np.maximum(n[row] - 1, 1)
        pause_s = idle_s[row] / np.maximum(n[row] - 1, 1)
        begun_s = start_s[row] + number * (first_s[row] + pause_s) + slope_s * number * (number - 1) / 2
        starts.append(begun_s)
        ends.append(begun_s + first_s[row] + slope_s * number)
    begun, over = np.concatenate(starts), np.concatenate(ends)
    order = np.argsort(begun, kind="stable")
    return begun[order], over[order]


def _with_requests(come_s: Floats, gone_s: Floats, at_s: Floats) -> tuple[Floats, Floats]:
    """From when to when the engine has requests without a pause, around each instant."""
    until = np.maximum.accumulate(gone_s)
    alone = np.flatnonzero(come_s[1:] > until[:-1])
    begins, ends = come_s[np.concatenate(([0], alone + 1))], until[np.concatenate((alone, [len(until) - 1]))]
    place = np.maximum(np.searchsorted(begins, at_s, side="right") - 1, 0)
    return begins[place], ends[place]
