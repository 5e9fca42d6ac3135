"""Charts of studies: what was best of what, bars with intervals, differences from zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.views.files import rows
from sim.views.report_charts import LINES, wide

if TYPE_CHECKING:
    import altair

CLEAR, UNCLEAR = LINES[0], "#9a9a9a"
LINE, NAME = 0.05, 0.5  # of the chart's height and width, that a name takes
NARROW = 560  # pixels below which names have no room
ROOM = 1.3  # to the right of the last point, for its name
STEP = 22  # pixels of a bar


@dataclass(frozen=True)
class Dot:
    """A recipe by tokens/s of one user and of one GPU, or of whatever else is paid for."""

    name: str
    per_user: float
    per_gpu: float


@dataclass(frozen=True)
class Span:
    """A mean with its interval; infinite bounds are not drawn."""

    name: str
    mean: float
    low: float
    high: float
    clear: bool = True


def frontier(dots: Sequence[Dot]) -> list[Dot]:
    """Those of which no other has more of both, from the fastest for a user on.

    >>> [dot.name for dot in frontier([Dot("a", 1.0, 9.0), Dot("b", 2.0, 3.0), Dot("c", 1.5, 2.0)])]
    ['b', 'a']
    """
    found: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (-dot.per_user, -dot.per_gpu)):
        if not found or dot.per_gpu > found[-1].per_gpu:
            found.append(dot)
    return found


def pareto(dots: Sequence[Dot], of: str = "a GPU") -> altair.LayerChart:
    """Tokens `of` a GPU, a megawatt or a dollar: points with their numbers and names, and a line through
    those of which no other has more of both. A name that would lie on another is left out, and on a
    narrow page all are: the table has the numbers.
    """
    import altair as alt

    best = frontier(dots)
    named = _apart(dots, best)
    points = [
        {"name": dot.name, "user": dot.per_user, "gpu": dot.per_gpu, "number": str(number),
         "label": f"{number}  {dot.name}" if dot in named else str(number),
         "what": "no other has more of both" if dot in best else "others"}
        for number, dot in enumerate(dots, 1)
    ]  # fmt: skip
    most = max(dot.per_user for dot in dots)
    x = alt.X("user:Q", title="tokens/s of a user", scale=alt.Scale(domain=[0, most * ROOM], nice=False))
    y = alt.Y(
        "gpu:Q", title=of if of.startswith("tokens") else f"tokens/s of {of}", scale=alt.Scale(zero=True)
    )
    base = alt.Chart(rows(points)).encode(x=x, y=y)
    line = (
        alt.Chart(rows([{"user": dot.per_user, "gpu": dot.per_gpu} for dot in best]))
        .mark_line(color=LINES[0], strokeWidth=1.2, interpolate="step-before")
        .encode(x=x, y=y, order="user:Q")
    )
    scale = alt.Scale(domain=["no other has more of both", "others"], range=[LINES[0], LINES[7]])
    marks = base.mark_circle(size=70, opacity=1).encode(
        color=alt.Color("what:N", title=None, scale=scale, legend=alt.Legend(orient="top", labelLimit=220)),
        tooltip=[alt.Tooltip("name:N", title="recipe"), alt.Tooltip("user:Q", format=".4~g"),
                 alt.Tooltip("gpu:Q", format=".4~g")],
    )  # fmt: skip
    wide_enough = f"width > {NARROW} ? datum.label : datum.number"
    names = base.mark_text(align="left", dx=7, dy=-7, fontSize=11, limit=300, text=alt.expr(wide_enough))
    found: altair.LayerChart = wide(alt.layer(line, marks, names), "", 340)
    return found


def _apart(dots: Sequence[Dot], best: Sequence[Dot]) -> list[Dot]:
    """Points whose names do not lie on each other, those of the frontier first."""
    wide, high = (max(getattr(dot, name) for dot in dots) or 1.0 for name in ("per_user", "per_gpu"))
    found: list[Dot] = []
    for dot in [*best, *(dot for dot in dots if dot not in best)]:
        if all(
            abs(dot.per_gpu - other.per_gpu) > LINE * high or abs(dot.per_user - other.per_user) > NAME * wide
            for other in found
        ):
            found.append(dot)
    return found


def bars(title: str, spans: Sequence[Span]) -> altair.LayerChart:
    """A bar for each name, with its interval."""
    import altair as alt

    data = alt.Chart(rows(_rows(spans)))
    y = alt.Y("name:N", title=None, sort=[span.name for span in spans], axis=alt.Axis(labelLimit=170))
    x = alt.X("mean:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(format="~s"))
    tooltip = ["name:N", alt.Tooltip("mean:Q", format=".5~g"), alt.Tooltip("low:Q", format=".5~g"),
               alt.Tooltip("high:Q", format=".5~g")]  # fmt: skip
    layers: list[alt.Chart] = [data.mark_bar(color="#9ecae1").encode(x=x, y=y, tooltip=tooltip)]
    if any(span.low < span.high for span in spans):
        layers.append(data.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y))
    found: altair.LayerChart = wide(alt.layer(*layers), title, STEP * len(spans))
    return found


def differences(title: str, spans: Sequence[Span], unit: str = "", format: str = "+.0%") -> altair.LayerChart:
    """A point and its interval for each name, against a line at zero."""
    import altair as alt

    data = alt.Chart(rows(_rows(spans)))
    y = alt.Y("name:N", title=None, sort=[span.name for span in spans], axis=alt.Axis(labelLimit=210))
    x = alt.X("mean:Q", title=unit or None, scale=alt.Scale(zero=True), axis=alt.Axis(format=format))
    colour = alt.Color(
        "clear:N", legend=None, scale=alt.Scale(domain=["clear", "not clear"], range=[CLEAR, UNCLEAR])
    )
    tooltip = ["name:N", alt.Tooltip("mean:Q", format="+.4~g"), alt.Tooltip("low:Q", format="+.4~g"),
               alt.Tooltip("high:Q", format="+.4~g")]  # fmt: skip
    layers: list[alt.Chart] = [alt.Chart(rows([{"zero": 0}])).mark_rule(color="#444444").encode(x="zero:Q")]
    if any(math.isfinite(span.low) for span in spans):
        rule = data.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5)
        low = alt.X("low:Q", title=unit or None)
        layers.append(rule.encode(x=low, x2="high:Q", y=y, color=colour))
    layers.append(data.mark_circle(size=60, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip))
    found: altair.LayerChart = wide(alt.layer(*layers), title, max(60, STEP * len(spans)))
    return found


def _rows(spans: Sequence[Span]) -> list[dict[str, object]]:
    return [
        {"name": span.name, "mean": span.mean, "clear": "clear" if span.clear else "not clear",
         "low": span.low if math.isfinite(span.low) else None,
         "high": span.high if math.isfinite(span.high) else None}
        for span in spans
    ]  # fmt: skip
