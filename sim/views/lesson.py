"""A lab: a scenario, a prediction that is locked before the instruments open, runs with theory beside them.

A `Lesson` is the whole of a lab but its screen, as plain values and two functions; `Desk` in `lesson_desk.py`
is its screen in a notebook, `lesson_page.py` its page without one, and `told` its text as a script. All three
show the same chart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.views.files import rows
from sim.views.lines import COLOURS

if TYPE_CHECKING:
    import altair

CURVE_POINTS = 80
WIDTH, HEIGHT = 560, 300
DATA = ("theory", "runs", "guess")
"""Names of the data of a chart, which a page fills in as the student goes on."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one run measured on one line of the chart: `half` is half of its 95 % interval, 0 where nothing
    is left to chance. `theory` is what the run must meet; a mere approximation or bound is a curve only.
    """

    line: str
    y: float
    half: float = 0.0
    theory: float | None = None


@dataclass(frozen=True, slots=True)
class Exercise:
    """A question, and the answer that hides until it is asked for."""

    question: str
    answer: str


Run = Callable[[float, float], Sequence[Point]]
"""Points at a position of the slider; the second number is a share of the usual number of requests."""
Curve = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One lab. Texts are HTML: a few sentences each, formulas with <i>, <sub> and <sup>.

    The prediction is of `line` at the position `asked` of the slider, between `least` and `most`; it is right
    where it is off by the share `right_within` of the truth or less. Where the slider `counts` things, curves
    have points at its positions only.
    """

    number: int
    title: str
    goal: str
    misconception: str
    scenario: str
    question: str
    unit: str
    asked: float
    line: str
    least: float
    most: float
    slider: str
    positions: tuple[float, ...]
    y: str
    run: Run
    curves: Mapping[str, Curve] = field(default_factory=dict)
    log: bool = False
    page_share: float = 1.0
    right_within: float = 0.1
    counts: bool = False
    formula: str
    why: str
    takeaway: str
    exercises: tuple[Exercise, Exercise]

    def __post_init__(self) -> None:
        if self.asked not in self.positions:
            raise ValueError(f"lab {self.number}: asked = {self.asked:g}: must be one of {self.positions}")

    @cached_property
    def theory(self) -> list[dict[str, Any]]:
        """The curves as rows of the chart, between the least and the largest position."""
        low, high = min(self.positions), max(self.positions)
        if self.counts:
            at = np.array(self.positions)
        elif self.log_x:
            at = np.geomspace(low, high, CURVE_POINTS)
        else:
            at = np.linspace(low, high, CURVE_POINTS)
        return [
            {"x": x, "y": curve(x), "line": line} for line, curve in self.curves.items() for x in at.tolist()
        ]

    @property
    def log_x(self) -> bool:
        """Whether the slider goes over so much that its positions are far apart on a linear axis."""
        return min(self.positions) > 0.0 and max(self.positions) > 30.0 * min(self.positions)


def runs_rows(position: float, points: Sequence[Point]) -> list[dict[str, Any]]:
    """The points of one run as rows of the chart."""
    return [
        {"x": position, "y": point.y, "line": point.line, "half": point.half,
         "low": point.y - point.half, "high": point.y + point.half, "theory": point.theory}
        for point in points
    ]  # fmt: skip


def lesson_chart(lesson: Lesson, lines: Sequence[str], data: Mapping[str, Any] | None) -> altair.LayerChart:
    """Runs as dots with their intervals, theory as broken lines, the prediction as a black diamond.

    `data` has the rows of `DATA`; with None the chart names them, and a page fills them in.
    """
    import altair as alt

    def named(name: str) -> Any:
        return alt.NamedData(name=name) if data is None else rows(data[name])

    low, high = min(lesson.positions), max(lesson.positions)
    if lesson.log_x:
        reach = alt.Scale(type="log", domain=[low / 1.2, high * 1.2])
    else:
        space = 0.04 * (high - low)
        reach = alt.Scale(domain=[low - space, high + space], nice=False)
    across = alt.X("x:Q", title=lesson.slider, scale=reach)
    kind = alt.Scale(type="log", nice=True) if lesson.log else alt.Scale(zero=True)
    up = alt.Y("y:Q", title=lesson.y, scale=kind)
    colours = alt.Scale(domain=list(lines), range=list(COLOURS[: len(lines)]))
    legend = alt.Legend(orient="top", labelLimit=300) if len(lines) > 1 else None
    colour = alt.Color("line:N", title=None, scale=colours, legend=legend)
    layers = (
        alt.Chart(named("theory"))
        .mark_line(strokeDash=[6, 4], clip=True)
        .encode(x=across, y=up, color=colour),
        alt.Chart(named("runs")).mark_rule().encode(x=across, y=alt.Y("low:Q"), y2="high:Q", color=colour),
        alt.Chart(named("runs")).mark_point(filled=True, size=70).encode(x=across, y=up, color=colour),
        alt.Chart(named("guess"))
        .mark_point(shape="diamond", filled=True, size=170, color="black", opacity=1)
        .encode(x=across, y=up),
    )
    chart: alt.LayerChart = alt.LayerChart(layer=list(layers)).properties(width=WIDTH, height=HEIGHT)
    return chart


def shown(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def verdict(lesson: Lesson, guess: float, truth: Point) -> str:
    """How far off a prediction was."""
    text = f"You predicted {shown(guess)} {lesson.unit}. The run gives {measured(truth)}."
    return f"{text} {off(guess, truth.y, truth.half, truth.theory, lesson.right_within)}"


def measured(point: Point) -> str:
    """`5.07 ± 0.4, theory 5`."""
    half = f" ± {shown(point.half)}" if point.half else ""
    return f"{shown(point.y)}{half}" + ("" if point.theory is None else f", theory {shown(point.theory)}")


def off(guess: float, truth: float, half: float, theory: float | None = None, within: float = 0.1) -> str:
    """A ratio where both are above zero, and a difference otherwise. What theory gives is right also where
    chance brought the run elsewhere.
    """
    if abs(guess - truth) <= max(half, within * abs(truth)):
        return "That is right."
    if theory is not None and abs(guess - theory) <= within * abs(theory):
        return "That is right: theory gives it, and chance brought this run elsewhere."
    side = "high" if guess > truth else "low"
    if guess > 0.0 and truth > 0.0:
        return f"You are a factor of {shown(max(guess / truth, truth / guess))} too {side}."
    return f"You are {shown(abs(guess - truth))} too {side}."


def told(lesson: Lesson, share: float = 1.0) -> Iterator[str]:
    """A lab as the lines of a script: its question, a row for each point, and the takeaway."""
    yield f"Lab {lesson.number}: {lesson.title}"
    yield _plain(lesson.question)
    yield f"{lesson.slider:>40}  {lesson.y}"
    for position in lesson.positions:
        for point in lesson.run(position, share):
            yield f"{position:>40g}  {point.line}: {measured(point)}"
    yield f"Takeaway: {_plain(lesson.takeaway)}"


def _plain(text: str) -> str:
    import re
    from html import unescape

    return " ".join(unescape(re.sub(r"<[^>]+>", "", text)).split())
