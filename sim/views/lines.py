"""One number against another, a line for each combination of the rest, and what theory says beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from sim.views.files import rows

if TYPE_CHECKING:
    import altair

Theory = Callable[[float], float] | Mapping[float, float]
# Okabe and Ito's colours, told apart with any kind of colour vision; black is theory's.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
POINTS = 200  # of a theory that is a function


def lines_chart(
    table: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    others: Sequence[str] = (),
    theory: Theory | None = None,
) -> altair.LayerChart:
    """`y` of each row against `x`, with `y_low` and `y_high` where the row has them; rows without a number
    are left out. A function is drawn from the least to the largest `x`.
    """
    import altair as alt

    points = [
        {
            "x": row[x], "y": row[y], "low": row.get(f"{y}_low"), "high": row.get(f"{y}_high"),
            "line": ", ".join(f"{key} {row[key]}" for key in others) or "simulated",
        }
        for row in table
        if isinstance(row[y], int | float) and row[x] is not None
    ]  # fmt: skip
    if theory is not None:
        points += [{"x": at, "y": value, "line": "theory"} for at, value in _theory(theory, points)]
    simulated = list(dict.fromkeys(point["line"] for point in points if point["line"] != "theory"))
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(simulated))]
    lines = simulated + (["theory"] if theory is not None else [])
    scale = alt.Scale(domain=lines, range=[*colours, "#000000"][: len(lines)])
    is_number = all(isinstance(point["x"], int | float) for point in points)
    across = alt.X("x:Q" if is_number else "x:O", title=x)
    colour = alt.Color("line:N", title=None, scale=scale, legend=alt.Legend() if len(lines) > 1 else None)
    base = alt.Chart(rows(points)).encode(x=across, color=colour)
    up = alt.Y("y:Q", title=y, scale=alt.Scale(zero=True))
    ours = "datum.line != 'theory'"
    intervals = base.transform_filter("isValid(datum.low)").mark_rule()
    layers = (
        intervals.encode(y=alt.Y("low:Q", title=y), y2="high:Q"),
        base.transform_filter(ours).mark_line(point=True).encode(y=up),
        base.transform_filter("datum.line == 'theory'").mark_line(strokeDash=[5, 4]).encode(y=up),
    )
    chart: alt.LayerChart = alt.LayerChart(layer=list(layers)).properties(width=520, height=320)
    return chart


def _theory(theory: Theory, points: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(at, value) for at, value in _told(theory, points) if isfinite(value)]


def _told(theory: Theory, points: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    if isinstance(theory, Mapping):
        return sorted(theory.items())
    known = [float(point["x"]) for point in points if isinstance(point["x"], int | float)]
    if not known:
        return []
    least, most = min(known), max(known)
    at = [least + (most - least) * number / (POINTS - 1) for number in range(POINTS)]
    told = []
    for one in at:
        try:
            told.append((one, float(theory(one))))
        except ValueError:  # a closed form refuses what is outside of its domain, as a load above one
            continue
    return told
