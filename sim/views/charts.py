"""Charts of one run: its requests in time, its queues, its latencies, its links, where the time went.

Each takes frames of a result (one row per thing, seconds and bytes) and gives an altair chart. Bars start at
zero. Where rows are left out for legibility the title says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.results.blame import CAUSES
from sim.results.over_time import blocks_in_use
from sim.results.sojourn_times import phases, sojourns
from sim.views.comparison import published_and_simulated
from sim.views.files import rows

if TYPE_CHECKING:
    import altair
    import polars

    from sim.results.setting import FaultSetting

__all__ = [
    "blame_bars",
    "latency_cdf",
    "link_use",
    "load_over_time",
    "published_and_simulated",
    "request_timeline",
]

WIDTH = 760
FAULT_COLOUR = "#d55e00"  # as in the report
MAX_REQUESTS = 100  # bars of a Gantt chart that a page can show
MAX_LINKS = 16
POINTS = 400  # of a line
LITTLE_USED = 0.05  # of the KV blocks: beside their number, the line of their use would lie on the axis

PHASE_COLOURS = {"queue": "#bdbdbd", "prefill": "#f28e2b", "decode": "#4e79a7"}
# Greens compute, blues memory and latency of kernels, reds the network, greys waiting. Two that lie beside
# each other in a stack differ by 20 units of CIELAB or more as an eye without its green receptors sees them
# (Machado, Oliveira and Fernandes, IEEE TVCG 15, 2009, at full severity); a test holds it.
CAUSE_COLOURS = {
    "prefill_compute": "#1b7837",
    "decode_compute": "#7fbf7b",
    "memory": "#2166ac",
    "kernel_latency": "#9ecae1",
    "collective_latency": "#f08a62",
    "collective_bytes": "#a50f15",
    "sharing": "#e7298a",
    "hand_over": "#f7c6c5",
    "interference": "#54278f",
    "host": "#8c6d0f",
    "pipeline": "#ffd34d",
    "routing": "#ededed",
    "admission": "#b4b4b4",
    "preempted": "#7d7d7d",
    "recompute": "#404040",
}


def request_timeline(
    requests: polars.DataFrame, faults: Sequence[FaultSetting] = ()
) -> altair.Chart | altair.LayerChart:
    """A Gantt chart: for each request the time in the queue, in prefill and in decode; faults as bands."""
    import altair as alt

    shown = requests.sort("arrival_s", "request_id").head(MAX_REQUESTS)
    bars: list[dict[str, Any]] = []
    for request in shown.iter_rows(named=True):
        bars += [
            {"request": request["request_id"], "phase": phase, "begin": begin_s, "end": end_s}
            for phase, begin_s, end_s in phases(request)
        ]
    left_out = requests.height - shown.height
    title = (
        f"Requests in time: the first {shown.height} of {requests.height}" if left_out else "Requests in time"
    )
    chart: alt.Chart = (
        alt.Chart(rows(bars), title=title)
        .mark_bar()
        .encode(
            x=alt.X("begin:Q", title="simulated time (s)"),
            x2="end:Q",
            y=alt.Y("request:O", title="request", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color("phase:N", title=None, scale=_colours(PHASE_COLOURS)),
            tooltip=["request:O", "phase:N", "begin:Q", "end:Q"],
        )
        .properties(width=WIDTH, height=max(min(12 * shown.height, 420), 60))
    )
    return _over_faults(faults, chart, max((bar["end"] for bar in bars), default=0.0))


def _over_faults(
    faults: Sequence[FaultSetting], chart: altair.Chart, end_s: float
) -> altair.Chart | altair.LayerChart:
    """A chart over simulated time with a band behind it for each fault that began by its end."""
    import altair as alt

    begun = [
        {"begin": fault.at_s, "until": min(fault.until_s or end_s, end_s), "what": fault.what}
        for fault in faults
        if fault.at_s <= end_s
    ]
    if not begun:
        return chart
    base = alt.Chart(rows(begun))
    x = alt.X("begin:Q", title="simulated time (s)")
    band = base.mark_rect(color=FAULT_COLOUR, opacity=0.15).encode(
        x=x, x2="until:Q", tooltip=["what:N", "begin:Q", "until:Q"]
    )
    rule = base.mark_rule(color=FAULT_COLOUR, strokeDash=[3, 2]).encode(x=x, tooltip=["what:N", "begin:Q"])
    layered: alt.LayerChart = alt.layer(band, rule, chart).properties(width=WIDTH)  # type: ignore[assignment]
    return layered


def load_over_time(
    requests: polars.DataFrame,
    kv_blocks: polars.DataFrame,
    end_s: float,
    faults: Sequence[FaultSetting] = (),
) -> altair.VConcatChart:
    """Requests that wait and that run, and KV blocks in use, over time; with a dashed line at how many there
    are, where the use comes near it, and faults as bands.
    """
    import altair as alt

    at_s = np.linspace(0.0, end_s, POINTS)
    arrived, admitted, left = (
        np.searchsorted(np.sort(moments_s), at_s, side="right") for moments_s in sojourns(requests)
    )
    lines = [
        {"at": at, "requests": count, "state": state}
        for state, counts in (("waiting", arrived - admitted), ("running", admitted - left))
        for at, count in zip(at_s.tolist(), counts.tolist(), strict=True)
    ]
    queue = (
        alt.Chart(rows(lines), title="Requests waiting and running")
        .mark_line(interpolate="step-after", strokeWidth=1.5)
        .encode(
            x=alt.X("at:Q", title="simulated time (s)"),
            y=alt.Y("requests:Q", title="requests", scale=alt.Scale(zero=True), axis=alt.Axis(tickMinStep=1)),
            color=alt.Color(
                "state:N", title=None, scale=_colours({"waiting": "#e15759", "running": "#4e79a7"})
            ),
        )
        .properties(width=WIDTH, height=160)
    )
    in_use = blocks_in_use(at_s, {name: kv_blocks[name].to_numpy() for name in kv_blocks.columns})
    blocks, capacities = [], []
    for (replica,), own in kv_blocks.group_by("replica", maintain_order=True):
        held = np.sum([counts for (of_replica, _), counts in in_use.items() if of_replica == replica], axis=0)
        of_blocks = int(own.group_by("rank").first()["of_blocks"].sum())
        name = f"replica {replica}, of {of_blocks:,}"
        if held.max() > LITTLE_USED * of_blocks:
            capacities.append({"of_blocks": of_blocks, "replica": name})
        for at, count in zip(at_s.tolist(), np.rint(held).tolist(), strict=True):
            blocks.append({"at": at, "blocks": count, "replica": name})
    lines_of_use = (
        alt.Chart(rows(blocks), title="KV blocks in use (dashed: how many there are)")
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("at:Q", title="simulated time (s)"),
            y=alt.Y("blocks:Q", title="blocks", scale=alt.Scale(zero=True), axis=alt.Axis(format="~s")),
            color=alt.Color("replica:N", title=None),
        )
    )
    limits = (
        alt.Chart(rows(capacities))
        .mark_rule(strokeDash=[4, 4])
        .encode(y="of_blocks:Q", color=alt.Color("replica:N", title=None))
    )
    use = _over_faults(faults, lines_of_use, end_s)
    layers = (use, limits) if capacities else (use,)
    cache = alt.layer(*layers).properties(width=WIDTH, height=160)
    chart: alt.VConcatChart = alt.vconcat(_over_faults(faults, queue, end_s), cache).resolve_scale(
        color="independent"
    )
    return chart


def latency_cdf(requests: polars.DataFrame) -> altair.HConcatChart:
    """The share of requests that had their first token, each next token, their end within a time.

    Requests that did not come to it count in the whole: a curve of an overloaded run ends below 100 %.
    """
    import altair as alt
    import polars

    gaps = polars.col("generated_tokens") - 1
    latencies = requests.select(
        first=polars.col("first_token_s") - polars.col("arrival_s"),
        each=polars.when(gaps > 0).then((polars.col("finished_s") - polars.col("first_token_s")) / gaps),
        end=polars.col("finished_s") - polars.col("arrival_s"),
    )
    one_token = int(requests.filter((polars.col("status") == "finished") & (gaps < 1)).height)
    of_all = {"first": requests.height, "each": requests.height - one_token, "end": requests.height}
    titles = {
        "first": "Time to first token", "each": "Time per output token after it", "end": "End to end",
    }  # fmt: skip
    charts = []
    for name, title in titles.items():
        values = np.sort(latencies[name].drop_nulls().to_numpy()) * 1e3
        kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS)).astype(int))
        points = [{"ms": float(values[i]), "share": (i + 1) / max(of_all[name], 1)} for i in kept.tolist()]
        if points:
            points.insert(0, {"ms": points[0]["ms"], "share": 0.0})
        charts.append(
            alt.Chart(rows(points), title=title)
            .mark_line(interpolate="step-after", strokeWidth=2, color="#4e79a7")
            .encode(
                x=alt.X("ms:Q", title="ms", scale=alt.Scale(zero=True)),
                y=alt.Y(
                    "share:Q",
                    title="requests" if name == "first" else None,
                    scale=alt.Scale(domain=[0, 1]),
                    axis=alt.Axis(format="%"),
                ),
            )
            .properties(width=215, height=180)
        )
    return alt.hconcat(*charts)


def link_use(links: polars.DataFrame, end_s: float) -> altair.Chart:
    """The busiest links: bytes carried of what they could have carried, time in use, time shared."""
    import altair as alt
    import polars

    used = (
        links.filter(polars.col("n_bytes") > 0)
        .with_columns(
            carried=polars.col("n_bytes") / (polars.col("bytes_per_s") * max(end_s, 1e-300)),
            busy=polars.col("busy_s") / max(end_s, 1e-300),
            shared=polars.col("shared_s") / max(end_s, 1e-300),
        )
        .sort("carried", "link", descending=[True, False])
    )
    shown = used.head(MAX_LINKS)
    what = {"carried": "bytes carried, of capacity", "busy": "time in use", "shared": "time shared"}
    bars = [
        {"link": row["link"], "what": label, "share": row[name]}
        for row in shown.iter_rows(named=True)
        for name, label in what.items()
    ]
    title = f"Use of links: the busiest {shown.height} of the {used.height} that carried anything"
    colours = dict(zip(what.values(), ("#4e79a7", "#a0cbe8", "#e15759"), strict=True))
    chart: alt.Chart = (
        alt.Chart(rows(bars), title=title)
        .mark_bar()
        .encode(
            x=alt.X(
                "share:Q", title="share of the run", scale=alt.Scale(zero=True), axis=alt.Axis(format="~%")
            ),
            y=alt.Y("link:N", title=None, sort=shown["link"].to_list(), axis=alt.Axis(labelLimit=260)),
            yOffset=alt.YOffset("what:N", sort=list(what.values())),
            color=alt.Color("what:N", title=None, scale=_colours(colours)),
            tooltip=["link:N", "what:N", alt.Tooltip("share:Q", format=".3%")],
        )
        .properties(width=WIDTH - 200, height=max(30 * shown.height, 60))
    )
    return chart


def blame_bars(blame: polars.DataFrame, requests: polars.DataFrame) -> altair.Chart:
    """Where the time of a request went: mean seconds by cause, of all requests and of the slowest tenth."""
    import altair as alt

    finished = requests.select("request_id", "arrival_s", "finished_s").drop_nulls()
    joined = blame.join(finished, on="request_id")
    joined = joined.with_columns(latency=joined["finished_s"] - joined["arrival_s"]).sort(
        "latency", descending=True
    )
    groups = {f"all {joined.height} finished": joined}
    if joined.height >= 20:
        groups["slowest tenth"] = joined.head(joined.height // 10)
    negligible_s = 1e-6 * float(joined["latency"].sum())
    causes = [cause for cause in CAUSES if float(joined[cause].sum()) > negligible_s]
    bars = [
        {"group": group, "cause": cause, "seconds": frame[cause].mean(), "order": order}
        for group, frame in groups.items()
        for order, cause in enumerate(causes)
    ]
    chart: alt.Chart = (
        alt.Chart(rows(bars), title="Where a request's time went (mean)")
        .mark_bar()
        .encode(
            x=alt.X("seconds:Q", title="seconds per request", stack="zero", scale=alt.Scale(domainMin=0)),
            y=alt.Y("group:N", title=None, sort=list(groups), axis=alt.Axis(labelLimit=200)),
            color=alt.Color(
                "cause:N",
                title=None,
                sort=causes,
                scale=_colours({cause: CAUSE_COLOURS.get(cause, "#999999") for cause in causes}),
            ),
            order="order:Q",
            tooltip=["group:N", "cause:N", alt.Tooltip("seconds:Q", format=".4g")],
        )
        .properties(width=WIDTH - 200, height=max(48 * len(groups), 60))
    )
    return chart


def _colours(colours: Mapping[str, str]) -> altair.Scale:
    import altair as alt

    names: Sequence[str] = list(colours)
    return alt.Scale(domain=names, range=[colours[name] for name in names])
