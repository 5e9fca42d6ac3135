"""One page that shows a run: numbers, charts, and the scenario that gave them. It needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sim.results.basis import basis_lines, basis_notes
from sim.results.nearest_theory import Nearest
from sim.results.sentences import Verdict
from sim.views.drawing import NotDrawnError
from sim.views.report_page import report_page
from sim.views.report_run import details_html
from sim.views.report_sections import script_data, sections
from sim.views.table_html import shown, table

if TYPE_CHECKING:
    import polars

    from sim.results.records import Records
    from sim.results.setting import Surroundings

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


class Run(Protocol):
    """What is shown of a run: `sim.simulate.Result` is one."""

    @property
    def seed(self) -> int: ...
    @property
    def end_s(self) -> float: ...
    @property
    def records(self) -> Records: ...
    @property
    def surroundings(self) -> Surroundings: ...
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
    @property
    def blame_ttft(self) -> polars.DataFrame: ...
    @property
    def blame_itl(self) -> polars.DataFrame: ...
    @property
    def kv_tiers(self) -> polars.DataFrame: ...
    @property
    def hand_overs(self) -> polars.DataFrame: ...
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
    from altair.utils.schemapi import debug_mode

    with debug_mode(False):  # no check of charts as they are built: it takes most of their time
        found = sections(run, numbers)
    intro = f"<p>seed {run.seed}, {run.end_s:,.4g} simulated seconds</p>\n{verdict_html(run.explain())}"
    rest = [
        engines_html(numbers), basis_html(numbers), theory_html(run.theory()), keys_html(numbers),
        f"<h2>Scenario</h2>\n{details_html('as it was run', f'<pre>{escape(scenario)}</pre>')}",
    ]  # fmt: skip
    missing: tuple[str, ...] = ()
    drawings = {key: chart for section in found for key, chart in section.charts.items()}
    data = script_data(found)
    try:
        written = report_page(title, intro, found, rest, drawings, data)
    except NotDrawnError as failure:
        missing = (str(failure),)
        written = report_page(title, f"{intro}<p>{escape(missing[0])}</p>", found, rest, {}, data)
    path.write_text(written, encoding="utf-8")
    return missing


def verdict_html(verdict: Verdict) -> str:
    """What the run says, in sentences."""
    said = "".join(f'<p class="{escape(one.topic)}">{escape(str(one))}</p>\n' for one in verdict)
    return f'<h2>Verdict</h2>\n<div class="verdict">\n{said}</div>\n'


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
    scroll = f'<div class="scroll"><table>\n<tr>{head}</tr>\n{"".join(rows)}</table></div>'
    return f"<h2>Engines</h2>\n{scroll}\n"


def keys_html(numbers: Mapping[str, Any]) -> str:
    """What came of the keys that the scenario sets, as an HTML table: those without effect first."""
    words = numbers.get("keys") or {}
    told = (("no effect", words.get("no_effect") or {}), ("did not bind", words.get("did_not_bind") or {}))
    rows = [(key, word, why) for word, keys in told for key, why in keys.items()]
    acted = words.get("acted") or []
    if not rows and not acted:
        return ""
    lines = ["<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>\n" for row in rows]
    head = "<tr><th>key</th><th></th><th></th></tr>"
    words_of = f'<div class="scroll"><table>\n{head}\n{"".join(lines)}</table></div>\n' if rows else ""
    acting = f"<p>{len(acted)} keys acted: {escape(', '.join(acted))}.</p>\n" if acted else ""
    return f"<h2>Keys that the scenario sets</h2>\n{words_of}{acting}"


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
    return "<h2>Theory beside it</h2>\n" + table(THEORY_COLUMNS, rows) if rows else ""
