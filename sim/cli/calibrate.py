"""`sim calibrate`: fit constants of kernels or collectives to measurements, and say how well they hold."""

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
    from sim.calibration import kernels as study
    from sim.calibration.kernel_files import write as write_files

    measured = [one for one in study.measurements_of(_existing(paths)) if not gpu or one.gpu in gpu]
    if not measured:
        raise InputError("there is nothing to fit to; the files have no rows of these GPUs")
    fits = study.calibrate(study.checked(measured), cross_validate=not no_cross_validation)
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
        Path | None,
        typer.Option(help="File for the parameters inside a server; topologies/collectives/inside.yaml."),
    ] = None,
    write_across: Annotated[
        Path | None,
        typer.Option(help="File for those between servers; topologies/collectives/across.yaml."),
    ] = None,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
) -> None:
    """Compare measured collectives with the shipped parameters, and with parameters refitted to them.

    The refitted ones are judged on numbers of ranks, and on systems, that the fit did not see; between
    servers (tables with the columns nodes and gpus_per_node) on systems, numbers of servers and operations.
    A plain alpha-beta model stands beside them.
    """
    from sim.calibration import collectives as study
    from sim.calibration import multinode as between
    from sim.calibration.multinode_points import across_points

    paths = _existing(paths)
    tables = [file for path in paths for file in (sorted(path.glob("*.csv")) if path.is_dir() else [path])]
    across = across_points(tables, note)
    inside = study.measured_in(paths, op=op, system=system, may_be_none=bool(across))
    shipped = study.shipped()
    rows = [*_inside_rows(inside, shipped), *_across_rows(across, shipped)]
    for path, measured in ((write, inside), (write_across, across)):
        if path is not None and not measured:
            raise InputError(f"there is nothing to write to {path}; the files have no such collectives")
    if write is not None:
        write.write_text(study.as_yaml(study.fitted(shipped, inside)), encoding="utf-8")
        note(f"written to {write}")
    if write_across is not None:
        text = between.across_text(between.fitted_across(shipped, across))
        write_across.write_text(text, encoding="utf-8")
        note(f"written to {write_across}")
    if format == "json":
        print_json(rows)
        return
    names = tuple(rows[0])
    shares = ("median_error", "p90_error", "bias", "alpha_beta_error")
    shown = [
        [f"{row[name]:+.1%}" if name in shares and row[name] is not None else row[name] for name in names]
        for row in rows
    ]
    print_table(names, shown)


def _inside_rows(measured: list[Any], shipped: dict[str, Any]) -> list[dict[str, Any]]:
    from sim.calibration import collectives as study
    from sim.calibration.held_out_collectives import held_out

    if not measured:
        return []
    rows = [
        _row("shipped", system, library, op, f"{ranks} ranks", count, median, p90, bias, None)
        for system, library, op, ranks, count, median, p90, bias in study.by_group(
            study.errors(measured, shipped)
        )
    ]
    for one in held_out(measured, shipped):
        rows.append(
            _row(
                f"held out: {one.how}", one.system, one.library, one.op, f"{one.size} ranks", one.points,
                one.median, one.p90, one.bias, one.alpha_beta_median,
            )
        )  # fmt: skip
    return rows


def _across_rows(measured: list[Any], shipped: dict[str, Any]) -> list[dict[str, Any]]:
    from sim.calibration.held_out_multinode import errors_across, held_out_across

    if not measured:
        return []
    return [
        _row(
            one.how if one.how == "shipped" else f"held out: {one.how}", one.system, one.library, one.op,
            f"{one.size} servers", one.points, one.median, one.p90, one.bias, one.alpha_beta_median,
        )
        for one in (*errors_across(measured, shipped, "shipped"), *held_out_across(measured, shipped))
    ]  # fmt: skip


def _row(*values: object) -> dict[str, Any]:
    names = (
        "parameters", "system", "library", "op", "size", "points",
        "median_error", "p90_error", "bias", "alpha_beta_error",
    )  # fmt: skip
    return dict(zip(names, values, strict=True))


def _existing(paths: list[Path]) -> list[Path]:
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError([Problem("there is no such file", str(path)) for path in missing])
    return paths
