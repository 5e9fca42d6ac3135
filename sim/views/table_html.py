"""Numbers as a person reads them, and tables of them in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any


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


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows below their headings. It scrolls by itself where the page is narrower. Cells that begin with a
    digit or a sign stand to the right.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = ["<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows]
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n' + "\n".join(lines) + "\n</table></div>\n"


def _cell(text: str) -> str:
    is_number = text[:1].isdigit() or text[:1] in ("-", "+") or text == "inf"
    return f"<td{' class=number' if is_number else ''}>{escape(text)}</td>"
