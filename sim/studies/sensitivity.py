"""What a tenth more of each constant and knob would buy: paired finite differences over seeds.

Every knob is raised and lowered by the same factor, with the seeds of the run that nothing was changed in
(common random numbers), so that a difference is the knob's and not that of another draw of requests. The
elasticity is the slope between the two in logarithms, its interval Student's over the seeds. Metrics of a run
are exact, so that the smallest of differences is seen; a capacity is found by bisection, and what is smaller
than its last interval is said to be below the resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sim.inputs.errors import InputError
from sim.scenario import Scenario
from sim.studies.intervals import Interval, mean_interval
from sim.studies.knobs import Knob, knobs_of
from sim.studies.metric_names import check_metric
from sim.studies.points import Changes, Keeps, Point, Row, run_points
from sim.studies.rate_search import Variant, highest_rates, rate_of
from sim.studies.store import kept_or_stored
from sim.views.showing import ShownSensitivity

if TYPE_CHECKING:
    import polars

CAPACITY = "capacity"
RESOLUTION = 0.002  # relative, of a capacity; a tenth more of a knob then has 50 steps to be seen in
FIRST_STEP = 1.05  # from the unchanged capacity; each further step is twice as far


@dataclass(frozen=True)
class Effect:
    """What one knob does to the metric. `elasticity`: percent of the metric per percent of the knob.
    `more`: the relative change of the metric with `factor` times the knob, in the mean over seeds.

    `note` says why there is no number, or what the number cannot tell.
    """

    key: str
    value: float
    factor: float
    elasticity: Interval
    more: Interval
    seeds: int
    note: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the elasticity leaves no room for no effect."""
        return self.elasticity.excludes_zero


@dataclass(frozen=True)
class Sensitivity(ShownSensitivity):
    """`effects`, the strongest first; `metric` is `base` where nothing is changed. `left_out` has the knobs
    that no run has numbers for, with the reason. `resolution` is relative, 0 where the metric is exact.
    """

    metric: str
    base: float
    effects: tuple[Effect, ...]
    left_out: Mapping[str, str]
    resolution: float
    rows: tuple[Row, ...]

    def table(self) -> polars.DataFrame:
        """One line a knob: `elasticity` with `low` and `high`, and `more` as a share of the metric."""
        import polars

        return polars.DataFrame(
            [
                {
                    "key": one.key,
                    "value": float(one.value),
                    "elasticity": one.elasticity.mean,
                    "low": one.elasticity.low,
                    "high": one.elasticity.high,
                    "factor": one.factor,
                    "more": one.more.mean,
                    "is_clear": one.is_clear,
                    "seeds": one.seeds,
                    "note": one.note,
                }
                for one in self.effects
            ]
        )


def sensitivity(
    scenario: Scenario,
    metric: str,
    seeds: Iterable[int] = range(3),
    keys: str | Iterable[str] = (),
    slo: Mapping[str, float] | None = None,
    step: float = 0.1,
    executor: Executor | None = None,
    progress: bool | None = None,
    keep: Keeps | None = None,
    store: str | Path | None = None,
    confidence: float = 0.95,
) -> Sensitivity:
    """How a metric follows every hardware constant and engine knob.

    Args:
        scenario: the knobs are the numbers of its topology, engines and router that are not zero.
        metric: a number of `Result.summary()`, or `"capacity"`: the highest rate at which `slo` holds.
        seeds: each is paired with itself; the intervals are over them.
        keys: patterns of keys to look at, as in `"topology.links.*"`; the fitted constants of kernels and the
            workload are looked at only where a pattern names them.
        slo: the objectives of a capacity, as in `sim.capacity`.
        step: how much more and less of each knob, relative.
        executor, progress, keep, store: as in `sweep`.

    Raises InputError for an unknown metric, patterns that fit nothing, and a scenario that does not run.
    """
    seeds = list(seeds)
    if not seeds:
        raise InputError("seeds is empty: give one or more, as in range(3)")
    if not 0.0 < step < 1.0:
        raise InputError(f"step = {step:g}: must be between 0 and 1, as in 0.1")
    if metric == CAPACITY and not slo:
        raise InputError("the capacity is under objectives: give slo, as in {'p99_ttft_ms': 500}")
    if slo and metric != CAPACITY:
        raise InputError(f"slo belongs to the metric 'capacity', and the metric is {metric!r}")
    patterns = (keys,) if isinstance(keys, str) else tuple(keys)
    sides: list[tuple[Knob, Changes, float]] = []
    left_out: dict[str, str] = {}
    knobs = knobs_of(scenario, patterns)
    for knob in knobs:
        for factor in (1.0 + step, 1.0 - step):
            found = knob.times(factor, scenario)
            if found is None:
                left_out[knob.key] = f"no whole number lies {step:.0%} from {knob.value:g}; sweep it"
            else:
                sides.append((knob, tuple(found[0].items()), found[1]))
    changes: list[Changes] = [(), *(one for _, one, _ in sides)]
    with kept_or_stored(keep, store) as rows_kept:
        if metric == CAPACITY:
            values, reasons, rows = _of_searches(
                scenario, slo or {}, changes, seeds, executor, progress, rows_kept
            )
        else:
            values, reasons, rows = _of_runs(scenario, metric, changes, seeds, executor, progress, rows_kept)
    if not values[0]:
        if any(row.status == "not run" for row in rows):
            raise KeyboardInterrupt  # it says nothing of the metric
        raise InputError(f"{metric} has no number to compare with: {reasons[0]}")
    resolution = RESOLUTION if metric == CAPACITY else 0.0
    by_knob: dict[str, list[tuple[float, dict[int, float], str]]] = {}
    for (knob, _, factor), found_values, reason in zip(sides, values[1:], reasons[1:], strict=True):
        by_knob.setdefault(knob.key, []).append((factor, found_values, reason))
    effects = []
    for knob in knobs:
        if knob.key in by_knob:
            effect = _effect(knob, by_knob[knob.key], values[0], resolution, confidence)
            if isinstance(effect, str):
                left_out[knob.key] = effect
            else:
                effects.append(effect)
    effects.sort(key=lambda one: (-abs(one.elasticity.mean), one.key))
    base = math.fsum(values[0].values()) / len(values[0])
    return Sensitivity(metric, base, tuple(effects), left_out, resolution, tuple(rows))


def _effect(
    knob: Knob,
    sides: Sequence[tuple[float, dict[int, float], str]],
    base: dict[int, float],
    resolution: float,
    confidence: float,
) -> Effect | str:
    """The effect of a knob, or why there is none. A side that cannot be is replaced by what is unchanged."""
    known = [(factor, values) for factor, values, _ in sides if values]
    reason = next((reason for _, _, reason in sides if reason), "")
    if not known:
        return reason
    note = f"one side only: {reason}" if len(known) < len(sides) else ""
    (high, above), (low, below) = known if len(known) == 2 else (known[0], (1.0, base))
    seeds = [seed for seed in base if seed in above and seed in below]
    slopes, more = [], []
    for seed in seeds:
        if min(above[seed], below[seed], base[seed]) <= 0.0:
            continue  # a metric of zero has no logarithm
        slopes.append((math.log(above[seed]) - math.log(below[seed])) / (math.log(high) - math.log(low)))
        more.append(above[seed] / base[seed] - 1.0)
    if not slopes:
        return reason or "the metric is zero, or without a number, for every seed"
    elasticity, change = mean_interval(slopes, confidence), mean_interval(more, confidence)
    if not any(slopes) and not any(more):
        note = "no effect"
        elasticity = change = Interval(0.0, 0.0, 0.0)
    elif resolution and abs(change.mean) <= resolution:
        note = f"below the resolution of {resolution:.1%}"
    return Effect(knob.key, knob.value, high, elasticity, change, len(slopes), note)


def _of_runs(
    scenario: Scenario,
    metric: str,
    changes: Sequence[Changes],
    seeds: Sequence[int],
    executor: Executor | None,
    progress: bool | None,
    keep: Keeps | None,
) -> tuple[list[dict[int, float]], list[str], list[Row]]:
    """The metric by seed of every set of changes, and a reason where it has none."""
    points = [Point(0, one, seed) for one in changes for seed in seeds]
    rows = run_points([scenario], points, executor, progress, keep)
    values: list[dict[int, float]] = []
    reasons: list[str] = []
    for number in range(len(changes)):
        found: dict[int, float] = {}
        reason = ""
        for row in rows[number * len(seeds) : (number + 1) * len(seeds)]:
            if row.status != "done":
                reason = row.reason
                continue
            check_metric(metric, row.summary)
            value = row.summary[metric]
            if isinstance(value, int | float) and math.isfinite(value):
                found[row.point.seed] = float(value)
            else:
                reason = f"{metric} has no number: some requests never got that far"
        values.append(found)
        reasons.append(reason)
    return values, reasons, rows


def _of_searches(
    scenario: Scenario,
    slo: Mapping[str, float],
    changes: Sequence[Changes],
    seeds: Sequence[int],
    executor: Executor | None,
    progress: bool | None,
    keep: Keeps | None,
) -> tuple[list[dict[int, float]], list[str], list[Row]]:
    """The capacity by seed of every set of changes. The unchanged one first, from afar; then it and the
    others from where it came to, all by the same steps: a short run may hold a rate above one that it does
    not hold, and two searches that look at other rates end at other ones.
    """
    begins = Variant(changes[0], rate_of(scenario))
    (afar,) = highest_rates(scenario, [begins], slo, seeds, RESOLUTION, executor, progress, keep)
    if not afar.by_seed:
        return [{} for _ in changes], [afar.reason] * len(changes), list(afar.rows)
    variants = [Variant(one, afar.mean, FIRST_STEP) for one in changes]
    found = highest_rates(scenario, variants, slo, seeds, RESOLUTION, executor, progress, keep)
    rows = [row for one in (afar, *found) for row in one.rows]
    return [dict(one.by_seed) for one in found], [one.reason for one in found], rows
