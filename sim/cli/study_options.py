"""The options that studies share, and what their text says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import Format, yaml_value
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    from sim.scenario import Scenario

Scheduler = Annotated[
    str | None,
    typer.Option(help="A cluster: dask tcp://host:8786, Ray ray://host:10001; by default this machine."),
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
StoreFile = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="FILE", help="A file that keeps every run as it ends; processes may share it."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the runs that --store has.")]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Run again what another version or scenario left in --store.")
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="One page that shows the study; it needs no network."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what --out already holds.")]
OutputFormat = Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")]


def scenario_of(path: str, changes: list[str] | None) -> Scenario:
    import sim
    from sim.cli.run import _change

    described = sim.load_scenario(path)
    return sim.with_changes(described, dict(_change(text) for text in changes)) if changes else described


def grid_of(over: list[str]) -> dict[str | tuple[str, ...], list[Any]]:
    """The values to try, by key or by keys that go together. InputError for a key that is given twice: one
    list would be lost.
    """
    grid: dict[str | tuple[str, ...], list[Any]] = {}
    for text in over:
        key, values = _values(text)
        if key in grid:
            name = key if isinstance(key, str) else ",".join(key)
            both = [*grid[key], *(value for value in values if value not in grid[key])]
            written = ",".join(
                ":".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in both
            )
            raise InputError(f"--over {name} is given twice; write --over {name}={written}")
        grid[key] = values
    return grid


def _values(text: str) -> tuple[str | tuple[str, ...], list[Any]]:
    """`KEY=1,2,4`, or `KEY=[1, 2, 4]`, as a key and values read as YAML; `KEY,KEY=1:8,2:4`, or `=[[1, 8], [2,
    4]]`, as keys and tuples.
    """
    key, equals, written = text.partition("=")
    keys = tuple(part.strip() for part in key.split(","))
    if not equals or not all(keys) or not written.strip():
        raise InputError(f"--over {text!r} has no values; write KEY=V1,V2, as in engine.max_num_seqs=64,128")
    written = written.strip()
    if not written.startswith("[") and "" in map(str.strip, written.split(",")):
        raise InputError(f"--over {text!r}: a value is missing beside a comma; write KEY=V1,V2")
    if len(keys) == 1:
        return keys[0], yaml_value(written if written.startswith("[") else f"[{written}]", "--over", text)
    if written.startswith("["):
        groups = yaml_value(written, "--over", text)
    else:
        # One by one: together, YAML reads 1:8 as a time of 68 seconds.
        groups = [
            [yaml_value(one, "--over", text) for one in group.split(":")] for group in written.split(",")
        ]
    for group in groups:
        if not isinstance(group, list) or len(group) != len(keys):
            given = ":".join(map(str, group)) if isinstance(group, list) else group
            raise InputError(
                f"--over {text!r}: {given} must be {len(keys)} values that go together, as in "
                f"{','.join(keys)}={':'.join(map(str, range(1, len(keys) + 1)))}"
            )
    return keys, [tuple(group) for group in groups]


def objective_of(text: str) -> tuple[str, float]:
    metric, _, largest = text.partition("=")
    try:
        return metric.strip(), float(largest)
    except ValueError as error:
        raise InputError(f"--slo {text!r}: must be METRIC=MAX, as in p99_ttft_ms=500") from error


def check_metrics(wanted: list[str] | None, beside: Sequence[str] = ()) -> None:
    """InputError for a metric that no run can have, before one runs. `beside` are other columns."""
    from sim.reading.problems import did_you_mean
    from sim.studies.metric_names import metric_names

    names = (*metric_names(), *beside)
    for name in wanted or ():
        if name not in names:
            raise InputError(f"--metric {name}: there is no such metric{did_you_mean(name, names)}")


def check_report(path: Path | None) -> None:
    """InputError where the page of a study cannot be written, before one of its runs begins."""
    if path is not None:
        from sim.views.study_page import check_place

        check_place(path)
