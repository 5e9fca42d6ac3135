"""`sim run`: one scenario, from its file to its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import Format, note, print_json, print_table
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sim.simulate import Result


def run(
    scenario: Annotated[str, typer.Argument(help="A scenario: a YAML file.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value: engine.tensor_parallel_size=4."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for tables, timeline and report.")] = None,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
    no_fold: Annotated[
        bool, typer.Option("--no-fold", help="Play every op of every layer; same numbers.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --out already holds.")] = False,
) -> None:
    """Simulate a scenario and print its summary, in vLLM's words."""
    if out is not None:
        _claim(out, force)

    import sim

    described = sim.load_scenario(scenario)
    if changes:
        described = sim.with_changes(described, dict(_change(text) for text in changes))
    result = sim.simulate(described, seed=seed, fold=not no_fold)
    if out is not None:
        result.save(out, force=True)  # the folder is claimed above
        note(f"saved in {out}")
    if format == "json":
        print_json(result.summary())
    else:
        print_summary(result)


def print_summary(result: Result) -> None:
    """The summary as `vllm bench serve` prints it: a label, then a number."""
    summary = result.summary()
    print_table(["", ""], [(_label(name), _number(value)) for name, value in _flat(summary)])


def _flat(summary: Mapping[str, object], before: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in summary.items():
        if isinstance(value, dict):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((before + name, value))
    return found


def _label(name: str) -> str:
    return name


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.3e}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _change(text: str) -> tuple[str, object]:
    """`engine.tensor_parallel_size=4` as a key and a value; the value is read as YAML, so 4 is a number."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text!r} names no value; write KEY=VALUE, as in engine.max_num_seqs=64")
    import yaml

    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {text!r}: the value is not YAML ({str(error).splitlines()[0]})") from error


def _claim(out: Path, force: bool) -> None:
    """Make the folder before the run begins: an hour's run must not end at one that cannot be written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise InputError(f"--out {out} already holds files; choose another folder, or add --force")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error.strerror}") from error
