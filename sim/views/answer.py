"""What an experiment says: its question, published numbers beside simulated ones, and a takeaway.

An experiment is a script with a function from `quick` to an `Answer`; `tell` gives it the options that every
experiment has, and prints. With `--out` it leaves its pictures, `answer.json` and a page to open.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sim.results.compared import Row

__all__ = ["Answer", "Row", "columns", "number", "tell"]

LOG_WIDTH = 110  # characters, where the table does not go to a terminal


@dataclass(frozen=True)
class Answer:
    """The result of an experiment. `notes` are what the sources get wrong; `charts` draw it into a folder."""

    question: str
    rows: tuple[Row, ...]
    takeaway: str
    notes: tuple[str, ...] = ()
    charts: Callable[[Path], list[Path]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        rows = [row.as_dict("estimate") for row in self.rows]
        return {"question": self.question, "rows": rows, "notes": list(self.notes), "takeaway": self.takeaway}

    def save(self, folder: Path) -> list[Path]:
        """Write pictures, `answer.json` and `report.html` into a folder, over what is there; their paths."""
        from sim.views.answer_page import answer_page

        folder.mkdir(parents=True, exist_ok=True)
        pictures = self.charts(folder) if self.charts is not None else []
        answer, page = folder / "answer.json", folder / "report.html"
        answer.write_text(_json(self) + "\n", encoding="utf-8")
        page.write_text(answer_page(self, pictures, columns(self), NUMBERS), encoding="utf-8")
        return [*pictures, answer, page]


def tell(answer: Callable[[bool], Answer]) -> None:
    """Run an experiment as a command: `--quick`, `--format table|json`, `--out FOLDER` for what it leaves."""

    def main(
        quick: Annotated[bool, typer.Option("--quick", help="The same question in seconds.")] = False,
        format: Annotated[Literal["table", "json"], typer.Option(help="A table, or JSON alone.")] = "table",
        out: Annotated[Path | None, typer.Option(help="Folder for pictures and a page.")] = None,
    ) -> None:
        found = answer(quick)
        if format == "json":
            typer.echo(_json(found))
        else:
            _print(found)
        if out is not None:
            for path in found.save(out):
                typer.echo(f"wrote {path}", err=True)

    main.__doc__ = answer.__doc__
    typer.run(main)


def _json(answer: Answer) -> str:
    return json.dumps(answer.as_dict(), indent=1, allow_nan=False)


def columns(answer: Answer) -> dict[str, Callable[[Row], str]]:
    """Headings of the table and the text below each; estimates only where there are any."""
    shown: dict[str, Callable[[Row], str]] = {
        "case": lambda row: row.case,
        "quantity": lambda row: row.quantity,
        "published": lambda row: number(row.published),
        "simulated": lambda row: number(row.simulated),
        "by hand": lambda row: number(row.estimate),
        "unit": lambda row: row.unit,
        "error": lambda row: "" if row.error is None else f"{row.error:+.1%}",
        "kind": lambda row: row.kind if row.published is not None else "",
    }
    if all(row.estimate is None for row in answer.rows):
        del shown["by hand"]
    return shown


NUMBERS = ("published", "simulated", "by hand", "error")
"""Columns that stand to the right."""


def number(value: float | None) -> str:
    """Four significant digits, large counts in full."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _print(answer: Answer) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    table = Table(title=Text(answer.question), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    shown = columns(answer)
    del shown["case"]  # a line of its own above its numbers: names of cases are long
    for name in shown:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=name != "quantity")
    case = None
    for row in answer.rows:
        if row.case != case:
            if case is not None:
                table.add_section()
            case = row.case
            table.add_row(Text(case, style="bold"))
        table.add_row(
            *(Text(("  " if name == "quantity" else "") + text(row)) for name, text in shown.items())
        )
    console.print(table)
    for note in answer.notes:
        console.print(Text(f"Note: {note}"))
    console.print(Text(f"Takeaway: {answer.takeaway}", style="bold"))
