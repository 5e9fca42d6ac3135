"""`sim sweep`, `compare`, `capacity`, `sensitivity`, `recommend`: many runs, here or on a dask cluster."""

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
    from sim.studies.compare import Comparison
    from sim.studies.kept import Kept
    from sim.studies.points import Row
    from sim.studies.sensitivity import Sensitivity
    from sim.studies.store import Store
    from sim.studies.sweep import Sweep

SECONDS_TO_CONNECT = 10
MOST_NAMED = 20  # keys on one line
SHOWN = ("completed", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_itl_ms", "output_throughput")

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
Force = Annotated[bool, typer.Option("--force", help="Replace what --out already holds.")]
OutputFormat = Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")]


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
    format: OutputFormat = "table",
) -> None:
    """Run every combination of some values; what cannot be is a line with its reason."""
    import sim

    grid = _grid(over)
    described = _scenario(scenario, changes)
    changed = [name for key in grid for name in ((key,) if isinstance(key, str) else key)]
    _check_metrics(metrics, (*changed, "seed", "wall_s"))
    with _kept(out, force, store) as keep, _stored(store, resume, recompute) as rows:
        with _executor(scheduler) as executor:
            found = sim.sweep(described, grid, range(seeds), executor, keep=rows or keep)
        with signals.waits():
            table, shown = found.table(), _metrics(metrics, found.table())
            _note_all(found.notes)
            changed = list(dict.fromkeys(key for row in found.rows for key, _ in row.point.changes))
            _show(table, [*changed, "seed", "status", *shown, "reason"], format)
            if seeds > 1 and format == "table":
                _show_means(found, changed, shown)
            _save(table, keep, out, found.rows)
            _note_stand_ins(found.rows)
    _end(found.rows)


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
    format: OutputFormat = "table",
) -> None:
    """Compare scenarios with the first, seed by seed, with 95 % intervals of the differences."""
    import sim

    names = {_name(path, scenarios): _scenario(path, changes) for path in scenarios}
    _check_metrics(metrics)
    with _kept(out, force, store) as keep, _stored(store, resume, recompute) as stored_rows:
        with _executor(scheduler) as executor:
            found = sim.compare(names, range(seeds), executor, keep=stored_rows or keep)
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
                _save(table, keep, out, rows)
            _note_stand_ins(rows)
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

    objectives = dict(_objective(text) for text in slo)
    described = _scenario(scenario, changes)
    with _kept(out, force, store) as keep, _stored(store, resume, recompute) as rows:
        with _executor(scheduler) as executor:
            found = sim.capacity(
                described, objectives, range(seeds), tolerance, executor, rows or keep, choose_length
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
            if keep is not None and found.trials:
                keep.save(table, is_complete=found.is_complete)
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
    format: OutputFormat = "table",
) -> None:
    """What a tenth more of every hardware constant and engine knob would do to a metric, strongest first."""
    import sim

    objectives = dict(_objective(text) for text in slo or ()) or None
    described = _scenario(scenario, changes)
    with _kept(out, force, store) as keep, _stored(store, resume, recompute) as stored_rows:
        with _executor(scheduler) as executor:
            found = sim.sensitivity(
                described, metric, range(seeds), keys or (), objectives, step, executor,
                keep=stored_rows or keep,
            )  # fmt: skip
        with signals.waits():
            table = found.table()
            if format == "json":
                print_json({"metric": metric, "base": found.base, "effects": table.to_dicts(),
                            "left_out": dict(found.left_out), "resolution": found.resolution})  # fmt: skip
            else:
                _show_effects(found)
            _save(table, keep, out, found.rows)
    _end(found.rows)


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
    format: OutputFormat = "table",
) -> None:
    """Find the layouts of a model on given GPUs that hold the objectives at the highest rate per GPU."""
    import sim

    objectives = dict(_objective(text) for text in slo or ()) or None
    space = _grid(over) if over else None
    linked = next((key for key in space or () if not isinstance(key, str)), None)
    if linked is not None:
        raise InputError(f"--over {','.join(linked)}: layouts are linked already; give one key at a time")
    described = _scenario(scenario, changes)
    with _stored(store, resume, recompute) as stored_rows, _executor(scheduler) as executor:
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
    if write is not None:
        sys.stdout.flush()
        note(f"wrote {len(found.write(write))} scenarios into {write}")


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


@contextmanager
def _stored(store: Path | None, resume: bool, recompute: bool) -> Iterator[Store | None]:
    """The store of a study; None without one."""
    if store is None:
        if resume or recompute:
            raise InputError("--resume and --recompute are about --store FILE; name the file")
        yield None
        return
    from sim.studies.store import stored

    with stored(store, resume=resume, recompute=recompute) as rows:
        yield rows
        if rows.taken_up:
            note(f"{rows.taken_up} runs were in {store}")
        if rows.failure:
            note(f"runs were not kept as they ended: {rows.failure}")


@contextmanager
def _kept(out: Path | None, force: bool, store: Path | None = None) -> Iterator[Kept | None]:
    """Where the rows of a study are kept as they come; None without a table. With a store beside it, the
    table is only written at the end.
    """
    if out is None:
        yield None
        return
    from sim.studies.kept import kept

    with kept(out, force=force or (store is not None and out.is_file())) as keep:
        yield keep
        if keep.failure:
            note(f"runs were not kept as they ended: {keep.failure}")


def _save(table: polars.DataFrame, keep: Kept | None, out: Path | None, rows: Sequence[Row]) -> None:
    sys.stdout.flush()  # a full disk costs the file, not the numbers
    if keep is not None:
        is_complete = all(row.status != "not run" for row in rows)
        keep.save(table, is_complete=is_complete)
        note(f"saved in {out}" if is_complete else f"saved in {out}, incomplete: the same command goes on")


def _note_stand_ins(rows: Sequence[Row]) -> None:
    """Once each, what the runs say of GPUs and machines that were not measured."""
    from sim.results.basis import basis_notes

    for text in dict.fromkeys(text for row in rows for text in basis_notes(row.summary)):
        note(f"note: {text}")


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
    """The executor of a dask or a Ray cluster, or None for the processors here."""
    if scheduler is None:
        yield None
        return
    if scheduler.startswith("ray://"):
        yield _ray_executor(scheduler)
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


def _ray_executor(address: str) -> Executor:
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise InputError(f"--scheduler {address} needs ray: pip install 'ray[client]'") from error
    from sim.studies.on_ray import RayExecutor

    try:
        ray.init(address)
    except Exception as error:  # ray raises what its transport raises: several kinds
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"there is no Ray cluster at {address} ({first})") from error
    return RayExecutor(ray)


def _scenario(path: str, changes: list[str] | None) -> Scenario:
    import sim
    from sim.cli.run import _change

    described = sim.load_scenario(path)
    return sim.with_changes(described, dict(_change(text) for text in changes)) if changes else described


def _grid(over: list[str]) -> dict[str | tuple[str, ...], list[Any]]:
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
        return keys[0], _yaml(text, written if written.startswith("[") else f"[{written}]")
    if written.startswith("["):
        groups = _yaml(text, written)
    else:
        # One by one: together, YAML reads 1:8 as a time of 68 seconds.
        groups = [[_yaml(text, one) for one in group.split(":")] for group in written.split(",")]
    for group in groups:
        if not isinstance(group, list) or len(group) != len(keys):
            given = ":".join(map(str, group)) if isinstance(group, list) else group
            raise InputError(
                f"--over {text!r}: {given} must be {len(keys)} values that go together, as in "
                f"{','.join(keys)}={':'.join(map(str, range(1, len(keys) + 1)))}"
            )
    return keys, [tuple(group) for group in groups]


def _yaml(text: str, written: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise InputError(
            f"--over {text!r}: the values are not YAML ({str(error).splitlines()[0]})"
        ) from error


def _objective(text: str) -> tuple[str, float]:
    metric, _, largest = text.partition("=")
    try:
        return metric.strip(), float(largest)
    except ValueError as error:
        raise InputError(f"--slo {text!r}: must be METRIC=MAX, as in p99_ttft_ms=500") from error


def _name(path: str, paths: list[str]) -> str:
    stem = Path(path).stem
    return stem if [Path(one).stem for one in paths].count(stem) == 1 else path


def _check_metrics(wanted: list[str] | None, beside: Sequence[str] = ()) -> None:
    """InputError for a metric that no run can have, before one runs. `beside` are other columns."""
    from sim.reading.problems import did_you_mean
    from sim.studies.metric_names import metric_names

    names = (*metric_names(), *beside)
    for name in wanted or ():
        if name not in names:
            raise InputError(f"--metric {name}: there is no such metric{did_you_mean(name, names)}")


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
