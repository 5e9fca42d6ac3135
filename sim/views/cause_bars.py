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

# Causes as a reader says them, in the order of the stack.
SAID = {
    "memory": "HBM: weights, cache, activations",
    "decode_compute": "arithmetic of decode",
    "prefill_compute": "arithmetic of prefill",
    "kernel_latency": "start-up of kernels",
    "collective_bytes": "collectives: bytes",
    "collective_latency": "collectives: latency",
    "sharing": "links shared with others",
    "pipeline": "between pipeline stages",
    "host": "engine on the host",
}
SAID |= {cause: cause.replace("_", " ") for cause in CAUSES if cause not in SAID}


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

    longest = max(max(bar.total, bar.measured or 0.0) for bar in bars)
    pieces = _pieces(bars, 1e-3 * longest)
    shown = [cause for cause in SAID if any(piece["cause"] == SAID[cause] for piece in pieces)]
    x_scale = alt.Scale(domain=[0, longest * 1.34], nice=False)
    y = alt.Y(
        "case:N",
        sort=[bar.label for bar in bars],
        title=None,
        axis=alt.Axis(labelLimit=340, labelFontSize=13, domain=False, ticks=False, labelPadding=8),
    )
    stacked = (
        alt.Chart(rows(pieces))
        .mark_bar(height=22, stroke="white", strokeWidth=0.6)
        .encode(
            x=alt.X("begin:Q", title=axis, scale=x_scale),
            x2="end:Q",
            y=y,
            color=alt.Color(
                "cause:N",
                scale=alt.Scale(
                    domain=[SAID[cause] for cause in shown], range=[CAUSE_COLOURS[cause] for cause in shown]
                ),
                legend=alt.Legend(title=None, orient="top", columns=4, labelFontSize=12, labelLimit=260),
            ),
            tooltip=["case:N", "cause:N", alt.Tooltip("amount:Q", format=f".{digits + 1}f")],
        )
    )
    written = alt.Chart(
        rows(
            [
                {
                    "case": bar.label,
                    "end": max(bar.total, bar.measured or 0.0),
                    "measured": bar.measured,
                    "text": _text(bar, digits),
                }
                for bar in bars
            ]
        )
    )
    ticks = (
        written.transform_filter("isValid(datum.measured)")
        .mark_tick(color="black", thickness=3, size=32)
        .encode(x="measured:Q", y=y)
    )
    texts = written.mark_text(align="left", dx=9, fontSize=12).encode(x="end:Q", y=y, text="text:N")
    chart: alt.LayerChart = (
        alt.layer(stacked, ticks, texts)
        .properties(
            width=760,
            height=alt.Step(40),
            title=alt.Title(
                title,
                subtitle=subtitle,
                anchor="start",
                frame="group",
                fontSize=17,
                subtitleFontSize=13,
                offset=12,
            ),
            padding=16,
            background="white",
        )
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=13, gridColor="#e6e6e6")
    )
    return chart


def _pieces(bars: Sequence[Bar], least: float) -> list[dict[str, str | float]]:
    """Where each part of each bar begins and ends."""
    pieces: list[dict[str, str | float]] = []
    for bar in bars:
        begin = 0.0
        for cause, said in SAID.items():
            amount = bar.parts.get(cause, 0.0)
            if amount > least:
                end = begin + amount
                pieces.append(
                    {"case": bar.label, "cause": said, "begin": begin, "end": end, "amount": amount}
                )
                begin = end
    return pieces


def _text(bar: Bar, digits: int) -> str:
    if bar.measured is None:
        return f"{bar.total:,.{digits}f}"
    return f"{bar.total:,.{digits}f} simulated, {bar.measured:,.{digits}f} measured"
