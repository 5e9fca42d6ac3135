"""`sim sweep`, `compare`, `capacity`, `sensitivity`, `recommend`: many runs, here or on a dask cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import Format, note, print_json, print_table
from sim.cli.signals import signals
from sim.cli.study_options import (
    MAX_SEEDS,
    Changes,
    Force,
    Metrics,
    OutputFormat,
    Recompute,
    Report,
    Resume,
    Scheduler,
    StoreFile,
    Table,
    check_metrics,
    check_report,
    grid_of,
    objective_of,
    scenario_of,
)
from sim.cli.study_runs import end, executor_at, places_of, save, stored_in
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    import polars

    from sim.studies.compare import Comparison
    from sim.studies.points import Row
    from sim.studies.recommend import Recommendation
    from sim.studies.sensitivity import Sensitivity
    from sim.studies.sweep import Sweep

MOST_NAMED = 20  # keys on one line
SHOWN = ("completed", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_itl_ms", "output_throughput")


def sweep(
    scenario: Annotated[str, typer.Argument(help="A scenario: a YAML file.")],
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="KEY=V1,V2,...",
            help="Values to try: engine.tensor_parallel_size=1,2,4; linked: KEY1,KEY2=1:8,2:4",
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
    store: StoreFile = None,
    resume: Resume = False,
    recompute: Recompute = False,
    report: Report = None,
    format: OutputFormat = "table",
) -> None:
    """Run every combination of some values; what cannot be is a line with its reason."""
    import sim

    check_report(report)
    grid = grid_of(over)
    described = scenario_of(scenario, changes)
    changed = [name for key in grid for name in ((key,) if isinstance(key, str) else key)]
    check_metrics(metrics, (*changed, "seed", "wall_s"))
    with places_of(out, force, store, resume, recompute) as (out_file, keep):
        with executor_at(scheduler) as executor:
            found = sim.sweep(described, grid, range(seeds), executor, keep=keep)
        with signals.waits():
            table, shown = found.table(), _metrics(metrics, found.table())
            _note_all(found.notes)
            changed = list(dict.fromkeys(key for row in found.rows for key, _ in row.point.changes))
            _show(table, [*changed, "seed", "status", *shown, "reason"], format)
            if seeds > 1 and format == "table":
                _show_means(found, changed, shown)
            save(table, out_file, out, found.rows)
            _write_report(found, report)
            _note_stand_ins(found.rows)
    end(found.rows)


def compare(
    scenarios: Annotated[list[str], typer.Argument(help="Two or more scenarios: YAML files.")],
    changes: Changes = None,
    seeds: Annotated[int, typer.Option(min=2, max=MAX_SEEDS, help="Seeds 0 to N-1 for every scenario.")] = 10,
    scheduler: Scheduler = None,
    metrics: Metrics = None,
    out: Table = None,
    force: Force = False,
    store: StoreFile = None,
    resume: Resume = False,
    recompute: Recompute = False,
    report: Report = None,
    format: OutputFormat = "table",
) -> None:
    """Compare scenarios with the first, seed by seed, with 95 % intervals of the differences."""
    import sim

    check_report(report)
    names = {_name(path, scenarios): scenario_of(path, changes) for path in scenarios}
    check_metrics(metrics)
    with places_of(out, force, store, resume, recompute) as (out_file, keep):
        with executor_at(scheduler) as executor:
            found = sim.compare(names, range(seeds), executor, keep=keep)
        with signals.waits():
            rows = [row for name in found.names for row in found.rows[name]]
            for row in found.failed:
                if row.status != "not run":
                    note(f"{found.names[row.point.scenario]}, seed {row.point.seed}: {row.reason}")
            _note_all(found.notes)
            table = found.table()
            if table.height:
                import polars

                known = table["metric"].unique().to_list()
                shown = table.filter(polars.col("metric").is_in(_metrics(metrics, known)))
                _show(shown, shown.columns, format, table)
                if format == "table":
                    _show_ranking(found, shown["metric"].unique(maintain_order=True).to_list())
                save(table, out_file, out, rows)
                _write_report(found, report)
            _note_stand_ins(rows)
    end(rows)
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
    choose_length: Annotated[
        bool, typer.Option("--choose-length", help="Runs as long as the percentiles of --slo need.")
    ] = False,
    scheduler: Scheduler = None,
    out: Table = None,
    force: Force = False,
    store: StoreFile = None,
    resume: Resume = False,
    recompute: Recompute = False,
    format: OutputFormat = "table",
) -> None:
    """Find the highest request rate at which all objectives hold, and what breaks above it."""
    import sim

    objectives = dict(objective_of(text) for text in slo)
    described = scenario_of(scenario, changes)
    with places_of(out, force, store, resume, recompute) as (out_file, keep):
        with executor_at(scheduler) as executor:
            found = sim.capacity(
                described, objectives, range(seeds), tolerance, executor, keep, choose_length
            )
        with signals.waits():
            table = found.table()
            if format == "json":
                result = {"rate_per_s": found.rate_per_s, "limited_by": found.limited_by,
                          "interval": found.interval, "notes": found.notes}  # fmt: skip
                print_json({**result, "trials": table.to_dicts()})
            else:
                spread = found.interval
                width = (
                    "" if spread is None else f" (seeds alone: {spread.low:.4g} to {spread.high:.4g}, 95 %)"
                )
                print(f"{found.rate_per_s:.4g} requests/s{width}")
                print(f"limited by: {found.limited_by}")
                print_table(table.columns, [[_cell(value) for value in row] for row in table.rows()])
            for text in found.notes:
                note(text)
            sys.stdout.flush()
            if out_file is not None and found.trials:
                out_file.save(table, is_complete=found.is_complete)
                note(f"saved in {out}" if found.is_complete else f"saved in {out}, incomplete")
    if not found.is_complete or signals.number:
        signals.end(f"{len(found.trials)} rates have been tried")


def _note_all(notes: Sequence[str]) -> None:
    for line in notes:
        note(f"note: {line}")


def _show_means(found: Sweep, changed: list[str], metrics: list[str]) -> None:
    """Of several seeds: the mean, and half the width of its 95 % interval."""
    means = found.means(metrics)
    lines = []
    for row in means.to_dicts():
        cells = [_cell(row[key]) for key in (*changed, "seeds")]
        for name in metrics:
            mean, high = row[name], row[f"{name}_high"]
            cells.append(_cell(mean) if high is None else f"{mean:.5g} ± {high - mean:.2g}")
        lines.append(cells)
    if lines:
        print()
        print_table([*changed, "seeds", *(f"mean of {name}" for name in metrics)], lines)


def sensitivity(
    scenario: Annotated[str, typer.Argument(help="A scenario: a YAML file.")],
    metric: Annotated[str, typer.Option(help="A number of the summary, or `capacity` (with --slo).")],
    changes: Changes = None,
    keys: Annotated[
        list[str] | None,
        typer.Option("--keys", metavar="PATTERN", help="Keys to look at, as in topology.links.*"),
    ] = None,
    slo: Annotated[
        list[str] | None, typer.Option("--slo", metavar="METRIC=MAX", help="Objectives of the capacity.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1, each paired with itself.")] = 3,
    step: Annotated[float, typer.Option(help="How much more and less of each, relative.")] = 0.1,
    scheduler: Scheduler = None,
    out: Table = None,
    force: Force = False,
    store: StoreFile = None,
    resume: Resume = False,
    recompute: Recompute = False,
    report: Report = None,
    format: OutputFormat = "table",
) -> None:
    """What a tenth more of every hardware constant and engine knob would do to a metric, strongest first."""
    import sim

    check_report(report)
    objectives = dict(objective_of(text) for text in slo or ()) or None
    described = scenario_of(scenario, changes)
    with places_of(out, force, store, resume, recompute) as (out_file, keep):
        with executor_at(scheduler) as executor:
            found = sim.sensitivity(
                described, metric, range(seeds), keys or (), objectives, step, executor,
                keep=keep,
            )  # fmt: skip
        with signals.waits():
            table = found.table()
            if format == "json":
                print_json({"metric": metric, "base": found.base, "effects": table.to_dicts(),
                            "left_out": dict(found.left_out), "resolution": found.resolution})  # fmt: skip
            else:
                _show_effects(found)
            save(table, out_file, out, found.rows)
            _write_report(found, report)
    end(found.rows)


def recommend(
    scenario: Annotated[str, typer.Argument(help="A scenario: a YAML file whose arrivals have a rate.")],
    slo: Annotated[
        list[str] | None,
        typer.Option("--slo", metavar="METRIC=MAX", help="An objective; else the workload's own, for 90 %."),
    ] = None,
    changes: Changes = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="KEY=V1,V2,...", help="Knobs to try, instead of chunk and seats."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1; the goodput is the mean.")] = 1,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Search every layout over runs of full length.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Every layout as a file that `sim run` takes.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Layouts to print.")] = 10,
    scheduler: Scheduler = None,
    store: StoreFile = None,
    resume: Resume = False,
    recompute: Recompute = False,
    report: Report = None,
    format: OutputFormat = "table",
) -> None:
    """Find the layouts of a model on given GPUs that hold the objectives at the highest rate per GPU."""
    import sim

    check_report(report)
    objectives = dict(objective_of(text) for text in slo or ()) or None
    space = grid_of(over) if over else None
    linked = next((key for key in space or () if not isinstance(key, str)), None)
    if linked is not None:
        raise InputError(f"--over {','.join(linked)}: layouts are linked already; give one key at a time")
    described = scenario_of(scenario, changes)
    with stored_in(store, resume, recompute) as stored_rows, executor_at(scheduler) as executor:
        found = sim.recommend(
            described, objectives, space, range(seeds),  # type: ignore[arg-type]
            halving=not exhaustive, executor=executor, keep=stored_rows,
        )  # fmt: skip
    table = found.table()
    frontier = [vars(point) for point in found.frontier]
    if format == "json":
        print_json({"layouts": table.to_dicts(), "frontier": frontier, "runner_up": found.runner_up,
                    "infeasible": dict(found.infeasible)})  # fmt: skip
    else:
        _show(table.head(top), table.columns, format)
        print(f"runner-up: {found.runner_up}")
        print("frontier:")
        columns = ("name", "rate_per_s", "tokens_per_s_per_user", "tokens_per_s_per_gpu")
        print_table(columns, [[_cell(value) for value in one.values()] for one in frontier])
    for name, reason in list(found.infeasible.items())[:MOST_NAMED]:
        note(f"cannot be: {name}: {reason}")
    _write_report(found, report)
    if write is not None:
        sys.stdout.flush()
        note(f"wrote {len(found.write(write))} scenarios into {write}")


def _write_report(found: Sweep | Comparison | Sensitivity | Recommendation, path: Path | None) -> None:
    if path is not None:
        sys.stdout.flush()  # a full disk costs the page, not the numbers
        note(f"wrote {found.report(path)}")


def _show_effects(found: Sensitivity) -> None:
    print(f"{found.metric} is {found.base:.5g}; what more of each would do to it:")
    lines, without = [], []
    for one in found.effects:
        if one.note == "no effect":
            without.append(one.key)
            continue
        spread = (one.elasticity.high - one.elasticity.low) / 2
        width = "" if spread == float("inf") else f" ± {spread:.2g}"
        change = f"{100 * one.more.mean:+.3g} % for {100 * (one.factor - 1):+.3g} %"
        lines.append((one.key, f"{one.value:.4g}", f"{one.elasticity.mean:+.3g}{width}", change,
                      one.note or ("" if one.is_clear else "not clear over these seeds")))  # fmt: skip
    print_table(("key", "value", "elasticity", "change", ""), lines)
    if without:
        more = f" and {len(without) - MOST_NAMED} more" if len(without) > MOST_NAMED else ""
        note(f"no effect: {', '.join(without[:MOST_NAMED])}{more}")
    for key, reason in found.left_out.items():
        note(f"left out: {key}: {reason}")


def _show_ranking(found: Comparison, metrics: list[str]) -> None:
    """Which scenario is first by each metric, whether other seeds could turn that, and why they differ."""
    print()
    for metric in metrics:
        try:
            rank = found.ranking(metric)
        except InputError:
            continue
        stable = "stable" if rank.is_stable else "not stable"
        print(f"{metric}: {' < '.join(rank.names)}, {stable} ({rank.agreeing} of {rank.seeds} seeds agree)")
    for name in found.names[1:]:
        print(f"why: {found.explanation(name)}")


def _note_stand_ins(rows: Sequence[Row]) -> None:
    """Once each, what the runs say of GPUs and machines that were not measured."""
    from sim.results.basis import basis_notes

    for text in dict.fromkeys(text for row in rows for text in basis_notes(row.summary)):
        note(f"note: {text}")


def _name(path: str, paths: list[str]) -> str:
    stem = Path(path).stem
    return stem if [Path(one).stem for one in paths].count(stem) == 1 else path


def _metrics(wanted: list[str] | None, known: Any) -> list[str]:
    """Those that are there, of those that are asked for or of the usual."""
    names = known.columns if hasattr(known, "columns") else known
    for name in wanted or ():
        if name not in names:
            note(f"--metric {name}: no run has it")
    return [name for name in wanted or SHOWN if name in names]


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
