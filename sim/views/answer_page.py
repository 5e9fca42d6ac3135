"""An experiment's answer as one HTML page that stands alone: pictures and all are inside."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from sim.views.files import STYLE

if TYPE_CHECKING:
    from sim.views.answer import Answer, Row

    Columns = Mapping[str, Callable[[Row], str]]  # the text below each heading

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>
<body>
<h1>{title}</h1>
<p><b>Takeaway.</b> {takeaway}</p>
{pictures}
<h2>Published and simulated</h2>
<table>
{table}
</table>
{notes}
</body>
</html>
"""

MORE_STYLE = """
img {max-width: 100%; height: auto; margin: 1em 0}
th {border-bottom: 2px solid #444; white-space: nowrap} th.number {text-align: right}
tr.case td {border-top: 1px solid #bbb} td {vertical-align: top} td.source {color: #666; font-size: 13px}
"""

CASE = ' class="case"'
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def answer_page(answer: Answer, pictures: Sequence[Path], columns: Columns, numbers: Collection[str]) -> str:
    """The page. Pictures are PNG or SVG files; others are left out. Columns named in `numbers` stand to the
    right.
    """
    images = [
        f'<img alt="{escape(path.stem.replace("_", " "))}" src="data:{TYPES[path.suffix]};base64,'
        f'{b64encode(path.read_bytes()).decode()}">'
        for path in pictures
        if path.suffix in TYPES
    ]
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in answer.notes)
    return PAGE.format(
        title=escape(answer.question),
        style=STYLE + MORE_STYLE,
        takeaway=escape(answer.takeaway),
        pictures="\n".join(images),
        table=_table(answer, columns, numbers),
        notes=f"<h2>Notes</h2>\n<ul>\n{notes}</ul>" if notes else "",
    )


def _table(answer: Answer, columns: Columns, numbers: Collection[str]) -> str:
    heads = "".join(f"<th{_class(name in numbers)}>{name}</th>" for name in columns) + "<th>source</th>"
    lines, case = [f"<tr>{heads}</tr>"], None
    for row in answer.rows:
        is_new, case = row.case != case, row.case
        cells = []
        for name, text in columns.items():
            said = "" if name == "case" and not is_new else escape(text(row))
            cells.append(f"<td{_class(name in numbers)}>{said}</td>")
        cells.append(f'<td class="source">{escape(row.source)}</td>')
        lines.append(f"<tr{CASE if is_new else ''}>{''.join(cells)}</tr>")
    return "\n".join(lines)


def _class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""
