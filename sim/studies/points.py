"""Many runs on many processes: every run comes back as a row, whatever happens to it.

A point is a scenario, changes to it and a seed. A point that cannot be is a row with the reason; so is one
whose code fails. A worker process that dies costs no other row: points that were under way run again, each in
a process of its own, so that only the point that kills its process is left without numbers.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import sim
from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError
from sim.scenario import Scenario, with_changes
from sim.simulate import simulate
from sim.workers import first_done, worker_pool

if TYPE_CHECKING:
    from sim.studies.kept import Kept

Status = Literal["done", "infeasible", "wrong input", "unfinished", "failed", "not run"]

DIED = "its worker process died (out of memory, or killed)"
WAITING_PER_WORKER = 3  # points handed to the executor ahead of time, so that no worker waits for the next
AHEAD_ON_A_CLUSTER = 64  # at least, where an executor does not say how many workers it has


@dataclass(frozen=True)
class Point:
    """One run: `changes` to scenario number `scenario`, and a seed."""

    scenario: int
    changes: tuple[tuple[str, Any], ...]
    seed: int


@dataclass(frozen=True)
class Row:
    """What came of a point: its summary, or why there is none. `wall_s` are seconds of real time."""

    point: Point
    status: Status
    reason: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    causes: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0


_scenarios: dict[bytes, Scenario] = {}  # of this worker process: one is read once, not once a point


def run_point(pickled: bytes, point: Point, version: str) -> Row:
    """Run one point of a scenario pickled by this version of fabricsim; never raises but for what ends the
    process.
    """
    if version != sim.__version__:
        what = (
            f"a worker has fabricsim {sim.__version__} and the sweep {version}; install the same everywhere"
        )
        return Row(point, "failed", what)
    scenario = _scenarios.get(pickled)
    if scenario is None:
        try:
            scenario = pickle.loads(pickled)
        except Exception as error:
            return Row(point, "failed", f"the scenario cannot be read: {type(error).__name__}: {error}")
        _scenarios.clear()
        _scenarios[pickled] = scenario
    return row_of(scenario, point)


def row_of(scenario: Scenario, point: Point) -> Row:
    """Run one point here and now."""
    started = time.perf_counter()
    status: Status
    try:
        if point.changes:
            scenario = with_changes(scenario, dict(point.changes))
        result = simulate(scenario, seed=point.seed)
        blame = result.blame_records
        names = [name for name, kind in blame.kinds.items() if kind == "number"]
        causes = {name: float(blame[name].mean()) if len(blame) else 0.0 for name in names}
        return Row(point, "done", "", result.summary(), causes, time.perf_counter() - started)
    except InfeasibleError as error:
        status, reason = "infeasible", str(error)
    except InputError as error:
        status, reason = "wrong input", str(error)
    except UnfinishedError as error:
        status, reason = "unfinished", str(error)
    except Exception as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"
    return Row(point, status, reason, wall_s=time.perf_counter() - started)


def run_points(
    scenarios: Sequence[Scenario],
    points: Iterable[Point],
    executor: Executor | None = None,
    progress: bool | None = None,
    keep: Kept | None = None,
) -> list[Row]:
    """Rows of all points, in their order. Without an executor on a process for each processor; `progress` on
    standard error, by default where that is a terminal. An interrupt ends it with the rows that are there.
    What `keep` has of them is not run again, and it gets every row that ends.
    """
    points = list(points)
    pickled = [_pickled(scenario) for scenario in scenarios]
    show = sys.stderr.isatty() if progress is None else progress
    rows: dict[int, Row] = _Rows(keep)
    shown = _Progress(len(points), show)
    if keep is not None:
        keep.begin(scenarios)
        found = {number: keep.row(point) for number, point in enumerate(points)}
        dict.update(rows, {number: row for number, row in found.items() if row is not None})
        shown.done = len(rows)
    try:
        if executor is not None:
            left = [number for number in range(len(points)) if number not in rows]
            lost = _run_on(executor, pickled, points, left, rows, shown)
            for number, reason in lost.items():
                rows[number] = Row(points[number], "failed", reason)
        else:
            _run_on_processes(pickled, points, rows, shown)
    except KeyboardInterrupt:
        print(f"interrupted: {len(rows)} of {len(points)} points have run", file=sys.stderr)
    shown.end()
    return [rows.get(number) or Row(point, "not run", "interrupted") for number, point in enumerate(points)]


class _Rows(dict[int, Row]):
    """Rows by the number of their point; each is kept as it comes."""

    def __init__(self, keep: Kept | None) -> None:
        super().__init__()
        self.keep = keep

    def __setitem__(self, number: int, row: Row) -> None:
        super().__setitem__(number, row)
        if self.keep is not None:
            self.keep.add(row)


def _run_on_processes(
    pickled: list[bytes], points: list[Point], rows: dict[int, Row], shown: _Progress
) -> None:
    workers = max(1, min(os.cpu_count() or 1, len(points)))
    suspects: dict[int, str] = {}  # under way when a worker died: any of them may have killed it
    while left := [number for number in range(len(points)) if number not in rows and number not in suspects]:
        with worker_pool(workers) as pool:
            suspects |= _run_on(pool, pickled, points, left, rows, shown)
    for number in suspects:
        with worker_pool(1) as pool:
            for reason in _run_on(pool, pickled, points, [number], rows, shown).values():
                rows[number] = Row(points[number], "failed", reason)
                shown.one_more()


def _run_on(
    executor: Executor,
    pickled: list[bytes],
    points: list[Point],
    numbers: Iterable[int],
    rows: dict[int, Row],
    shown: _Progress,
) -> dict[int, str]:
    """Run points on an executor; those that it lost, with the reason. A broken pool gets no more points."""
    todo = iter(numbers)
    running: dict[Future[Row], int] = {}
    lost: dict[int, str] = {}
    max_running = WAITING_PER_WORKER * (getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
    broken = False
    # The attribute counts local processes; a cluster's executor has none, or one that says too little.
    if not isinstance(executor, ProcessPoolExecutor):
        max_running = max(max_running, AHEAD_ON_A_CLUSTER)
    while True:
        while not broken and len(running) < max_running and (number := next(todo, None)) is not None:
            point = points[number]
            try:
                running[executor.submit(run_point, pickled[point.scenario], point, sim.__version__)] = number
            except BrokenProcessPool as error:
                lost[number] = _reason(error)
                broken = True
        if not running:
            # What a process pool has not begun goes to the next pool; a cluster has no next one.
            if broken and not isinstance(executor, ProcessPoolExecutor):
                lost.update(dict.fromkeys(todo, "the executor broke"))
            return lost
        for future in first_done(running):
            number = running.pop(future)
            try:
                rows[number] = future.result()
                shown.one_more()
            except Exception as error:
                lost[number] = _reason(error)
                broken = broken or isinstance(error, BrokenProcessPool)


def _reason(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return DIED
    if isinstance(error, CancelledError):
        return "the executor cancelled it (was it closed, or its scheduler lost?)"
    if isinstance(error, ModuleNotFoundError):
        return f"a worker has no module {error.name}; install fabricsim on every machine"
    return f"{type(error).__name__}: {error}"


def _pickled(scenario: Scenario) -> bytes:
    try:
        return pickle.dumps(scenario)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"a scenario cannot be sent to other processes ({error}); a script's own rule has to be a "
            "function or class at the top of a module, not a lambda or a function inside another"
        ) from error


class _Progress:
    """How many points have run, on one line of standard error."""

    def __init__(self, points: int, show: bool) -> None:
        self.points = points
        self.show = show
        self.done = 0
        self.shown_at = 0.0

    def one_more(self) -> None:
        self.done += 1
        now = time.monotonic()
        if self.show and (now - self.shown_at > 0.2 or self.done == self.points):
            self.shown_at = now
            print(f"\r{self.done} of {self.points} points", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.show:
            print(file=sys.stderr)
