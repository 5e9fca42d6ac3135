"""`sim calibrate`: fit the constants of kernels or collectives to measurements, and say how well they hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sim.cli.output import Format, note, print_json, print_table
from sim.inputs.errors import InputError, Problem

calibrate = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Fit constants to measurements: CSV files, or logs of nccl-tests.",
)

Paths = Annotated[list[Path], typer.Argument(help="CSV files, or folders of them.", show_default=False)]


@calibrate.command("kernels")
def kernels(
    paths: Paths,
    gpu: Annotated[list[str] | None, typer.Option(help="Only this GPU; may be given again.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Folder for one file of parameters for each GPU.")
    ] = None,
    no_cross_validation: Annotated[
        bool, typer.Option("--no-cross-validation", help="Six times faster, and blind.")
    ] = False,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
) -> None:
    """Refit kernel parameters to CSV files of kernel times."""
    from sim.studies import calibrate as study
    from sim.studies.calibrate_files import write as write_files

    measured = [one for one in study.measurements_of(_existing(paths)) if not gpu or one.gpu in gpu]
    if not measured:
        raise InputError("there is nothing to fit to; the files have no rows of these GPUs")
    fits = study.calibrate(measured, cross_validate=not no_cross_validation)
    if write is not None:
        write_files(fits, write, "sim calibrate kernels MEASURED --write topologies/gpus/kernels")
        note(f"written to {write}")
    if format == "json":
        print_json(study.rows(fits))
    else:
        print(study.table(fits))


@calibrate.command("collectives")
def collectives(
    paths: Annotated[
        list[Path], typer.Argument(help="CSV files, or logs of nccl-tests.", show_default=False)
    ],
    op: Annotated[str, typer.Option(help="Which collective a log is of, where it does not say.")] = "",
    system: Annotated[str, typer.Option(help="Which system a log is of, where its GPU is in several.")] = "",
    write: Annotated[
        Path | None, typer.Option(help="File for the parameters; topologies/collectives/inside.yaml.")
    ] = None,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
) -> None:
    """Compare measured collectives inside a server with the shipped parameters, and with parameters refitted
    to them.

    The refitted ones are judged on numbers of ranks, and on systems, that the fit did not see.
    """
    from sim.studies import calibrate_collectives as study
    from sim.studies.hold_out_collectives import held_out

    measured = study.measured_in(_existing(paths), op=op, system=system)
    shipped = study.shipped()
    names = ("parameters", "system", "library", "op", "ranks", "points", "median_error", "p90_error", "bias")
    of_shipped = study.by_group(study.errors(measured, shipped))
    rows: list[dict[str, Any]] = [dict(zip(names, ("shipped", *row), strict=True)) for row in of_shipped]
    for one in held_out(measured, shipped):
        judged = (one.system, one.library, one.op, one.ranks, one.points, one.median, one.p90, one.bias)
        rows.append(dict(zip(names, (f"held out: {one.how}", *judged), strict=True)))
    if write is not None:
        write.write_text(study.as_yaml(study.fitted(shipped, measured)))
        note(f"written to {write}")
    if format == "json":
        print_json(rows)
        return
    shares = ("median_error", "p90_error", "bias")
    shown = [[f"{row[name]:+.1%}" if name in shares else row[name] for name in names] for row in rows]
    print_table(names, shown)


def _existing(paths: list[Path]) -> list[Path]:
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError([Problem("there is no such file", str(path)) for path in missing])
    return paths
