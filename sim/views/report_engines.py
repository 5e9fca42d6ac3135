"""Parts of the report about engines: stages of a pipeline, KV tiers, KV caches that were handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.results.bubbles import STATES, Pipeline, pipelines
from sim.results.metrics import percentile
from sim.views import report_charts as charts
from sim.views.report_run import Section, Shown, chart_html, swatches_html
from sim.views.table_html import shown, table

if TYPE_CHECKING:
    import polars

STAGES = 32  # bars of pipeline stages
POINTS = 600  # of hand-overs


def stages(of: Shown) -> Section | None:
    """What pipeline stages did, their bubbles by cause, beside the textbook's."""
    found = [one for pool in of.pools for one in pipelines(pool, of.records)]
    if not found:
        return None
    colours = ("#1b7837", "#b4b4b4", "#ffd34d", "#a50f15", "#54278f", "#ededed")
    bars, rows = [], []
    for one in found[:STAGES]:
        for stage in one.stages:
            name = f"{of.engine_name(one.replica)}, stage {stage.stage}"
            bars += [
                {"stage": name, "state": state, "share": float(f"{share:.4g}"), "order": order}
                for order, (state, share) in enumerate(stage.shares.items())
            ]
    heads = (
        "engine",
        "stages",
        *STATES,
        "batches in flight",
        "idle with requests",
        "GPipe once",
        "going round",
    )
    for one in found[:STAGES]:
        rows.append(_pipeline_row(of, one))
    intro = (
        "<p>An engine keeps as many batches in flight as it has stages. The textbook's bubble, for equal "
        "stages and nothing else: (p - 1)/(m + p - 1) where m micro-batches fill and drain p stages once "
        "(GPipe, Huang et al., 2019); 1 - m/p where m batches go round, as decodes do. Both are of the time "
        "with requests, and so is <i>idle with requests</i>.</p>"
    )
    key = swatches_html(dict(zip(STATES, colours, strict=True)), STATES)
    html = f"{intro}{chart_html('stages')}{key}{table(heads, rows)}"
    return Section(
        "stages",
        "Pipeline stages",
        html,
        {"stages": charts.stages(bars[: 6 * STAGES], tuple(STATES), len(bars) > 60)},
    )


def _pipeline_row(of: Shown, one: Pipeline) -> list[str]:
    mean = {state: float(np.mean([stage.shares[state] for stage in one.stages])) for state in STATES}
    there = one.with_requests or 1.0
    idle = max(0.0, 1.0 - mean["computes"] / there)
    return [
        of.engine_name(one.replica), str(len(one.stages)), *(f"{mean[state]:.1%}" for state in STATES),
        f"{one.in_flight:.2f}", f"{idle:.1%}", f"{one.textbook:.1%}", f"{one.going_round:.1%}",
    ]  # fmt: skip


def caches(of: Shown) -> Section | None:
    """KV tiers below HBM, and KV caches that went from prefill to decode."""
    parts, drawn = [], dict[str, Any]()
    tiers = of.run.kv_tiers
    if tiers.height:
        rows = [
            [of.engine_name(row["replica"]), row["tier"], _gb(row["capacity_bytes"]),
             _gb(row["peak_bytes"]), f"{row['hit_rate'] or 0.0:.1%}", f"{row['hit_tokens']:,}",
             _gb(row["reloaded_bytes"]), _gb(row["stored_bytes"]),
             _gb(row["evicted_bytes"]), _gb(row["lost_bytes"])]
            for row in tiers.iter_rows(named=True)
        ]  # fmt: skip
        heads = (
            "engine", "tier", "room (GB)", "most held (GB)", "of tokens asked for, found here",
            "tokens found", "read back (GB)", "written (GB)", "dropped (GB)", "lost (GB)",
        )  # fmt: skip
        parts.append(f"<h3>Tiers of KV cache</h3>{table(heads, rows)}")
    moves = of.run.hand_overs
    if moves.height:
        html, chart = _hand_overs(of, moves)
        parts.append(html)
        drawn["hand-overs"] = chart
    return Section("caches", "KV caches", "".join(parts), drawn) if parts else None


def _gb(n_bytes: float | None) -> str:
    return "" if n_bytes is None else shown(n_bytes / 1e9)


def _hand_overs(of: Shown, moves: polars.DataFrame) -> tuple[str, Any]:
    import polars

    timed = moves.with_columns(
        wait_ms=(polars.col("reserved_s") - polars.col("prefilled_s")) * 1e3,
        way_ms=(polars.col("arrived_s") - polars.col("reserved_s")) * 1e3,
    )
    rows = []
    for (sender, receiver), part in timed.sort("sender", "receiver", "request_id").group_by(
        "sender", "receiver", maintain_order=True
    ):
        wait, way = (np.sort(part[name].drop_nulls().to_numpy()) for name in ("wait_ms", "way_ms"))
        rows.append(
            [f"{of.engine_name(int(sender))} to {of.engine_name(int(receiver))}", f"{part.height:,}",
             shown(float(part["n_bytes"].sum()) / 1e9),
             *(shown(percentile(values, p)) for values in (wait, way) for p in (50, 99))]
        )  # fmt: skip
    heads = (
        "from, to", "KV caches", "GB", "waiting for room, median (ms)", "p99", "on the way, median (ms)",
        "p99",
    )  # fmt: skip
    step = -(-timed.height // POINTS)
    points = [
        {"t": float(f"{row['prefilled_s']:.5g}"), "ms": float(f"{row[name]:.4g}"), "part": part,
         "request": row["request_id"],
         "way": f"{of.engine_name(row['sender'])} to {of.engine_name(row['receiver'])}"}
        for row in timed.sort("prefilled_s", "request_id").gather_every(step).iter_rows(named=True)
        for name, part in (("wait_ms", "waiting for room"), ("way_ms", "on its way"))
        if row[name] is not None
    ]  # fmt: skip
    key = swatches_html({"waiting for room": charts.LINES[1], "on its way": charts.LINES[0]})
    html = f"<h3>From prefill to decode</h3>{chart_html('hand-overs')}{key}{table(heads, rows)}"
    return html, charts.hand_overs(points, of.faults, of.run.end_s or 1.0)
