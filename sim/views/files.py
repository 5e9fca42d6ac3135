"""Charts into files: SVG and PNG without a browser, HTML that needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.inputs.errors import InputError
from sim.results.whole_files import whole_file
from sim.views.drawing import drawn

if TYPE_CHECKING:
    import altair

    AnyChart = altair.TopLevelMixin

PIXELS_PER_UNIT = 2.0  # PNGs are drawn at twice the size, so that they stay sharp where they are shown
SUFFIXES = (".svg", ".png", ".html")


def save_chart(chart: AnyChart, path: Path) -> Path:
    """Write a chart as .svg, .png or .html, by its suffix. InputError for any other, or no such folder;
    NotDrawnError where V8 cannot run.
    """
    check_suffix(path)
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}; make it, or name another file")
    with whole_file(path) as partial:
        if path.suffix == ".html":
            partial.write_text(page(title=path.stem, charts=[("", chart)]), encoding="utf-8")
        else:
            specification = json.dumps(specified(chart))
            if path.suffix == ".png":
                partial.write_bytes(drawn("vegalite_to_png", specification, scale=PIXELS_PER_UNIT))
            else:
                partial.write_bytes(drawn("vegalite_to_svg", specification))
    return path


def check_suffix(path: Path) -> None:
    """InputError where no picture can be written under that name."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: must end in {', '.join(SUFFIXES)}")


def rows(values: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as the data of a chart."""
    import altair

    return altair.InlineData(values=list(values))


def specified(chart: AnyChart) -> dict[str, Any]:
    """The chart as Vega-Lite, its data inside, of any number of rows."""
    import altair

    with altair.data_transformers.enable("default", max_rows=None):
        specification: dict[str, Any] = chart.to_dict()
    return specification


def page(title: str, charts: Sequence[tuple[str, AnyChart]], before: str = "", after: str = "") -> str:
    """One HTML page that shows charts below their headings, with all scripts inside: it works offline.

    `before` and `after` are HTML that stands around the charts.
    """
    parts, calls = [], []
    for number, (heading, chart) in enumerate(charts):
        head = f"<h2>{escape(heading)}</h2>\n" if heading else ""
        parts.append(f'{head}<div class="chart" id="chart{number}"></div>')
        calls.append(f'vegaEmbed("#chart{number}", {in_script(chart)}, {{actions: false, renderer: "svg"}});')
    return PAGE.format(
        title=escape(title),
        style=STYLE,
        before=before,
        charts="\n".join(parts),
        after=after,
        library=vega() if charts else "",
        calls="\n".join(calls),
    )


def in_script(chart: AnyChart) -> str:
    """A chart as Vega-Lite inside of a script: "</script" would end it in the middle of a text, and
    "<!--<script" would never let it end.
    """
    return json.dumps(specified(chart), separators=(",", ":")).replace("<", "\\u003c")


@cache
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script. NotDrawnError where V8, which packs it, cannot run."""
    bundle = drawn("javascript_bundle", None).decode()
    return bundle.replace("</script", "<\\/script")


STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222}
h1 {font-size: 1.5em} h2 {font-size: 1.1em; margin-top: 2em}
table {border-collapse: collapse} td, th {padding: 2px 12px 2px 0; text-align: left}
td.number {text-align: right; font-variant-numeric: tabular-nums}
pre {background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 13px} .chart {overflow-x: auto}
"""

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>
<body>
{before}
{charts}
{after}
<script type="module">
{library}
{calls}
</script>
</body>
</html>
"""
