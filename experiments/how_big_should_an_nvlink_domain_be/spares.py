"""Spare GPUs: 64 of a rack's 72 serve. GPUs fail alone, trays together, and operators have a rule.

A unit is up for an exponential time and then in repair for another (a crew for each), so that the chance of a
unit being down is q = MTTR / (MTBF + MTTR), and that of enough being up a binomial. Operators of GB200 racks
do not repair every tray at once: they go on with two of 18 trays down, and when a third fails they take the
whole rack, with its 72 GPUs, until all three are repaired (CoreWeave's documentation of GB200 racks). That is
a chain of four states: 0, 1 and 2 trays down and waiting, and the rack in repair.

By hand: a tray of four GPUs, each of which fails every 50,700 hours, fails every 12,675; of 18 trays the
third has failed after (1/18 + 1/17 + 1/16) of that, 93 days. A repair of three days then costs 3 %
of the time.
Where it stops: failures are exponential, where field data are Weibull with a falling rate; one rack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from sim.theory import domain_sizing as theory
from sim.views.answer import Figure, Row, Section

from . import draw

GPU_MTBF_H = 50_700.0
FAILURES = "Llama 3 (arXiv 2407.21783): 419 unplanned interruptions of 16,384 H100 in 54 days"
RULE = "CoreWeave, GB200 racks: two trays may be down, a third takes the rack"
BINOMIAL = "closed form: units fail independently"
REPAIRS_H = (4.0, 24.0, 72.0, 168.0)  # assumed: from a reset to a part that is ordered
DOWN = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08)  # shares of time in which a unit is down
SHOWN = (0.02, 0.05)
TRAYS, TRAY, GPUS, NEEDED = 18, 4, 72, 64
TOLERATED = 2
FAILURES_SEEN = {True: 1_500, False: 30_000}  # in each simulation


@dataclass(frozen=True)
class Units:
    """What fails together, and how many of it have to be up."""

    name: str
    units: int
    needed: int

    def short(self, down: float) -> float:
        """The probability that fewer are up, each down for this share of its time (binomial)."""
        return 1.0 - theory.at_least_up(self.needed, self.units, down)


ALONE = Units("64 of 72 GPUs, each fails alone", GPUS, NEEDED)
TOGETHER = Units("16 of 18 trays, each fails with its four GPUs", TRAYS, TRAYS - TOLERATED)
NO_SPARES = Units("all of 72 GPUs", GPUS, GPUS)


def rule_closed(repair_h: float, tray_mtbf_h: float = GPU_MTBF_H / TRAY) -> float:
    """The share of time in which the rack is in repair: it serves until a third tray has failed.

    Example: a repair of a day.
        >>> round(rule_closed(24.0), 4)
        0.0106
    """
    serving_h = sum(tray_mtbf_h / (TRAYS - down) for down in range(TOLERATED + 1))
    return repair_h / (serving_h + repair_h)


def simulated(of: Units, down: float, failures: int, seed: int = 0) -> float:
    """The share of time in which fewer than needed are up: units on a clock, each with a crew of its own."""
    env, random = simpy.Environment(), np.random.default_rng(seed)
    repair = down / (1.0 - down)  # in units of the time between failures
    up, short, since = of.units, 0.0, 0.0

    def count(change: int) -> None:
        nonlocal up, short, since
        if up < of.needed:
            short += env.now - since
        up, since = up + change, env.now

    def unit() -> Iterator[Any]:
        while True:
            yield env.timeout(random.exponential())
            count(-1)
            yield env.timeout(random.exponential(repair))
            count(+1)

    for _ in range(of.units):
        env.process(unit())
    end = failures * (1.0 + repair) / of.units
    env.run(end)
    count(0)
    return short / end


def rule_simulated(repair_h: float, failures: int, seed: int = 0) -> float:
    """The operators' rule on a clock: trays fail one by one, and the third failure takes the rack."""
    env, random = simpy.Environment(), np.random.default_rng(seed)
    tray_mtbf_h, lost_h = GPU_MTBF_H / TRAY, 0.0

    def rack() -> Iterator[Any]:
        nonlocal lost_h
        for _ in range(failures // (TOLERATED + 1)):
            for down in range(TOLERATED + 1):
                yield env.timeout(random.exponential(tray_mtbf_h, TRAYS - down).min())
            repair = random.exponential(repair_h)
            yield env.timeout(repair)
            lost_h += repair

    env.process(rack())
    env.run()
    return lost_h / env.now


def section(quick: bool) -> Section:
    failures = FAILURES_SEEN[quick]
    return Section(
        "Spares: 64 GPUs and 8",
        (
            ("72 divides neither the 64 heads of a model nor its 256 experts, so that 64 GPUs serve and "
            "eight are spare. Whether eight are enough depends on what fails together. A GPU that fails "
            "alone takes one; a tray takes its four. Operators wait longer: two of 18 trays may be down, "
            "and the third takes the rack until all are repaired."),
            ("Every point is worked out in closed form and counted on a clock, on which units fail and are "
            "repaired."),
        ),
        tuple(rows(failures)),
        takeaway(),
        f"failures measured ({FAILURES}: one in {GPU_MTBF_H:,.0f} GPU-hours); times to repair assumed; "
        "exponential failures, where field data say that they come in clusters.",
        (Figure("spares", figure_takeaway(), lambda: picture(failures)),),
    )  # fmt: skip


def rows(failures: int) -> Iterator[Row]:
    for of in (ALONE, TOGETHER, NO_SPARES):
        for down in DOWN:
            counted = simulated(of, down, failures) if down in SHOWN else of.short(down)
            what = "probability of fewer" + (", counted" if down in SHOWN else "")
            yield Row(f"{of.name}, each down {down:.1%}", what, "", None, counted, source=BINOMIAL,
                      estimate=of.short(down))  # fmt: skip
    for repair_h in REPAIRS_H:
        case = f"two trays may be down, repairs take {repair_h:.0f} h"
        yield Row(case, "share of time that the rack is out", "", None, rule_simulated(repair_h, failures),
                  source=RULE, estimate=rule_closed(repair_h))  # fmt: skip
        down = repair_h / (GPU_MTBF_H / TRAY + repair_h)
        at_once = TOGETHER.short(down)
        yield Row(case, "the same if each tray is repaired at once", "", None, at_once, source=BINOMIAL)
        alone = NO_SPARES.short(repair_h / (GPU_MTBF_H + repair_h))
        yield Row(
            case, "the same without spares, each GPU repaired at once", "", None, alone, source=BINOMIAL
        )


def takeaway() -> str:
    alone, together = ALONE.short(0.02), TOGETHER.short(0.02)
    rule, at_once = rule_closed(72.0), TOGETHER.short(72.0 / (GPU_MTBF_H / TRAY + 72.0))
    none = NO_SPARES.short(72.0 / (GPU_MTBF_H + 72.0))
    return (
        f"Eight spares are far too many for GPUs that fail alone (fewer than 64 up {alone:.1e} of the time "
        f"at 2 % down) and just enough for trays ({together:.2%}). With repairs of three days the operators' "
        f"rule costs {rule:.1%} of the rack's time, repairing each tray at once {at_once:.1e}, and no spares "
        f"at all {none:.1%}: the rule buys one visit in place of three, not hours."
    )


def figure_takeaway() -> str:
    return (
        "what fails together decides how many spares a domain needs; lines are closed forms, dots are "
        "counted on a clock."
    )


def picture(failures: int) -> draw.Chart:
    import altair as alt

    from sim.views.files import rows as values

    finer = [0.005 * step for step in range(1, 21)]
    data = [
        {"down": 100 * down, "short": of.short(down), "kind": of.name}
        for of in (ALONE, TOGETHER, NO_SPARES) for down in finer if of.short(down) > 1e-7
    ]  # fmt: skip
    dots = [
        {"down": 100 * down, "short": short, "kind": of.name}
        for of in (ALONE, TOGETHER, NO_SPARES) for down in SHOWN
        if (short := simulated(of, down, failures)) > 0.0
    ]  # fmt: skip
    hours = [2.0 * 1.25**step for step in range(21)]
    kinds = {
        "operators' rule": rule_closed,
        "each tray repaired at once": lambda h: TOGETHER.short(h / (GPU_MTBF_H / TRAY + h)),
        "no spares": lambda h: NO_SPARES.short(h / (GPU_MTBF_H + h)),
    }
    lost = [
        {"hours": h, "lost": 100 * share(h), "kind": kind} for kind, share in kinds.items() for h in hours
        if share(h) > 1e-7
    ]  # fmt: skip
    lost_dots = [
        {"hours": h, "lost": 100 * rule_simulated(h, failures), "kind": "operators' rule"} for h in REPAIRS_H
    ]
    left_x, left_y = (
        draw.axis("down", "share of time that a GPU or tray is down, %"),
        draw.axis("short", "probability of too few (log)", log=True),
    )
    right_x, right_y = (
        draw.axis("hours", "hours of a repair (log)", log=True),
        draw.axis("lost", "share of time that the rack is out, % (log)", log=True),
    )

    def panel(line: list[Any], points: list[Any], x: Any, y: Any, title: str) -> draw.Chart:
        lines = draw.lines(line, x, y, colour="kind", title=title)
        marks = alt.Chart(values(points)).mark_point(filled=True, size=70, opacity=1)
        return alt.layer(lines, marks.encode(x=f"{x['field']}:Q", y=f"{y['field']}:Q", color="kind:N"))

    return draw.beside(
        [
            panel(data, dots, left_x, left_y, "64 of 72"),
            panel(lost, lost_dots, right_x, right_y, "the operators' rule"),
        ],
        "Spare GPUs of a rack of 72",
        "lines: closed form; dots: counted on a clock",
        independent=True,
    )
