"""`sim validate`: everything published that the simulator is held against, and by how much it is off."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import Format, note, print_json, print_table
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    from sim.results.compared import Row
    from sim.validation.checkpoint import Outcome
    from sim.validation.ledger import GroupErrors

LEDGER_FIELDS = ("section", "size", "of")  # in JSON, beside what every row has
BROKEN_LAW = 71  # the exit status of an invariant that broke
BETWEEN_NOTES_S = 10.0  # where progress goes to a file


def validate(
    sections: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION]...",
            help="laws, formulas, experiments, kernels, collectives, memory, services, throughput, "
            "pools, power, closed-loops; default: all.",
            show_default=False,
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Every published row of services, not a sample: some 15 minutes.")
    ] = False,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
    summary: Annotated[
        bool, typer.Option("--summary", help="Errors by section only, not row by row.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the charts and ledger.json.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="File for the page on accuracy, as docs/accuracy.md is.")
    ] = None,
    errors_to: Annotated[
        Path | None,
        typer.Option(
            "--errors", help="File for the errors that runs read; of sections that are run here, anew."
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="File that keeps every row that has ended; with it an interrupted run goes on."),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(help="A table of closed loops of one's own, in place of the ones that are shipped."),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(
            help="All rows of one cell of the board in docs/accuracy.md, and no others: "
            "'moe, vllm, h100-sxm, 17 to 64', or fewer of these words."
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes for services; default: all processors.")
    ] = None,
) -> int:
    """Simulate what was measured, and print published and simulated numbers side by side."""
    from sim.reading.accuracy import read_accuracy
    from sim.reading.data_files import accuracy_file
    from sim.results.compared import Row
    from sim.validation.ledger import Services, chosen, grouped, ledger, summarised
    from sim.validation.services.tables import LOOPS, cell_of_words, left_out, sections_with_cells
    from sim.views.answer import number

    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder")
    from sim.results.whole_files import check_writable, whole_file

    for folder in filter(
        None, (out, *(path.parent for path in (write, keep, errors_to) if path is not None))
    ):
        check_writable(folder)
    rows: list[Row] = []
    nothing: list[Outcome] = []
    asked = cell_of_words(cell) if cell is not None else {}
    if asked:
        for option, value in (("--write", write), ("--errors", errors_to), ("--points", points)):
            if value is not None:
                raise InputError(f"{option} is of more than one cell; leave it out beside --cell")
        for section in sections or ():
            if section not in sections_with_cells():
                raise InputError(f"{section} has no cells; {', '.join(sections_with_cells())} have")
        sections = sections or sections_with_cells()
    how = Services(whole, processes, keep, asked)
    interrupt: KeyboardInterrupt | None = None
    try:
        for name in chosen(sections or ()):
            progress = _Progress(name)
            own = points if name == LOOPS else None
            for found in ledger([name], how, progress.show, own):
                if isinstance(found, Row):
                    rows.append(found)
                else:
                    nothing.append(found)
            progress.end()
    except KeyboardInterrupt as error:
        if not rows:
            raise
        note(
            "incomplete: these are the rows that had ended; --out, --write and --errors are left as they were"
        )
        interrupt = error
    if asked and not rows and not nothing:
        raise InputError(f"no published row is of {', '.join(asked.values())}; leave a word out")
    errors, groups = summarised(rows), grouped(rows)
    missing = left_out(nothing)
    before = read_accuracy(errors_to if errors_to is not None and errors_to.is_file() else accuracy_file())
    if format == "json":
        print_json(
            {
                "rows": [row.as_dict(*LEDGER_FIELDS) for row in rows],
                "errors": [one.as_dict() for one in errors],
                "groups": [one.as_dict() for one in groups],
                "left_out": [asdict(one) for one in missing],
            }
        )
    else:
        if not summary:
            _print_rows(rows)
        print_table(ERRORS, ([*map(_cell, line.as_dict().values())] for line in errors))
        _print_groups(groups)
    if interrupt is not None:
        raise interrupt
    if out is not None:
        _leave(rows, out)
    if errors_to is not None:
        from sim.validation.error_cells import write as write_errors

        run = " ".join(["sim validate", *(sections or ()), *(["--whole"] if whole else [])])
        note("errors of kernels and collectives without what was measured of them ...")
        write_errors(rows, errors_to, f"{run} --errors {errors_to.name}", whole=whole)
        note(f"wrote {errors_to}")
    if write is not None:
        from sim.validation.board import rows_csv
        from sim.validation.charts import save_page_charts
        from sim.validation.error_cells import service_cells
        from sim.validation.page import accuracy_page

        save_page_charts(rows, write)
        write.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(write) as partial:
            trend = before.sections if whole else {}  # a sample's errors say nothing beside those of all rows
            page = accuracy_page(errors, groups, missing, service_cells(rows), trend)
            partial.write_text(page, encoding="utf-8")
        behind = write.with_name(f"{write.stem}_rows.csv")
        with whole_file(behind) as partial:
            partial.write_text(rows_csv(rows), encoding="utf-8")
        note(f"wrote {write} and {behind}")
    broken = [row for row in rows if row.is_outside]
    for row in broken:
        note(
            f"{row.case}: {row.quantity} {number(row.simulated)} is outside of its law, "
            f"{number(row.published)}"
        )
    return BROKEN_LAW if broken else 0


ERRORS = ("section", "quantity", "kind", "rows", "median error", "90th percentile", "bias")
GROUPS = ("section", "by", "", "box", "quantity", "rows", "median error", "90th percentile", "bias")


class _Progress:
    """How far a section has come, on one line of standard error; in a file, a line now and then."""

    def __init__(self, section: str) -> None:
        self.section = section
        self.shown_s = time.monotonic()
        self.live = sys.stderr.isatty()
        note(f"{section} ...")

    def show(self, section: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.shown_s < (0.2 if self.live else BETWEEN_NOTES_S) and done != total:
            return
        self.shown_s = now
        text = f"{section}: {done} of {total} rows" if total else f"{section}: {done} rows"
        print(f"\r{text}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.live:
            print(file=sys.stderr)


def _cell(value: object) -> object:
    return f"{100 * value:.1f} %" if isinstance(value, float) else value


def _print_groups(groups: Sequence[GroupErrors]) -> None:
    if groups:
        print_table(GROUPS, ([*map(_cell, one.as_dict().values())] for one in groups))


def _print_rows(rows: Sequence[Row]) -> None:
    from sim.views.answer import number

    columns = ("section", "case", "quantity", "unit", "published", "simulated", "error", "kind", "source")
    lines = []
    for row in rows:
        error = "" if row.error is None else f"{100 * row.error:+.1f} %"
        simulated = number(row.simulated)
        if row.interval is not None:
            simulated += f" ({' to '.join(map(number, row.interval))})"
        numbers = (number(row.published), simulated, error)
        lines.append((row.section, row.case, row.quantity, row.unit, *numbers, row.kind, row.source))
    print_table(columns, lines)


def _leave(rows: Sequence[Row], folder: Path) -> None:
    import json

    from sim.results.whole_files import whole_file
    from sim.validation.charts import save_charts

    folder.mkdir(parents=True, exist_ok=True)
    ledger = folder / "ledger.json"
    text = json.dumps([row.as_dict(*LEDGER_FIELDS) for row in rows], indent=1) + "\n"
    with whole_file(ledger) as partial:
        partial.write_text(text, encoding="utf-8")
    for path in (ledger, *save_charts(rows, folder)):
        note(f"wrote {path}")
