"""Charts of a ledger: predicted against measured, and error against size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.results.compared import Row
from sim.views.files import rows as inline
from sim.views.files import save_chart

if TYPE_CHECKING:
    import altair

BAND = 0.25
"""The grey band: within a quarter of what was measured."""

BLUE, ORANGE = "#3266a8", "#d9822b"


SIZES = {
    "kernels": "microseconds measured",
    "collectives": "bytes",
    "throughput": "tokens of prompt and answer",
    "pools": "users at once",
    "closed-loops": "users at once",
}
NAMES = {
    "throughput": "TensorRT-LLM, all requests queued at once",
    "pools": "Prefill and decode apart",
    "closed-loops": "Closed loops at a concurrency",
}
ON_PAGE = ("throughput", "pools", "closed-loops")


def save_charts(rows: Sequence[Row], folder: Path) -> list[Path]:
    """One picture of predicted against measured for each section with something to draw, and one of errors
    against size where rows have one. Their paths.
    """
    paths = []
    for section in dict.fromkeys(row.section for row in rows):
        own = [row for row in rows if row.section == section and (row.published or 0.0) > 0.0]
        own = [row for row in own if row.simulated > 0.0]
        if len(own) < 3:
            continue
        paths.append(save_chart(against_measured(own, section), folder / f"{section}_against_measured.png"))
        sized = [row for row in own if row.size]
        if len(sized) > 2:
            paths.append(save_chart(error_by_size(sized, section), folder / f"{section}_error_by_size.png"))
    return paths


def save_page_charts(rows: Sequence[Row], page: Path) -> None:
    """The pictures that the page on accuracy shows, in `images` beside the page."""
    folder = page.parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for section in ON_PAGE:
        own = [row for row in rows if row.section == section and row.simulated > 0.0]
        if own:
            save_chart(against_measured(own, section), folder / f"{section.replace('-', '_')}.png")


def against_measured(rows: Sequence[Row], section: str) -> altair.FacetChart:
    """Simulated over measured on logarithmic axes, a panel for each quantity: identity and a band of a
    quarter.
    """
    import altair as alt

    groups = _groups(rows)
    data, bounds = [], []
    for title, members in groups.items():
        values = [value for row in members for value in (row.published or 0.0, row.simulated)]
        low, high = min(values) / 1.3, max(values) * 1.3
        for x in (low, high):
            bounds.append(
                {"panel": title, "x": x, "identity": x, "low": x / (1 + BAND), "high": x * (1 + BAND)}
            )
        data += [
            {"panel": title, "x": row.published, "y": row.simulated, "kind": row.kind} for row in members
        ]
    x_axis = alt.X("x:Q", scale=alt.Scale(type="log", nice=False), title="measured", axis=_log_axis())
    y_axis = alt.Y("y:Q", scale=alt.Scale(type="log", nice=False), title="simulated", axis=_log_axis())
    points = (
        alt.Chart()
        .mark_point(filled=True, size=26, opacity=0.6)
        .encode(x=x_axis, y=y_axis, color=_kinds(rows))
        .transform_filter("isValid(datum.y)")
    )
    band = (
        alt.Chart()
        .mark_area(color="#bbbbbb", opacity=0.35)
        .encode(
            x=x_axis,
            y=alt.Y("low:Q", scale=alt.Scale(type="log", nice=False), title="simulated"),
            y2="high:Q",
        )
        .transform_filter("isValid(datum.identity)")
    )
    line = (
        alt.Chart()
        .mark_line(color="#555555", strokeWidth=1)
        .encode(x=x_axis, y=alt.Y("identity:Q", scale=alt.Scale(type="log", nice=False), title="simulated"))
        .transform_filter("isValid(datum.identity)")
    )
    layers = alt.layer(band, line, points, data=inline([*bounds, *data])).properties(width=250, height=250)
    heading = alt.TitleParams(
        f"{_named(section)}: simulated against measured",
        subtitle="line: equal; band: within a quarter of what was measured",
        anchor="start",
    )
    chart: altair.FacetChart = (
        layers.facet(facet=alt.Facet("panel:N", title=None, sort=list(groups)), columns=3)
        .resolve_scale(x="independent", y="independent")
        .properties(title=heading)
    )
    return chart


def error_by_size(rows: Sequence[Row], section: str) -> altair.FacetChart:
    """Relative error over size, a panel for each quantity. What is off by more than 100 % stands at the
    edge.
    """
    import altair as alt

    groups = _groups(rows)
    data = [
        {
            "panel": title, "x": row.size, "kind": row.kind,
            "y": 100.0 * max(-1.0, min(1.0, row.error or 0.0)),
        }
        for title, members in groups.items()
        for row in members
    ]  # fmt: skip
    heading = alt.TitleParams(
        f"{_named(section)}: error against size",
        subtitle="dashed: no error; beyond 100 % drawn at the edge",
        anchor="start",
    )
    scale = alt.Scale(domain=[-100, 100])
    points = (
        alt.Chart()
        .mark_point(filled=True, size=26, opacity=0.6)
        .encode(
            x=alt.X(
                "x:Q",
                scale=alt.Scale(type="log", nice=False, padding=10),
                title=SIZES.get(section, "size"),
                axis=_log_axis(),
            ),
            y=alt.Y("y:Q", scale=scale, title="error, %"),
            color=_kinds(rows),
        )
    )
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], color="#555555").encode(y=alt.datum(0))
    layers = alt.layer(zero, points, data=inline(data)).properties(width=250, height=170)
    chart: altair.FacetChart = (
        layers.facet(facet=alt.Facet("panel:N", title=None, sort=list(groups)), columns=3)
        .resolve_scale(x="independent")
        .properties(title=heading)
    )
    return chart


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by quantity and unit, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row.quantity}, {row.unit}", []).append(row)
    return groups


def _log_axis() -> altair.Axis:
    import altair as alt

    return alt.Axis(format="~s", tickCount=4, grid=False)


def _kinds(rows: Sequence[Row]) -> altair.Color:
    """Colours of the kinds that there are."""
    import altair as alt

    colours = {"predicted": BLUE, "fitted": ORANGE}
    there = [kind for kind in colours if any(row.kind == kind for row in rows)]
    scale = alt.Scale(domain=there, range=[colours[kind] for kind in there])
    return alt.Color("kind:N", scale=scale, title=None, legend=alt.Legend(orient="top"))


def _named(section: str) -> str:
    return NAMES.get(section, section.capitalize())
