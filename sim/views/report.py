"""One page that shows a run: numbers, charts, and the scenario that gave them. It needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sim.results.basis import basis_lines, basis_notes
from sim.results.blame import CAUSES, METRICS, NEGLIGIBLE
from sim.results.nearest_theory import Nearest
from sim.results.sentences import Verdict
from sim.views import charts
from sim.views.drawing import NotDrawnError
from sim.views.files import page

if TYPE_CHECKING:
    import altair
    import polars

LATENCIES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "between tokens",
    "e2el": "end to end",
    "queue": "in the queue",
}
STATISTICS = ("mean", "median", "p90", "p95", "p99", "p99.9", "max", "std")
GROUPS = ("mean", "slowest_tenth")  # of `numbers["blame"]`
BLAME_COLUMNS = (
    "where the time went (ms)",
    *(f"{metric}{of}" for metric in METRICS for of in ("", ", slowest tenth")),
    "share of e2el",
)
THEORY_COLUMNS = (
    "station",
    "nearest model",
    "of",
    "load",
    "theory (s)",
    "simulated (s)",
    "gap",
    "why they differ",
)
ROUNDING = 1e-9  # a spread below this is that of the clock's last digits
COUNTS = {
    "completed": "requests finished",
    "unfinished": "requests unfinished",
    "aborted": "requests aborted",
    "rejected": "requests rejected",
    "cut_answers": "answers cut at max_model_len",
    "warmup_requests": "requests left out as warm-up",
    "cooldown_requests": "requests left out as cool-down",
    "duration": "duration (s)",
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
    "total_token_throughput": "tokens/s, prompts too",
    "output_throughput_per_gpu": "output tokens/s per GPU",
    "request_goodput": "requests/s within their objectives",
    "slo_attainment": "share within their objectives",
    "mean_concurrency": "requests at a time (mean)",
    "preemptions": "preemptions",
    "prefix_hit_rate": "prompt tokens found in the cache",
    "saturated": "saturated",
}


class Run(Protocol):
    """What is shown of a run: `sim.simulate.Result` is one."""

    @property
    def seed(self) -> int: ...
    @property
    def end_s(self) -> float: ...
    @property
    def requests(self) -> polars.DataFrame: ...
    @property
    def steps(self) -> polars.DataFrame: ...
    @property
    def kv_blocks(self) -> polars.DataFrame: ...
    @property
    def links(self) -> polars.DataFrame: ...
    @property
    def blame(self) -> polars.DataFrame: ...
    def summary(self) -> dict[str, Any]: ...
    def explain(self) -> Verdict: ...
    def theory(self) -> tuple[Nearest, ...]: ...


def write_report(
    run: Run, title: str, scenario: str, path: Path, numbers: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Write the page. `scenario` is the text of the resolved scenario, shown at the end. Returns what is
    missing from the page: nothing, or why it has no charts. `numbers` stand in for those of `run.summary()`.
    """
    numbers = run.summary() if numbers is None else numbers
    before = f"<h1>{escape(title)}</h1>\n<p>seed {run.seed}, {run.end_s:,.1f} simulated seconds</p>\n"
    before += verdict_html(run.explain())
    before += counts_html(numbers) + latencies_html(numbers) + blame_html(numbers) + engines_html(numbers)
    before += basis_html(numbers)
    before += theory_html(run.theory())
    before += keys_html(numbers)
    after = (
        f"<h2>Scenario</h2>\n<details><summary>as it was run</summary><pre>{escape(scenario)}</pre></details>"
    )
    missing: tuple[str, ...] = ()
    try:
        written = page(title, run_charts(run), before, after)
    except NotDrawnError as failure:
        missing = (str(failure),)
        written = page(title, (), f"{before}<p>{escape(missing[0])}</p>\n", after)
    path.write_text(written, encoding="utf-8")
    return missing


def run_charts(run: Run) -> list[tuple[str, altair.TopLevelMixin]]:
    """The charts of a run with their headings. A run without requests has none."""
    requests = run.requests
    if not requests.height:
        return []
    found: list[tuple[str, altair.TopLevelMixin]] = []
    if run.blame.height:
        found.append(("Causes", charts.blame_bars(run.blame, requests)))
    found += [
        ("Latency", charts.latency_cdf(requests)),
        ("Load", charts.load_over_time(requests, run.kv_blocks, run.end_s)),
        ("Timeline", charts.request_timeline(requests)),
    ]
    if (run.links["n_bytes"] > 0).any():
        found.append(("Links", charts.link_use(run.links, run.end_s)))
    return found


def counts_rows(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Counts and throughputs, with the words for them; what does not apply is left out."""
    return [(words, shown(numbers[name])) for name, words in COUNTS.items() if numbers.get(name) is not None]


def latency_rows(numbers: Mapping[str, Any], statistics: Sequence[str] = STATISTICS) -> list[list[str]]:
    """One row per kind of latency, its statistics in ms; those that were not measured are left out."""
    found = []
    for name, words in LATENCIES.items():
        values = [numbers.get(f"{statistic}_{name}_ms") for statistic in statistics]
        if values[-1] is not None and values[0] and values[-1] < ROUNDING * values[0]:
            values[-1] = 0.0
        if any(value is not None for value in values):
            found.append([words, *(shown(value) for value in values)])
    return found


def blame_rows(numbers: Mapping[str, Any]) -> list[list[str]]:
    """One row per cause that counts in any of the latencies: ms of the mean request and of the slowest tenth
    by that latency; of the time between tokens, per token.
    """
    blame = numbers.get("blame") or {}
    groups = [blame.get(metric, {}).get(group) or {} for metric in METRICS for group in GROUPS]
    totals = [sum(group.values()) for group in groups]
    found = []
    for cause in CAUSES:
        values = [group.get(cause, 0.0) for group in groups]
        counts = [value > NEGLIGIBLE * total for value, total in zip(values, totals, strict=True)]
        if any(counts):
            cells = [shown(value if there else 0.0) for value, there in zip(values, counts, strict=True)]
            whole = totals[-2]
            found.append([cause, *cells, f"{values[-2] / whole:.1%}" if whole else ""])
    return found


def shown(value: Any) -> str:
    """A number as a person reads it: four digits that say something; infinite is written so."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < float("inf") else f"{value:.4g}"
    return str(value)


def verdict_html(verdict: Verdict) -> str:
    """What the run says, in sentences."""
    return "<h2>Verdict</h2>\n" + "".join(f"<p>{escape(str(one))}</p>\n" for one in verdict)


def counts_html(numbers: Mapping[str, Any]) -> str:
    """Counts and throughputs as an HTML table."""
    lines = [
        f'<tr><td>{escape(words)}</td><td class="number">{escape(value)}</td></tr>'
        for words, value in counts_rows(numbers)
    ]
    return "<table>\n" + "\n".join(lines) + "\n</table>\n"


def engines_html(numbers: Mapping[str, Any]) -> str:
    """Number formats and KV cache of the engines of each pool, and what decided the formats."""
    rows = []
    for pool, engine in (numbers.get("engines") or {}).items():
        formats = ", ".join(f"{key} {value}" for key, value in engine["precision"].items())
        cells = [pool, engine["model"], formats, engine["checkpoint"]]
        cells += [shown(engine[key]) for key in ("kv_cache_tokens", "kv_cache_blocks")]
        cells.append(f"{engine['max_concurrency']:.2f}x for {engine['max_model_len']:,} tokens")
        rows.append("<tr>" + "".join(f"<td>{escape(str(cell or ''))}</td>" for cell in cells) + "</tr>\n")
    if not rows:
        return ""
    names = ("pool", "model", "precision", "checkpoint", "KV tokens", "KV blocks", "maximum concurrency")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<h2>Engines</h2>\n<table>\n<tr>{head}</tr>\n{''.join(rows)}</table>\n"


def keys_html(numbers: Mapping[str, Any]) -> str:
    """What came of the keys that the scenario sets, as an HTML table: those without effect first."""
    words = numbers.get("keys") or {}
    told = (("no effect", words.get("no_effect") or {}), ("did not bind", words.get("did_not_bind") or {}))
    rows = [(key, word, why) for word, keys in told for key, why in keys.items()]
    acted = words.get("acted") or []
    if not rows and not acted:
        return ""
    lines = ["<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>\n" for row in rows]
    table = f"<table>\n<tr><th>key</th><th></th><th></th></tr>\n{''.join(lines)}</table>\n" if rows else ""
    acting = f"<p>{len(acted)} keys acted: {escape(', '.join(acted))}.</p>\n" if acted else ""
    return f"<h2>Keys that the scenario sets</h2>\n{table}{acting}"


def basis_html(numbers: Mapping[str, Any]) -> str:
    """What the run rests on, and what that says of its numbers."""
    lines = [*basis_lines(numbers), *basis_notes(numbers)]
    if not lines:
        return ""
    return "<h2>What it rests on</h2>\n" + "".join(f"<p>{escape(line)}</p>\n" for line in lines)


def theory_html(stations: Sequence[Nearest]) -> str:
    """The closed form that comes nearest to each station, beside what was simulated."""
    rows = []
    for one in stations:
        if one.model != "none":
            numbers = [shown(one.load), shown(one.predicted_s), shown(one.simulated_s)]
            gap = f"{one.gap:+.1%}" if isfinite(one.gap) and isfinite(one.predicted_s) else ""
            rows.append([one.station, one.model, one.quantity, *numbers, gap, one.reason])
    return "<h2>Theory beside it</h2>\n" + _table(THEORY_COLUMNS, rows) if rows else ""


def latencies_html(numbers: Mapping[str, Any]) -> str:
    """Latencies as an HTML table, kinds by statistics."""
    return "<h2>Latency in numbers</h2>\n" + _table(("ms", *STATISTICS), latency_rows(numbers))


def blame_html(numbers: Mapping[str, Any]) -> str:
    """Where the time went, as an HTML table: causes by latencies."""
    rows = blame_rows(numbers)
    return "<h2>Causes in numbers</h2>\n" + _table(BLAME_COLUMNS, rows) if rows else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = [
        f"<tr><td>{escape(row[0])}</td>"
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    ]
    return f"<table>\n<tr>{head}</tr>\n" + "\n".join(lines) + "\n</table>\n"
