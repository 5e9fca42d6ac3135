"""The report as one HTML file: sections with their charts, styles and scripts inside. It needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from sim.views.files import in_script, vega

if TYPE_CHECKING:
    from sim.views.files import AnyChart
    from sim.views.report_run import Section

DRAW = """const options = {actions: false, renderer: "svg"};
const draw = async (id, chart) => { views[id] = (await vegaEmbed("#chart-" + id, chart, options)).view; };"""
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style></head>
<body>
<h1>{title}</h1>
{intro}
<nav aria-label="Parts of this page">{nav}</nav>
{sections}
{rest}
<script type="module">
{library}
const data = {data};
const views = {{}};
{script}
{calls}
charted();
</script>
</body>
</html>
"""


def report_page(
    title: str,
    intro: str,
    sections: Sequence[Section],
    rest: Sequence[str],
    charts: Mapping[str, AnyChart],
    data: str,
) -> str:
    """The page. `charts` go to the elements of their names; without any, no chart library is on the page."""
    from altair.utils.schemapi import debug_mode

    library = vega() if charts else ""
    with debug_mode(
        False
    ):  # no check of what is built here, which takes most of the time: a test's browser draws it
        calls = [f'await draw("{key}", {in_script(chart)});' for key, chart in charts.items()]
    return PAGE.format(
        title=escape(title),
        style=_text("report.css"),
        intro=intro,
        nav="".join(f'<a href="#{one.anchor}">{escape(one.heading)}</a>' for one in sections),
        sections="\n".join(
            f'<section id="{one.anchor}">\n<h2>{escape(one.heading)}</h2>\n{one.html}\n</section>'
            for one in sections
        ),
        rest="\n".join(rest),
        library=library,
        data=data,
        script=_text("report.js"),
        calls="\n".join([DRAW, *calls]) if charts else "",
    )


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
