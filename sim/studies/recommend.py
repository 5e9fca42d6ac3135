"""The layouts of a model on given GPUs that hold the objectives at the highest rate, and what the next one
lacks.

A candidate is a split (tensor, pipeline and data parallel ranks, experts over them or not), as many replicas
of it as the GPUs hold, one pool or prefill apart from decode, and values of a few knobs. Its goodput is the
highest request rate at which the objectives hold, over all the GPUs that are given (DistServe, OSDI 2024,
which takes 90 % of the requests; here `slo` says it). Successive halving (Jamieson and Talwalkar, AISTATS
2016): every candidate is searched over short runs, the better third over runs four times as long, until the
runs have the length of the scenario. Short runs end before a slow queue shows, so that they flatter; the
order is what they are for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError, InputError
from sim.results.metrics import meets, more_is_better
from sim.scenario import Scenario, with_changes
from sim.scenario.writing import write_scenario
from sim.studies.capacity import blame_of, blamed_on, in_words, mean_of
from sim.studies.points import Changes, Keeps, Point, Row, run_points
from sim.studies.progress import is_shown
from sim.studies.rate_search import RATE, Rates, Variant, highest_rates, rate_of
from sim.studies.store import kept_or_stored
from sim.views.showing import ShownRecommendation

if TYPE_CHECKING:
    import polars

ATTAINMENT = {"slo_attainment": 0.9}  # of requests that keep the workload's own objectives, as in DistServe
SPACE: Mapping[str, tuple[int, ...]] = {  # around vLLM's defaults: 2048 or 8192 tokens, 128 to 1024 sequences
    "engine.max_num_batched_tokens": (2048, 8192),
    "engine.max_num_seqs": (64, 256),
}
SHORTEST = 40  # requests of the first runs; with fewer a high percentile is one request
LONGER = 4  # times the length from rung to rung
KEPT = 3  # one in so many goes on
FEWEST = 4  # candidates go on, at least
COARSE, FINE = 0.1, 0.01  # resolution of a rate while candidates drop out, and of the last rung
LOADS = (0.125, 0.25, 0.5, 1.0)  # of the goodput: where the frontier is looked for
REQUESTS = "workload.requests"


@dataclass(frozen=True)
class Candidate:
    """A layout by name, and the changes that make the scenario one."""

    name: str
    changes: Changes


@dataclass(frozen=True)
class Ranked:
    """A candidate with its goodput: `rate_per_s` requests/s of all GPUs, from runs of `requests` requests.
    `reason` says why it is 0.
    """

    candidate: Candidate
    rate_per_s: float
    per_gpu: float
    requests: int | None
    reason: str = ""
    rates: Rates | None = field(default=None, repr=False)


@dataclass(frozen=True)
class FrontierPoint:
    """Tokens/s of a user against those of a GPU, at one request rate: no other point has more of both."""

    name: str
    rate_per_s: float
    tokens_per_s_per_user: float
    tokens_per_s_per_gpu: float


@dataclass(frozen=True)
class Recommendation(ShownRecommendation):
    """`ranked`, best first, those that were searched longest before the others; `runner_up` says what the
    second lacks; `infeasible` has what cannot be, with the reason.
    """

    ranked: tuple[Ranked, ...]
    frontier: tuple[FrontierPoint, ...]
    runner_up: str
    infeasible: Mapping[str, str]
    gpus: int
    rows: tuple[Row, ...]
    scenario: Scenario

    @property
    def best(self) -> Ranked:
        return self.ranked[0]

    def table(self) -> polars.DataFrame:
        import polars

        return polars.DataFrame(
            [
                {
                    "layout": one.candidate.name,
                    "requests_per_s": one.rate_per_s,
                    "requests_per_s_per_gpu": one.per_gpu,
                    "run_length": one.requests,
                    "reason": one.reason,
                }
                for one in self.ranked
            ]
        )

    def write(self, folder: str | Path) -> list[Path]:
        """Every candidate as a scenario that `sim run` takes, at the rate that was found for it, in files
        named by rank and layout.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for rank, one in enumerate(self.ranked, 1):
            described = with_changes(self.scenario, dict(one.candidate.changes))
            if 0.0 < one.rate_per_s < math.inf:
                described = with_changes(described, {RATE: one.rate_per_s})
            slug = one.candidate.name.replace(",", "").replace(":", "to").replace(" ", "-").lower()
            said = f"{one.candidate.name}: {one.rate_per_s:.4g} requests/s, {one.per_gpu:.4g} per GPU"
            paths.append(write_scenario(described, folder / f"{rank:03}-{slug}.yaml", said))
        return paths


def recommend(
    scenario: Scenario,
    slo: Mapping[str, float] | None = None,
    space: Mapping[str, Iterable[Any]] | None = None,
    seeds: Iterable[int] = (0,),
    candidates: Iterable[Candidate] | None = None,
    halving: bool = True,
    executor: Executor | None = None,
    progress: bool | None = None,
    keep: Keeps | None = None,
    store: str | Path | None = None,
) -> Recommendation:
    """The layouts of a scenario's model on its GPUs, by goodput per GPU.

    Args:
        scenario: its topology, model, precision and workload stay; its parallel sizes, replicas and pools are
            what is looked for. Its arrivals need a `rate_per_s`.
        slo: objectives as in `sim.capacity`; by default 0.9 of the requests keep those of the workload.
        space: knobs and the values to try for each, instead of SPACE.
        seeds: the goodput is the mean over them.
        candidates: instead of all layouts.
        halving: off, every candidate is searched over runs of full length.
        executor, progress, keep, store: as in `sweep`.

    Raises InputError without objectives or a rate, and InfeasibleError where no candidate holds at any rate.
    """
    seeds = list(seeds)
    objectives = dict(slo or (ATTAINMENT if scenario.workload.slos else {}))
    if not objectives:
        raise InputError(
            "there are no objectives: give slo, as in {'p99_ttft_ms': 500}, or workload.slo in the scenario"
        )
    if not seeds:
        raise InputError("seeds is empty: give one or more, as in range(3)")
    rate_of(scenario)
    if scenario.pools:
        raise InputError("pools are what is looked for: leave them out of the scenario")
    gpus = len(Network(scenario.wired.graph).gpus)
    tried = list(candidates) if candidates is not None else layouts(scenario, gpus, space)
    with kept_or_stored(keep, store) as rows_kept:
        runs = _Runs(scenario, objectives, seeds, executor, progress, rows_kept)
        return _recommended(runs, tried, gpus, halving)


def layouts(
    scenario: Scenario, gpus: int, space: Mapping[str, Iterable[Any]] | None = None
) -> list[Candidate]:
    """Every split that the model's heads and layers and the GPUs allow, with every pair of pools in quarters
    and every value of the knobs.
    """
    model = scenario.model
    knobs = {key: list(values) for key, values in (SPACE if space is None else space).items()}
    sizes = sorted({*(1 << power for power in range(gpus.bit_length())), *_divisors(gpus)})
    heads = model.heads
    found = []
    for tensor, pipeline, data in product(sizes, sizes, sizes if model.is_moe else (1,)):
        world = tensor * pipeline * data
        if world > gpus or heads % tensor or pipeline > model.layers:
            continue
        for experts in (False, True) if model.is_moe and tensor * data > 1 else (False,):
            if data > 1 and not experts:
                continue  # ranks without shared experts are replicas
            split: dict[str, Any] = {
                "engine.tensor_parallel_size": tensor,
                "engine.pipeline_parallel_size": pipeline,
                "engine.data_parallel_size": data,
                "engine.enable_expert_parallel": experts,
            }
            name = f"TP{tensor}" + (f" PP{pipeline}" if pipeline > 1 else "")
            name += (f" DP{data}" if data > 1 else "") + (f" EP{tensor * data}" if experts else "")
            replicas = gpus // world
            for shape, change in _pools(replicas):
                for values in product(*knobs.values()):
                    chosen = dict(zip(knobs, values, strict=True))
                    said = "".join(f", {key.rpartition('.')[2]} {value}" for key, value in chosen.items())
                    found.append(
                        Candidate(f"{name} {shape}{said}", tuple({**split, **chosen, **change}.items()))
                    )
    return found


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def _pools(replicas: int) -> list[tuple[str, dict[str, Any]]]:
    """All replicas alike, or a quarter, a half or three quarters of them for prefill."""
    found: list[tuple[str, dict[str, Any]]] = [(f"x{replicas}", {"replicas": replicas})]
    for prefill in sorted({max(1, round(replicas * share)) for share in (0.25, 0.5, 0.75)}):
        if prefill < replicas:
            decode = replicas - prefill
            pools = {
                "prefill": {"role": "prefill", "replicas": prefill},
                "decode": {"role": "decode", "replicas": decode},
            }
            found.append((f"{prefill}P:{decode}D", {"pools": pools}))
    return found


class _Runs:
    """What every search of a study shares, and the rows of all of them."""

    def __init__(
        self,
        scenario: Scenario,
        slo: dict[str, float],
        seeds: list[int],
        executor: Executor | None,
        progress: bool | None,
        keep: Keeps | None,
    ) -> None:
        self.scenario, self.slo, self.seeds = scenario, slo, seeds
        self.executor, self.progress, self.keep = executor, progress, keep
        self.rows: list[Row] = []

    def search(self, variants: list[Variant], resolution: float) -> list[Rates]:
        found = highest_rates(
            self.scenario, variants, self.slo, self.seeds, resolution, self.executor, self.progress, self.keep
        )
        self.rows += [row for one in found for row in one.rows]
        return found

    def run(self, points: list[Point]) -> list[Row]:
        found = run_points([self.scenario], points, self.executor, self.progress, self.keep)
        if any(row.status == "not run" for row in found):
            raise KeyboardInterrupt
        self.rows += found
        return found

    def say(self, text: str) -> None:
        if is_shown(self.progress):
            print(text, file=sys.stderr)


def _recommended(runs: _Runs, tried: Sequence[Candidate], gpus: int, halving: bool) -> Recommendation:
    lengths = _lengths(runs.scenario.workload.requests) if halving else [runs.scenario.workload.requests]
    written = rate_of(runs.scenario)
    going = [(candidate, written, 2.0) for candidate in tried]
    out: list[Ranked] = []
    infeasible: dict[str, str] = {}
    ranked: list[Ranked] = []
    for rung, length in enumerate(lengths, 1):
        is_last = rung == len(lengths)
        runs.say(f"round {rung} of {len(lengths)}: {len(going)} layouts, {length or 'all'} requests a run")
        variants = [Variant((*one.changes, *_requests(length)), rate, step) for one, rate, step in going]
        ranked = []
        for (candidate, _, _), rates in zip(
            going, runs.search(variants, FINE if is_last else COARSE), strict=True
        ):
            if not rates.by_seed and any(row.status != "done" for row in rates.rows):
                infeasible[candidate.name] = rates.reason
                continue
            is_known = len(rates.by_seed) == len(runs.seeds)
            rate = rates.mean_held if is_known else math.inf if rates.reason == "every rate holds" else 0.0
            reason = "" if is_known else rates.reason
            ranked.append(Ranked(candidate, rate, rate / gpus, length, reason, rates))
        ranked.sort(key=lambda one: -one.rate_per_s)  # stable: equals stay in the order of the layouts
        if not is_last:
            going_on = max(FEWEST, -(-len(ranked) // KEPT))
            out = ranked[going_on:] + out
            going = [
                (one.candidate, one.rate_per_s if math.isfinite(one.rate_per_s) else written, 1.3)
                for one in ranked[:going_on]
                if one.rate_per_s > 0.0
            ]
            if not going:
                break
    if not ranked or ranked[0].rate_per_s <= 0.0:
        reasons = {*infeasible.values(), *(one.reason for one in ranked)}
        raise InfeasibleError(
            f"no layout of {runs.scenario.model.name} on {gpus} GPUs holds {_said(runs.slo)} at any rate",
            next(iter(sorted(reasons)), "looser objectives, or more GPUs"),
        )
    frontier = _frontier(runs, ranked, gpus, lengths[-1])
    words = _runner_up(runs, ranked, lengths[-1])
    return Recommendation((*ranked, *out), frontier, words, infeasible, gpus, tuple(runs.rows), runs.scenario)


def _lengths(requests: int | None) -> list[int | None]:
    """Run lengths of the rounds, the scenario's own last."""
    if requests is None:
        return [None]
    found = [requests]
    while found[0] // LONGER >= SHORTEST:
        found.insert(0, found[0] // LONGER)
    return list(found)


def _requests(length: int | None) -> Changes:
    return () if length is None else ((REQUESTS, length),)


def _frontier(
    runs: _Runs, ranked: Sequence[Ranked], gpus: int, length: int | None
) -> tuple[FrontierPoint, ...]:
    """The points that no other one beats in both, of the last round's layouts at several loads."""
    holding = [one for one in ranked if 0.0 < one.rate_per_s < math.inf]
    places = [(one, load * one.rate_per_s) for one in holding for load in LOADS]
    rows = runs.run(
        [
            Point(0, (*one.candidate.changes, *_requests(length), (RATE, rate)), runs.seeds[0])
            for one, rate in places
        ]
    )
    points = []
    for (one, rate), row in zip(places, rows, strict=True):
        tpot_ms, tokens_per_s = row.summary.get("median_tpot_ms"), row.summary.get("output_throughput")
        if row.status == "done" and tpot_ms and tokens_per_s and math.isfinite(tpot_ms):
            points.append(FrontierPoint(one.candidate.name, rate, 1e3 / tpot_ms, tokens_per_s / gpus))
    best: list[FrontierPoint] = []
    for point in sorted(points, key=lambda one: (-one.tokens_per_s_per_user, -one.tokens_per_s_per_gpu)):
        if not best or point.tokens_per_s_per_gpu > best[-1].tokens_per_s_per_gpu:
            best.append(point)
    return tuple(best)


def _runner_up(runs: _Runs, ranked: Sequence[Ranked], length: int | None) -> str:
    """What the second layout lacks at the rate of the first, in words."""
    if len(ranked) < 2 or not math.isfinite(ranked[0].rate_per_s):
        return "there is no other layout to compare with"
    first, second = ranked[:2]
    rate = first.rate_per_s
    if second.rate_per_s == 0.0:
        return f"{second.candidate.name} holds at no rate: {second.reason}"
    points = [
        Point(0, (*one.candidate.changes, *_requests(length), (RATE, rate)), seed)
        for one in (first, second)
        for seed in runs.seeds
    ]
    rows = runs.run(points)
    ours, theirs = rows[: len(runs.seeds)], rows[len(runs.seeds) :]
    share = 1.0 - second.rate_per_s / rate
    begin = f"{second.candidate.name} holds {second.rate_per_s:.4g} requests/s, {share:.1%} less"
    if share <= FINE:
        return f"{begin}: no difference at this resolution of {FINE:.0%}"
    if any(row.status != "done" for row in rows):
        return begin
    broken = [name for name, limit in runs.slo.items() if not meets(_means(theirs, runs.slo), {name: limit})]
    name = broken[0] if broken else next(iter(runs.slo))
    latency = blamed_on(runs.scenario, name)
    mine, other = blame_of(latency, ours), blame_of(latency, theirs)
    values = _means(ours, runs.slo)[name], _means(theirs, runs.slo)[name]
    bound = "at least" if more_is_better(name) else "at most"
    text = (
        f"{begin}. At {rate:.4g} requests/s its {name} is {values[1]:.4g} and that of the first "
        f"{values[0]:.4g} ({bound} {runs.slo[name]:g} is asked)"
    )
    if mine and other:
        cause = max(other, key=lambda one: other[one] - mine[one])
        more = other[cause] - mine[cause]
        if more > 0.0:
            text += f"; {cause} is {more:.3g} ms more of {in_words(*latency)}"
    return text


def _means(rows: Sequence[Row], names: Iterable[str]) -> dict[str, float]:
    return {name: mean_of([row.summary[name] for row in rows]) for name in names}


def _said(slo: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {limit:g}" for name, limit in slo.items())
