"""`sim export` and `sim compare-run`: a saved run in the files of others, and beside what others measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sim.cli.output import Format, note, print_json, print_table

Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="A folder that sim run --out has left.", show_default=False)
]


def export(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.", show_default=False)],
    kind: Annotated[
        Literal["aiperf", "vllm", "csv", "parquet"] | None,
        typer.Option("--as", help="Default: by the ending of FILE; of .json AIPerf's."),
    ] = None,
    table: Annotated[str, typer.Option(help="Which table .csv and .parquet have.")] = "requests",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a run as AIPerf or vllm bench serve write theirs, or one of its tables."""
    import sim

    note(f"wrote {sim.load_result(run).export(file, kind, table=table, force=force)}")


def compare_run(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A folder that sim run --out has left, or what sim run --format json printed.",
            show_default=False,
        ),
    ],
    measured: Annotated[
        Path,
        typer.Argument(
            metavar="MEASURED", help="JSON of vllm bench serve, AIPerf or genai-perf.", show_default=False
        ),
    ],
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
) -> None:
    """Put a saved run beside a benchmark of the same workload: every metric, its error, possible causes."""
    import sim
    from sim.inputs.errors import InputError
    from sim.reading.benchmark_results import read_benchmark_result, summary_in
    from sim.results.beside_measured import NEAR, causes_beside, differences_of_traffic, metrics_beside

    numbers = summary_in(run) if run.is_file() else sim.load_result(run).summary()
    real = read_benchmark_result(measured)
    rows = metrics_beside(numbers, real.numbers)
    if not rows:
        raise InputError(f"{run} and {measured} have no metric in common")
    traffic, causes = list(differences_of_traffic(numbers, real.about)), causes_beside(numbers, rows)
    if format == "json":
        print_json(
            {
                "measured_by": real.kind,
                "rows": [row.as_dict() for row in rows],
                "other_traffic": traffic,
                "causes": causes,
            }
        )
        return
    in_band = {True: "yes", False: "no", None: ""}
    print_table(
        ["metric", "simulated", "measured", "error", "in its band"],
        [
            [
                one.metric,
                f"{one.simulated:.4g}",
                f"{one.measured:.4g}",
                f"{one.error:+.1%}",
                in_band[one.in_band],
            ]
            for one in rows
        ],
    )
    for line in traffic:
        print(f"Not the same traffic: {line}.")
    for line in causes:
        print(f"Possible: {line}.")
    if not causes:
        print(f"Mean latencies and throughput are within {NEAR:.0%}, and tails near: nothing to explain.")
