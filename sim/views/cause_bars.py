"""Bars of time by cause, one for each case, with what was measured beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.results.blame import CAUSES
from sim.views.charts import CAUSE_COLOURS
from sim.views.files import rows

if TYPE_CHECKING:
    import altair

# What the legend calls the causes, in the order of the stack.
LABELS = {
    "memory": "HBM: weights, cache, activations",
    "decode_compute": "arithmetic of decode",
    "prefill_compute": "arithmetic of prefill",
    "kernel_latency": "start-up of kernels",
    "collective_bytes": "collectives: bytes",
    "collective_latency": "collectives: latency",
    "sharing": "links shared with others",
    "pipeline": "between pipeline stages",
    "interference": "prompts of others in its steps",
    "host": "engine on the host",
}
LABELS |= {cause: cause.replace("_", " ") for cause in CAUSES if cause not in LABELS}


@dataclass(frozen=True)
class Bar:
    """One case: an amount by cause of `results.blame`, and the measured total if there is one."""

    label: str
    parts: Mapping[str, float]
    measured: float | None = None

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def cause_bars(
    bars: Sequence[Bar], *, title: str, subtitle: str | list[str], axis: str, digits: int = 1
) -> altair.LayerChart:
    """Stacked bars from zero, in the order given, with a black tick where the measurement is; both written
    out with `digits` after the point. Causes below a thousandth of the longest bar are left out.
    """
    import altair as alt

    y = alt.Y(
        "case:N",
        sort=[bar.label for bar in bars],
        title=None,
        axis=alt.Axis(labelLimit=340, labelFontSize=13, domain=False, ticks=False, labelPadding=8),
    )
    heading = alt.Title(
        title, subtitle=subtitle, anchor="start", frame="group", fontSize=17, subtitleFontSize=13, offset=12
    )
    chart: alt.LayerChart = (
        alt.layer(_stacked(bars, y, axis, digits), *_ticks_and_texts(bars, y, digits))
        .properties(width=760, height=alt.Step(40), title=heading, padding=16, background="white")
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=13, gridColor="#e6e6e6")
    )
    return chart


def _stacked(bars: Sequence[Bar], y: altair.Y, axis: str, digits: int) -> altair.Chart:
    """The parts of the bars, coloured by cause, with room to the right for the texts."""
    import altair as alt

    longest = max(_end(bar) for bar in bars)
    pieces = _pieces(bars, 1e-3 * longest)
    shown = [cause for cause in LABELS if any(piece["cause"] == LABELS[cause] for piece in pieces)]
    colour = alt.Color(
        "cause:N",
        scale=alt.Scale(
            domain=[LABELS[cause] for cause in shown], range=[CAUSE_COLOURS[cause] for cause in shown]
        ),
        legend=alt.Legend(title=None, orient="top", columns=4, labelFontSize=12, labelLimit=260),
    )
    stacked: altair.Chart = (
        alt.Chart(rows(pieces))
        .mark_bar(height=22, stroke="white", strokeWidth=0.6)
        .encode(
            x=alt.X("begin:Q", title=axis, scale=alt.Scale(domain=[0, longest * 1.34], nice=False)),
            x2="end:Q",
            y=y,
            color=colour,
            tooltip=["case:N", "cause:N", alt.Tooltip("amount:Q", format=f".{digits + 1}f")],
        )
    )
    return stacked


def _ticks_and_texts(bars: Sequence[Bar], y: altair.Y, digits: int) -> tuple[altair.Chart, altair.Chart]:
    """A tick at each measurement, and both numbers behind the end of the bar."""
    import altair as alt

    ends = [
        {"case": bar.label, "end": _end(bar), "measured": bar.measured, "text": _text(bar, digits)}
        for bar in bars
    ]
    written = alt.Chart(rows(ends))
    ticks = (
        written.transform_filter("isValid(datum.measured)")
        .mark_tick(color="black", thickness=3, size=32)
        .encode(x="measured:Q", y=y)
    )
    texts = written.mark_text(align="left", dx=9, fontSize=12).encode(x="end:Q", y=y, text="text:N")
    return ticks, texts


def _end(bar: Bar) -> float:
    return max(bar.total, bar.measured or 0.0)


def _pieces(bars: Sequence[Bar], smallest: float) -> list[dict[str, str | float]]:
    """Where each part of each bar begins and ends."""
    pieces: list[dict[str, str | float]] = []
    for bar in bars:
        begin = 0.0
        for cause, label in LABELS.items():
            amount = bar.parts.get(cause, 0.0)
            if amount > smallest:
                end = begin + amount
                pieces.append(
                    {"case": bar.label, "cause": label, "begin": begin, "end": end, "amount": amount}
                )
                begin = end
    return pieces


def _text(bar: Bar, digits: int) -> str:
    if bar.measured is None:
        return f"{bar.total:,.{digits}f}"
    return f"{bar.total:,.{digits}f} simulated, {bar.measured:,.{digits}f} measured"
