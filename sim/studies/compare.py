"""Scenarios side by side on the same seeds: what differs, and whether the seeds could have done it.

Runs of one seed draw the same arrivals and lengths, so the difference of two scenarios is taken within each
seed (common random numbers) and its interval is over seeds: far narrower than that of two separate means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeGuard

from sim.inputs.errors import InputError
from sim.scenario import Scenario
from sim.studies.intervals import Interval, mean_interval
from sim.studies.key_notes import notes_of
from sim.studies.points import Keeps, Point, Row, run_points
from sim.views.showing import ShownComparison

if TYPE_CHECKING:
    import polars


SHOWN = 3  # causes of a difference that a line names


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
class Ranking:
    """Scenarios by a metric, the lowest mean first. `agreeing` of `seeds` have the same order; it `is_stable`
    where the paired interval between each two neighbours leaves no room for a tie.
    """

    metric: str
    names: tuple[str, ...]
    agreeing: int
    seeds: int
    is_stable: bool


@dataclass(frozen=True)
class Comparison(ShownComparison):
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

    def ranking(self, metric: str) -> Ranking:
        """Whether another draw of requests could turn the order of the scenarios. InputError for a metric
        that not all of them have.
        """
        values = {name: _by_seed(self.rows[name], metric) for name in self.names}
        seeds = [seed for seed in values[self.names[0]] if all(seed in found for found in values.values())]
        if not seeds:
            raise InputError(f"metric = {metric!r}: no seed has a number of it for every scenario")
        means = {name: sum(found[seed] for seed in seeds) / len(seeds) for name, found in values.items()}
        order = sorted(self.names, key=means.__getitem__)
        neighbours = list(pairwise(order))
        agreeing = sum(all(values[a][s] < values[b][s] for a, b in neighbours) for s in seeds)
        clear = all(
            mean_interval([values[b][s] - values[a][s] for s in seeds], self.confidence).excludes_zero
            for a, b in neighbours
        )
        return Ranking(metric, tuple(order), agreeing, len(seeds), clear)

    def explanation(self, name: str) -> str:
        """Which causes, and which links, make the time end to end of a scenario another than that of the
        first: those whose paired difference is clear, the largest first.
        """
        pairs = [
            (one, two)
            for one, two in zip(self.rows[self.names[0]], self.rows[name], strict=True)
            if one.status == two.status == "done"
        ]
        if len(pairs) < 2:
            return f"{name}: too few seeds have numbers to say why"
        causes = self._clear([(one.causes, two.causes) for one, two in pairs])
        links = self._clear([(one.links, two.links) for one, two in pairs])
        said = [f"{cause} {1e3 * shift.mean:+.3g} ms a request" for cause, shift in causes[:SHOWN]]
        said += [f"{link} busy {100 * shift.mean:+.3g} points of the run" for link, shift in links[:1]]
        return f"{name}: " + (", ".join(said) or "no cause and no link differs clearly over these seeds")

    def _clear(self, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> list[tuple[str, Interval]]:
        keys = dict.fromkeys(key for one, two in pairs for key in (*one, *two))
        # A link that is not among the busiest of either run is not known to have carried nothing: left out.
        known = [key for key in keys if all(key in one and key in two for one, two in pairs)]
        found = [
            (key, mean_interval([two[key] - one[key] for one, two in pairs], self.confidence))
            for key in known
        ]
        clear = [(key, shift) for key, shift in found if shift.excludes_zero]
        return sorted(clear, key=lambda one: -abs(one[1].mean))

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


def _by_seed(rows: Iterable[Row], metric: str) -> dict[int, float]:
    return {
        row.point.seed: float(row.summary[metric])
        for row in rows
        if row.status == "done" and _is_number(row.summary.get(metric))
    }


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
