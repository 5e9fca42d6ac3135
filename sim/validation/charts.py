"""Charts of a ledger: predicted against measured, and error against size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sim.views.files import rows as inline
from sim.views.files import save_chart

if TYPE_CHECKING:
    import altair

BAND = 0.25
"""The grey band: within a quarter of what was measured."""

BLUE, ORANGE = "#3266a8", "#d9822b"


class LedgerLine(Protocol):
    """What a chart needs of a row: `sim.results.compared.LedgerRow` has it."""

    @property
    def section(self) -> str: ...
    @property
    def quantity(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def case(self) -> str: ...
    @property
    def published(self) -> float | None: ...
    @property
    def simulated(self) -> float: ...
    @property
    def size(self) -> float | None: ...
    @property
    def error(self) -> float | None: ...


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


def save_charts(lines: Sequence[LedgerLine], folder: Path) -> list[Path]:
    """One picture of predicted against measured for each section with something to draw, and one of errors
    against size where rows have one. Their paths.
    """
    paths = []
    for section in dict.fromkeys(line.section for line in lines):
        own = [line for line in lines if line.section == section and (line.published or 0.0) > 0.0]
        own = [line for line in own if line.simulated > 0.0]
        if len(own) < 3:
            continue
        paths.append(save_chart(against_measured(own, section), folder / f"{section}_against_measured.png"))
        sized = [line for line in own if line.size]
        if len(sized) > 2:
            paths.append(save_chart(error_by_size(sized, section), folder / f"{section}_error_by_size.png"))
    return paths


def save_page_charts(lines: Sequence[LedgerLine], page: Path) -> None:
    """The pictures that the page on accuracy shows, in `images` beside the page."""
    folder = page.parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for section in ON_PAGE:
        own = [line for line in lines if line.section == section and line.simulated > 0.0]
        if own:
            save_chart(against_measured(own, section), folder / f"{section.replace('-', '_')}.png")


def against_measured(lines: Sequence[LedgerLine], section: str) -> altair.FacetChart:
    """Simulated over measured on logarithmic axes, a panel for each quantity: identity and a band of a
    quarter.
    """
    import altair as alt

    groups = _groups(lines)
    data, bounds = [], []
    for title, members in groups.items():
        values = [value for line in members for value in (line.published or 0.0, line.simulated)]
        low, high = min(values) / 1.3, max(values) * 1.3
        for x in (low, high):
            bounds.append(
                {"panel": title, "x": x, "identity": x, "low": x / (1 + BAND), "high": x * (1 + BAND)}
            )
        data += [
            {"panel": title, "x": line.published, "y": line.simulated, "kind": line.kind} for line in members
        ]
    x_axis = alt.X("x:Q", scale=alt.Scale(type="log", nice=False), title="measured", axis=_log_axis())
    y_axis = alt.Y("y:Q", scale=alt.Scale(type="log", nice=False), title="simulated", axis=_log_axis())
    points = (
        alt.Chart()
        .mark_point(filled=True, size=26, opacity=0.6)
        .encode(x=x_axis, y=y_axis, color=_kinds(lines))
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


def error_by_size(lines: Sequence[LedgerLine], section: str) -> altair.FacetChart:
    """Relative error over size, a panel for each quantity. What is off by more than 100 % stands at the
    edge.
    """
    import altair as alt

    groups = _groups(lines)
    data = [
        {
            "panel": title, "x": line.size, "kind": line.kind,
            "y": 100.0 * max(-1.0, min(1.0, line.error or 0.0)),
        }
        for title, members in groups.items()
        for line in members
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
            color=_kinds(lines),
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


def _groups(lines: Sequence[LedgerLine]) -> dict[str, list[LedgerLine]]:
    """Rows by quantity and unit, in their order."""
    groups: dict[str, list[LedgerLine]] = {}
    for line in lines:
        groups.setdefault(f"{line.quantity}, {line.unit}", []).append(line)
    return groups


def _log_axis() -> altair.Axis:
    import altair as alt

    return alt.Axis(format="~s", tickCount=4, grid=False)


def _kinds(lines: Sequence[LedgerLine]) -> altair.Color:
    """Colours of the kinds that there are."""
    import altair as alt

    colours = {"predicted": BLUE, "fitted": ORANGE}
    there = [kind for kind in colours if any(line.kind == kind for line in lines)]
    scale = alt.Scale(domain=there, range=[colours[kind] for kind in there])
    return alt.Color("kind:N", scale=scale, title=None, legend=alt.Legend(orient="top"))


def _named(section: str) -> str:
    return NAMES.get(section, section.capitalize())
