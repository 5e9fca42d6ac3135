"""`sim sweep`, `sim compare`, `sim capacity`: many runs, on all processors or on a dask cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import Format, note, print_json, print_table
from sim.cli.signals import signals
from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import polars

    from sim.scenario import Scenario
    from sim.studies.kept import Kept
    from sim.studies.points import Row

SECONDS_TO_CONNECT = 10
SHOWN = ("completed", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_itl_ms", "output_throughput")

Scheduler = Annotated[
    str | None, typer.Option(help="A dask scheduler, tcp://host:8786; by default all processors here.")
]
MAX_SEEDS = 100_000  # runs of one scenario: a day of the quickest
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value first: engine.max_num_seqs=64."),
]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="Metrics to print, instead of the usual.")
]
Table = Annotated[
    Path | None,
    typer.Option("--out", help="A .csv or .parquet file for the whole table; an interrupted one goes on."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what --out already holds.")]
OutputFormat = Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")]


def sweep(
    scenario: Annotated[str, typer.Argument(help="A scenario: a YAML file.")],
    over: Annotated[
        list[str],
        typer.Option(
            "--over", metavar="KEY=V1,V2,...", help="Values to try: engine.tensor_parallel_size=1,2,4"
        ),
    ],
    changes: Changes = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=MAX_SEEDS, help="Seeds 0 to N-1 for every combination.")
    ] = 1,
    scheduler: Scheduler = None,
    metrics: Metrics = None,
    out: Table = None,
    force: Force = False,
    format: OutputFormat = "table",
) -> None:
    """Run every combination of some values; what cannot be is a line with its reason."""
    import sim

    grid = _grid(over)
    described = _scenario(scenario, changes)
    with _kept(out, force) as keep:
        with _executor(scheduler) as executor:
            found = sim.sweep(described, grid, range(seeds), executor, keep=keep)
        with signals.waits():
            table = found.table()
            _show(table, [*grid, "seed", "status", *_metrics(metrics, table), "reason"], format)
            _save(table, keep, out, found.rows)
    _end(found.rows)


def compare(
    scenarios: Annotated[list[str], typer.Argument(help="Two or more scenarios: YAML files.")],
    changes: Changes = None,
    seeds: Annotated[int, typer.Option(min=2, max=MAX_SEEDS, help="Seeds 0 to N-1 for every scenario.")] = 10,
    scheduler: Scheduler = None,
    metrics: Metrics = None,
    out: Table = None,
    force: Force = False,
    format: OutputFormat = "table",
) -> None:
    """Compare scenarios with the first, seed by seed, with 95 % intervals of the differences."""
    import sim

    names = {_name(path, scenarios): _scenario(path, changes) for path in scenarios}
    with _kept(out, force) as keep:
        with _executor(scheduler) as executor:
            found = sim.compare(names, range(seeds), executor, keep=keep)
        with signals.waits():
            rows = [row for name in found.names for row in found.rows[name]]
            for row in found.failed:
                if row.status != "not run":
                    note(f"{found.names[row.point.scenario]}, seed {row.point.seed}: {row.reason}")
            table = found.table()
            if table.height:
                import polars

                known = table["metric"].unique().to_list()
                shown = table.filter(polars.col("metric").is_in(_metrics(metrics, known)))
                _show(shown, shown.columns, format, table)
                _save(table, keep, out, rows)
    _end(rows)
    if not table.height:
        raise InputError("no seed has numbers in two scenarios; there is nothing to compare")


def capacity(
    scenario: Annotated[str, typer.Argument(help="A scenario: a YAML file whose arrivals have a rate.")],
    slo: Annotated[
        list[str], typer.Option("--slo", metavar="METRIC=MAX", help="An objective: p99_ttft_ms=500")
    ],
    changes: Changes = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=MAX_SEEDS, help="Seeds 0 to N-1; metrics are means over them.")
    ] = 1,
    tolerance: Annotated[float, typer.Option(help="Relative width of the last interval.")] = 0.02,
    scheduler: Scheduler = None,
    out: Table = None,
    force: Force = False,
    format: OutputFormat = "table",
) -> None:
    """Find the highest request rate at which all objectives hold, and what breaks above it."""
    import sim

    objectives = dict(_objective(text) for text in slo)
    described = _scenario(scenario, changes)
    with _kept(out, force) as keep:
        with _executor(scheduler) as executor:
            found = sim.capacity(described, objectives, range(seeds), tolerance, executor, keep)
        with signals.waits():
            table = found.table()
            if format == "json":
                result = {"rate_per_s": found.rate_per_s, "limited_by": found.limited_by}
                print_json({**result, "trials": table.to_dicts()})
            else:
                print(f"{found.rate_per_s:.4g} requests/s")
                print(f"limited by: {found.limited_by}")
                print_table(table.columns, [[_cell(value) for value in row] for row in table.rows()])
            sys.stdout.flush()
            if keep is not None and found.trials:
                keep.save(table, is_complete=found.is_complete)
                note(f"saved in {out}" if found.is_complete else f"saved in {out}, incomplete")
    if not found.is_complete or signals.number:
        signals.end(f"{len(found.trials)} rates have been tried")


@contextmanager
def _kept(out: Path | None, force: bool) -> Iterator[Kept | None]:
    """Where the rows of a study are kept as they come; None without a table."""
    if out is None:
        yield None
        return
    from sim.studies.kept import kept

    with kept(out, force=force) as keep:
        yield keep
        if keep.failure:
            note(f"runs were not kept as they ended: {keep.failure}")


def _save(table: polars.DataFrame, keep: Kept | None, out: Path | None, rows: Sequence[Row]) -> None:
    sys.stdout.flush()  # a full disk costs the file, not the numbers
    if keep is not None:
        is_complete = all(row.status != "not run" for row in rows)
        keep.save(table, is_complete=is_complete)
        note(f"saved in {out}" if is_complete else f"saved in {out}, incomplete: the same command goes on")


def _end(rows: Sequence[Row]) -> None:
    """Exit as the runs did: a study in which something ran is a success, one that was cut short is none."""
    ran = sum(row.status != "not run" for row in rows)
    if ran < len(rows) or signals.number:
        signals.end(f"{ran} of {len(rows)} points have run")
    if any(row.status == "done" for row in rows):
        return
    from sim.studies.points import DIED

    by_status = {row.status: row.reason for row in reversed(rows)}
    what = f"none of {len(rows)} points has numbers"
    if by_status.get("failed") == DIED:
        raise UnfinishedError(f"{what}: {DIED}")
    if "failed" in by_status:
        raise RuntimeError(f"{what}: {by_status['failed']}")
    if "wrong input" in by_status:
        raise InputError(f"{what}: {by_status['wrong input']}")
    if "infeasible" in by_status:
        raise InfeasibleError(f"{what}: {by_status['infeasible']}")
    raise UnfinishedError(f"{what}: {by_status['unfinished']}")


@contextmanager
def _executor(scheduler: str | None) -> Iterator[Executor | None]:
    """A dask cluster's executor, or None for the processors here."""
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise InputError("--scheduler needs dask: pip install 'fabricsim[sweep]'") from error
    try:
        client = Client(scheduler, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise InputError(
            f"there is no dask scheduler at {scheduler} ({str(error).splitlines()[0]}); "
            "`dask scheduler` says its address, as in tcp://host:8786"
        ) from error
    with client:
        yield client.get_executor(pure=False, retries=2)


def _scenario(path: str, changes: list[str] | None) -> Scenario:
    import sim
    from sim.cli.run import _change

    described = sim.load_scenario(path)
    return sim.with_changes(described, dict(_change(text) for text in changes)) if changes else described


def _grid(over: list[str]) -> dict[str, list[Any]]:
    """The values to try, by key. InputError for a key that is given twice: one list would be lost."""
    grid: dict[str, list[Any]] = {}
    for text in over:
        key, values = _values(text)
        if key in grid:
            both = ",".join(map(str, [*grid[key], *(value for value in values if value not in grid[key])]))
            raise InputError(f"--over {key} is given twice; write --over {key}={both}")
        grid[key] = values
    return grid


def _values(text: str) -> tuple[str, list[Any]]:
    """`KEY=1,2,4`, or `KEY=[1, 2, 4]`, as a key and values read as YAML."""
    import yaml

    key, equals, written = text.partition("=")
    if not equals or not key.strip() or not written.strip():
        raise InputError(f"--over {text!r} has no values; write KEY=V1,V2, as in engine.max_num_seqs=64,128")
    try:
        values = yaml.safe_load(written if written.lstrip().startswith("[") else f"[{written}]")
    except yaml.YAMLError as error:
        raise InputError(
            f"--over {text!r}: the values are not YAML ({str(error).splitlines()[0]})"
        ) from error
    return key.strip(), values


def _objective(text: str) -> tuple[str, float]:
    metric, _, largest = text.partition("=")
    try:
        return metric.strip(), float(largest)
    except ValueError as error:
        raise InputError(f"--slo {text!r}: must be METRIC=MAX, as in p99_ttft_ms=500") from error


def _name(path: str, paths: list[str]) -> str:
    stem = Path(path).stem
    return stem if [Path(one).stem for one in paths].count(stem) == 1 else path


def _metrics(wanted: list[str] | None, known: Any) -> list[str]:
    names = known.columns if hasattr(known, "columns") else known
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        from sim.reading.problems import did_you_mean

        raise InputError(
            f"--metric {unknown[0]}: not a metric of this table{did_you_mean(unknown[0], names)}"
        )
    return wanted or [name for name in SHOWN if name in names]


def _show(
    shown: polars.DataFrame, columns: list[str], format: Format, whole: polars.DataFrame | None = None
) -> None:
    if format == "json":
        print_json((shown if whole is None else whole).to_dicts())
        return
    rows = shown.select([name for name in dict.fromkeys(columns) if name in shown.columns])
    print_table(rows.columns, [[_cell(value) for value in row] for row in rows.rows()])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
