"""The timeline of a run that has ended, just now or long ago, with every op in the time that is asked for.

Folded steps leave no ops, so the run is run once more from its scenario and seed, folded, up to the end of
the last window, and keeps what it does there (`sim.runtime.recording`). That is exact and short: a folded run
takes a small part of the time that its trace takes to draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sim.inputs.errors import InputError
from sim.results.recorded import Recorded, Windows
from sim.results.whole_files import whole_file
from sim.runtime.recording import Recorder
from sim.scenario import Scenario, load_scenario
from sim.scenario.outages import outages_of
from sim.setting import fault_settings
from sim.simulate import Result, simulate
from sim.views.saved import SavedResult
from sim.views.timeline import write_trace

if TYPE_CHECKING:
    from sim.results.records import Records


def timeline(
    run: Result | SavedResult,
    path: str | Path,
    *,
    window: tuple[float, float] | None = None,
    requests: Collection[int] = (),
    slowest: int = 0,
) -> tuple[str, ...]:
    """Write the timeline of a run to a file that ui.perfetto.dev opens; returns what is missing from it.

    Steps are drawn op by op, with GPUs and links, from `window[0]` to `window[1]` seconds; while `requests`
    are in the service, on the replicas that serve them; and so for the `slowest` requests. InputError where
    there are none such, where `path` cannot be written, and where the scenario does not give this run again.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}; make it, or name another file")
    scenario = scenario_of(run)
    recorded = None
    if window is not None or requests or slowest:
        windows = windows_of(run.records, run.end_s, window=window, requests=requests, slowest=slowest)
        recorded = record(run, windows, scenario)
    with whole_file(path) as partial:
        return write_trace(run, partial, recorded, fault_settings(scenario, outages_of(scenario, run.seed)))


def scenario_of(run: Result | SavedResult) -> Scenario:
    """The scenario of a run, as it was run."""
    return run.scenario if isinstance(run, Result) else load_scenario(run.scenario_file)


def windows_of(
    records: Records,
    end_s: float,
    *,
    window: tuple[float, float] | None = None,
    requests: Collection[int] = (),
    slowest: int = 0,
) -> Windows:
    """The time that is asked for, of a run that has ended."""
    rows = records.requests
    ids = rows["request_id"]
    if unknown := sorted(set(requests) - set(ids.tolist())):
        there = f"{int(ids.min())} to {int(ids.max())}" if len(ids) else "none"
        raise InputError(f"request {unknown[0]}: this run has no such request; its requests are {there}")
    left_s = np.fmin(np.where(np.isnan(rows["aborted_s"]), end_s, rows["aborted_s"]), end_s)
    left_s = np.where(np.isnan(rows["finished_s"]), left_s, rows["finished_s"])
    served = rows["replica"] >= 0
    latest_first = np.lexsort((ids, -(left_s - rows["arrival_s"])))
    chosen = set(requests) | {int(ids[row]) for row in latest_first[served[latest_first]][:slowest]}
    mine = np.isin(ids, list(chosen)) & served
    spans = list(zip(rows["arrival_s"][mine].tolist(), left_s[mine].tolist(), strict=True))
    if window is None:
        senders = records.hand_overs
        sent_by = senders["sender"][np.isin(senders["request_id"], list(chosen))]
        replicas = frozenset([*rows["replica"][mine].tolist(), *sent_by.tolist()])
        return Windows.of(spans, frozenset(chosen), replicas)
    begin_s, until_s = window
    if not (0.0 <= begin_s < until_s and math.isfinite(until_s)):
        raise InputError(f"window {begin_s:g}s..{until_s:g}s: must begin at 0 or later and end after that")
    if begin_s >= end_s:
        raise InputError(f"window {begin_s:g}s..{until_s:g}s: must begin before the run ends, at {end_s:g} s")
    return Windows.of([*spans, (begin_s, min(until_s, end_s))], frozenset(chosen) or None)


def record(run: Result | SavedResult, windows: Windows, scenario: Scenario) -> Recorded:
    """Run a run again up to the end of its last window, and keep what it does in all of them. InputError
    where it does something else now: code or files have changed, or a script put its own traffic beside it.
    """
    until_s = _settled_s(run.records, windows.end_s)
    if until_s >= run.end_s:  # one that was interrupted went no further
        until_s = math.inf if run.is_complete else run.end_s
    recorder = Recorder(windows, until_s)
    again = simulate(scenario, seed=run.seed, check=False, recorder=recorder)
    assert again.recorded is not None
    before, now = (
        {
            (int(number), float(end_s))
            for number, end_s in zip(one.requests["request_id"], one.requests["finished_s"], strict=True)
            if end_s < windows.end_s
        }
        for one in (run.records, again.records)
    )
    if before != now:
        number, _ = min(before ^ now)
        raise InputError(
            f"the scenario does not give this run again (request {number} ends at another instant): code or "
            "files have changed since, or a script put traffic of its own beside it; run it again, with "
            "--trace-window"
        )
    return again.recorded


def _settled_s(records: Records, at_s: float) -> float:
    """When the last step and the last KV transfer have ended that are under way at `at_s`."""
    steps, sent = records.steps, records.hand_overs
    here = (steps["start_s"] <= at_s) & (steps["end_s"] >= at_s)
    longest_s = np.maximum(steps["first_step_s"], steps["last_step_s"])[here].max(initial=0.0)
    under_way = (sent["prefilled_s"] <= at_s) & (sent["arrived_s"] >= at_s)
    # Steps of a row bend a little off the line from the first to the last: another one lets them end too.
    return float(max(at_s + 2.0 * longest_s, sent["arrived_s"][under_way].max(initial=0.0)))
