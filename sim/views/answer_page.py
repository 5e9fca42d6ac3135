"""An experiment's answer as one HTML page that stands alone: pictures and all are inside. That of a study
goes from section to section, and its tables are folded.
"""

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

STUDY = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>
<body>
<h1>{title}</h1>
<p class="takeaway"><b>Takeaway.</b> {takeaway}</p>
<ol>
{contents}
</ol>
{sections}
{notes}
</body>
</html>
"""

MORE_STYLE = """
img {max-width: 100%; height: auto; margin: 1em 0}
th {border-bottom: 2px solid #444; white-space: nowrap} th.number {text-align: right}
tr.case td {border-top: 1px solid #bbb} td {vertical-align: top} td.source {color: #666; font-size: 13px}
figure {margin: 1em 0} figcaption, p {max-width: 50em} p.takeaway {font-size: 17px}
p.basis {color: #555; font-size: 13px} summary {cursor: pointer; color: #245}
"""

CASE = ' class="case"'
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def answer_page(answer: Answer, pictures: Sequence[Path], columns: Columns, numbers: Collection[str]) -> str:
    """The page. Pictures are PNG or SVG files; others are left out. Columns named in `numbers` stand to the
    right.
    """
    images = [_image(path) for path in pictures if path.suffix in TYPES]
    return PAGE.format(
        title=escape(answer.question),
        style=STYLE + MORE_STYLE,
        takeaway=escape(answer.takeaway),
        pictures="\n".join(images),
        table=_table(answer.rows, columns, numbers),
        notes=_notes(answer),
    )


def study_page(
    answer: Answer, pictures: Mapping[str, Path], columns: Columns, numbers: Collection[str]
) -> str:
    """The page of a study. `pictures` are those of its figures, by their names."""
    parts, contents = [], []
    for number, section in enumerate(answer.sections, 1):
        contents.append(f'<li><a href="#section{number}">{escape(section.title)}</a></li>')
        figures = "\n".join(
            f"<figure>{_image(pictures[one.name])}<figcaption><b>Takeaway.</b> "
            f"{escape(one.takeaway[:1].upper() + one.takeaway[1:])}</figcaption></figure>"
            for one in section.figures
        )
        text = "\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in section.text)
        parts.append(
            f'<h2 id="section{number}">{number}. {escape(section.title)}</h2>\n{text}\n{figures}\n'
            f'<p class="takeaway"><b>Takeaway.</b> {escape(section.takeaway)}</p>\n'
            f'<p class="basis">What the numbers rest on: {escape(section.basis)}</p>\n'
            f"<details><summary>All {len(section.rows)} numbers</summary>\n<table>\n"
            f"{_table(section.rows, columns, numbers)}\n</table></details>"
        )
    return STUDY.format(
        title=escape(answer.question),
        style=STYLE + MORE_STYLE,
        takeaway=escape(answer.takeaway),
        contents="\n".join(contents),
        sections="\n".join(parts),
        notes=_notes(answer),
    )


def _image(path: Path) -> str:
    return (
        f'<img alt="{escape(path.stem.replace("_", " "))}" src="data:{TYPES[path.suffix]};base64,'
        f'{b64encode(path.read_bytes()).decode()}">'
    )


def _notes(answer: Answer) -> str:
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in answer.notes)
    return f"<h2>Notes</h2>\n<ul>\n{notes}</ul>" if notes else ""


def _table(rows: Sequence[Row], columns: Columns, numbers: Collection[str]) -> str:
    heads = "".join(f"<th{_class(name in numbers)}>{name}</th>" for name in columns) + "<th>source</th>"
    lines, case = [f"<tr>{heads}</tr>"], None
    for row in rows:
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
