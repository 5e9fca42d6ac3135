"""`sim kernel`: what one kernel takes on one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import Format, note, print_json, print_table, si, yaml_value
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    from sim.microbenchmark import Kernel


def kernel(
    context: typer.Context,
    gpu: Annotated[str, typer.Argument(help="A GPU's name, as in h100-sxm; `sim list gpus` shows them.")],
    kind: Annotated[str, typer.Argument(help="gemm, attention_decode, ...; a wrong one lists all.")],
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
) -> None:
    """Time of one kernel on one GPU, and what bounds it: sim kernel h100-sxm gemm --m 64 --n 8192 --k 8192.

    The options are the kernel's own arguments. Leave them out to see which there are.
    """
    shape = _shape(context.args)

    import sim
    from sim.results.basis import kernel_note

    timing = sim.kernel(gpu, kind, **shape)
    if text := kernel_note(Path(gpu).stem, timing.basis):
        note(f"note: {text}")
    parts = timing._asdict()
    if format == "json":
        basis = timing.basis.as_dict()
        print_json({"gpu": gpu, "kernel": kind, **shape, **parts, "bound": timing.bound, "basis": basis})
        return
    print(f"# {kind} on {gpu}: " + ", ".join(f"{name} {value}" for name, value in shape.items()))
    rows = [
        [name.removesuffix("_s"), si(value, "s", 4)] for name, value in parts.items() if name.endswith("_s")
    ]
    print_table(["part", "time"], [*rows, ["bound by", timing.bound]])
    print(f"Rests on: {timing.basis}{_band(timing)}")


def _band(timing: Kernel) -> str:
    """The time with its band."""
    if timing.basis.band is None:
        return ""
    low, high = (si(timing.total_s * share, "s", 3) for share in timing.basis.band)
    return f"; {si(timing.total_s, 's', 3)}, {low} to {high}"


def _shape(words: list[str]) -> dict[str, Any]:
    """`--m 64 --dtype fp8 --chunks [[512,0]]` as keyword arguments; values are read as YAML."""
    shape: dict[str, Any] = {}
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for option, value in zip(words[::2], [*words[1::2], None], strict=False):
        if not option.startswith("--") or value is None or value.startswith("--"):
            raise InputError(f"{option!r}: a kernel's arguments are written --name value, as in --m 64")
        shape[option[2:].replace("-", "_")] = yaml_value(value, option, value)
    return shape
