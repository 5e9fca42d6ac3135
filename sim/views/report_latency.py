"""Parts of the report about latency: numbers, causes, distributions, and the slowest requests."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from sim.results.blame import CAUSES, METRICS
from sim.results.records import Records
from sim.results.sojourn_times import phases
from sim.results.spans import Durations
from sim.results.stations import waits_of
from sim.views import report_charts as charts
from sim.views.charts import CAUSE_COLOURS, PHASE_COLOURS
from sim.views.number_rows import STATISTICS, latency_rows
from sim.views.report_run import Floats, Section, Shown, cell_html, chart_html, details_html, swatches_html
from sim.views.table_html import shown, table
from sim.views.words import CAUSES as CAUSE_NAMES
from sim.views.words import HEADLINES, LATENCIES, MEANINGS, QUIET_AT_ZERO, STATIONS

if TYPE_CHECKING:
    import altair

SLOWEST = 200  # requests whose causes are on the page
BARS = 60  # of these, drawn in time
CURVE = np.linspace(0.0, 100.0, 201)  # percentiles of the curve of times between tokens
NEGLIGIBLE = 1e-6  # of a latency: what rounding leaves
GROUPS = {"all": 1, "slowest 10 %": 10, "slowest 1 %": 100}


def headline(of: Shown) -> Section | None:
    """Each number with its words, and its meaning where a pointer or the keyboard comes to it."""
    tiles = []
    for name, (words, meaning) in HEADLINES.items():
        value = of.numbers.get(name)
        if value is None or (name in QUIET_AT_ZERO and not value):
            continue
        tiles.append(
            f'<div class="tile" tabindex="0"><span class="value">{escape(shown(value))}</span>'
            f'<span class="words">{escape(words)}</span>'
            f'<span class="meaning" role="tooltip">{escape(meaning)}</span></div>'
        )
    quiet = [HEADLINES[name][0] for name in QUIET_AT_ZERO if of.numbers.get(name) == 0]
    none = f'<p class="small">None: {escape(", ".join(quiet))}.</p>' if quiet else ""
    return Section("numbers", "In numbers", f'<div class="tiles">{"".join(tiles)}</div>{none}')


def where_the_time_went(of: Shown) -> Section | None:
    """Causes of each latency, of all requests and of the slowest by it; and what they waited for at first."""
    drawn: dict[str, altair.TopLevelMixin] = {}
    rows: list[list[str]] = []
    used: dict[str, None] = {}
    html = []
    for metric in METRICS:
        groups = _groups(of, metric)
        if not groups:
            continue
        unit = "ms of a request" if metric != "itl" else "ms of a token"
        drawn[f"causes-{metric}"] = charts.causes(LATENCIES[metric], unit, groups)
        html.append(chart_html(f"causes-{metric}"))
        counted = {cause: [group.get(cause, 0.0) for group in groups.values()] for cause in CAUSES}
        totals = [sum(group.values()) for group in groups.values()]
        for cause, values in counted.items():
            if any(values):
                used[cause] = None
                shares = [f"{shown(v)} ({v / (t or 1.0):.0%})" for v, t in zip(values, totals, strict=True)]
                rows.append([LATENCIES[metric], CAUSE_NAMES[cause], *shares])
    if not drawn:
        return None
    key = "".join(
        f'<li><span class="swatch" style="background:{CAUSE_COLOURS[cause]}"></span>'
        f"<b>{CAUSE_NAMES[cause]}</b> {escape(MEANINGS[cause])}</li>"
        for cause in CAUSE_COLOURS
        if cause in used
    )
    intro = (
        "<p>Every second of a request is charged to one cause, so that a bar is as long as the latency. The "
        "slowest are those of that latency.</p>"
    )
    details = details_html("the same in numbers (ms)", table(("latency", "cause", *GROUPS), rows))
    return Section(
        "causes",
        "Where the time went",
        f'{intro}{"".join(html)}<ul class="legend">{key}</ul>{_waits(of)}{details}',
        drawn,
    )


def _groups(of: Shown, metric: str) -> dict[str, dict[str, float]]:
    """Milliseconds by cause of the mean request, and of the slowest tenth and hundredth by this latency; of
    the time between tokens, per token.
    """
    import polars

    requests = of.run.requests.sort("arrival_s", "request_id")
    requests = requests.slice(int(of.numbers.get("warmup_requests") or 0))
    frame = {"ttft": of.run.blame_ttft, "itl": of.run.blame_itl, "e2el": of.run.blame}[metric]
    end = "first_token_s" if metric == "ttft" else "finished_s"
    joined = frame.join(
        requests.select("request_id", polars.col(end).alias("end_s"), "generated_tokens"), on="request_id"
    ).sort("request_id")
    if not joined.height:
        return {}
    in_ms = joined.select(CAUSES).to_numpy() * 1e3
    if metric == "itl":
        in_ms = in_ms / np.maximum(joined["generated_tokens"].to_numpy() - 1, 1)[:, None]
    open_ = joined["end_s"].is_null().to_numpy()
    longest = np.argsort(np.where(open_, -np.inf, -in_ms.sum(axis=1)), kind="stable")
    found = {}
    for name, part in GROUPS.items():
        if part > 1 and len(longest) < 2 * part:
            continue
        mean = in_ms[longest[: -(-len(longest) // part)]].mean(axis=0)
        least = NEGLIGIBLE * float(mean.sum())
        found[name] = {
            cause: float(value) if value > least else 0.0 for cause, value in zip(CAUSES, mean, strict=True)
        }
    return found


def _waits(of: Shown) -> str:
    """What the waits before the first step, and for room elsewhere, were for."""
    waits = waits_of(of.surroundings.setting, of.records)
    by_station = waits.by_station()
    total = sum(by_station.values())
    if not total:
        return ""
    rows = [
        [STATIONS[station], of.pool_name(of.pools[number]), f"{seconds / total:.0%}", shown(seconds)]
        for (number, station), seconds in sorted(by_station.items(), key=lambda one: -one[1])
        if seconds >= 0.005 * total
    ]
    heads = ("Before a first step, requests waited for", "in", "of all waiting", "seconds together")
    return table(heads, rows)


def latencies(of: Shown) -> Section | None:
    """The distribution of each latency, with the objectives."""
    rows = of.records.requests
    let_in = rows["status"] != "rejected"
    gaps = rows["generated_tokens"] - 1
    finished = rows["status"] == "finished"
    with np.errstate(invalid="ignore"):
        values = {
            "ttft": (rows["first_token_s"] - rows["arrival_s"])[let_in],
            "tpot": ((rows["finished_s"] - rows["first_token_s"]) / np.maximum(gaps, 1))[
                let_in & (~finished | (gaps > 0))
            ],
            "e2el": (rows["finished_s"] - rows["arrival_s"])[let_in],
        }
    drawn: dict[str, altair.TopLevelMixin] = {}
    html = []
    for metric, words in LATENCIES.items():
        if metric == "itl":
            ascending, shares = _between_tokens(of.records)
        else:
            known = np.sort(values[metric][~np.isnan(values[metric])])
            ascending, shares = known * 1e3, (np.arange(len(known)) + 1) / max(1, len(values[metric]))
        if not len(ascending):
            continue
        objectives = {
            name: limits[f"{metric}_ms"]
            for name, limits in of.surroundings.objectives.items()
            if f"{metric}_ms" in limits
        }
        drawn[f"latency-{metric}"] = charts.distribution(words, ascending, shares, objectives)
        kept = "; ".join(
            f"{_share_within(ascending, shares, ms):.1%} within {ms:g} ms{f' ({name})' if name else ''}"
            for name, ms in objectives.items()
        )
        html.append(
            f"<div>{chart_html(f'latency-{metric}')}"
            + (f'<p class="small">{escape(kept)}</p></div>' if kept else "</div>")
        )
    if not drawn:
        return None
    intro = (
        "<p>The share of requests (of pauses, between tokens) that came within a time; what never came "
        "counts in the whole. An objective of the scenario is a dashed line.</p>"
    )
    return Section(
        "latency", "Latencies", f'{intro}<div class="two">{"".join(html)}</div>{_numbers(of)}', drawn
    )


def _between_tokens(records: Records) -> tuple[Floats, Floats]:
    steps, gaps = records.steps, records.gaps
    durations = Durations.of(
        np.concatenate((steps["first_step_s"], gaps["first_gap_s"])),
        np.concatenate((steps["last_step_s"], gaps["last_gap_s"])),
        np.concatenate((steps["steps"], gaps["gaps"])),
        np.concatenate((steps["gaps"], gaps["sequences"])),
    )
    if not durations.total:
        return np.empty(0), np.empty(0)
    found = durations.percentiles(CURVE.tolist())
    return np.array(found, dtype=np.float64) * 1e3, CURVE / 100.0


def _share_within(ascending: Floats, shares: Floats, limit: float) -> float:
    place = int(np.searchsorted(ascending, limit, side="right"))
    return float(shares[place - 1]) if place else 0.0


def _numbers(of: Shown) -> str:
    return details_html(
        "the same in numbers (ms)", table(("ms", *STATISTICS), latency_rows(of.numbers)), open_=True
    )


def slowest(of: Shown) -> Section | None:
    """The slowest requests in time, and the causes of each on a click."""
    import polars

    requests = of.run.requests
    if not requests.height:
        return None
    ended = polars.coalesce("finished_s", "aborted_s", polars.lit(of.run.end_s))
    ranked = (
        requests.filter(polars.col("status") != "rejected")
        .with_columns(e2e_s=ended - polars.col("arrival_s"))
        .sort("e2e_s", "request_id", descending=[True, False])
        .head(SLOWEST)
    )
    if not ranked.height:
        return None
    bars = [
        {
            "request": row["request_id"],
            "phase": phase,
            "t": float(f"{begin_s:.6g}"),
            "until": float(f"{end_s:.6g}"),
        }
        for row in ranked.head(BARS).iter_rows(named=True)
        for phase, begin_s, end_s in phases(row)
    ]
    blame = of.run.blame.join(ranked.select("request_id"), on="request_id")
    seconds = dict(zip(blame["request_id"].to_list(), blame.select(CAUSES).iter_rows(), strict=True))
    data = [
        {
            "id": row["request_id"],
            "ms": [float(f"{1e3 * s:.4g}") for s in seconds.get(row["request_id"], ())],
        }
        for row in ranked.iter_rows(named=True)
    ]
    lines = []
    for row in ranked.iter_rows(named=True):
        first = None if row["first_token_s"] is None else (row["first_token_s"] - row["arrival_s"]) * 1e3
        cells = [
            f'<button type="button" data-request="{row["request_id"]}">{row["request_id"]}</button>',
            *([escape(row["request_class"])] if any(ranked["request_class"]) else []),
            escape(of.engine_name(row["replica"]) if row["replica"] >= 0 else ""),
            *(escape(shown(value)) for value in (
                row["arrival_s"], row["e2e_s"] * 1e3, first, row["prompt_tokens"], row["generated_tokens"],
                row["preemptions"] + row["resubmissions"],
            )),
            escape(row["status"]),
        ]  # fmt: skip
        lines.append("<tr>" + "".join(cell_html(cell) for cell in cells) + "</tr>")
    heads = (
        "request", *(["class"] if any(ranked["request_class"]) else []), "engine", "came at (s)",
        "end to end (ms)", "first token (ms)", "prompt", "answer", "begun again", "",
    )  # fmt: skip
    head = "".join(f"<th>{name}</th>" for name in heads)
    key = swatches_html(PHASE_COLOURS)
    html = (
        f"<p>The slowest {min(BARS, ranked.height)} of {requests.height:,} in time, the slowest on top; "
        f"below, the slowest {ranked.height}. A click on one shows where its own time went.</p>"
        f"{chart_html('requests')}{key}"
        '<div id="request" aria-live="polite"></div>'
        '<div class="scroll" tabindex="0" role="region" aria-label="The slowest requests">'
        f"<table><tr>{head}</tr>{''.join(lines)}</table></div>"
    )
    causes = [
        {"name": CAUSE_NAMES[cause], "colour": CAUSE_COLOURS[cause], "words": MEANINGS[cause]}
        for cause in CAUSES
    ]
    return Section(
        "requests", "The slowest requests", html,
        {"requests": charts.requests(bars, of.faults, of.run.end_s or 1.0)} if bars else {},
        {"requests": data, "causes": causes},
    )  # fmt: skip
