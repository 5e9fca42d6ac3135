"""`sim validate`: everything published that the simulator is held against, and by how much it is off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import Format, note, print_json, print_table
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    from sim.studies.ledger import LedgerRow


def validate(
    sections: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION]...",
            help="laws, formulas, experiments, kernels, collectives, services, closed-loops; default: all.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
    summary: Annotated[
        bool, typer.Option("--summary", help="Errors by section only, not row by row.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the charts and ledger.json.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="File for the page on accuracy, as docs/accuracy.md is.")
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(help="A table of closed loops of one's own, in place of the ones that are shipped."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes for --points.")] = 1,
) -> None:
    """Simulate what was measured, and print published and simulated numbers side by side."""
    from dataclasses import replace

    from sim.studies.validation import CLOSED_LOOPS, LOOPS, SECTIONS, chosen, ledger, summarised
    from sim.studies.validation_points import by_group, point_rows, simulate_points

    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder")
    rows: list[LedgerRow] = []
    groups: list[dict[str, object]] = []
    for name in chosen(sections or SECTIONS):
        note(f"{name} ...")
        if name != LOOPS:
            rows += ledger([name])
            continue
        simulated = simulate_points(points or CLOSED_LOOPS, processes)
        rows += [replace(row, section=name) for one in simulated for row in point_rows(one)]
        groups = by_group(simulated)
    errors = _errors(summarised(rows))
    if format == "json":
        told = [row.as_dict() for row in rows]
        print_json({"rows": told, "errors": errors, "closed_loops_by_group": groups})
    else:
        if not summary:
            _print_rows(rows)
        print_table(ERRORS, ([*map(_cell, line.values())] for line in errors))
        if groups:
            print_table(list(groups[0]), ([*map(_cell, row.values())] for row in groups))
    if out is not None:
        _leave(rows, out)
    if write is not None:
        from sim.views.accuracy import save_loops
        from sim.views.accuracy_page import accuracy_page

        save_loops(rows, write)
        write.parent.mkdir(parents=True, exist_ok=True)
        write.write_text(accuracy_page(summarised(rows), groups), encoding="utf-8")
        note(f"wrote {write}")


ERRORS = ("section", "quantity", "kind", "rows", "median error", "90th percentile", "bias")


def _errors(found: Sequence[object]) -> list[dict[str, object]]:
    from dataclasses import asdict

    return [asdict(one) for one in found]  # type: ignore[call-overload]


def _cell(value: object) -> object:
    return f"{100 * value:.1f} %" if isinstance(value, float) else value


def _print_rows(rows: Sequence[LedgerRow]) -> None:
    from sim.views.answer import number

    columns = ("section", "case", "quantity", "unit", "published", "simulated", "error", "kind", "source")
    lines = []
    for row in rows:
        error = "" if row.error is None else f"{100 * row.error:+.1f} %"
        numbers = (number(row.published), number(row.simulated), error)
        lines.append((row.section, row.case, row.quantity, row.unit, *numbers, row.kind, row.source))
    print_table(columns, lines)


def _leave(rows: Sequence[LedgerRow], folder: Path) -> None:
    import json

    from sim.views.accuracy import save_charts

    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "ledger.json"
    told.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n", encoding="utf-8")
    for path in (told, *save_charts(rows, folder)):
        note(f"wrote {path}")
