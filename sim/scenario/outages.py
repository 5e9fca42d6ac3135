"""The outages of a scenario, in the order in which they begin: those that it states, those of its list, and
those that are drawn, each with the faults of single things that it comes to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sim.inputs.errors import InfeasibleError, InputError, Problem
from sim.inputs.faults import Fault
from sim.inputs.outages import Outage, PartOutage, RandomOutages, Slowed
from sim.reading.failure_rates import FailureRates, Repair, failure_rates, repair_times, weibull_shape
from sim.reading.outage_lists import recorded_outages
from sim.reading.problems import did_you_mean
from sim.scenario.parts_that_fail import FailingPart, PartsThatFail, shelves_of
from sim.workload.outage_times import Lifetimes, outage_times

if TYPE_CHECKING:
    from sim.scenario.scenario import Scenario

HOUR_S = 3600.0
MAX_OUTAGES = 20_000  # of a run; 16,384 GPUs have 419 in 54 days
STATED, RECORDED = "stated", "recorded"


@dataclass(frozen=True, slots=True)
class ClassOfFailures:
    """Failures of one cause: which kind of part they take, and how often, one part."""

    cause: str
    kind: str
    mean_up_s: float
    repair: Repair


def outages_of(scenario: Scenario, seed: int) -> tuple[Outage, ...]:
    """All outages of a run. InputError for what names nothing, and for a list that cannot be read;
    InfeasibleError where more are drawn than a run can hold.
    """
    wanted = scenario.outages
    if wanted is None:
        return ()
    parts = parts_of(scenario)
    found = list(_stated(parts, wanted.at))
    if wanted.recorded:
        found += _recorded(parts, Path(wanted.recorded))
    if wanted.random is not None:
        end_s = _until(scenario, wanted.random)
        found += drawn(parts, wanted.random, end_s, seed if wanted.seed is None else wanted.seed)
    if len(found) > MAX_OUTAGES:
        raise InfeasibleError(
            f"outages come to {len(found):,} parts that fail, of which at most {MAX_OUTAGES:,} are simulated",
            "a compute_tray, host or rack takes all of its GPUs as one",
        )
    in_order = sorted(found, key=lambda one: (one.at_s, one.kind, one.name))
    return tuple(_with_dark_racks(parts, in_order))


def parts_of(scenario: Scenario) -> PartsThatFail:
    """The parts of a scenario's machine."""
    replicas = sum(pool.replicas * pool.ranks_apart for pool in scenario.all_pools.values())
    return PartsThatFail(scenario.wired, replicas)


def problems_of_outages(scenario: Scenario) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What the keys of `outages` name that is not there, each with its key. The list is not read."""
    wanted = scenario.outages
    if wanted is None:
        return
    parts = parts_of(scenario)
    for number, one in enumerate(wanted.at):
        try:
            parts.named(one.kind, one.name)
        except ValueError as problem:
            key = "name" if parts.of_kind(one.kind) else "kind"
            yield ("outages", "at", number, key), str(problem)
    random = wanted.random
    if random is None:
        return
    yield from _problems_of_rates(parts, random)
    for kind in random.together:
        if not parts.of_kind(kind):
            yield ("outages", "random", "together", kind), _nothing_of(parts, kind)
    if random.until_s is None and scenario.time_limit_s is None and scenario.workload.duration_s is None:
        what = "is needed where neither time_limit_s nor workload.duration_s says how long the run lasts"
        yield ("outages", "random", "until_s"), what


def _problems_of_rates(
    parts: PartsThatFail, random: RandomOutages
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    at = ("outages", "random")
    kinds: set[str]
    if isinstance(random.rates, str):
        sets = failure_rates()
        rates = sets.get(random.rates)
        drawable = [name for name, one in sets.items() if one.classes]
        if rates is None:
            near = did_you_mean(random.rates, drawable)
            yield (*at, "rates"), f"{random.rates!r} is no set of rates; {', '.join(drawable)} are{near}"
            return
        if not rates.classes:
            yield (*at, "rates"), f"{rates.name} has no rate: {rates.title}; {', '.join(drawable)} have"
            return
        if (rates.per == "shares") != (random.gpu_time_between_failures_s is not None):
            needs = "are shares of classes alone, and need" if rates.per == "shares" else "need no"
            what = f"rates {rates.name} {needs} the time between failures of one GPU"
            yield (*at, "gpu_time_between_failures_s"), what
        kinds = {one.fails for one in rates.classes}
    else:
        kinds = set(random.rates)
        for kind in random.rates:
            if not parts.of_kind(kind):
                yield (*at, "rates", kind), _nothing_of(parts, kind)
        if random.gpu_time_between_failures_s is not None:
            what = "goes with rates that are shares alone; these have their times"
            yield (*at, "gpu_time_between_failures_s"), what
    for number, kind in enumerate(random.kinds):
        if kind not in kinds:
            what = f"no class of {_name(random)} takes a {kind}; they take {', '.join(sorted(kinds))}"
            yield (*at, "kinds", number), what
        elif not parts.of_kind(kind):
            yield (*at, "kinds", number), _nothing_of(parts, kind)


def _name(random: RandomOutages) -> str:
    return random.rates if isinstance(random.rates, str) else "the rates given"


def _nothing_of(parts: PartsThatFail, kind: str) -> str:
    try:
        parts.named(kind, "*")
    except ValueError as problem:
        return str(problem)
    raise AssertionError(f"there are parts of kind {kind}")


# ---- stated, and recorded


def _stated(parts: PartsThatFail, at: tuple[PartOutage, ...], cause: str = STATED) -> Iterator[Outage]:
    for one in at:
        for name in parts.named(one.kind, one.name)[: MAX_OUTAGES + 1]:
            yield outage(parts, one.kind, name, one, cause)


def _recorded(parts: PartsThatFail, path: Path) -> list[Outage]:
    found: list[Outage] = []
    problems: list[Problem] = []
    for line, one in recorded_outages(path):
        try:
            found += _stated(parts, (one,), RECORDED)
        except ValueError as problem:
            key = "name" if parts.of_kind(one.kind) else "kind"
            problems.append(Problem(str(problem), str(path), line, key))
        if len(found) > MAX_OUTAGES:
            break
    if problems:
        raise InputError(problems)
    return found


def outage(parts: PartsThatFail, kind: str, name: str, said: PartOutage, cause: str) -> Outage:
    """One part's outage, with the faults that it comes to."""
    part, at_s, until_s = parts.of_kind(kind)[name], said.at_s, said.until_s
    slower = part.slower if said.slower is None else said.slower
    if slower is not None and part.gpus:
        slowed = tuple(Slowed(gpu, slower, at_s, until_s) for gpu in part.gpus)
        return Outage(kind, name, at_s, until_s, cause, said.warned_s, slowed=slowed)
    faults = tuple(_faults(part, kind, at_s, until_s, said.capacity or 0.0))
    return Outage(kind, name, at_s, until_s, cause, said.warned_s, faults)


def _faults(
    part: FailingPart, kind: str, at_s: float, until_s: float | None, capacity: float
) -> Iterator[Fault]:
    if kind == "power_shelf":  # what stops is worked out from all of a rack together
        return
    if part.node:
        yield Fault(at_s=at_s, until_s=until_s, node=part.node)
        return
    if part.replica is not None:
        yield Fault(at_s=at_s, until_s=until_s, replica=part.replica)
    for gpu in part.gpus:
        yield Fault(at_s=at_s, until_s=until_s, gpu=gpu)
    for place in part.places:
        yield Fault(at_s=at_s, until_s=until_s, place=place, capacity=capacity)
    for link, share in part.links:
        yield Fault(at_s=at_s, until_s=until_s, link=link, capacity=max(0.0, 1.0 - share * (1.0 - capacity)))


def _with_dark_racks(parts: PartsThatFail, outages: list[Outage]) -> Iterator[Outage]:
    """The same outages; a rack stops while it has fewer power shelves than it needs, as part of the outage of
    the shelf that was one too many.
    """
    stops: dict[int, list[Fault]] = {}
    by_rack: dict[str, list[int]] = {}
    for number, one in enumerate(outages):
        if one.kind == "power_shelf":
            by_rack.setdefault(one.name.partition(".")[0], []).append(number)
    for rack, numbers in by_rack.items():
        there, needed = shelves_of(parts, rack)
        ends_s = [float("inf") if outages[n].until_s is None else outages[n].until_s or 0.0 for n in numbers]
        events = sorted(
            [(outages[n].at_s, 1, n) for n in numbers]
            + [(end_s, -1, n) for end_s, n in zip(ends_s, numbers, strict=True) if end_s < float("inf")]
        )
        down: list[int] = []
        dark: tuple[float, int] | None = None
        for at_s, change, number in events:
            down = [*down, number] if change > 0 else [one for one in down if one != number]
            short = there - len({outages[one].name for one in down}) < needed
            if short and dark is None:
                dark = at_s, number
            elif dark is not None and not short:
                stops.setdefault(dark[1], []).append(Fault(at_s=dark[0], until_s=at_s, node=rack))
                dark = None
        if dark is not None:
            stops.setdefault(dark[1], []).append(Fault(at_s=dark[0], node=rack))
    for number, one in enumerate(outages):
        yield replace(one, faults=(*one.faults, *stops[number])) if number in stops else one


# ---- drawn


def _until(scenario: Scenario, random: RandomOutages) -> float:
    ends = (random.until_s, scenario.time_limit_s, scenario.workload.duration_s)
    return next((end_s for end_s in ends if end_s is not None), 0.0)


def drawn(parts: PartsThatFail, random: RandomOutages, until_s: float, seed: int) -> list[Outage]:
    """Outages at random that begin before `until_s`. Each class of failures and each part has a random stream
    of its own.
    """
    found: list[Outage] = []
    for one in classes_of(parts, random):
        names = list(parts.of_kind(one.kind))
        lives = lifetimes(one, random)
        for number, at_s, back_s, stream in outage_times(len(names), lives, until_s, seed, one.cause):
            kind, name = one.kind, names[number]
            for whole, chance in random.together.items():  # each is drawn, so that one changes no other
                taken = stream.random() < chance
                inside = parts.enclosing(whole, parts.of_kind(one.kind)[names[number]]) if taken else None
                if inside is not None:
                    kind, name = whole, inside
            warned = stream.random() < random.warned
            warned_s = max(0.0, at_s - random.warned_before_s) if warned else None
            said = PartOutage.model_construct(
                kind=kind, name=name, at_s=at_s, until_s=back_s, capacity=None, slower=None, warned_s=warned_s
            )
            found.append(outage(parts, kind, name, said, one.cause))
            if len(found) > MAX_OUTAGES:
                raise InfeasibleError(
                    f"outages.random draws more than {MAX_OUTAGES:,} outages before {until_s:g} s",
                    f"an acceleration below {random.acceleration * at_s / until_s:.3g} draws fewer",
                )
    return found


def lifetimes(one: ClassOfFailures, random: RandomOutages) -> Lifetimes:
    """How long a part is up and in repair, accelerated."""
    faster = random.acceleration if random.repair_acceleration is None else random.repair_acceleration
    shape = 1.0 if random.gaps == "exponential" else random.weibull_shape or weibull_shape()
    mean_s, median_s = random.repair_mean_s, random.repair_median_s
    return Lifetimes(
        one.mean_up_s / random.acceleration,
        shape,
        (one.repair.mean_s if mean_s is None else mean_s) / faster,
        (one.repair.median_s if median_s is None else median_s) / faster,
    )


def classes_of(parts: PartsThatFail, random: RandomOutages) -> Iterator[ClassOfFailures]:
    """The classes of failures that parts of this machine have. What a rate counts by GPU is divided over the
    parts of a kind; classes of kinds that the machine has not are left out (`left_out`).
    """
    if not isinstance(random.rates, str):
        for kind, mean_s in random.rates.items():
            if not random.kinds or kind in random.kinds:
                yield ClassOfFailures(kind, kind, mean_s, repair_times()["hardware"])
        return
    rates = failure_rates()[random.rates]
    for one in rates.classes:
        there = len(parts.of_kind(one.fails))
        if there and (not random.kinds or one.fails in random.kinds):
            mean_s = HOUR_S * _hours_between(parts, rates, one.events, there, random)
            yield ClassOfFailures(one.cause, one.fails, mean_s, repair_times()[one.repair])


def left_out(scenario: Scenario) -> tuple[str, ...]:
    """Classes of the scenario's rates that take parts which its machine does not have, in words."""
    random = scenario.outages.random if scenario.outages is not None else None
    if random is None or not isinstance(random.rates, str) or random.kinds:
        return ()
    parts = parts_of(scenario)
    return tuple(
        f"{one.cause}: {scenario.topology.name} has no {one.fails}"
        for one in failure_rates()[random.rates].classes
        if not parts.of_kind(one.fails)
    )


def _hours_between(
    parts: PartsThatFail, rates: FailureRates, events: float, there: int, random: RandomOutages
) -> float:
    """Hours between failures of one part."""
    if rates.per in ("node_hours", "part_hours"):
        return rates.watched / events
    gpus = len(parts.of_kind("gpu"))
    if rates.per == "shares":
        between_s = random.gpu_time_between_failures_s or 0.0
        return between_s / HOUR_S * sum(one.events for one in rates.classes) / events * there / gpus
    return rates.watched / events * there / gpus


def faults_in(scenario: Scenario, outages: tuple[Outage, ...]) -> tuple[Fault, ...]:
    """Everything that breaks, one thing at a time: the scenario's faults, and those of its outages."""
    return (*scenario.faults, *(fault for one in outages for fault in one.faults))


def slowed_by_gpu(outages: tuple[Outage, ...]) -> Mapping[str, tuple[Slowed, ...]]:
    """The times in which GPUs are slow."""
    found: dict[str, tuple[Slowed, ...]] = {}
    for one in outages:
        for slow in one.slowed:
            found[slow.gpu] = (*found.get(slow.gpu, ()), slow)
    return found
