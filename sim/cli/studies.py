"""`sim sweep`, `sim compare`, `sim capacity`: many runs, on all processors or on a dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import Format, note, print_json, print_table
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import polars

    from sim.scenario import Scenario

SECONDS_TO_CONNECT = 10
SHOWN = ("completed", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_itl_ms", "output_throughput")

Scheduler = Annotated[
    str | None, typer.Option(help="A dask scheduler, tcp://host:8786; by default all processors here.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value first: engine.max_num_seqs=64."),
]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="Metrics to print, instead of the usual.")
]
Csv = Annotated[Path | None, typer.Option("--out", help="A CSV file for the whole table.")]
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
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1 for every combination.")] = 1,
    scheduler: Scheduler = None,
    metrics: Metrics = None,
    out: Csv = None,
    format: OutputFormat = "table",
) -> None:
    """Run every combination of some values; what cannot be is a line with its reason."""
    import sim

    grid = _grid(over)
    with _executor(scheduler) as executor:
        found = sim.sweep(_scenario(scenario, changes), grid, range(seeds), executor)
    table = found.table()
    _show(table, [*grid, "seed", "status", *_metrics(metrics, table), "reason"], out, format)


def compare(
    scenarios: Annotated[list[str], typer.Argument(help="Two or more scenarios: YAML files.")],
    changes: Changes = None,
    seeds: Annotated[int, typer.Option(min=2, help="Seeds 0 to N-1 for every scenario.")] = 10,
    scheduler: Scheduler = None,
    metrics: Metrics = None,
    out: Csv = None,
    format: OutputFormat = "table",
) -> None:
    """Compare scenarios with the first, seed by seed, with 95 % intervals of the differences."""
    import polars

    import sim

    names = {_name(path, scenarios): _scenario(path, changes) for path in scenarios}
    with _executor(scheduler) as executor:
        found = sim.compare(names, range(seeds), executor)
    for row in found.failed:
        note(f"{found.names[row.point.scenario]}, seed {row.point.seed}: {row.reason}")
    table = found.table()
    if not table.height:
        raise InputError("no seed has numbers in two scenarios; there is nothing to compare")
    known = table["metric"].unique().to_list()
    shown = table.filter(polars.col("metric").is_in(_metrics(metrics, known)))
    _show(shown, shown.columns, out, format, table)


def capacity(
    scenario: Annotated[str, typer.Argument(help="A scenario: a YAML file whose arrivals have a rate.")],
    slo: Annotated[
        list[str], typer.Option("--slo", metavar="METRIC=MAX", help="An objective: p99_ttft_ms=500")
    ],
    changes: Changes = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1; metrics are means over them.")] = 1,
    tolerance: Annotated[float, typer.Option(help="Relative width of the last interval.")] = 0.02,
    scheduler: Scheduler = None,
    out: Csv = None,
    format: OutputFormat = "table",
) -> None:
    """Find the highest request rate at which all objectives hold, and what breaks above it."""
    import sim

    objectives = dict(_objective(text) for text in slo)
    with _executor(scheduler) as executor:
        found = sim.capacity(_scenario(scenario, changes), objectives, range(seeds), tolerance, executor)
    if format == "json":
        trials = found.table().to_dicts()
        print_json({"rate_per_s": found.rate_per_s, "limited_by": found.limited_by, "trials": trials})
    else:
        print(f"{found.rate_per_s:.4g} requests/s")
        print(f"limited by: {found.limited_by}")
    _save(found.table(), out)
    if format != "json":
        table = found.table()
        print_table(table.columns, [[_cell(value) for value in row] for row in table.rows()])


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
    shown: polars.DataFrame,
    columns: list[str],
    out: Path | None,
    format: Format,
    whole: polars.DataFrame | None = None,
) -> None:
    whole = shown if whole is None else whole
    _save(whole, out)
    if format == "json":
        print_json(whole.to_dicts())
        return
    rows = shown.select([name for name in dict.fromkeys(columns) if name in shown.columns])
    print_table(rows.columns, [[_cell(value) for value in row] for row in rows.rows()])


def _save(table: polars.DataFrame, out: Path | None) -> None:
    if out is not None:
        table.write_csv(out)
        note(f"saved in {out}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
