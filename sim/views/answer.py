"""What an experiment says: its question, published numbers beside simulated ones, and a takeaway.

An experiment is a script with a function from `quick` to an `Answer`; `tell` gives it the options that every
experiment has, and prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

Kind = Literal["predicted", "fitted"]


@dataclass(frozen=True)
class Row:
    """One number. `published` is None where nobody published one; `fitted`: it was used to set a constant."""

    case: str
    quantity: str
    unit: str
    published: float | None
    simulated: float
    kind: Kind = "predicted"
    source: str = ""

    @property
    def error(self) -> float | None:
        """(simulated - published) / published."""
        return None if not self.published else self.simulated / self.published - 1.0


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
        rows = [
            {
                "case": row.case,
                "quantity": row.quantity,
                "unit": row.unit,
                "published": row.published,
                "simulated": row.simulated,
                "error": row.error,
                "kind": row.kind,
                "source": row.source,
            }
            for row in self.rows
        ]
        return {"question": self.question, "rows": rows, "notes": list(self.notes), "takeaway": self.takeaway}


def tell(answer: Callable[[bool], Answer]) -> None:
    """Run an experiment as a command: `--quick`, `--format table|json`, `--out FOLDER` for its pictures."""
    import typer

    def main(
        quick: Annotated[bool, typer.Option("--quick", help="The same question in seconds.")] = False,
        format: Annotated[Literal["table", "json"], typer.Option(help="A table, or JSON alone.")] = "table",
        out: Annotated[Path | None, typer.Option(help="Folder for the pictures.")] = None,
    ) -> None:
        told = answer(quick)
        if out is not None and told.charts is not None:
            out.mkdir(parents=True, exist_ok=True)
            for path in told.charts(out):
                typer.echo(f"picture: {path}", err=True)
        if format == "json":
            typer.echo(json.dumps(told.as_dict(), indent=1, allow_nan=False))
        else:
            _print(told)

    main.__doc__ = answer.__doc__
    typer.run(main)


def _print(answer: Answer) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=answer.question, title_justify="left", title_style="bold")
    for name in ("case", "quantity", "published", "simulated", "unit", "error", "kind"):
        table.add_column(name, justify="right" if name in ("published", "simulated", "error") else "left")
    for row in answer.rows:
        published = "" if row.published is None else f"{row.published:.4g}"
        error = "" if row.error is None else f"{row.error:+.1%}"
        table.add_row(row.case, row.quantity, published, f"{row.simulated:.4g}", row.unit, error, row.kind)
    console.print(table)
    for note in answer.notes:
        console.print(f"Note: {note}", highlight=False)
    console.print(f"Takeaway: {answer.takeaway}", highlight=False)
