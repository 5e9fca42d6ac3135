"""What the subcommands print: a table for a person, JSON for a program, sizes as nccl-tests writes them."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sim.inputs.errors import InputError

Format = Literal["table", "json"]

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(iB|B|b)?\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def print_json(value: object) -> None:
    """One JSON document on standard output. Numbers that are not finite become null: JSON has none."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: object) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Iterable):
        return [_plain(entry) for entry in value]
    item = getattr(value, "item", None)  # numpy's scalars
    return _plain(item()) if callable(item) else str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns on standard output, numbers to the right. In a pipe no line is cut to a width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = [[_shown(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD if any(columns) else None, show_header=any(columns), pad_edge=False)
    for place, column in enumerate(columns):
        numeric = bool(shown) and all(_is_number(row[place]) for row in shown)
        wrap = sys.stdout.isatty() and not numeric
        table.add_column(column, justify="right" if numeric else "left", no_wrap=not wrap, overflow="fold")
    for row in shown:
        table.add_row(*row)
    console = Console(
        highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 10_000
    )
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines()))


def _shown(cell: object) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else f"{cell:,}"


def _is_number(shown: str) -> bool:
    return not shown or re.fullmatch(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ?%)?", shown) is not None


def note(text: str) -> None:
    """Prose and progress go to standard error, so that standard output can be piped."""
    print(text, file=sys.stderr, flush=True)


def size_bytes(written: str, option: str) -> int:
    """A message size as nccl-tests reads it: 8, 64K, 1M, 8G are powers of 1024, and so are KiB, MiB, GiB.

    KB, MB and GB are powers of 1000, as everywhere else here.

    >>> size_bytes("64K", "-b"), size_bytes("64 KiB", "-b"), size_bytes("64 KB", "-b")
    (65536, 65536, 64000)
    """
    found = _SIZE.fullmatch(written)
    if found is None:
        raise InputError(
            f"{option} = {written!r}: must be a size in bytes, or as in 64K, 1M, 8G (powers of 1024)"
        )
    number, prefix, unit = found.groups()
    if unit and unit.endswith("b"):
        raise InputError(
            f"{option} = {written!r} leaves open whether bits or bytes are meant; write B, as in '64 KB'"
        )
    base = 1000 if (unit or "").upper() == "B" and prefix else 1024
    n_bytes = float(number) * float(base ** _POWERS[prefix.upper()])
    if n_bytes < 1 or n_bytes > 2**60:
        raise InputError(f"{option} = {written!r}: must be from 1 byte to 1 EiB")
    return round(n_bytes)


def si(value: float, unit: str, digits: int = 3) -> str:
    """A number with the prefix that keeps it readable, powers of 1000.

    >>> si(4.5e11, "B/s"), si(3.4e-6, "s"), si(80e9, "B")
    ('450 GB/s', '3.4 us', '80 GB')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    prefixes = {-3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}
    power = min(max(math.floor(math.log10(abs(value)) / 3 + 1e-12), -3), 6)
    if unit != "s" and power < 0:
        power = 0
    if unit == "s" and power > 0:
        power = 0
    return f"{value / 1000.0**power:.{digits}g} {prefixes[power]}{unit}"


def yaml_value(written: str, option: str, text: str) -> Any:
    """What stands in an option, read as YAML, so that 4 is a number. InputError names the option as it was
    written, in `text`.
    """
    import yaml

    try:
        return yaml.safe_load(written)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # numbers of thousands of digits among them
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise InputError(f"{option} {shown!r}: is not YAML ({str(error).splitlines()[0]})") from error
