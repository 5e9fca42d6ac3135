"""Text that a command writes into a page of the documentation, between two marks."""

from __future__ import annotations

from pathlib import Path

from sim.inputs.errors import InputError, Problem


def put_between(page: Path, begin: str, end: str, text: str) -> None:
    """Put text between two marks of a Markdown page. InputError where the page has none."""
    written = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, begins, rest = written.partition(begin)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise InputError(
            Problem(f"has no lines {begin} and {end}, between which a command writes", str(page))
        )
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
