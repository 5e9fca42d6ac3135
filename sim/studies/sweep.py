"""One scenario over a grid or a list of changes, or scenarios as they are drawn, and seeds, on all processors
or on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sim.inputs.errors import InputError
from sim.scenario import Scenario
from sim.studies.intervals import mean_interval
from sim.studies.key_notes import notes_of
from sim.studies.points import Changes, Keeps, Point, Row, run_points
from sim.studies.store import kept_or_stored
from sim.views.showing import ShownMeans

if TYPE_CHECKING:
    import polars

Grid: TypeAlias = Mapping[str, Iterable[Any]] | Mapping[tuple[str, ...], Iterable[Any]] | Mapping[Any, Any]


@dataclass(frozen=True)
class Sweep(ShownMeans):
    """The rows of a sweep, in the order of the grid, seeds innermost.

    `table()` has one line a run: the changes, the seed, `status` (`done`, or why there are no numbers, with
    the `reason`), and the summary under its names in `Result.summary()`. `means()` has one line for all seeds
    of a combination. `names` are those of scenarios that were drawn one by one, by their number.
    """

    rows: tuple[Row, ...]
    names: tuple[str, ...] = ()

    def table(self) -> polars.DataFrame:
        import polars

        columns = self._changed(self.rows)
        columns["seed"] = [row.point.seed for row in self.rows]
        columns["status"] = [row.status for row in self.rows]
        columns["reason"] = [row.reason for row in self.rows]
        columns["wall_s"] = [row.wall_s for row in self.rows]
        numbers = [_numbers(row) for row in self.rows]
        for name in _metrics(self.rows):
            columns[name] = [one.get(name) for one in numbers]
        return polars.DataFrame(columns, strict=False)

    def means(self, metrics: Iterable[str] | None = None, confidence: float = 0.95) -> polars.DataFrame:
        """One line a combination that has numbers: over its seeds, every metric's mean, and its interval as
        `METRIC_low` and `METRIC_high`, null where a single seed leaves it open.
        """
        import polars

        groups: dict[tuple[int, str], list[Row]] = {}
        for row in self.rows:
            if row.status == "done":
                groups.setdefault((row.point.scenario, repr(row.point.changes)), []).append(row)
        columns = self._changed([rows[0] for rows in groups.values()])
        columns["seeds"] = [len(rows) for rows in groups.values()]
        for name in _metrics(self.rows) if metrics is None else metrics:
            found = []
            for rows in groups.values():
                values = [row.summary.get(name) for row in rows]
                known = [float(value) for value in values if isinstance(value, int | float)]
                found.append(mean_interval(known, confidence) if len(known) == len(values) else None)
            for suffix, bound in (("", "mean"), ("_low", "low"), ("_high", "high")):
                columns[f"{name}{suffix}"] = [
                    None if one is None or (suffix and abs(one.high) == float("inf")) else getattr(one, bound)
                    for one in found
                ]
        return polars.DataFrame(columns, strict=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Keys that no run read, and swept keys whose values all give the same numbers."""
        swept = dict.fromkeys(key for row in self.rows for key, _ in row.point.changes)
        return notes_of(self.rows, swept)

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows without numbers of points that could have some: what is infeasible is an answer, and not
        among them.
        """
        return tuple(row for row in self.rows if row.status not in ("done", "infeasible"))

    @property
    def infeasible(self) -> tuple[Row, ...]:
        """Rows of points that cannot be, each with its reason."""
        return tuple(row for row in self.rows if row.status == "infeasible")

    def _changed(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        keys = list(dict.fromkeys(key for row in self.rows for key, _ in row.point.changes))
        columns = {key: _alike([dict(row.point.changes).get(key) for row in rows]) for key in keys}
        if self.names:
            return {"scenario": [self.names[row.point.scenario] for row in rows], **columns}
        return columns


def sweep(
    scenario: Scenario | Mapping[str, Scenario] | Iterable[Scenario],
    changes: Grid | Iterable[Mapping[str, Any]] | None = None,
    seeds: Iterable[int] = (0,),
    executor: Executor | None = None,
    progress: bool | None = None,
    keep: Keeps | None = None,
    store: str | Path | None = None,
    recompute: bool = False,
) -> Sweep:
    """Run a scenario with every combination of changes and every seed.

    Args:
        scenario: what is changed. Or scenarios as they are: by name, or any iterable of them; a generator is
            asked for the next one when a worker becomes free.
        changes: a grid, which maps dotted paths, as in `with_changes`, to the values to try; a tuple of paths
            maps to tuples of values that go together. Or the combinations themselves: a list or a generator
            of mappings from paths to values.
        executor: any `concurrent.futures.Executor`; by default processes of this machine.
            `distributed.Client(address).get_executor(pure=False, retries=2)` is a dask cluster.
        progress: on standard error, with the time left; by default where that is a terminal.
        keep: has rows of an earlier run of the same sweep, and gets every row that ends
            (`sim.studies.kept.kept(path)`).
        store: a file that keeps every row as it ends. The same sweep goes on with what is there, and several
            processes may fill one store at once.
        recompute: run again what other code, or this scenario before a change, has left in the store; else it
            is refused.

    A combination that cannot be is a row with its reason. Raises InputError only where the sweep itself makes
    no sense.

    Example:
        >>> import sim
        >>> grid = {("engine.tensor_parallel_size", "replicas"): [(1, 8), (2, 4), (8, 1)]}
        >>> # sim.sweep(scenario, grid, seeds=range(5), store="study.sqlite").means()
    """
    seeds = list(seeds)
    if not seeds:
        raise InputError("seeds is empty: give one or more, as in range(5)")
    names: list[str] = []
    scenarios: list[Scenario] = []
    points: Iterable[Point]
    if isinstance(scenario, Scenario):
        scenarios = [scenario]
        drawn = _combinations({} if changes is None else changes)
        points = (Point(0, one, seed) for one in drawn for seed in seeds)
        points = list(points) if isinstance(drawn, list) else points
    elif changes is not None:
        raise InputError("changes are for one scenario; scenarios that are drawn are run as they are")
    else:
        points = _drawn(scenario, scenarios, names, seeds)
    with kept_or_stored(keep, store, recompute=recompute) as rows_kept:
        rows = run_points(scenarios, points, executor, progress, rows_kept)
    return Sweep(tuple(rows), tuple(names))


def _combinations(changes: Grid | Iterable[Mapping[str, Any]]) -> list[Changes] | Iterator[Changes]:
    """The changes of every point, seeds apart. InputError for an axis that makes no sense."""
    if not isinstance(changes, Mapping):
        given = (tuple(one.items()) for one in changes)
        return list(given) if isinstance(changes, Sequence) else given
    axes: list[list[Changes]] = []
    seen: set[str] = set()
    for key, written in changes.items():
        paths = (key,) if isinstance(key, str) else tuple(key)
        values = list(written)
        if not values:
            raise InputError(f"{', '.join(paths)}: has no values; give one or more")
        for path in paths:
            if path in seen:
                raise InputError(f"{path} is in two axes of the grid; one of them would be lost")
            seen.add(path)
        if isinstance(key, str):
            axes.append([((key, value),) for value in values])
            continue
        for value in values:
            if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != len(paths):
                raise InputError(
                    f"{', '.join(paths)}: {value!r} must be {len(paths)} values that go together, as in "
                    f"{tuple(range(1, len(paths) + 1))}"
                )
        axes.append([tuple(zip(paths, value, strict=True)) for value in values])
    return [tuple(change for part in parts for change in part) for parts in product(*axes)]


def _drawn(
    given: Mapping[str, Scenario] | Iterable[Scenario],
    scenarios: list[Scenario],
    names: list[str],
    seeds: list[int],
) -> Iterator[Point]:
    """Points of scenarios that come one by one; `scenarios` and `names` grow with them."""
    pairs = given.items() if isinstance(given, Mapping) else (("", one) for one in given)
    for number, (name, scenario) in enumerate(pairs):
        if not isinstance(scenario, Scenario):
            raise InputError(
                f"scenario {number} is {type(scenario).__name__}; must be sim.Scenario, or one scenario "
                "with changes="
            )
        scenarios.append(scenario)
        names.append(name or f"{number} {scenario.name}".strip())
        for seed in seeds:
            yield Point(number, (), seed)


def _metrics(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in _numbers(row)))


def _numbers(row: Row) -> dict[str, float | int | bool]:
    return {name: value for name, value in row.summary.items() if isinstance(value, int | float)}


def _alike(values: Sequence[Any]) -> list[Any]:
    """Values of one column: as they are where all are numbers, else as text."""
    if all(value is None or isinstance(value, bool | int | float) for value in values):
        kinds = {isinstance(value, bool) for value in values if value is not None}
        if len(kinds) <= 1:
            return list(values)
    return [None if value is None else str(value) for value in values]
