"""`sim calibrate`: fit constants to measurements, and print how well they hold on what no fit saw."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import Format, note, print_json, print_table
from sim.inputs.errors import InputError, Problem
from sim.reading.text_files import refuse_what_is_no_file

if TYPE_CHECKING:
    from sim.calibration.fitting import CurveErrors
    from sim.reading.nccl_tests import NcclTest
    from sim.results.compared import ErrorSummary

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
    system: Annotated[
        str, typer.Option(help="Which machine a log is of: a shipped system, or the file of your own.")
    ] = "",
    in_place: Annotated[bool, typer.Option("--in-place", help="Take a log's times in place.")] = False,
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

    The refitted ones predict numbers of ranks, and systems, that the fit did not see; between servers
    (tables with the columns nodes and gpus_per_node) systems, numbers of servers and operations.
    A plain alpha-beta model stands beside them. A log of a machine that is not named is printed as it is.
    """
    from sim.calibration import collectives as study
    from sim.calibration import multinode
    from sim.calibration.collective_points import measured_in
    from sim.calibration.multinode_points import multinode_points
    from sim.calibration.nccl_logs import points_of_logs, server_errors

    paths = _existing(paths)
    tables = [file for path in paths for file in (sorted(path.glob("*.csv")) if path.is_dir() else [path])]
    logs = points_of_logs(paths, op=op, system=system, in_place=in_place)
    inter_node = [*multinode_points(tables, note), *logs.across]
    intra_node = [*measured_in(paths, may_be_none=bool(inter_node or logs)), *logs.inside]
    shipped = study.shipped()
    rows = [
        *_intra_node_rows(intra_node, shipped),
        *(_row(one, "ranks") for one in (server_errors(logs.server, shipped) if logs.server else ())),
        *_inter_node_rows(inter_node, shipped),
    ]
    for path, measured in ((write, intra_node), (write_across, inter_node)):
        if path is not None and not measured:
            raise InputError(f"there is nothing to write to {path}; the files have no such collectives")
    if write is not None:
        _write(write, study.as_yaml(study.fitted(shipped, intra_node)))
        note(f"written to {write}")
    if write_across is not None:
        text = multinode.inter_node_text(multinode.fitted(shipped, inter_node))
        _write(write_across, text)
        note(f"written to {write_across}")
    unknown = [_as_read(path, run) for path, run in logs.unknown]
    if format == "json":
        print_json(rows + [row for of_run in unknown for row in of_run])
        return
    for (path, run), of_run in zip(logs.unknown, unknown, strict=True):
        note(
            f"note: {path}: {run.op} on {run.gpus} ranks of GPUs that the log does not name; name the "
            "machine with --system to compare it"
        )
        print_table(("size_bytes", "time_us", "algbw_gb_per_s"), [list(row.values())[3:] for row in of_run])
    if not rows:
        return
    names = tuple(rows[0])
    shares = ("median_error", "p90_error", "bias", "alpha_beta_error")
    shown = [
        [f"{row[name]:+.1%}" if name in shares and row[name] is not None else row[name] for name in names]
        for row in rows
    ]
    print_table(names, shown)


@calibrate.command("experts")
def experts(
    path: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV file of dispatches and combines.", show_default=False)
    ],
) -> None:
    """Refit the blocks of expert dispatch and combine, beside the numbers that are shipped."""
    from sim.calibration.expert_exchange import refitted

    (path,) = _existing([path])
    print(f"{'block':22} {'phase':9} points  fitted (written)")
    for one in refitted(path):
        numbers = (f"{key} {now:.3g} ({before:.3g})" for key, (now, before) in one.numbers.items())
        print(f"{one.block:22} {one.phase:9} {one.points:6}  {', '.join(numbers)}")


@calibrate.command("hosts")
def hosts(
    path: Annotated[
        Path | None, typer.Argument(metavar="[TABLE]", help="A CSV of services with times between tokens.")
    ] = None,
    models: Annotated[
        Path | None, typer.Option(help="Folder of config.json files of models that are not shipped.")
    ] = None,
) -> None:
    """Refit what the hosts of measured services cost, beside the constants in use: some minutes.

    With a TABLE, what vLLM's host takes for a step and for every sequence in it, and errors held out.
    """
    if path is not None:
        _host_of_sequences(path, models)
        return
    from sim.validation.services.host_fits import all_fitted

    print(f"{'constant':28} {'written':>11} {'fitted now':>11}")
    for one in all_fitted():
        print(f"{one.constant:28} {1e3 * one.written_s:8.3f} ms {1e3 * one.fitted_s:8.3f} ms", flush=True)


def _host_of_sequences(path: Path, models: Path | None) -> None:
    from sim.calibration.host_time import fit, read_waits
    from sim.cost.host_time import SEQUENCE_S, STEP_S
    from sim.results.compared import ErrorSummary

    _existing([path])
    rows, unknown = read_waits(path, models)
    if unknown:
        note(f"left out, for want of a config.json: {', '.join(unknown)}")
    found = fit(rows)
    print(f"a step {1e3 * found.step_s:.3g} ms (in use {1e3 * STEP_S:.3g}), ", end="")
    print(f"a sequence {1e6 * found.sequence_s:.3g} us (in use {1e6 * SEQUENCE_S:.3g})")
    cells = []
    for band, without, held_out in found.bands():
        if without:
            before, after = ErrorSummary.of(without), ErrorSummary.of(held_out)
            numbers = (before.median, before.bias, after.median, after.p90, after.bias)
            cells.append((band, str(before.count), *(f"{100 * number:.1f} %" for number in numbers)))
    head = ("sequences", "rows", "without", "bias", "held out", "p90", "bias ")
    print_table(head, cells)


@calibrate.command("held-out")
def held_out(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of measured tables.", show_default=False)
    ],
    sections: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION]...", help="kernels, collectives, experts; default: all.", show_default=False
        ),
    ] = None,
) -> None:
    """Print the errors on points that no fit saw, every fit made anew: a quarter of an hour for all."""
    from sim.calibration.held_out import SECTIONS
    from sim.reading.problems import unknown_name

    for name in sections or ():
        if name not in SECTIONS:
            raise InputError(unknown_name("section", name, SECTIONS))
    (folder,) = _existing([folder])
    for name in sections or SECTIONS:
        HELD_OUT[name](folder)


def _held_out_kernels(folder: Path) -> None:
    """Every set, and by engine and kernel the medians over sets."""
    from sim.calibration.held_out import kernel_fits
    from sim.calibration.kernels import summary, table

    fits = kernel_fits(folder)
    print(table(fits))
    print("\nmedian over sets of held-out median and 90th percentile")
    for (engine, kernel), (middle, p90) in summary(fits).items():
        print(f"{engine:7} {kernel:18} {100 * middle:5.1f} {100 * p90:5.0f}")


def _held_out_collectives(folder: Path) -> None:
    """Medians over groups, of collectives inside a server and between servers."""
    from sim.calibration.held_out import inter_node_errors, intra_node_errors

    _print_medians(
        "collectives inside a server",
        [(f"{one.how}: {one.library} {one.op}", one) for one in intra_node_errors(folder)],
    )
    _print_medians(
        "collectives between servers",
        [(f"{one.how}: {one.op}", one) for one in inter_node_errors(folder, print)],
    )


def _print_medians(title: str, rows: list[tuple[str, CurveErrors]]) -> None:
    groups: dict[str, list[CurveErrors]] = {}
    for name, errors in rows:
        groups.setdefault(name, []).append(errors)
    print(
        f"\n{title}: medians over groups of |error|, its 90th percentile, bias, and a plain model's |error|"
    )
    for name, of in groups.items():
        numbers = [
            (one.errors.median, one.errors.p90, one.errors.bias, _median(one.alpha_beta)) for one in of
        ]
        middle, p90, bias, plain = (100 * median(column) for column in zip(*numbers, strict=True))
        print(f"{name:52} {len(of):3} {middle:6.1f} {p90:6.1f} {bias:+6.1f} {plain:7.1f}")


def _held_out_experts(folder: Path) -> None:
    """Every system and number of ranks, of dispatch and combine."""
    from sim.calibration.held_out import expert_errors

    print("\nexchanges between experts: |error|, its 90th percentile, bias, and two plain models' |error|")
    print(f"{'library':28} {'system':9} ranks phase    points median    p90   bias  link rate  alpha-beta")
    for one in expert_errors(folder):
        errors, link_rate, alpha_beta = one.errors, _median(one.link_rate), _median(one.alpha_beta)
        print(
            f"{one.library:28} {one.system:9} {one.size:5} {one.op:8} {errors.count:6} "
            f"{100 * errors.median:6.1f} {100 * errors.p90:6.1f} {100 * errors.bias:+6.1f} "
            f"{100 * link_rate:10.1f} {100 * alpha_beta:11.1f}"
        )


def _median(plain: ErrorSummary | None) -> float:
    return plain.median if plain else nan


HELD_OUT: dict[str, Callable[[Path], None]] = {
    "kernels": _held_out_kernels,
    "collectives": _held_out_collectives,
    "experts": _held_out_experts,
}


def _intra_node_rows(measured: list[Any], shipped: dict[str, Any]) -> list[dict[str, Any]]:
    from sim.calibration.collectives import by_curve, errors
    from sim.calibration.held_out_collectives import held_out

    if not measured:
        return []
    in_use = by_curve("shipped", errors(measured, shipped))
    in_use.sort(key=lambda one: (one.system, one.library, one.op, one.size))
    return [_row(one, "ranks") for one in (*in_use, *held_out(measured, shipped))]


def _inter_node_rows(measured: list[Any], shipped: dict[str, Any]) -> list[dict[str, Any]]:
    from sim.calibration.held_out_multinode import held_out_multinode, multinode_errors

    if not measured:
        return []
    both = (*multinode_errors(measured, shipped, "shipped"), *held_out_multinode(measured, shipped))
    return [_row(one, "servers") for one in both]


def _as_read(path: Path, run: NcclTest) -> list[dict[str, Any]]:
    """The rows of a log, beside no prediction."""
    return [
        {
            "file": str(path),
            "op": run.op,
            "ranks": run.gpus,
            "size_bytes": n_bytes,
            "time_us": round(1e6 * seconds, 3),
            "algbw_gb_per_s": round(1e-9 * n_bytes / seconds, 3),
        }
        for n_bytes, seconds in run.times
    ]


@calibrate.command("power")
def power(
    path: Annotated[Path, typer.Argument(help="A CSV of services with watts.", show_default=False)],
    models: Annotated[
        Path | None, typer.Option(help="Folder of config.json files of models that are not shipped.")
    ] = None,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
) -> None:
    """Fit what GPUs draw to services with watts, and print errors on models that no fit saw."""
    from sim.calibration.power import fits, read_power_rows
    from sim.results.compared import ErrorSummary

    _existing([path])
    found, unknown = fits(read_power_rows(path), models)
    if unknown:
        note(f"left out, for want of a config.json: {', '.join(unknown)}")
    if not found:
        raise InputError("there is nothing to fit to; no row is of a known model and a GPU with idle watts")
    rows = []
    for one in found:
        errors, constant = ErrorSummary.of(one.errors), ErrorSummary.of(one.constant_errors)
        rows.append(
            {
                "gpu": one.gpu,
                **one.power.model_dump(
                    include={"idle_w", "step_w", "hbm_w", "tensor_w", "activation_nj", "max_w"}
                ),
                "rows": errors.count,
                "median_error": errors.median,
                "p90_error": errors.p90,
                "median_error_with_simulated_steps": ErrorSummary.of(one.errors_of_simulated_steps).median,
                "median_error_of_constant_watts": constant.median,
                "median_error_by_model": {
                    model: ErrorSummary.of(missed).median for model, missed in one.by_model.items()
                },
            }
        )
    if format == "json":
        print_json(rows)
        return
    numbers = [name for name in rows[0] if name != "median_error_by_model"]
    print_table(numbers, ([_cell(row[name]) for name in numbers] for row in rows))
    by_model = [
        (row["gpu"], model, _cell(median))
        for row in rows
        for model, median in row["median_error_by_model"].items()
    ]
    print_table(("gpu", "model left out", "median_error"), by_model)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(one: CurveErrors, sizes: str) -> dict[str, Any]:
    return {
        "parameters": one.how if one.how == "shipped" else f"held out: {one.how}",
        "system": one.system,
        "library": one.library,
        "op": one.op,
        "size": f"{one.size} {sizes}",
        "points": one.errors.count,
        "median_error": one.errors.median,
        "p90_error": one.errors.p90,
        "bias": one.errors.bias,
        "alpha_beta_error": one.alpha_beta.median if one.alpha_beta else None,
    }


def _write(path: Path, text: str) -> None:
    from sim.results.whole_files import whole_file

    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _existing(paths: list[Path]) -> list[Path]:
    problems: list[Problem] = []
    for path in paths:
        try:
            if not path.is_dir():
                refuse_what_is_no_file(path, "a file of measurements")
        except (OSError, ValueError):  # a name that is too long
            problems.append(Problem("cannot be read: a name that is too long", f"{str(path)[:57]}..."))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return paths
