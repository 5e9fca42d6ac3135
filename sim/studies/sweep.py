"""One scenario over a grid of changes and seeds, on all processors or on a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from sim.inputs.errors import InputError
from sim.scenario import Scenario
from sim.studies.kept import Kept
from sim.studies.key_notes import notes_of
from sim.studies.points import Point, Row, run_points

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class Sweep:
    """The rows of a sweep, in the order of the grid, seeds innermost.

    `table()` has one line a run: the changes, the seed, `status` (`done`, or why there are no numbers, with
    the `reason`), and the summary under its names in `Result.summary()`.
    """

    rows: tuple[Row, ...]

    def table(self) -> polars.DataFrame:
        import polars

        metrics = list(dict.fromkeys(name for row in self.rows for name in _numbers(row)))
        changed = list(dict.fromkeys(key for row in self.rows for key, _ in row.point.changes))
        columns: dict[str, list[Any]] = {
            key: _alike([dict(row.point.changes).get(key) for row in self.rows]) for key in changed
        }
        columns["seed"] = [row.point.seed for row in self.rows]
        columns["status"] = [row.status for row in self.rows]
        columns["reason"] = [row.reason for row in self.rows]
        columns["wall_s"] = [row.wall_s for row in self.rows]
        numbers = [_numbers(row) for row in self.rows]
        for name in metrics:
            columns[name] = [one.get(name) for one in numbers]
        return polars.DataFrame(columns, strict=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Keys that no run read, and swept keys whose values all give the same numbers."""
        swept = dict.fromkeys(key for row in self.rows for key, _ in row.point.changes)
        return notes_of(self.rows, swept)

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows without numbers."""
        return tuple(row for row in self.rows if row.status != "done")


def sweep(
    scenario: Scenario,
    changes: Mapping[str, Iterable[Any]],
    seeds: Iterable[int] = (0,),
    executor: Executor | None = None,
    progress: bool | None = None,
    keep: Kept | None = None,
) -> Sweep:
    """Run a scenario with every combination of changes and every seed.

    `changes` maps dotted paths, as in `with_changes`, to the values to try. `executor` is any
    `concurrent.futures.Executor`: by default processes of this machine; `distributed.Client(address).
    get_executor(pure=False, retries=2)` is a dask cluster. A combination that cannot be is a row with its
    reason. `keep` (`sim.studies.kept.kept(path)`) has rows of an earlier run of the same sweep, and gets
    every row that ends. Raises InputError only where the sweep itself makes no sense.

    Example:
        >>> import sim
        >>> grid = {"engine.tensor_parallel_size": [1, 2, 4, 8]}
        >>> # sim.sweep(scenario, grid, seeds=range(5)).table()
    """
    grid = {path: list(values) for path, values in changes.items()}
    seeds = list(seeds)
    for path, values in grid.items():
        if not values:
            raise InputError(f"{path}: has no values; give one or more")
    if not seeds:
        raise InputError("seeds is empty: give one or more, as in range(5)")
    points = [
        Point(0, tuple(zip(grid, values, strict=True)), seed)
        for values in product(*grid.values())
        for seed in seeds
    ]
    return Sweep(tuple(run_points([scenario], points, executor, progress, keep)))


def _numbers(row: Row) -> dict[str, float | int | bool]:
    return {name: value for name, value in row.summary.items() if isinstance(value, int | float)}


def _alike(values: Sequence[Any]) -> list[Any]:
    """Values of one column: as they are where all are numbers, else as text."""
    if all(value is None or isinstance(value, bool | int | float) for value in values):
        kinds = {isinstance(value, bool) for value in values if value is not None}
        if len(kinds) <= 1:
            return list(values)
    return [None if value is None else str(value) for value in values]
