"""Why 64 + 8? What do eight spare GPUs of a rack's 72 save, and what do they cost?

A rack of GB200 has 72 GPUs in 18 trays. An engine that spreads over the rack stops when any GPU of it does.
So operators let 64 serve and keep eight: two trays. Three things decide whether that pays: what fails
together, how long a repair takes, and how wide the engine is. Every layout is judged by one number, the share
of all 72 GPUs that serves in the mean, spares and outages counted.

Failures come at Llama 3's rate; their times are drawn as field data have them, Weibull with a falling hazard
and lognormal repairs (column "simulated"), and worked out by the binomial (column "by hand"), which knows
the means alone. The operators' rule (a third tray that is down takes the rack) is that of the study of NVLink
domains. Engines of eight GPUs are run as a service, with outages drawn two million times as often.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

import sim
from sim.reading.failure_rates import failure_rates, repair_times, weibull_shape
from sim.theory.domain_sizing import at_least_up
from sim.views.answer import Answer, Row, tell
from sim.views.files import save_chart
from sim.workload.outage_times import Lifetimes, outage_times

FOLDER = str(Path(__file__).resolve().parent)
if FOLDER not in sys.path:  # the study lies beside this script, however that is loaded
    sys.path.insert(0, FOLDER)
spares = import_module("how_big_should_an_nvlink_domain_be.spares")

QUESTION = "Why 64 + 8? What do eight spare GPUs of a rack's 72 save, and what do they cost?"
GPU_MTBF_H = failure_rates()["llama-3"].hours_between
REPAIRS_H = (4.0, 24.0, 72.0, 168.0)  # assumed: from a reset to a part that is ordered
SKEW = repair_times()["hardware"].median_s / repair_times()["hardware"].mean_s
GPUS, NEEDED, TRAY, TRAYS = 72, 64, 4, 18
YEARS = {True: 60, False: 1_500}  # of one rack, that are drawn
FIELD = "drawn: Weibull gaps of shape 0.7, lognormal repairs (Schroeder & Gibson 2006)"
NTP = "Nonuniform tensor parallelism (arXiv 2504.06095): 0.1 % of GPUs failed, nearly 10 % of throughput"
AT_ONCE = (
    "What stops is counted as out for the whole repair; a spare takes over at once here. What taking over "
    "costs (a restart, weights again) comes on top."
)
TOO_OFTEN = (
    "The service of nine engines starts requests over two million times too often, and its tokens/s fall by "
    "that as well; its availability is what a rack has."
)
EVERY = (
    "Every failure is taken as one of a GPU, at the rate of all 419 unplanned stops of Llama 3, software and "
    "network among them."
)
PACKED = "the same, in whole replicas of eight domains, hit ones packed"
HIT = "throughput lost, a hit domain stops (paper: nearly 10 %)"
RULE = "two trays may be down, a third takes the rack (CoreWeave)"


@dataclass(frozen=True)
class Layout:
    """How a rack serves: `groups` engines, each of which stops when fewer than `needed` of its `units` are
    up, units of `gpus` each; `serving` of 72 GPUs serve where all are up.
    """

    name: str
    groups: int
    units: int
    needed: int
    gpus: int
    serving: int

    def down(self, repair_h: float) -> float:
        """The share of its time that a unit is down: it fails when any of its GPUs does."""
        return repair_h / (GPU_MTBF_H / self.gpus + repair_h)

    def by_hand(self, repair_h: float) -> float:
        """The share of the 72 GPUs that serves, by the binomial."""
        return self.serving / GPUS * float(at_least_up(self.needed, self.units, self.down(repair_h)))

    def drawn(self, repair_h: float, years: float) -> float:
        """The same, counted over outages that are drawn."""
        until_h = years * 8_760.0
        lives = Lifetimes(GPU_MTBF_H / self.gpus, weibull_shape(), repair_h, SKEW * repair_h)
        up = [
            1.0 - short_of_time(self.units - self.needed, self.units, lives, until_h, f"{self.name} {group}")
            for group in range(self.groups)
        ]
        return self.serving / GPUS * fmean(up)


WIDE = Layout("one engine of 72, no spare", 1, GPUS, GPUS, 1, GPUS)
ALONE = Layout("one engine of 64, eight spare, GPUs are replaced one by one", 1, GPUS, NEEDED, 1, NEEDED)
TOGETHER = Layout("one engine of 64, eight spare, a GPU takes its tray of four", 1, TRAYS, 16, TRAY, NEEDED)
NARROW = Layout("nine engines of eight, no spare", 9, 8, 8, 1, GPUS)
LAYOUTS = (WIDE, ALONE, TOGETHER, NARROW)


def short_of_time(spare: int, units: int, lives: Lifetimes, until_h: float, source: str) -> float:
    """The share of the time in which more than `spare` units are down at once."""
    drawn = list(outage_times(units, lives, until_h, 0, source))
    times = np.array([time for _, at, back, _ in drawn for time in (at, min(back, until_h))])
    change = np.tile([1, -1], len(drawn))
    order = np.argsort(times, kind="stable")
    out = np.cumsum(change[order])
    lasts = np.diff([*times[order], until_h])
    return float(lasts[out > spare].sum() / until_h)


def rule(repair_h: float) -> float:
    """The share of the 72 GPUs that serves under the operators' rule, in closed form."""
    return NEEDED / GPUS * (1.0 - spares.rule_closed(repair_h))


def pays_from_h() -> float:
    """The repair time from which 64 + 8 serve more than 72 without spares: by bisection."""
    low, high = 1.0, 1_000.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if WIDE.by_hand(middle) > ALONE.by_hand(middle) else (low, middle)
    return high


def uneven(quick: bool) -> list[Row]:
    """A thousandth of the GPUs failed, tensor parallel over 72."""
    failed, rng = 0.001, np.random.default_rng(0)
    domains, draws = 455, 200 if quick else 5_000  # of 32,768 GPUs, as in the paper
    dead = rng.binomial(GPUS, failed, (draws, domains))
    hit = (dead > 0).mean()
    by_hand = 1.0 - (1.0 - failed) ** GPUS
    whole = fmean(8 * -(-int(lost) // 8) / domains for lost in (dead > 0).sum(axis=1))
    case = "0.1 % of GPUs failed, tensor parallel over 72"
    stop = log(0.9) / log(1.0 - failed)
    return [
        Row(case, HIT, "", None, float(hit), source=NTP, estimate=by_hand),
        Row(case, PACKED, "", None, whole, source=NTP),
        Row(
            case, "throughput lost, uneven shards (paper: about 0)", "", None, float(dead.mean()) / GPUS,
            source=NTP, estimate=failed,
        ),
        Row(case, "GPUs that stop with each that fails, for the loss of 10 %", "", None, stop),
    ]  # fmt: skip


def served(repair_h: float, quick: bool) -> list[Row]:
    """Nine engines of eight GPUs as a service, with outages as often as makes a run of seconds tell."""
    users, seconds = (18, 200.0) if quick else (36, 400.0)
    accelerated = 2e6
    outages = {
        "random": {
            "rates": {"gpu": GPU_MTBF_H * 3600.0},
            "acceleration": accelerated,
            "repair_mean_s": repair_h * 3600.0,
            "repair_median_s": SKEW * repair_h * 3600.0,
        }
    }
    base = {
        "topology": "gb200-nvl72",
        "model": "llama-3.1-70b",
        "precision": {"weights": "fp8"},
        "replicas": 9,
        "engine": {"tensor_parallel_size": 8, "max_model_len": 4096},
        "workload": {
            "arrivals": {"kind": "closed_loop", "users": users},
            "prompt_tokens": 500,
            "output_tokens": 200,
            "duration_s": seconds,
        },
    }
    whole = sim.simulate(sim.Scenario.model_validate(base))
    hit = sim.simulate(sim.Scenario.model_validate({**base, "outages": outages}))
    numbers = hit.summary()["outages"]
    case = f"nine engines of eight as a service, repairs of {repair_h:.0f} h"
    rate = hit.summary()["output_throughput"] / whole.summary()["output_throughput"]
    return [
        Row(case, "availability of the engines", "", None, numbers["availability"],
            estimate=NARROW.by_hand(repair_h)),
        Row(case, "output tokens/s, of those without outages", "", None, rate),
        Row(case, f"requests hurt by {numbers['count']} outages", "", None, float(numbers["hurt_requests"])),
    ]  # fmt: skip


def answer(quick: bool) -> Answer:
    """Every layout at every repair time."""
    rows: list[Row] = []
    for repair_h in REPAIRS_H:
        case = f"repairs of {repair_h:.0f} h"
        for layout in LAYOUTS:
            rows.append(
                Row(case, f"GPUs that serve, of 72: {layout.name}", "", None,
                    layout.drawn(repair_h, YEARS[quick]), source=FIELD, estimate=layout.by_hand(repair_h))
            )  # fmt: skip
        rows.append(
            Row(case, f"GPUs that serve, of 72: one engine of 64, {RULE}", "", None,
                NEEDED / GPUS * (1.0 - spares.rule_simulated(repair_h, spares.FAILURES_SEEN[quick])),
                source=spares.RULE, estimate=rule(repair_h))
        )  # fmt: skip
    rows += served(72.0, quick)
    rows += uneven(quick)
    from_h = pays_from_h()
    day, week = REPAIRS_H[1], REPAIRS_H[3]
    found = {(row.case, row.quantity): row.simulated for row in rows}
    hit = found["0.1 % of GPUs failed, tensor parallel over 72", HIT]
    return Answer(
        QUESTION,
        tuple(rows),
        f"Not for availability alone. Eight spares cost {8 / 72:.1%} of the rack, and one engine over all 72 "
        f"loses as much only when repairs take {from_h:.0f} hours or more: with repairs of a day 72 without "
        f"spares serve {WIDE.by_hand(day):.1%} of the rack's GPUs and 64 + 8 {ALONE.by_hand(day):.1%}, with "
        f"repairs of a week {WIDE.by_hand(week):.1%} against {ALONE.by_hand(week):.1%}. Narrow engines need "
        f"none: nine of eight keep {NARROW.by_hand(week):.1%} in that week. 64 + 8 is right where the engine "
        "wants a power of two anyway, and then two trays are just enough: what fails is a tray.",
        (
            AT_ONCE,
            (
                f"Of the paper's loss of nearly 10 % the domains that are hit make {hit:.1%} (1 - 0.999^72 = "
                f"{1 - 0.999**72:.1%}). Whole replicas of eight domains, hit ones packed together, add less "
                "than a point. The rest must be that more stops with a failure than its domain: 105 GPUs in "
                "the mean would make 10 %. The abstract does not say what; this is arithmetic, not a finding "
                "of the paper."
            ),
            "Uneven shards lose only the GPUs that failed, where the other 71 can take the work: 0.1 %.",
            EVERY,
            TOO_OFTEN,
        ),
        lambda folder: [_chart(folder)],
    )


def _chart(folder: Path) -> Path:
    import altair as alt

    from sim.views.charts import CAUSE_COLOURS
    from sim.views.files import rows

    hours = [1.0 * 1.15**step for step in range(45)]
    table: list[dict[str, Any]] = [
        {"hours": repair_h, "serving": layout.by_hand(repair_h), "layout": layout.name}
        for layout in LAYOUTS
        for repair_h in hours
    ]
    ruled = "one engine of 64, operators' rule of two trays"
    table += [{"hours": repair_h, "serving": rule(repair_h), "layout": ruled} for repair_h in hours]
    names = [*(layout.name for layout in LAYOUTS), ruled]
    colours = [CAUSE_COLOURS[cause] for cause in ("collective_bytes", "memory", "kernel_latency",
               "prefill_compute", "pipeline")]  # fmt: skip
    lines = (
        alt.Chart(rows(table))
        .mark_line(strokeWidth=2.5, clip=True)
        .encode(
            x=alt.X("hours:Q", title="mean time to repair (h)", scale=alt.Scale(type="log", nice=False)),
            y=alt.Y(
                "serving:Q",
                title="GPUs that serve, of the rack's 72",
                scale=alt.Scale(domain=[0.6, 1.0]),
                axis=alt.Axis(format="%"),
            ),
            color=alt.Color(
                "layout:N",
                title=None,
                sort=names,
                scale=alt.Scale(domain=names, range=colours),
                legend=alt.Legend(orient="bottom", columns=1, labelLimit=520),
            ),
        )
    )
    at = pays_from_h()
    mark = alt.Chart(rows([{"hours": at, "text": f"{at:.0f} h"}]))
    rule_mark = mark.mark_rule(strokeDash=[4, 3], color="#777777").encode(x="hours:Q")
    text = mark.mark_text(align="left", dx=5, y=315, color="#555555").encode(x="hours:Q", text="text:N")
    chart = alt.layer(lines, rule_mark, text).properties(
        width=560,
        height=330,
        title=alt.TitleParams(
            "Spares pay when repairs are slow and the engine is wide",
            subtitle=f"one failure in {GPU_MTBF_H:,.0f} GPU-hours (Llama 3); spares and outages counted",
            anchor="start",
        ),
    )
    return save_chart(chart, folder / "why_64_plus_8.png")


if __name__ == "__main__":
    tell(answer)
