"""`sim explain`: what a saved run says, in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.cli.output import Format, print_json


def explain(
    folder: Annotated[Path, typer.Argument(help="A folder that sim run --out has left.")],
    format: Annotated[Format, typer.Option(help="Sentences, or JSON with the numbers apart.")] = "table",
    report: Annotated[Path | None, typer.Option(help="Write the report again, to this file.")] = None,
) -> None:
    """Say what limits a saved run, whether its objectives hold, and what would help most."""
    import sim
    from sim.cli.output import note

    saved = sim.load_result(folder)
    verdict = saved.explain()
    if format == "json":
        print_json([sentence.as_dict() for sentence in verdict])
    else:
        print(verdict)
    if report is not None:
        note(f"wrote {saved.report(report)}")
