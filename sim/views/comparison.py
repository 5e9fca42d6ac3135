"""Published numbers beside simulated ones, as bars with the error written on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.results.compared import Row
from sim.views.files import check_suffix, rows, save_chart

if TYPE_CHECKING:
    import altair

BAR = 15  # pixels
COLOURS = {"published": "#9e9e9e", "simulated": "#4e79a7", "simulated, fitted": "#a0cbe8"}


def published_and_simulated(numbers: Iterable[Row | Mapping[str, Any]], title: str, path: Path) -> Path:
    """Draw published and simulated numbers into a .svg, .png or .html file, one panel per quantity. Rows of
    `answer.json`, which are mappings, are drawn as well.

    A paler bar was used to fit a constant and proves nothing; a number without a published one stands alone.
    """
    check_suffix(path)
    return save_chart(comparison_chart(numbers, title), path)


def comparison_chart(numbers: Iterable[Row | Mapping[str, Any]], title: str) -> altair.VConcatChart:
    """The chart of `published_and_simulated`."""
    import altair as alt

    panels: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for number in numbers:
        row = number if isinstance(number, Mapping) else number.as_dict()
        panels.setdefault((row["quantity"], row["unit"]), []).append(row)
    charts = [_panel(quantity, unit, found) for (quantity, unit), found in panels.items()]
    subtitle = "label: error of the simulation; paler bars were used to fit a constant"
    chart: alt.VConcatChart = (
        alt.vconcat(*charts, title=alt.Title(title, subtitle=subtitle, anchor="start"))
        .resolve_scale(x="independent", y="independent")
        .configure_title(fontSize=15)
        .configure_axis(labelFontSize=12, titleFontSize=12, gridColor="#eeeeee")
        .configure_legend(labelFontSize=12, orient="top")
        .configure_view(stroke=None)
    )
    return chart


def _panel(quantity: str, unit: str, found: list[Mapping[str, Any]]) -> Any:
    import altair as alt

    bars = []
    for row in found:
        if row["published"] is not None:
            bars.append(
                {
                    "case": row["case"],
                    "what": "published",
                    "value": row["published"],
                    "label": _number(row["published"]),
                }
            )
        what = "simulated, fitted" if row["kind"] == "fitted" else "simulated"
        label = _number(row["simulated"])
        if row["published"]:
            label += f"  ({row['simulated'] / row['published'] - 1.0:+.1%})"
        bars.append({"case": row["case"], "what": what, "value": row["simulated"], "label": label})
    for bar in bars:
        bar["slot"] = "published" if bar["what"] == "published" else "simulated"
    cases = list(dict.fromkeys(row["case"] for row in found))
    longest = max(abs(bar["value"]) for bar in bars)
    base = alt.Chart(rows(bars)).encode(
        y=alt.Y("case:N", title=None, sort=cases, axis=alt.Axis(labelLimit=320)),
        yOffset=alt.YOffset(
            "slot:N", sort=["published", "simulated"], scale=alt.Scale(domain=["published", "simulated"])
        ),
        # room on the right for the labels
        x=alt.X(
            "value:Q",
            title=f"{quantity} ({unit})",
            scale=alt.Scale(domain=[0, longest * 1.3 or 1.0], nice=False),
        ),
    )
    coloured = base.mark_bar().encode(
        color=alt.Color(
            "what:N", title=None, scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
        )
    )
    labels = base.mark_text(align="left", dx=4, fontSize=11).encode(text="label:N")
    return alt.layer(coloured, labels, width=560, height=2.6 * BAR * len(cases))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
