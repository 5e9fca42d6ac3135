"""`sim run`: one scenario, from its file to its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import Format, note, print_json, print_table
from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError

if TYPE_CHECKING:
    from sim.simulate import Result


def run(
    scenario: Annotated[str, typer.Argument(help="A scenario: a YAML file.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value: engine.tensor_parallel_size=4."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for tables, timeline and report.")] = None,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
    no_fold: Annotated[
        bool, typer.Option("--no-fold", help="Play every op of every layer; same numbers.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --out already holds.")] = False,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="End a run that outgrows it: 4GB. Default: 0.8 of the machine's."),
    ] = None,
) -> None:
    """Simulate a scenario and print its summary, in vLLM's words."""
    if out is not None:
        # Before the run begins: an hour's run must not end at a folder that cannot be written.
        from sim.views.save import claim

        claim(out, force=force)

    import sim
    from sim.cli.budget import memory_budget
    from sim.cli.written import Written
    from sim.inputs.quantities import MEMORY
    from sim.workload.request_sampler import describe_traces

    try:
        max_bytes = None if max_memory is None else MEMORY(max_memory)
    except ValueError as error:
        raise InputError(f"--max-memory {error}") from error
    described = sim.load_scenario(scenario)
    if changes:
        described = sim.with_changes(described, dict(_change(text) for text in changes))
    for line in describe_traces(described.workload):
        note(line)
    written = Written.read(scenario, changes or ())
    try:
        with memory_budget(max_bytes):
            result = sim.simulate(described, seed=seed, fold=not no_fold)
    except InfeasibleError as refusal:
        raise refusal.at(written.named_in(refusal.reason)) from refusal
    if described.pools and described.replicas != 1:
        where = written.problem(("replicas",), "has no effect beside pools; write replicas in each of them")
        note(f"note: {where}")
    for key, what in result.faults_without_effect():
        note(f"note: {written.problem(key, what)}")
    if out is not None:
        result.save(out, force=True)  # claimed above
        note(f"saved in {out}")
    if format == "json":
        print_json(result.summary())
    else:
        print_summary(result)
    rejected = result.summary()["rejected"]
    if rejected:
        longest = max(result.requests.filter(result.requests["status"] == "rejected")["prompt_tokens"])
        note(
            f"{rejected} of {len(result.requests)} requests were rejected: prompts of up to {longest} tokens "
            "are too long for the engine (max_model_len, or the KV blocks that are left)"
        )
    if rejected and rejected == len(result.requests):
        raise InfeasibleError(
            "every request was rejected, so there is nothing to report", "a larger max_model_len"
        )
    if result.unfinished:
        open_requests = result.summary()["unfinished"]
        raise UnfinishedError(
            f"{open_requests} requests were not finished when the run stopped at {result.end_s:g} s",
            result.unfinished,
        )


def print_summary(result: Result) -> None:
    """Counts and throughputs, latencies as kinds by statistics, and where the time of a request went."""
    from sim.views.report import STATISTICS, counts_rows, latency_rows
    from sim.views.save import title_of

    numbers = result.summary()
    print(f"# {title_of(result.scenario)}, seed {result.seed}")
    print_table(["", ""], counts_rows(numbers))
    print_table(["latency (ms)", *STATISTICS], latency_rows(numbers))
    causes = _causes(result)
    if causes:
        print_table(["where the time went", "s per request", "share"], causes)


def _causes(result: Result) -> list[tuple[str, str, str]]:
    if not result.blame.height:
        return []
    means = {cause: float(result.blame[cause].to_numpy().mean()) for cause in result.blame.columns[1:]}
    total = sum(means.values())
    return [(cause, f"{mean:.4g}", f"{mean / total:.1%}") for cause, mean in means.items() if mean > 0.0]


def _change(text: str) -> tuple[str, object]:
    """`engine.tensor_parallel_size=4` as a key and a value; the value is read as YAML, so 4 is a number."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text!r} names no value; write KEY=VALUE, as in engine.max_num_seqs=64")
    import yaml

    try:
        return key.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # numbers of thousands of digits among them
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise InputError(f"--set {shown!r}: the value is not YAML ({str(error).splitlines()[0]})") from error
