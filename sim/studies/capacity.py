"""The highest request rate at which a service holds its objectives, and what stands in the way of more.

Bisection over the rate with common random numbers: every trial has the same seeds, hence the same requests,
only closer together. The objectives must hold in the mean over the seeds. A run is finite, so a rate is found
for this many requests: a service that falls behind slowly looks able until the run is long enough to show it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sim.inputs.errors import InputError
from sim.results.metrics import SLO_FIELDS, meets, more_is_better
from sim.scenario import Scenario, with_changes
from sim.studies.intervals import Interval, mean_interval
from sim.studies.metric_names import check_metric
from sim.studies.points import Keeps, Point, Row, rows_here, run_points
from sim.studies.rate_search import FURTHEST, RATE, Bracket, holds, lacks_load, rate_of

if TYPE_CHECKING:
    import polars

INTERRUPTED = "interrupted: not known yet; a higher rate may hold"
TAIL = 90.0  # percentiles from here up are explained by the slowest tenth
LATENCIES = {  # what a metric of this name is blamed on, in words; others on the whole way of a request
    "ttft": ("ttft", "the time to the first token"),
    "queue": ("ttft", "the time to the first token"),
    "tpot": ("itl", "the time between tokens"),
    "itl": ("itl", "the time between tokens"),
}
BEYOND = (
    10  # requests beyond a percentile: their number then varies by a third (1 / sqrt(10)) from run to run
)
UNFINISHED = "unfinished requests"
WHOLE = "e2el", "the time end to end"


@dataclass(frozen=True)
class Trial:
    """One rate: the objectives' metrics in the mean over seeds, and which of them are not held.

    `blame` has for each of them the mean ms by cause of the latency that it is about: of the slowest tenth
    where the metric is a high percentile or the longest, else of all requests. `by_seed`: where all hold in
    one run alone. `requests`: those that have numbers in a run.
    """

    rate_per_s: float
    metrics: Mapping[str, float]
    broken: tuple[str, ...]
    causes: Mapping[str, float]
    blame: Mapping[str, Mapping[str, float]]
    by_seed: Mapping[int, bool] = field(default_factory=dict)
    requests: int = 0

    @property
    def holds(self) -> bool:
        return not self.broken


@dataclass(frozen=True)
class Capacity:
    """`rate_per_s` is the highest rate found to hold (0 where none does, inf where all do); `limited_by`
    says in words what breaks above it; `interval` is of what each seed would give alone, None for a single
    seed, or where one holds always or never.
    """

    rate_per_s: float
    limited_by: str
    trials: tuple[Trial, ...]
    interval: Interval | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the numbers cannot tell: percentiles that too few requests lie beyond."""
        said = []
        requests = min((one.requests for one in self.trials), default=0)
        for name in self.trials[0].metrics if self.trials else ():
            needed = requests_for(name)
            if requests < needed:
                said.append(
                    f"{name} of {requests} requests is decided by {requests * BEYOND / needed:.2g} of them; "
                    f"with {needed} it would be by {BEYOND}: ask for a longer run (workload.requests)"
                )
        return tuple(said)

    @property
    def is_complete(self) -> bool:
        """Whether the search came to its end."""
        return self.limited_by != INTERRUPTED

    def table(self) -> polars.DataFrame:
        """One line a trial, by rate."""
        import polars

        return polars.DataFrame(
            [
                {"rate_per_s": trial.rate_per_s, "holds": trial.holds, **trial.metrics}
                for trial in sorted(self.trials, key=lambda trial: trial.rate_per_s)
            ]
        )


def requests_for(metric: str) -> int:
    """How many requests a percentile needs so that BEYOND of them lie beyond it; 0 for what is none.

    >>> requests_for("p99_ttft_ms"), requests_for("p90_tpot_ms"), requests_for("mean_ttft_ms")
    (1000, 100, 0)
    """
    found = re.match(r"p([0-9.]+)_", metric)
    if found is None or float(found[1]) >= 100.0:
        return 0
    return math.ceil(round(BEYOND / (1.0 - float(found[1]) / 100.0), 6))


def capacity(
    scenario: Scenario,
    slo: Mapping[str, float],
    seeds: Iterable[int] = (0,),
    tolerance: float = 0.02,
    executor: Executor | None = None,
    keep: Keeps | None = None,
    choose_length: bool = False,
) -> Capacity:
    """Find the highest request rate that holds.

    Args:
        scenario: its arrivals need a `rate_per_s`; the search starts there.
        slo: the largest value that a metric of `Result.summary()` may have, such as
            `{"p99_ttft_ms": 500}`, or the least of one of which more is better (throughputs, goodput,
            attainment). All requests must also finish.
        seeds: the metrics are means over them.
        tolerance: relative width of the last interval.
        executor: where the runs of several seeds go; in this process if None.
        keep: has rows of an earlier search, and gets every row that ends, as in `sweep`.
        choose_length: make runs as long as the percentiles of `slo` need (`requests_for`), beside those that
            `warmup` and `cooldown` leave out; never shorter than the scenario's.

    An interrupt ends the search with the trials that there are. Raises InputError for arrivals without a rate
    or an unknown metric, and whatever a run raises.
    """
    rate = rate_of(scenario)
    if not slo:
        raise InputError("slo is empty: name an objective, as in p99_ttft_ms=500")
    if not 0.0 < tolerance < 1.0:
        raise InputError(f"tolerance = {tolerance:g}: must be between 0 and 1, as in 0.02")
    if choose_length:
        scenario = _long_enough(scenario, slo)
    # Double or halve from the given rate until one rate holds and one does not, then bisect in the logarithm:
    # the tolerance is relative.
    search = _Search(scenario, dict(slo), list(seeds), executor, keep)
    try:
        return _searched(search, rate, tolerance)
    except KeyboardInterrupt:
        holding = max((trial.rate_per_s for trial in search.trials if trial.holds), default=0.0)
        return Capacity(holding, INTERRUPTED, tuple(search.trials))


def _long_enough(scenario: Scenario, slo: Mapping[str, float]) -> Scenario:
    needed = max(map(requests_for, slo))
    left_out = scenario.warmup if isinstance(scenario.warmup, float) else 0.0
    left_out += scenario.cooldown or 0.0
    requests = math.ceil(needed / (1.0 - left_out))
    written = scenario.workload.requests
    if written is None or requests <= written:
        return scenario
    return with_changes(scenario, {"workload.requests": requests})


def _searched(search: _Search, rate: float, tolerance: float) -> Capacity:
    lowest, highest = rate, rate
    if not search.holds(rate) and lacks_load(search.trials[-1].broken):
        # Watts and dollars are too many for what comes: the lowest rate that holds lies above.
        climb = Bracket(rate, 2.0, tolerance)
        climb.tried(False, lacks_load=True)
        while climb.holding is None and (tried := climb.next_rate()) is not None:
            climb.tried(search.holds(tried), lacks_load(search.trials[-1].broken))
        if climb.holding is None:
            return Capacity(0.0, search.limit(), tuple(search.trials))
        lowest, highest = climb.holding, climb.failing or climb.holding
    if search.trials[-1].holds and lowest == highest:
        while search.holds(highest := 2.0 * highest):
            lowest = highest
            if highest > rate * FURTHEST:
                return Capacity(math.inf, "nothing: every rate tried holds", tuple(search.trials))
    elif lowest == highest:
        while not search.holds(lowest := lowest / 2.0):
            highest = lowest
            if lowest < rate / FURTHEST:
                return Capacity(0.0, search.limit(), tuple(search.trials))
    while highest / lowest > 1.0 + tolerance:
        middle = math.sqrt(lowest * highest)
        lowest, highest = (middle, highest) if search.holds(middle) else (lowest, middle)
    interval = search.interval(tolerance)
    return Capacity(lowest, search.limit(), tuple(search.trials), interval)


class _Search:
    """Trials so far."""

    def __init__(
        self,
        scenario: Scenario,
        slo: dict[str, float],
        seeds: list[int],
        executor: Executor | None,
        keep: Keeps | None = None,
    ) -> None:
        self.scenario = scenario
        self.slo = slo
        self.seeds = seeds
        self.executor = executor
        self.keep = keep
        if keep is not None:
            keep.begin([scenario])
        self.trials: list[Trial] = []

    def holds(self, rate_per_s: float) -> bool:
        points = [Point(0, ((RATE, rate_per_s),), seed) for seed in self.seeds]
        rows = self._rows(points)
        if any(row.status == "not run" for row in rows):
            raise KeyboardInterrupt
        for row in rows:
            if row.status != "done":
                raise InputError(f"at {rate_per_s:g} requests/s, seed {row.point.seed}: {row.reason}")
        trial = self._trial(rate_per_s, rows)
        self.trials.append(trial)
        return trial.holds

    def interval(self, tolerance: float) -> Interval | None:
        """Over seeds, of the rate that each gives alone: its search goes on where the trials leave it."""
        if len(self.seeds) < 2:
            return None
        found = []
        for seed in self.seeds:
            failing = [
                trial.rate_per_s
                for trial in self.trials
                if not trial.by_seed[seed] and not lacks_load(trial.broken)
            ]
            holding = [trial.rate_per_s for trial in self.trials if trial.by_seed[seed]]
            below = [rate for rate in holding if rate < min(failing, default=math.inf)]
            one = Bracket(max(below) if below else min(failing), 1.0 + tolerance, tolerance)
            one.holding, one.failing = max(below, default=None), min(failing, default=None)
            while (rate := one.next_rate()) is not None:
                (row,) = self._rows([Point(0, ((RATE, rate),), seed)])
                if row.status != "done":
                    return None
                one.tried(holds(row, self.slo))
            if one.found is None:
                return None
            found.append(one.found)
        return mean_interval(found)

    def _rows(self, points: list[Point]) -> list[Row]:
        if self.executor is not None:
            return run_points([self.scenario], points, self.executor, progress=False, keep=self.keep)
        return rows_here(self.scenario, points, self.keep)

    def _trial(self, rate_per_s: float, rows: list[Row]) -> Trial:
        for name in self.slo:
            check_metric(name, rows[0].summary)
        metrics = {name: mean_of([row.summary[name] for row in rows]) for name in self.slo}
        broken = [name for name, limit in self.slo.items() if not meets(metrics, {name: limit})]
        if any(row.summary["unfinished"] for row in rows):
            broken.append(UNFINISHED)
        causes = {cause: mean_of([row.causes[cause] for row in rows]) for cause in rows[0].causes}
        blame = {name: blame_of(blamed_on(self.scenario, name), rows) for name in (*self.slo, UNFINISHED)}
        by_seed = {row.point.seed: holds(row, self.slo) for row in rows}
        requests = min(row.summary["completed"] + row.summary["unfinished"] for row in rows)
        return Trial(rate_per_s, metrics, tuple(broken), causes, blame, by_seed, requests)

    def limit(self) -> str:
        """What broke at the lowest rate that does not hold, and which cause of it had grown most."""
        failing = min(
            (trial for trial in self.trials if not trial.holds),
            key=lambda one: (lacks_load(one.broken), one.rate_per_s),
        )
        worst = max(failing.broken, key=lambda name: self._excess(failing, name))
        reason = f"{worst} at {failing.rate_per_s:.4g} requests/s"
        if worst in self.slo:
            value, limit = failing.metrics[worst], self.slo[worst]
            beyond = "below" if more_is_better(worst) else "above"
            reason = f"{worst} is {value:.4g} at {failing.rate_per_s:.4g} requests/s, {beyond} {limit:g}"
        (metric, group), blamed = blamed_on(self.scenario, worst), failing.blame[worst]
        where = in_words(metric, group)
        of_each = "a token" if metric == "itl" else "a request"
        lightest = min(self.trials, key=lambda one: one.rate_per_s)
        before = lightest.blame.get(worst, {})
        # With a single rate there is nothing to have grown from: its largest cause stands in.
        if lightest is failing or not before:
            main = max(blamed, key=lambda cause: blamed[cause], default="")
            return f"{reason}; most of {where} is {main}" if main else reason
        grown = {cause: blamed[cause] - before[cause] for cause in blamed}
        main = max(grown, key=lambda cause: grown[cause], default="")
        if not main:
            return reason
        return (
            f"{reason}; since {lightest.rate_per_s:.4g} requests/s, {main} has grown most in {where}, by "
            f"{grown[main]:.3g} ms {of_each}"
        )

    def _excess(self, trial: Trial, name: str) -> float:
        """How many times worse than its limit; what has no limit is named only where nothing else broke."""
        if name not in self.slo:
            return 0.0
        value, limit = trial.metrics[name], self.slo[name]
        parts = (limit, value) if more_is_better(name) else (value, limit)
        return parts[0] / parts[1] if parts[1] > 0.0 else math.inf


def blamed_on(scenario: Scenario, name: str) -> tuple[str, str]:
    """The latency whose causes explain a metric, and of which requests.

    Requests that miss their objectives are blamed on the one latency that is promised, or, where several are,
    on the whole way.
    """
    found = re.fullmatch(r"(p[0-9.]+|max|mean|median|std)_(\w+?)_ms", name)
    if found is None:
        if not ("attainment" in name or "goodput" in name):
            return WHOLE[0], "mean"
        slos = scenario.workload.slos.values()
        promised = {field for slo in slos for field in SLO_FIELDS if getattr(slo, field) is not None}
        latency = promised.pop().removesuffix("_ms") if len(promised) == 1 else ""
        return LATENCIES.get(latency, WHOLE)[0], "slowest_tenth"
    statistic, latency = found.groups()
    is_tail = statistic == "max" or (statistic[0] == "p" and float(statistic[1:]) >= TAIL)
    latency = latency.removesuffix("_from_admission")
    return LATENCIES.get(latency, WHOLE)[0], "slowest_tenth" if is_tail else "mean"


def in_words(metric: str, group: str) -> str:
    """A latency and the requests that it is of: `the time to the first token of the slowest tenth`."""
    where = dict((*LATENCIES.values(), WHOLE))[metric]
    return where + (" of the slowest tenth" if group == "slowest_tenth" else "")


def blame_of(latency: tuple[str, str], rows: list[Row]) -> dict[str, float]:
    """Mean ms by cause of a latency of some requests, over seeds; empty where no request has it."""
    metric, group = latency
    found = [row.summary["blame"][metric][group] for row in rows]
    if not all(found):
        return {}
    return {cause: mean_of([one[cause] for one in found]) for cause in found[0]}


def mean_of(values: Sequence[float | None]) -> float:
    """The mean; a metric that does not exist (no request got so far) holds nothing."""
    return math.nan if None in values else math.fsum(value or 0.0 for value in values) / len(values)
