"""One page for a study of many runs: what was best of what, differences with their intervals, and the tables.

It needs no network, and has the style of a run's report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sim.inputs.errors import InputError
from sim.results.blame import CAUSES
from sim.results.whole_files import whole_file
from sim.views import study_charts as charts
from sim.views.charts import CAUSE_COLOURS
from sim.views.drawing import NotDrawnError
from sim.views.report_page import report_page
from sim.views.report_run import Section, chart_html, swatches_html
from sim.views.studied import Comparison, Difference, Recommendation, Row, Sensitivity, Sweep
from sim.views.study_charts import Dot, Span
from sim.views.table_html import shown, table
from sim.views.words import CAUSES as CAUSE_NAMES
from sim.views.words import MEANINGS

USER, GPU = "output_throughput_per_user", "output_throughput_per_gpu"
METRICS = {  # the small multiples, with their words
    "p99_ttft_ms": "p99 time to first token (ms)",
    "mean_tpot_ms": "mean time per output token (ms)",
    "p99_itl_ms": "p99 between tokens (ms)",
    "mean_e2el_ms": "mean end to end (ms)",
    "output_throughput_per_gpu": "output tokens/s per GPU",
    "request_throughput": "requests/s",
    "slo_attainment": "share within objectives",
}
SHORT = {
    "tensor_parallel_size": "TP", "pipeline_parallel_size": "PP", "data_parallel_size": "DP",
    "max_num_batched_tokens": "tokens a step", "max_num_seqs": "seats",
}  # fmt: skip
MOST = 60  # lines of a chart or a table of reasons


def check_place(path: Path) -> None:
    """InputError where no page can be written, before the runs that it is of."""
    if path.suffix != ".html":
        raise InputError(f"{path}: must end in .html")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}; make it, or name another file")


def write_study(path: Path, title: str, intro: Sequence[str], sections: Iterable[Section | None]) -> Path:
    """Write the page; without its charts where V8 cannot run."""
    check_place(path)
    found = [section for section in sections if section is not None]
    drawings = {key: chart for section in found for key, chart in section.charts.items()}
    words = "".join(f"<p>{escape(line)}</p>\n" for line in intro)
    try:
        page = report_page(title, words, found, (), drawings, "{}")
    except NotDrawnError as failure:
        page = report_page(title, f"{words}<p>{escape(str(failure))}</p>", found, (), {}, "{}")
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def recipe(changes: Iterable[tuple[str, Any]]) -> str:
    """Changes as a label.

    >>> recipe([("engine.tensor_parallel_size", 4), ("replicas", 2)])
    'TP 4, replicas 2'
    """
    named = [(key.rpartition(".")[2], value) for key, value in changes]
    return ", ".join(f"{SHORT.get(name, name)} {value}" for name, value in named) or "as it is"


# ---- sweep


def sweep_page(found: Sweep, path: Path) -> Path:
    """The page of a sweep."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in found.rows:
        if row.status == "done":
            groups.setdefault((row.point.scenario, repr(row.point.changes)), []).append(row)
    named = {_name(found, rows[0]): rows for rows in groups.values()}
    bounds = {}
    if named:
        names = list(dict.fromkeys(name for row in found.rows for name in METRICS if name in row.summary))
        for name, means in zip(named, found.means(names).to_dicts(), strict=True):
            for metric in names:
                if means[f"{metric}_low"] is not None:
                    bounds[name, metric] = means[f"{metric}_low"], means[f"{metric}_high"]
    seeds = len({row.point.seed for row in found.rows})
    intro = [
        f"{len(found.rows)} runs: {len(groups)} combinations with numbers, {seeds} seeds each.",
        *found.notes,
    ]
    return write_study(
        path, "Sweep", intro,
        [
            *_paretos(named), _multiples(named, bounds), _means_table(named, bounds),
            _reasons(_reason(found, row) for row in found.rows),
        ],
    )  # fmt: skip


def _name(found: Sweep, row: Row) -> str:
    words = recipe(row.point.changes)
    if not found.names:
        return words
    return found.names[row.point.scenario] + (f", {words}" if row.point.changes else "")


def _reason(found: Sweep, row: Row) -> tuple[str, str, str] | None:
    return None if row.status == "done" else (_name(found, row), row.status, row.reason)


def _reasons(rows: Iterable[tuple[str, str, str] | None]) -> Section | None:
    """What has no numbers, and why; the same reason once."""
    told = list(dict.fromkeys(row for row in rows if row is not None))
    if not told:
        return None
    html = table(("", "", "reason"), told[:MOST])
    more = f"<p>and {len(told) - MOST} more</p>" if len(told) > MOST else ""
    return Section("without", "Without numbers", html + more)


def _tokens_of_a_dollar(dollars_a_million: float) -> float:
    return 1e6 / dollars_a_million


TWINS: tuple[tuple[str, str, str, Callable[[float], float]], ...] = (
    (GPU, "pareto", "a GPU", float),
    ("output_tokens_per_s_per_mw", "pareto-watt", "a provisioned megawatt", float),
    ("usd_per_million_output_tokens", "pareto-dollar", "tokens a dollar", _tokens_of_a_dollar),
)
"""What tokens are counted against: the metric, the name of its chart, its words, and its number of them."""


def _paretos(named: Mapping[str, Sequence[Row]]) -> list[Section | None]:
    """The frontier per GPU, and its twins per watt and per dollar where they are known."""
    found: list[Section | None] = []
    for metric, place, of, amount in TWINS:
        dots = []
        for name, rows in named.items():
            user, paid = (_mean(rows, one) for one in (USER, metric))
            if user is not None and paid:
                dots.append(Dot(name, user, amount(paid)))
        found.append(_pareto_of(dots, place, of))
    return found


def _pareto_of(dots: Sequence[Dot], place: str = "pareto", of: str = "a GPU") -> Section | None:
    if not dots:
        return None
    dots = sorted(dots, key=lambda dot: -dot.per_gpu)
    best = charts.frontier(dots)
    rows = [
        [
            str(number),
            dot.name,
            shown(dot.per_user),
            shown(dot.per_gpu),
            "on the frontier" if dot in best else "",
        ]
        for number, dot in enumerate(dots, 1)
    ]
    unit = of if of.startswith("tokens") else f"tokens/s of {of}"
    intro = (
        f"<p>Up: {unit}. To the right: how fast an answer is written. No other point has more of "
        "both than those on the line.</p>"
    )
    heads = ("", "recipe", "tokens/s of a user", unit, "")
    html = f"{intro}{chart_html(place)}{table(heads, rows)}"
    title = f"{unit[0].upper()}{unit[1:]} against tokens/s of a user"
    return Section(place, title, html, {place: charts.pareto(dots, of)})


Intervals = Mapping[tuple[str, str], tuple[float, float]]
"""The interval of 95 % over seeds, by recipe and metric; of one seed there is none."""


def _multiples(named: Mapping[str, Sequence[Row]], bounds: Intervals) -> Section | None:
    """One small chart a metric, a bar a recipe, with its interval over seeds."""
    drawn, html = {}, []
    for metric, words in METRICS.items():
        spans = [
            Span(name, mean, *bounds.get((name, metric), (mean, mean)))
            for name, rows in list(named.items())[:MOST]
            if (mean := _mean(rows, metric)) is not None
        ]
        if len(spans) > 1 and any(span.mean for span in spans):
            drawn[f"of-{metric}"] = charts.bars(words, spans)
            html.append(f"<div>{chart_html(f'of-{metric}')}</div>")
    if not drawn:
        return None
    intro = "<p>The mean over seeds; a line is its interval of 95 %.</p>" if bounds else ""
    return Section("metrics", "Metric by metric", f'{intro}<div class="two">{"".join(html)}</div>', drawn)


def _means_table(named: Mapping[str, Sequence[Row]], bounds: Intervals) -> Section | None:
    metrics = [
        metric for metric in METRICS if any(_mean(rows, metric) is not None for rows in named.values())
    ]
    rows = []
    for name, of_name in named.items():
        cells = [name, str(len(of_name))]
        for metric in metrics:
            mean = _mean(of_name, metric)
            bound = bounds.get((name, metric))
            width = "" if mean is None or bound is None else f" ± {shown(float(f'{bound[1] - mean:.2g}'))}"
            cells.append("" if mean is None else f"{shown(mean)}{width}")
        rows.append(cells)
    return (
        Section("table", "In numbers", table(("", "seeds", *(METRICS[m] for m in metrics)), rows))
        if rows
        else None
    )


# ---- compare


def compare_page(found: Comparison, path: Path) -> Path:
    """The page of a comparison."""
    named = {name: [row for row in rows if row.status == "done"] for name, rows in found.rows.items()}
    named = {name: rows for name, rows in named.items() if rows}
    intro = [f"Every scenario against {found.names[0]}, seed by seed."]
    for metric, words in METRICS.items():
        try:
            rank = found.ranking(metric)
        except InputError:
            continue
        stable = "stable" if rank.is_stable else "not stable"
        order = " < ".join(rank.names)
        intro.append(f"{words}: {order}; {stable}, {rank.agreeing} of {rank.seeds} seeds agree.")
    intro += [_in_words(found.explanation(name)) for name in found.names[1:] if name in named]
    sections = [
        _differences(found),
        *_paretos(named),
        _causes(named),
        _multiples(named, {}),
        _difference_table(found),
    ]
    failed = _reasons((found.names[row.point.scenario], row.status, row.reason) for row in found.failed)
    return write_study(path, "Comparison", [*intro, *found.notes], [*sections, failed])


def _in_words(explanation: str) -> str:
    for cause, words in CAUSE_NAMES.items():
        explanation = re.sub(rf"\b{cause} (?=[+-])", f"{words} ", explanation)
    return explanation


def _differences(found: Comparison) -> Section | None:
    """Relative differences from the first scenario with their intervals."""
    drawn, html = {}, []
    for number, name in enumerate(found.names[1:]):
        spans = [
            _relative(one)
            for one in found.differences
            if one.scenario == name and one.metric in METRICS and one.mean_of_first > 0.0
        ]
        if spans:
            drawn[f"difference-{number}"] = charts.differences(f"{name} against {found.names[0]}", spans)
            html.append(f"<div>{chart_html(f'difference-{number}')}</div>")
    if not drawn:
        return None
    intro = (
        "<p>The difference within each seed, as a share of the first scenario's mean, with its interval of "
        f"{found.confidence:.0%}. Where it is clear of zero no other draw of requests would turn it.</p>"
    )
    key = swatches_html({"clear of zero": charts.CLEAR, "could be none": charts.UNCLEAR})
    html_of = f'{intro}{key}<div class="two">{"".join(html)}</div>'
    return Section("differences", "Differences", html_of, drawn)


def _relative(one: Difference) -> Span:
    mean, low, high = (value / one.mean_of_first for value in one.difference)
    return Span(METRICS[one.metric], mean, low, high, clear=one.is_clear)


def _difference_table(found: Comparison) -> Section | None:
    rows = [
        [one.scenario, METRICS[one.metric], str(one.pairs), shown(one.mean_of_first), shown(one.mean),
         f"{one.difference[0]:+.4g}", f"{one.difference[1]:+.4g}", f"{one.difference[2]:+.4g}",
         "clear" if one.is_clear else ""]
        for one in found.differences
        if one.metric in METRICS
    ]  # fmt: skip
    heads = ("", "", "pairs", found.names[0], "mean", "difference", "low", "high", "")
    return Section("table", "In numbers", table(heads, rows)) if rows else None


def _causes(named: Mapping[str, Sequence[Row]]) -> Section | None:
    """Where the time of a request went, in each scenario."""
    from sim.views.report_charts import causes

    groups = {
        name: {cause: 1e3 * sum(row.causes.get(cause, 0.0) for row in rows) / len(rows) for cause in CAUSES}
        for name, rows in named.items()
    }
    least = 1e-6 * max((sum(group.values()) for group in groups.values()), default=0.0)
    groups = {
        name: {cause: ms if ms > least else 0.0 for cause, ms in group.items()}
        for name, group in groups.items()
    }
    used = [cause for cause in CAUSE_COLOURS if any(group[cause] for group in groups.values())]
    if not used:
        return None
    colours = {CAUSE_NAMES[cause]: CAUSE_COLOURS[cause] for cause in used}
    words = {CAUSE_NAMES[cause]: MEANINGS[cause] for cause in used}
    html = f"{chart_html('causes')}{swatches_html(colours, words)}"
    drawn = {"causes": causes("end to end", "ms of a request", groups)}
    return Section("causes", "Where the time went", html, drawn)


# ---- sensitivity


def sensitivity_page(found: Sensitivity, path: Path) -> Path:
    """The page of a sensitivity study."""
    felt = [one for one in found.effects if one.note != "no effect"]
    spans = [Span(one.key, *one.elasticity, clear=one.is_clear) for one in felt[:MOST]]
    rows = [
        [one.key, f"{one.value:.4g}", f"{one.elasticity[0]:+.3g}", _bound(one.elasticity[1]),
         _bound(one.elasticity[2]), f"{100 * one.more[0]:+.3g} % for {100 * (one.factor - 1):+.3g} %",
         one.note or ("" if one.is_clear else "not clear over these seeds")]
        for one in felt
    ]  # fmt: skip
    intro = [
        f"{found.metric} is {found.base:.5g}; percent of it per percent of each knob, the strongest first."
    ]
    without = [one.key for one in found.effects if one.note == "no effect"]
    if without:
        intro.append(f"No effect: {', '.join(without)}.")
    key = swatches_html({"clear of zero": charts.CLEAR, "not clear over these seeds": charts.UNCLEAR})
    heads = ("key", "value", "elasticity", "low", "high", "change", "")
    strongest = None
    if spans:
        drawn = {"effects": charts.differences("", spans, "percent of the metric per percent", "~g")}
        html = f"{chart_html('effects')}{key}{table(heads, rows)}"
        strongest = Section("effects", "What each would do", html, drawn)
    left = _reasons((key, "", reason) for key, reason in found.left_out.items())
    return write_study(path, f"Sensitivity of {found.metric}", intro, [strongest, left])


# ---- recommend


def recommend_page(found: Recommendation, path: Path) -> Path:
    """The page of a recommendation."""
    best = found.best
    first = (
        f"{_short(best.candidate.name)}: {best.rate_per_s:.4g} requests/s within the objectives, "
        f"{best.per_gpu:.4g} a GPU, of {len(found.ranked)} layouts on {found.gpus} GPUs."
    )
    intro = [first, f"Runner-up: {found.runner_up}"]
    rows = [
        [
            _short(one.candidate.name),
            shown(one.rate_per_s),
            shown(one.per_gpu),
            shown(one.requests),
            one.reason,
        ]
        for one in found.ranked
    ]
    spans = [
        Span(_short(one.candidate.name), one.per_gpu, one.per_gpu, one.per_gpu) for one in found.ranked[:MOST]
    ]
    finite = [span for span in spans if math.isfinite(span.mean)]
    ranked = Section(
        "layouts", "Layouts",
        chart_html("layouts")
        + table(("layout", "requests/s", "a GPU", "requests of the runs", "reason"), rows),
        {"layouts": charts.bars("requests/s within the objectives, per GPU", finite)},
    )  # fmt: skip
    dots = [
        Dot(
            f"{_short(one.name)} at {one.rate_per_s:.3g}/s",
            one.tokens_per_s_per_user,
            one.tokens_per_s_per_gpu,
        )
        for one in found.frontier
    ]
    infeasible = _reasons((name, "cannot be", reason) for name, reason in found.infeasible.items())
    return write_study(path, "Recommendation", intro, [_pareto_of(dots), ranked, infeasible])


def _short(name: str) -> str:
    """The name of a layout with short words for its knobs."""
    for knob, words in SHORT.items():
        name = name.replace(knob, words)
    return name


# ---- numbers


def _mean(rows: Sequence[Row], metric: str) -> float | None:
    """The mean over seeds; None where a run lacks the number, or has an infinite one."""
    values = [row.summary.get(metric) for row in rows]
    known = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return sum(known) / len(known) if values and len(known) == len(values) else None


def _bound(value: float) -> str:
    return f"{value:+.3g}" if math.isfinite(value) else ""
