"""Bars by cause: stacked from zero, the measurement beside them."""

from __future__ import annotations

from sim.views.cause_bars import Bar, cause_bars
from sim.views.files import specified

CAUSES = {"memory": 6.4, "kernel_latency": 2.6, "host": 1e-5}


def test_bars_begin_at_zero_touch_and_leave_out_what_cannot_be_seen() -> None:
    chart = specified(cause_bars([Bar("a", CAUSES, 9.5)], title="t", subtitle="s", axis="ms"))
    pieces = chart["datasets"][chart["layer"][0]["data"]["name"]]
    assert [(piece["begin"], piece["end"]) for piece in pieces] == [(0.0, 6.4), (6.4, 9.0)]
    assert chart["layer"][0]["encoding"]["x"]["scale"]["domain"][0] == 0


def test_a_tick_stands_at_each_measurement_and_the_text_behind_the_longer_of_both() -> None:
    bars = [Bar("a", CAUSES, 9.5), Bar("b", {"memory": 1.0})]
    chart = specified(cause_bars(bars, title="t", subtitle="s", axis="ms"))
    rows = chart["datasets"][chart["layer"][1]["data"]["name"]]
    assert [(row["measured"], row["end"]) for row in rows] == [(9.5, 9.5), (None, 1.0)]
    assert [row["text"] for row in rows] == ["9.0 simulated, 9.5 measured", "1.0"]
    assert chart["layer"][1]["transform"] == [{"filter": "isValid(datum.measured)"}]
