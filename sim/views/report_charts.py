"""Charts of the report. Each takes the width of the page, and marks faults where its axis is time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.results.setting import FaultSetting
from sim.views.charts import CAUSE_COLOURS, PHASE_COLOURS
from sim.views.files import rows
from sim.views.words import CAUSES

if TYPE_CHECKING:
    import altair

Floats = NDArray[np.float64]

LINES = (  # Okabe and Ito, "Color Universal Design", 2008: told apart with any kind of colour blindness
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c8c8c",
)  # fmt: skip
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
FAULT = "#d55e00"
HEIGHT = 150
POINTS = 300  # of a curve
SPREAD = 30  # times the median: from here on an axis of latencies is logarithmic


@dataclass(frozen=True)
class Line:
    """One line of a chart over time: `by` is the choice of the page at which it is shown (pool, replica)."""

    name: str
    by: str
    values: Floats
    detail: str = ""
    number: int = 0  # of its colour, the same in every chart


def over_time(
    title: str,
    unit: str,
    at_s: Floats,
    lines: Sequence[Line],
    faults: Sequence[FaultSetting],
    *,
    share: bool,
    to_the_top: bool = True,
) -> altair.LayerChart:
    """Lines over the time of the run, those of the choice `by` alone; faults as bands. An axis of shares goes
    `to_the_top`, or as far as the lines do.
    """
    import altair as alt

    points = [
        {"t": _short(at), "v": _short(value), "who": line.name, "by": line.by, "of": line.detail}
        for line in lines
        for at, value in zip(at_s.tolist(), line.values.tolist(), strict=True)
    ]
    names = list(dict.fromkeys(line.name for line in lines))
    numbers = {line.name: line.number for line in lines}
    colours = [LINES[numbers[name] % len(LINES)] for name in names]
    dashes = [DASHES[numbers[name] // len(LINES) % len(DASHES)] for name in names]
    shown = alt.Axis(format="~%") if share else alt.Axis(format="~s")
    scale = alt.Scale(domain=[0, 1]) if share and to_the_top else alt.Scale(zero=True, domainMin=0)
    chart = (
        alt.Chart(rows(points))
        .transform_filter("datum.by == by")
        .mark_line(strokeWidth=1.6)
        .encode(
            x=_time(at_s),
            y=alt.Y("v:Q", title=unit, scale=scale, axis=shown),
            color=alt.Color("who:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=None),
            strokeDash=alt.StrokeDash(
                "who:N", scale=alt.Scale(domain=names, range=dashes), legend=None, title=None
            ),
            tooltip=[
                alt.Tooltip("who:N", title="of"),
                alt.Tooltip("t:Q", title="at (s)"),
                alt.Tooltip("v:Q", title=unit, format=".1%" if share else ".4~g"),
                *([alt.Tooltip("of:N", title=" ")] if any(line.detail for line in lines) else []),
            ],
        )
    )
    layers = [*_marks(faults, at_s), chart]
    found: altair.LayerChart = wide(alt.layer(*layers).add_params(alt.param(name="by", value="pool")), title)
    return found


def legend(lines: Sequence[Line]) -> list[tuple[str, str, str]]:
    """Name, choice and colour of each line of `over_time`."""
    found = {line.name: (line.name, line.by, LINES[line.number % len(LINES)]) for line in lines}
    return list(found.values())


def wide(chart: Any, title: str = "", height: int | None = HEIGHT) -> Any:
    """A chart as wide as the page lets it."""
    import altair as alt

    sized = chart.properties(
        width="container",
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding", resize=True),
    )
    if height is not None:
        sized = sized.properties(height=height)
    if title:
        sized = sized.properties(title=alt.Title(title, anchor="start", fontSize=13))
    return sized.configure_view(stroke="#dddddd").configure_axis(gridColor="#eeeeee", labelLimit=150)


def _time(at_s: Floats) -> altair.X:
    import altair as alt

    domain = alt.Scale(domain=[0, float(at_s[-1])], nice=False)
    return alt.X("t:Q", title="simulated time (s)", scale=domain)


def _marks(faults: Sequence[FaultSetting], at_s: Floats) -> list[altair.Chart]:
    """A band for each fault, with its name on hover."""
    import altair as alt

    end_s = float(at_s[-1])
    bands = [
        {
            "t": fault.at_s,
            "until": end_s if fault.until_s is None else min(fault.until_s, end_s),
            "what": fault.what,
        }
        for fault in faults
        if fault.at_s <= end_s
    ]
    if not bands:
        return []
    base = alt.Chart(rows(bands))
    tooltip = [alt.Tooltip("what:N", title="fault"), alt.Tooltip("t:Q", title="from (s)"),
               alt.Tooltip("until:Q", title="until (s)")]  # fmt: skip
    return [
        base.mark_rect(color=FAULT, opacity=0.15).encode(x=_time(at_s), x2="until:Q", tooltip=tooltip),
        base.mark_rule(color=FAULT, strokeWidth=1.5, strokeDash=[3, 2]).encode(
            x=_time(at_s), tooltip=tooltip
        ),
    ]


def distribution(
    title: str, ascending_ms: Floats, shares: Floats, objectives: Mapping[str, float]
) -> altair.LayerChart:
    """The share of all that came within a time, with a line at each objective."""
    import altair as alt

    kept = np.unique(np.linspace(0, len(ascending_ms) - 1, min(len(ascending_ms), POINTS)).astype(int))
    points = [
        {"ms": _short(float(ascending_ms[i])), "share": _short(float(shares[i]))} for i in kept.tolist()
    ]
    least, most = float(ascending_ms[0]), float(ascending_ms[-1])
    middle = float(ascending_ms[len(ascending_ms) // 2])
    least = min([least, *objectives.values()])
    is_log = most > SPREAD * middle and least > 0.0
    scale = alt.Scale(type="log") if is_log else alt.Scale(zero=True, nice=True)
    x = alt.X("ms:Q", title="ms (logarithmic)" if is_log else "ms", scale=scale, axis=alt.Axis(format="~s"))
    curve = (
        alt.Chart(rows([{"ms": points[0]["ms"], "share": 0.0}, *points]))
        .mark_line(interpolate="step-after", strokeWidth=2, color=LINES[0])
        .encode(
            x=x,
            y=alt.Y(
                "share:Q", title="share that came", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")
            ),
            tooltip=[alt.Tooltip("ms:Q"), alt.Tooltip("share:Q", format=".1%")],
        )
    )
    layers: list[Any] = [curve]
    if objectives:
        marks = alt.Chart(
            rows([{"ms": ms, "what": f"{name or 'objective'}: {ms:g} ms"} for name, ms in objectives.items()])
        )
        layers += [
            marks.mark_rule(color=FAULT, strokeWidth=2, strokeDash=[5, 3]).encode(
                x=x, tooltip=[alt.Tooltip("what:N", title="objective")]
            ),
            marks.mark_text(color="#a33f00", angle=270, align="left", baseline="bottom", dx=6, dy=-3).encode(
                x=x, y=alt.value(HEIGHT), text="what:N"
            ),
        ]
    found: altair.LayerChart = wide(alt.layer(*layers), title)
    return found


def causes(title: str, unit: str, groups: Mapping[str, Mapping[str, float]]) -> altair.Chart:
    """Stacked bars of milliseconds by cause, one for each group of requests."""
    import altair as alt

    axis = alt.Axis(format="~s")
    used = [cause for cause in CAUSE_COLOURS if any(group.get(cause, 0.0) for group in groups.values())]
    bars = [
        {"group": name, "cause": CAUSES[cause], "ms": _short(group[cause]), "order": order,
         "share": _short(group[cause] / (sum(group.values()) or 1.0))}
        for name, group in groups.items()
        for order, cause in enumerate(used)
        if group.get(cause, 0.0) > 0.0
    ]  # fmt: skip
    scale = alt.Scale(
        domain=[CAUSES[cause] for cause in used], range=[CAUSE_COLOURS[cause] for cause in used]
    )
    chart = (
        alt.Chart(rows(bars))
        .mark_bar(stroke="white", strokeWidth=0.6)
        .encode(
            x=alt.X("ms:Q", title=unit, stack="zero", scale=alt.Scale(domainMin=0), axis=axis),
            y=alt.Y("group:N", title=None, sort=list(groups)),
            color=alt.Color("cause:N", scale=scale, legend=None),
            order="order:Q",
            tooltip=[
                alt.Tooltip("group:N", title="of"), "cause:N", alt.Tooltip("ms:Q", format=".4~g"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )  # fmt: skip
    found: altair.Chart = wide(chart, title, 28 * len(groups))
    return found


def stages(bars: Sequence[Mapping[str, Any]], states: Sequence[str], many: bool) -> altair.Chart:
    """What pipeline stages did of the run, a stacked bar each."""
    import altair as alt

    colours = ("#1b7837", "#b4b4b4", "#ffd34d", "#a50f15", "#54278f", "#ededed")
    chart = (
        alt.Chart(rows(bars))
        .mark_bar(stroke="white", strokeWidth=0.6)
        .encode(
            x=alt.X("share:Q", title="of the run", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            y=alt.Y("stage:N", title=None, sort=list(dict.fromkeys(bar["stage"] for bar in bars))),
            color=alt.Color("state:N", scale=alt.Scale(domain=list(states), range=colours), legend=None),
            order="order:Q",
            tooltip=["stage:N", "state:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    count = len({bar["stage"] for bar in bars})
    found: altair.Chart = wide(chart, "", max(40, (16 if many else 26) * count))
    return found


def links(bars: Sequence[Mapping[str, Any]], kind: str) -> altair.Chart:
    """The busiest links of one kind: bytes carried of capacity, time in use, time shared."""
    import altair as alt

    what = ["carried, of capacity", "time in use", "time shared"]
    chart = (
        alt.Chart(rows(bars))
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="of the run", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            y=alt.Y("link:N", title=None, sort=list(dict.fromkeys(bar["link"] for bar in bars)),
                    axis=alt.Axis(labelLimit=190)),
            yOffset=alt.YOffset("what:N", sort=what),
            color=alt.Color("what:N", scale=alt.Scale(domain=what, range=[LINES[0], LINES[4], LINES[1]]),
                            legend=None),
            tooltip=["link:N", "what:N", alt.Tooltip("share:Q", format=".3%")],
        )
    )  # fmt: skip
    found: altair.Chart = wide(chart, kind, 30 * len({bar["link"] for bar in bars}))
    return found


def requests(
    bars: Sequence[Mapping[str, Any]], faults: Sequence[FaultSetting], end_s: float
) -> altair.LayerChart:
    """Queue, prefill and decode of the slowest requests, the slowest on top."""
    import altair as alt

    order = list(dict.fromkeys(bar["request"] for bar in bars))
    at_s = np.array([0.0, end_s])
    chart = (
        alt.Chart(rows(bars))
        .mark_bar(cursor="pointer")
        .encode(
            x=_time(at_s),
            x2="until:Q",
            y=alt.Y("request:O", title="request", sort=order, axis=alt.Axis(labelOverlap=True)),
            color=alt.Color(
                "phase:N", legend=None,
                scale=alt.Scale(domain=list(PHASE_COLOURS), range=list(PHASE_COLOURS.values())),
            ),
            tooltip=["request:O", "phase:N", alt.Tooltip("t:Q", title="from (s)"),
                     alt.Tooltip("until:Q", title="until (s)")],
        )
    )  # fmt: skip
    layers = [*_marks(faults, at_s), chart]
    found: altair.LayerChart = wide(alt.layer(*layers), "", max(60, min(9 * len(order), 460)))
    return found


def hand_overs(
    points: Sequence[Mapping[str, Any]], faults: Sequence[FaultSetting], end_s: float
) -> altair.LayerChart:
    """How long each KV cache waited for room and was on its way, over the time at which it was ready."""
    import altair as alt

    parts = ["waiting for room", "on its way"]
    at_s = np.array([0.0, end_s])
    chart = (
        alt.Chart(rows(points))
        .mark_circle(size=18, opacity=0.7)
        .encode(
            x=_time(at_s),
            y=alt.Y("ms:Q", title="ms", scale=alt.Scale(zero=True), axis=alt.Axis(format="~s")),
            color=alt.Color("part:N", legend=None, scale=alt.Scale(domain=parts, range=[LINES[1], LINES[0]])),
            tooltip=["request:O", "part:N", alt.Tooltip("ms:Q", format=".4~g"), "way:N"],
        )
    )
    found: altair.LayerChart = wide(alt.layer(*_marks(faults, at_s), chart))
    return found


def _short(value: float) -> float:
    """A number with the digits that a chart can show."""
    return float(f"{value:.5g}")
