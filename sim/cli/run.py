"""`sim run`: one scenario, from its file to its numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sim.cli import trace
from sim.cli.key_notes import note_keys
from sim.cli.output import Format, note, print_json, print_table, yaml_value
from sim.cli.signals import signals
from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError

if TYPE_CHECKING:
    from sim.cli.budget import CpuBudget
    from sim.cli.written import Written
    from sim.inputs.quantities import QuantityKind
    from sim.results.sentences import Verdict
    from sim.simulate import Result


def run(
    scenario: Annotated[str, typer.Argument(help="A scenario: a YAML file.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value: engine.tensor_parallel_size=4."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for tables, timeline and report.")] = None,
    tables: Annotated[
        Literal["csv", "parquet"] | None,
        typer.Option(help="How --out keeps tables; by default by their rows."),
    ] = None,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
    trace_window: Annotated[str | None, trace.WINDOW] = None,
    trace_requests: Annotated[str | None, trace.REQUESTS] = None,
    trace_slowest: Annotated[int, trace.SLOWEST] = 0,
    no_fold: Annotated[
        bool, typer.Option("--no-fold", help="Play every op of every layer; same numbers.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run that --out already holds.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Check every invariant after every instant: same numbers, slower."),
    ] = False,
    percentiles: Annotated[
        str | None, typer.Option(metavar="P,P,...", help="Percentiles of the latencies: 50,90,99.9.")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="End a run that outgrows it: 4GB. Default: 0.8 of the machine's."),
    ] = None,
    max_cpu: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="End a run after so much processor time, its numbers kept: 10 min."
        ),
    ] = None,
) -> None:
    """Simulate a scenario and print its summary, in vLLM's words."""
    from sim.cli.budget import CpuBudget
    from sim.inputs.quantities import SECONDS

    wanted = _percentiles(percentiles)
    window = trace.window_of("--trace-window", trace_window)
    requests = trace.request_numbers("--trace-requests", trace_requests)
    if out is None and (window or requests or trace_slowest):
        raise InputError(
            "--trace-window, --trace-requests and --trace-slowest need --out, a folder to write to"
        )
    with ExitStack() as held:
        place = None
        if out is not None:
            # Before the run begins: an hour's run must not end at a folder that cannot be written.
            from sim.results.whole_files import check_writable, locked, refuse_what_is_there
            from sim.views.save import FILES

            place = held.enter_context(locked(out))
            refuse_what_is_there(out, force=force, own=FILES)
            check_writable(place.parent)
        cpu = CpuBudget(_quantity("--max-cpu", SECONDS, max_cpu))
        result, written = _simulated(
            scenario,
            changes or (),
            seed,
            fold=not no_fold,
            check=check,
            max_memory=max_memory,
            cpu=cpu,
            window=None if requests or trace_slowest else window,
        )
        with signals.waits():
            _tell(result, written, format, wanted)
            if place is not None:
                from sim.views.save import save_into

                if requests or trace_slowest:
                    result = _with_ops(result, window, requests, trace_slowest)
                if window is not None and window[0] >= result.end_s:
                    note(f"note: --trace-window begins after the run has ended, at {result.end_s:g} s")
                for what in save_into(result, place, tables or ""):
                    note(f"note: {what}")
                note(f"saved in {out}" if result.is_complete else f"saved in {out}, marked incomplete")
        _end(result, cpu)


def _simulated(
    scenario: str,
    changes: Sequence[str],
    seed: int,
    *,
    fold: bool,
    check: bool,
    max_memory: str | None,
    cpu: CpuBudget,
    window: tuple[float, float] | None,
) -> tuple[Result, Written]:
    import sim
    from sim.cli.budget import memory_budget
    from sim.cli.live import live
    from sim.cli.written import Written
    from sim.inputs.quantities import MEMORY
    from sim.results.recorded import Windows
    from sim.runtime.interruption import Interruption
    from sim.runtime.recording import Recorder
    from sim.workload.request_sampler import describe_traces

    max_bytes = _quantity("--max-memory", MEMORY, max_memory)
    described = sim.load_scenario(scenario)
    if changes:
        described = sim.with_changes(described, dict(_change(text) for text in changes))
    for line in describe_traces(described.workload):
        note(line)
    written = Written.read(scenario, changes)
    interruption = Interruption()
    try:
        with signals.ends(interruption), memory_budget(max_bytes), cpu.held(interruption), live(interruption):
            result = sim.simulate(
                described,
                seed=seed,
                fold=fold,
                check=check or None,
                interruption=interruption,
                recorder=None if window is None else Recorder(Windows.of([window])),
            )
    except InfeasibleError as refusal:
        raise refusal.at(written.named_in(refusal.reason)) from refusal
    return result, written


def _with_ops(
    result: Result, window: tuple[float, float] | None, requests: Sequence[int], slowest: int
) -> Result:
    """The run with every op of the time in which these requests were there. Which they are is known only now,
    so the run is run once more.
    """
    from dataclasses import replace

    from sim.timelines import record, windows_of

    windows = windows_of(result.records, result.end_s, window=window, requests=requests, slowest=slowest)
    return replace(result, recorded=record(result, windows, result.scenario))


def _quantity(option: str, kind: QuantityKind, text: str | None) -> float | None:
    try:
        return None if text is None else kind(text)
    except ValueError as error:
        raise InputError(f"{option} {error}") from error


def _tell(result: Result, written: Written, format: Format, percentiles: tuple[float, ...]) -> None:
    """Notes on what a reader would miss in the numbers, and the numbers."""
    from sim.results.basis import basis_notes

    numbers = result.summary(percentiles=percentiles)
    for what in basis_notes(numbers):
        note(f"note: {what}")
    for capacity in result.kv_capacities:
        for what in capacity.notes():
            note(f"note: {what}")
    for what in numbers.get("outages", {}).get("left_out", ()):
        note(f"note: outages.random leaves out a class of failures, {what}")
    note_keys(result.key_words.without_effect, written.problem)
    if "cut_answers" in numbers:
        note(f"note: {_cut_answers(result)}")
    if format == "json":
        print_json(numbers)
    else:
        print_summary(result, numbers, percentiles)
    # What is printed goes out before anything is saved: a full disk costs the folder, not the numbers.
    sys.stdout.flush()
    if numbers["rejected"]:
        longest = max(result.requests.filter(result.requests["status"] == "rejected")["prompt_tokens"])
        note(
            f"{numbers['rejected']} of {len(result.requests)} requests were rejected: prompts of up to "
            f"{longest} tokens are too long for the engine (max_model_len, or the KV blocks that are left)"
        )


def _cut_answers(result: Result) -> str:
    rows = result.requests
    cut = rows.filter((rows["status"] == "finished") & (rows["generated_tokens"] < rows["output_tokens"]))
    longest = max(cut["prompt_tokens"] + cut["generated_tokens"])
    return (
        f"{cut.height} of {rows.height} answers ended before the tokens that they asked for (up to "
        f"{max(cut['output_tokens'])}), where prompt and answer had max_model_len, {longest} tokens"
    )


def _end(result: Result, cpu: CpuBudget) -> None:
    """Exit as the run did."""
    statuses = result.requests["status"]
    open_requests = int((statuses == "unfinished").sum())
    if cpu.spent and result.ended != "all requests ended":
        raise UnfinishedError(
            f"{cpu.spent}. It stopped at {result.end_s:g} s of its own time, {len(statuses)} requests had "
            f"come and {open_requests} were not finished; ask for fewer requests, or raise --max-cpu"
        )
    if result.ended == "interrupted":
        signals.end(f"the run stopped at {result.end_s:g} s, {open_requests} requests were not finished")
    if len(statuses) and (statuses == "rejected").all():
        raise InfeasibleError(
            "every request was rejected, so there is nothing to report", "a larger max_model_len"
        )
    if open_requests:
        raise UnfinishedError(
            f"{open_requests} requests were not finished when the run stopped at {result.end_s:g} s",
            result.unfinished,
        )
    if signals.number:
        signals.end("the run had ended")


def print_summary(result: Result, numbers: Mapping[str, Any], percentiles: tuple[float, ...] = ()) -> None:
    """Counts and throughputs, latencies as kinds by statistics, and where the time of a request went."""
    from sim.results.basis import basis_lines
    from sim.results.energy import energy_lines
    from sim.results.metrics import percent_name
    from sim.results.outages import outage_lines, outage_rows
    from sim.views.naming import title_of
    from sim.views.number_rows import BLAME_COLUMNS, STATISTICS, blame_rows, counts_rows, latency_rows

    statistics: tuple[str, ...] = STATISTICS
    if percentiles:
        statistics = ("mean", *map(percent_name, percentiles), "max", "std")
    print(f"# {title_of(result.scenario)}, seed {result.seed}")
    print_table(["", ""], counts_rows(numbers))
    print_table(["latency (ms)", *statistics], latency_rows(numbers, statistics))
    causes = blame_rows(numbers)
    if causes:
        print_table(BLAME_COLUMNS, causes)
    if "outages" in numbers:
        if "before" in numbers["outages"]:
            print_table(["outages", "before", "during", "after"], outage_rows(numbers["outages"]))
        for line in outage_lines(numbers["outages"]):
            print(line)
    capacities = (line for one in result.kv_capacities for line in one.lines())
    energy = energy_lines(numbers["energy"], numbers.get("cost", {}))
    for line in (*capacities, *energy, *basis_lines(numbers)):
        print(line)
    print_verdict(result.explain())


def print_verdict(verdict: Verdict) -> None:
    """A heading, and a line for each sentence."""
    print("\nVerdict")
    for sentence in verdict:
        print(f"  {sentence}")


def _percentiles(text: str | None) -> tuple[float, ...]:
    """`50,90,99.9` as numbers."""
    found = []
    if text is not None and not text.strip():
        raise InputError("--percentiles has no number; each must be from 0 to 100, as in 50,90,99.9")
    for word in text.split(",") if text is not None else ():
        if not word.strip():
            raise InputError(
                f"--percentiles {text!r}: a number is missing beside a comma; each must be from 0 to 100, "
                "as in 50,90,99.9"
            )
        try:
            percent = float(word)
        except ValueError:
            percent = -1.0
        if not 0.0 <= percent <= 100.0:
            raise InputError(f"--percentiles {text!r}: {word!r} must be from 0 to 100, as in 50,90,99.9")
        found.append(percent)
    return tuple(dict.fromkeys(found))


def _change(text: str) -> tuple[str, object]:
    """`engine.tensor_parallel_size=4` as a key and a value; the value is read as YAML, so 4 is a number."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text!r} names no value; write KEY=VALUE, as in engine.max_num_seqs=64")
    if not value.strip():
        raise InputError(f"--set {text!r} has no value; write {key.strip()}=VALUE, or =null for none")
    return key.strip(), yaml_value(value, "--set", text)
