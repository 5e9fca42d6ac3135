"""What an experiment says: its question, published numbers beside simulated ones, and a takeaway.

An experiment is a script with a function from `quick` to an `Answer`; `tell` gives it the options that every
experiment has, and prints. With `--out` it leaves its pictures, `answer.json` and a page to open. A study is
an experiment of several sections, each with its figures, rows and takeaway; `tell_study` gives it a store of
runs as well, so that it goes on where it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sim.results.compared import Row

if TYPE_CHECKING:
    from sim.views.files import AnyChart

__all__ = ["Answer", "Figure", "Row", "Section", "columns", "number", "tell", "tell_study"]

LOG_WIDTH = 110  # characters, where the table does not go to a terminal


@dataclass(frozen=True)
class Figure:
    """A chart of a section: the name of its file, and what it shows in a sentence."""

    name: str
    takeaway: str
    draw: Callable[[], AnyChart]


@dataclass(frozen=True)
class Section:
    """A part of a study: what is asked and done, in paragraphs, what numbers rest on, and what came out."""

    title: str
    text: tuple[str, ...]
    rows: tuple[Row, ...]
    takeaway: str
    basis: str
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The result of an experiment. `notes` are what the sources get wrong; `charts` draw it into a folder.

    The rows of a study are those of its `sections`.
    """

    question: str
    rows: tuple[Row, ...]
    takeaway: str
    notes: tuple[str, ...] = ()
    charts: Callable[[Path], list[Path]] | None = None
    sections: tuple[Section, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        rows = [row.as_dict("estimate") for row in self.rows]
        said = {"question": self.question, "rows": rows, "notes": list(self.notes), "takeaway": self.takeaway}
        if self.sections:
            said["sections"] = [
                {
                    "title": one.title,
                    "basis": one.basis,
                    "takeaway": one.takeaway,
                    "figures": {figure.name: figure.takeaway for figure in one.figures},
                }
                for one in self.sections
            ]
        return said

    def save(self, folder: Path) -> list[Path]:
        """Write pictures, `answer.json` and `report.html` into a folder, over what is there; their paths."""
        from sim.views.answer_page import answer_page, study_page
        from sim.views.files import save_chart

        folder.mkdir(parents=True, exist_ok=True)
        answer, page = folder / "answer.json", folder / "report.html"
        answer.write_text(_json(self) + "\n", encoding="utf-8")
        if self.sections:
            figures = [figure for section in self.sections for figure in section.figures]
            drawn = {one.name: save_chart(one.draw(), folder / f"{one.name}.png") for one in figures}
            text, pictures = study_page(self, drawn, columns(self), NUMBERS), list(drawn.values())
        else:
            pictures = self.charts(folder) if self.charts is not None else []
            text = answer_page(self, pictures, columns(self), NUMBERS)
        page.write_text(text, encoding="utf-8")
        return [*pictures, answer, page]


def tell(answer: Callable[[bool], Answer]) -> None:
    """Run an experiment as a command: `--quick`, `--format table|json`, `--out FOLDER` for what it leaves."""

    def main(
        quick: Annotated[bool, typer.Option("--quick", help="The same question in seconds.")] = False,
        format: Annotated[Literal["table", "json"], typer.Option(help="A table, or JSON alone.")] = "table",
        out: Annotated[Path | None, typer.Option(help="Folder for pictures and a page.")] = None,
    ) -> None:
        _tell(answer(quick), format, out)

    main.__doc__ = answer.__doc__
    typer.run(main)


def tell_study(answer: Callable[[bool, Path | None], Answer], prefix: str = "") -> None:
    """Run a study as a command: the options of `tell`, `--store FILE`, from which it goes on, and
    `--page FILE`, a page of the documentation that it writes. `prefix` stands before the names of that page's
    pictures.
    """

    def main(
        quick: Annotated[bool, typer.Option("--quick", help="The same question in seconds.")] = False,
        format: Annotated[Literal["table", "json"], typer.Option(help="A table, or JSON alone.")] = "table",
        out: Annotated[Path | None, typer.Option(help="Folder for pictures and a page.")] = None,
        store: Annotated[
            Path | None,
            typer.Option(
                help="Keeps every run as it ends, and has those of before: an interrupted study goes on."
            ),
        ] = None,
        page: Annotated[
            Path | None, typer.Option(help="Markdown with marks, between which the study is written.")
        ] = None,
    ) -> None:
        from sim.inputs.errors import InputError
        from sim.views.study_markdown import write_study

        if page is not None and out is None:
            typer.echo("error: --page takes the pictures of --out FOLDER; give both", err=True)
            raise typer.Exit(2)
        try:
            found = answer(quick, store)
        except InputError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            kept = "" if store is None else f"; the same command goes on with the runs in {store}"
            typer.echo(f"interrupted{kept}", err=True)
            raise typer.Exit(130) from None
        _tell(found, format, out)
        if page is not None and out is not None:
            try:
                write_study(found, page, out, prefix)
            except (InputError, OSError) as error:
                typer.echo(f"error: {error}", err=True)
                raise typer.Exit(2) from error
            typer.echo(f"wrote {page}", err=True)

    main.__doc__ = answer.__doc__
    typer.run(main)


def _tell(found: Answer, form: str, out: Path | None) -> None:
    if form == "json":
        typer.echo(_json(found))
    else:
        _print(found)
    if out is not None:
        for path in found.save(out):
            typer.echo(f"wrote {path}", err=True)


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
    shown = columns(answer)
    del shown["case"]  # a line of its own above its numbers: names of cases are long

    def table_of(title: str, rows: tuple[Row, ...]) -> Table:
        table = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for name in shown:
            table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=name != "quantity")
        case = None
        for row in rows:
            if row.case != case:
                if case is not None:
                    table.add_section()
                case = row.case
                table.add_row(Text(case, style="bold"))
            table.add_row(
                *(Text(("  " if name == "quantity" else "") + text(row)) for name, text in shown.items())
            )
        return table

    if not answer.sections:
        console.print(table_of(answer.question, answer.rows))
    for section in answer.sections:
        console.print(table_of(section.title, section.rows))
        console.print(Text(f"Basis: {section.basis}"))
        console.print(Text(f"Takeaway: {section.takeaway}", style="bold"))
    for note in answer.notes:
        console.print(Text(f"Note: {note}"))
    console.print(Text(f"Takeaway: {answer.takeaway}", style="bold"))
