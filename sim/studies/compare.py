"""Scenarios side by side on the same seeds: what differs, and whether the seeds could have done it.

Runs of one seed draw the same arrivals and lengths, so the difference of two scenarios is taken within each
seed (common random numbers) and its interval is over seeds: far narrower than that of two separate means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from sim.inputs.errors import InputError
from sim.scenario import Scenario
from sim.studies.intervals import Interval, mean_interval
from sim.studies.key_notes import notes_of
from sim.studies.points import Keeps, Point, Row, run_points

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class Difference:
    """One metric of one scenario against the first: means over seeds, the interval of their difference."""

    scenario: str
    metric: str
    pairs: int
    mean: float
    mean_of_first: float
    difference: Interval

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves no room for no difference."""
        return self.difference.excludes_zero


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: `differences` from the first scenario, and the rows of all runs by scenario."""

    names: tuple[str, ...]
    rows: Mapping[str, tuple[Row, ...]]
    differences: tuple[Difference, ...]
    confidence: float

    def table(self) -> polars.DataFrame:
        """One line a scenario and metric; `low` and `high` bound the difference from the first scenario."""
        import polars

        return polars.DataFrame(
            [
                {
                    "scenario": one.scenario,
                    "metric": one.metric,
                    "pairs": one.pairs,
                    f"{self.names[0]}": one.mean_of_first,
                    "mean": one.mean,
                    "difference": one.difference.mean,
                    "low": one.difference.low,
                    "high": one.difference.high,
                    "is_clear": one.is_clear,
                }
                for one in self.differences
            ]
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """The keys of each scenario that no run of it read."""
        return tuple(line for name in self.names for line in notes_of(self.rows[name], of=f"{name}: "))

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows without numbers, of all scenarios."""
        return tuple(row for name in self.names for row in self.rows[name] if row.status != "done")


def compare(
    scenarios: Mapping[str, Scenario],
    seeds: Iterable[int] = range(10),
    executor: Executor | None = None,
    confidence: float = 0.95,
    progress: bool | None = None,
    keep: Keeps | None = None,
) -> Comparison:
    """Run every scenario with every seed and compare each with the first, seed by seed.

    Seeds for which either run has no numbers are left out of a pair and stay in `rows`. `keep` is as in
    `sweep`. Raises InputError
    for fewer than two scenarios or seeds: one pair has no interval.
    """
    seeds = list(seeds)
    if len(scenarios) < 2:
        raise InputError(f"scenarios = {len(scenarios)}: must be at least 2 to compare")
    if len(seeds) < 2:
        raise InputError(f"seeds = {len(seeds)}: must be at least 2 for an interval; 10 are usual")
    names = tuple(scenarios)
    points = [Point(number, (), seed) for number in range(len(names)) for seed in seeds]
    rows = run_points(list(scenarios.values()), points, executor, progress, keep)
    by_name = {
        name: tuple(row for row in rows if row.point.scenario == number) for number, name in enumerate(names)
    }
    differences = [
        found
        for name in names[1:]
        for found in _differences(by_name[names[0]], name, by_name[name], confidence)
    ]
    return Comparison(names, by_name, tuple(differences), confidence)


def _differences(
    first: tuple[Row, ...], name: str, other: tuple[Row, ...], confidence: float
) -> list[Difference]:
    both = [
        (one.summary, two.summary)
        for one, two in zip(first, other, strict=True)
        if one.status == two.status == "done"
    ]
    found = []
    for metric in both[0][0] if both else ():
        pairs = [(one[metric], two.get(metric)) for one, two in both]
        numbers = [(float(one), float(two)) for one, two in pairs if _is_number(one) and _is_number(two)]
        if numbers:
            mean_of_first = sum(one for one, _ in numbers) / len(numbers)
            mean = sum(two for _, two in numbers) / len(numbers)
            difference = mean_interval([two - one for one, two in numbers], confidence)
            found.append(Difference(name, metric, len(numbers), mean, mean_of_first, difference))
    return found


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
