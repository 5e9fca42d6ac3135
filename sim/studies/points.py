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
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, Protocol, TypeAlias

import sim
from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError
from sim.scenario import Scenario, with_changes
from sim.simulate import Result, simulate
from sim.studies.progress import Progress, is_shown
from sim.workers import first_done, worker_pool

Status = Literal["done", "infeasible", "wrong input", "unfinished", "failed", "not run"]

DIED = "its worker process died (out of memory, or killed)"
WAITING_PER_WORKER = 3  # points handed to the executor ahead of time, so that no worker waits for the next
AHEAD_ON_A_CLUSTER = 64  # at least, where an executor does not say how many workers it has
LOOKS_AT_OTHERS_S = 0.2  # how long to wait for points that other processes have under way
BUSIEST_LINKS = 16  # of each run, that a comparison can name
END = -1  # no point has this number

Changes: TypeAlias = tuple[tuple[str, Any], ...]
"""Dotted paths, as in `with_changes`, with values."""


@dataclass(frozen=True)
class Point:
    """One run: `changes` to scenario number `scenario`, and a seed."""

    scenario: int
    changes: Changes
    seed: int


@dataclass(frozen=True)
class Row:
    """What came of a point: its summary, or why there is none. `wall_s` are seconds of real time, `links` the
    share of the run in which each of the busiest links carried something.
    """

    point: Point
    status: Status
    reason: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    causes: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    links: dict[str, float] = field(default_factory=dict)


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
        links = _busiest_links(result)
        return Row(point, "done", "", result.summary(), causes, time.perf_counter() - started, links)
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
    keep: Keeps | None = None,
) -> list[Row]:
    """Rows of all points, in their order. Without an executor on a process for each processor; `progress` on
    standard error, by default where that is a terminal. An interrupt ends it with the rows that are there.
    What `keep` has of them is not run again, and it gets every row that ends; what another process has under
    way is waited for.

    Points that are no sequence are drawn as workers become free, and may add their scenario to `scenarios`.
    """
    work = _Work(scenarios, points, keep, is_shown(progress))
    try:
        if executor is not None:
            for number, reason in _run_on(executor, work, work.numbers()).items():
                work.came(number, Row(work.points[number], "failed", reason))
        else:
            _run_on_processes(work)
    except KeyboardInterrupt:
        work.draw_rest()
        print(f"interrupted: {len(work.rows)} of {len(work.points)} points have run", file=sys.stderr)
    work.shown.end()
    return [
        work.rows.get(number) or Row(point, "not run", "interrupted")
        for number, point in enumerate(work.points)
    ]


def _busiest_links(result: Result) -> dict[str, float]:
    busy_s = result.link_rows["busy_s"]
    names = result.link_rows.columns["link"]
    order = sorted(range(len(busy_s)), key=lambda number: -busy_s[number])[:BUSIEST_LINKS]
    return {names[i]: float(busy_s[i]) / result.end_s for i in order if busy_s[i] > 0.0 < result.end_s}


class Keeps(Protocol):
    """What keeps rows while a study runs. Lines beside its table (`kept.py`) are for one process, and go when
    the table is whole; a store (`store.py`) stays, and several processes and studies fill it.
    """

    failure: str

    def begin(self, scenarios: Sequence[Scenario], *, is_drawn: bool = False) -> None: ...
    def row(self, point: Point) -> Row | None: ...
    def claim(self, point: Point) -> bool: ...
    def add(self, row: Row) -> None: ...


def rows_here(scenario: Scenario, points: Iterable[Point], keep: Keeps | None) -> list[Row]:
    """Rows of points of one scenario, run in this process one after the other."""
    return [_row_here(scenario, point, keep) for point in points]


def _row_here(scenario: Scenario, point: Point, keep: Keeps | None) -> Row:
    if keep is None:
        return row_of(scenario, point)
    while True:
        row = keep.row(point)
        if row is not None:
            return row
        if keep.claim(point):
            row = row_of(scenario, point)
            keep.add(row)
            return row
        time.sleep(LOOKS_AT_OTHERS_S)


class _Work:
    """The points of a study by number, drawn as workers become free, and the rows that have come."""

    def __init__(
        self, scenarios: Sequence[Scenario], points: Iterable[Point], keep: Keeps | None, show: bool
    ) -> None:
        self.scenarios = scenarios
        self.points: list[Point] = []
        self.rows: dict[int, Row] = {}
        self.keep = keep
        self._source = iter(points)
        self._pickles: dict[int, bytes] = {}
        self.total = len(points) if isinstance(points, Sized) else None
        if self.total is not None:  # what cannot be sent is refused before anything runs
            self._pickles = {number: _pickled(scenario) for number, scenario in enumerate(scenarios)}
        self.shown = Progress(self.total, show)
        if keep is not None:
            keep.begin(scenarios, is_drawn=self.total is None)

    def pickled(self, point: Point) -> bytes:
        found = self._pickles.get(point.scenario)
        if found is None:
            found = _pickled(self.scenarios[point.scenario])
            self._pickles = {
                point.scenario: found
            }  # drawn in order: the seeds of one scenario, then the next
        return found

    def numbers(self) -> Iterator[int | None]:
        """Numbers of points that are to run here; None where there is none at this instant, because other
        processes have the rest under way.
        """
        elsewhere: list[int] = []
        for point in self._source:
            number = len(self.points)
            self.points.append(point)
            if self.keep is not None and self._has_come(number):
                continue
            if self.keep is None or self.keep.claim(point):
                yield number
            else:
                elsewhere.append(number)
        while elsewhere:
            left = []
            for number in elsewhere:
                if self._has_come(number):
                    continue
                if self.keep is None or self.keep.claim(self.points[number]):
                    yield number
                else:
                    left.append(number)
            elsewhere = left
            if elsewhere:
                yield None

    def _has_come(self, number: int) -> bool:
        row = None if self.keep is None else self.keep.row(self.points[number])
        if row is None:
            return False
        self.rows[number] = row
        self.shown.one_more(ran=False)
        return True

    def came(self, number: int, row: Row) -> None:
        self.rows[number] = row
        if self.keep is not None:
            self.keep.add(row)
        self.shown.one_more()

    def draw_rest(self) -> None:
        """After an interrupt: the points that no worker has seen. A caller's generator is left alone."""
        if self.total is not None:
            for point in self._source:
                self.points.append(point)
                if self.keep is not None:
                    self._has_come(len(self.points) - 1)


def _run_on_processes(work: _Work) -> None:
    workers = max(1, min(os.cpu_count() or 1, work.total or AHEAD_ON_A_CLUSTER))
    suspects: dict[int, str] = {}  # under way when a worker died: any of them may have killed it
    numbers = work.numbers()
    for first in numbers:
        with worker_pool(workers) as pool:
            suspects |= _run_on(pool, work, chain([first], numbers))
    for number in suspects:
        with worker_pool(1) as pool:
            for reason in _run_on(pool, work, iter([number])).values():
                work.came(number, Row(work.points[number], "failed", reason))


def _run_on(executor: Executor, work: _Work, numbers: Iterator[int | None]) -> dict[int, str]:
    """Run points on an executor; those that it lost, with the reason. A broken pool gets no more points."""
    running: dict[Future[Row], int] = {}
    lost: dict[int, str] = {}
    max_running = WAITING_PER_WORKER * (getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
    broken = False
    # The attribute counts local processes; a cluster's executor has none, or one that says too little.
    if not isinstance(executor, ProcessPoolExecutor):
        max_running = max(max_running, AHEAD_ON_A_CLUSTER)
    while True:
        waits = False
        while not (broken or waits) and len(running) < max_running:
            number = next(numbers, END)
            if number is END:
                break
            if number is None:
                waits = True
                continue
            point = work.points[number]
            try:
                future = executor.submit(run_point, work.pickled(point), point, sim.__version__)
                running[future] = number
            except BrokenProcessPool as error:
                lost[number] = _reason(error)
                broken = True
            except InputError as error:  # a scenario that was drawn and cannot be sent
                work.came(number, Row(point, "wrong input", str(error)))
        if waits and not running:
            time.sleep(LOOKS_AT_OTHERS_S)
            continue
        if not running:
            # What a process pool has not begun goes to the next pool; a cluster has no next one.
            if broken and not isinstance(executor, ProcessPoolExecutor):
                left = (number for number in numbers if number is not None)
                lost.update(dict.fromkeys(left, "the executor broke"))
            return lost
        for future in first_done(running):
            number = running.pop(future)
            try:
                work.came(number, future.result())
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
