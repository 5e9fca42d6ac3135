"""The highest rate at which objectives hold, for many variants of a scenario and many seeds at once.

Every round runs one rate of each search that is open, so that all processors have work. Seeds are searched
each by itself: a variant's rates can then be paired with those of another variant, seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from sim.inputs.errors import InputError
from sim.results.energy import BETTER_WITH_LOAD
from sim.results.metrics import meets
from sim.scenario import Scenario
from sim.studies.metric_names import check_metric
from sim.studies.points import Changes, Keeps, Point, Row, run_points

RATE = "workload.arrivals.rate_per_s"
FURTHEST = 2.0**20  # times the rate at which a search begins, up and down


class Bracket:
    """A search for the rate at which a rule ceases to hold: steps that grow until one rate holds and one does
    not, then halves in the logarithm until both lie within `resolution`. Where a rate fails because too
    little comes for its watts and dollars, higher ones are tried.
    """

    def __init__(self, rate: float, step: float, resolution: float) -> None:
        self.rate, self.step, self.resolution = rate, step, resolution
        self._begin = rate
        self.holding: float | None = None
        self.failing: float | None = None
        self.lacking: float | None = None
        self.has_ended = False

    def next_rate(self) -> float | None:
        if self.has_ended:
            return None
        if self.holding is not None and self.failing is not None:
            if self.failing / self.holding <= 1.0 + self.resolution / 2:
                self.has_ended = True
                return None
            self.rate = math.sqrt(self.holding * self.failing)
        return self.rate

    def tried(self, holds: bool, lacks_load: bool = False) -> None:
        if holds:
            self.holding = self.rate
        elif lacks_load and self.holding is None:
            self.lacking = self.rate
        else:
            self.failing = self.rate
        if self.holding is not None and self.failing is not None:
            return
        if self.lacking is not None and self.failing is not None:
            self.rate = math.sqrt(self.lacking * self.failing)
            self.has_ended = self.failing / self.lacking <= 1.0 + self.resolution / 2
            return
        self.rate = self.rate * self.step if holds or self.lacking else self.rate / self.step
        self.step *= self.step
        self.has_ended = not self._begin / FURTHEST < self.rate < self._begin * FURTHEST

    @property
    def found(self) -> float | None:
        """The middle of the last interval; None where it has no other end."""
        if self.holding is None or self.failing is None:
            return None
        return math.sqrt(self.holding * self.failing)


@dataclass(frozen=True)
class Variant:
    """A variant of the scenario, and where its search begins: at a rate, with steps of a factor."""

    changes: Changes
    rate_per_s: float
    step: float = 2.0


@dataclass(frozen=True)
class Rates:
    """Of one variant: by seed, the middle of the last interval, and its lower end, a rate which has held;
    or a reason; and the rows of all that was tried.
    """

    by_seed: Mapping[int, float]
    held: Mapping[int, float]
    reason: str
    rows: tuple[Row, ...]

    @property
    def mean(self) -> float:
        return math.fsum(self.by_seed.values()) / len(self.by_seed) if self.by_seed else 0.0

    @property
    def mean_held(self) -> float:
        return math.fsum(self.held.values()) / len(self.held) if self.held else 0.0


def rate_of(scenario: Scenario) -> float:
    """The rate that a scenario writes. InputError where its arrivals have none."""
    arrivals = scenario.workload.arrivals
    rate = getattr(arrivals, "rate_per_s", None)
    if rate is None:
        raise InputError(
            f"workload.arrivals.kind = {arrivals.kind!r}: must have a rate to search over, as poisson, "
            "constant and gamma have"
        )
    return float(rate)


def highest_rates(
    scenario: Scenario,
    variants: Sequence[Variant],
    slo: Mapping[str, float],
    seeds: Sequence[int],
    resolution: float,
    executor: Executor | None = None,
    progress: bool | None = None,
    keep: Keeps | None = None,
) -> list[Rates]:
    """The highest rates at which every request finishes and `slo` holds. InputError for an unknown metric."""
    reasons = [""] * len(variants)
    rows: list[list[Row]] = [[] for _ in variants]
    searches = {
        (number, seed): Bracket(variant.rate_per_s, variant.step, resolution)
        for number, variant in enumerate(variants)
        for seed in seeds
    }
    while True:
        rates = {key: search.next_rate() for key, search in searches.items()}
        left = {key: rate for key, rate in rates.items() if rate is not None}
        if not left:
            break
        points = [Point(0, (*variants[n].changes, (RATE, rate)), seed) for (n, seed), rate in left.items()]
        found = run_points([scenario], points, executor, progress, keep)
        if any(row.status == "not run" for row in found):
            raise KeyboardInterrupt
        for key, row in zip(left, found, strict=True):
            rows[key[0]].append(row)
            if row.status == "done":
                searches[key].tried(holds(row, slo), lacks_load(broken_of(row, slo)))
            else:
                reasons[key[0]] = row.reason
                del searches[key]
    by_variant: list[dict[int, float]] = [{} for _ in variants]
    held: list[dict[int, float]] = [{} for _ in variants]
    for (number, seed), search in searches.items():
        if search.found is not None and search.holding is not None:
            held[number][seed] = search.holding
            by_variant[number][seed] = search.found
        elif not reasons[number]:
            reasons[number] = "every rate holds" if search.holding is not None else "no rate holds"
    return [Rates(*one) for one in zip(by_variant, held, reasons, map(tuple, rows), strict=True)]


def broken_of(row: Row, slo: Mapping[str, float]) -> list[str]:
    """The objectives that a run breaks, and `unfinished` where requests are left."""
    broken = [name for name, limit in slo.items() if not meets(row.summary, {name: limit})]
    return [*broken, "unfinished"] if row.summary["unfinished"] else broken


def lacks_load(broken: Sequence[str]) -> bool:
    """Whether all that breaks gets better where more requests come."""
    return bool(broken) and set(broken) <= set(BETTER_WITH_LOAD)


def holds(row: Row, slo: Mapping[str, float]) -> bool:
    for name in slo:
        check_metric(name, row.summary)
    return not row.summary["unfinished"] and meets(row.summary, slo)
