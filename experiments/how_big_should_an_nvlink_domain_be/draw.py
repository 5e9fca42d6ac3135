"""What the charts of the study share: axes, lines and panels beside each other, large enough to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sim.views.files import rows

Chart: TypeAlias = Any  # altair's charts; altair is imported where something is drawn
SIZES = [1, 2, 4, 8, 16, 32, 72, 144, 288, 576]
SIZE = {"width": 400, "height": 320}


def axis(
    field: str,
    title: str,
    *,
    log: bool = False,
    values: Sequence[float] | None = None,
    domain: Sequence[float] | None = None,
) -> dict[str, Any]:
    """A quantity along an axis, as `lines` takes it."""
    return {"field": field, "title": title, "log": log, "values": values, "domain": domain}


def _channel(kind: Any, described: Mapping[str, Any]) -> Any:
    import altair as alt

    scale: dict[str, Any] = {"zero": False, "nice": not described["log"]}
    if described["log"]:
        scale["type"] = "log"
    if described["domain"] is not None:
        scale["domain"] = list(described["domain"])
    ticks = {} if described["values"] is None else {"values": list(described["values"])}
    return kind(
        f"{described['field']}:Q",
        title=described["title"],
        scale=alt.Scale(**scale),
        axis=alt.Axis(grid=described["log"] is False, labelOverlap=True, format=",~r", **ticks),
    )


def lines(
    data: Sequence[Mapping[str, Any]],
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    *,
    colour: str | None = None,
    dash: str | None = None,
    colours: Sequence[Any] | None = None,
    order: Sequence[str] | None = None,
    points: bool = False,
    title: str = "",
    legend: str | None = None,
) -> Chart:
    """Lines through points in the order of x. `colours` and `order` are the values of both in their order."""
    import altair as alt

    encoded: dict[str, Any] = {"x": _channel(alt.X, x), "y": _channel(alt.Y, y)}
    below = alt.Legend(
        orient="bottom", columns=2, labelLimit=320, symbolType="stroke", symbolStrokeWidth=2, symbolSize=200
    )
    if colour is not None:
        encoded["color"] = alt.Color(
            f"{colour}:N", title=legend, sort=list(colours or []) or None, legend=below
        )
    if dash is not None:
        encoded["strokeDash"] = alt.StrokeDash(
            f"{dash}:N",
            title=None,
            sort=list(order or []) or None,
            legend=alt.Legend(**{**below.to_dict(), "symbolStrokeColor": "#444"}),
        )
    drawn: Any = (
        alt.Chart(rows(data), title=title)
        .mark_line(clip=y["domain"] is not None)
        .encode(**encoded)
        .properties(**SIZE)
    )
    if not points:
        return drawn
    # Points of their own: as part of the line they would leave the legend of its dashes empty.
    dots = {name: channel for name, channel in encoded.items() if name != "strokeDash"}
    return alt.layer(drawn, alt.Chart(rows(data)).mark_point(filled=True, size=30, opacity=1).encode(**dots))


def beside(
    panels: Sequence[Chart], title: str, subtitle: str = "", *, independent: bool = False, columns: int = 2
) -> Chart:
    """Panels under one title; `independent` ones have legends of their own."""
    import altair as alt

    joined: Any = alt.concat(
        *panels,
        columns=columns,
        title=alt.Title(title, subtitle=subtitle, anchor="start"),
    )
    if independent:
        joined = joined.resolve_scale(color="independent", strokeDash="independent")
    return legible(joined)


def legible(chart: Chart) -> Chart:
    return (
        chart.configure_axis(labelFontSize=12, titleFontSize=13)
        .configure_legend(labelFontSize=12, titleFontSize=12)
        .configure_title(fontSize=16, subtitleFontSize=12, offset=12)
    )
