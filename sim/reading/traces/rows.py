"""One row of a trace, the numbers in it, and what a kind of trace is.

A row that cannot be used raises `BadRow` with the reason under which it is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sim.inputs.lengths import MAX_TOKENS
from sim.reading.traces.how import How


class BadRow(Exception):
    """This row cannot be replayed; the text is the reason, shared by all rows of its kind."""


class Row(NamedTuple):
    """One request as recorded; `time_s` has an origin of the file's own, NaN comes after the turn before."""

    time_s: float
    prompt_tokens: int
    output_tokens: int
    session: int = -1
    turn: int = 0
    delay_s: float = 0.0
    request_class: str = ""
    model: str = ""
    hashes: tuple[int, ...] = ()
    after: tuple[int, int] | tuple[()] = ()  # session and turn whose answer this one follows, if not its own


Fields = Mapping[str, Any]
RowReader = Callable[[Fields], Iterator[Row]]


@dataclass(frozen=True)
class Family:
    """One kind of trace file. `reader()` makes a row reader with its own memory (days, sessions, blocks)."""

    name: str
    source: str
    columns: frozenset[str]
    reader: Callable[[How], RowReader]
    lines: str = "csv"
    arrivals: str | None = None  # the column without which there are lengths only
    hash_block_tokens: int = 0
    time_unit: str = ""  # of times that do not say their unit in their name
    scattered_sessions: bool = False  # whether rows of one session may stand far apart

    @property
    def header(self) -> str:
        """The columns as a person would look for them."""
        return ", ".join(sorted(self.columns))


def number(fields: Fields, column: str) -> float:
    """A finite number from text or JSON. BadRow if it is missing or is none."""
    value = fields.get(column)
    if value is None or value == "":
        raise BadRow(f"no {column}")
    try:
        parsed = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        parsed = math.nan
    if not math.isfinite(parsed):
        raise BadRow(f"{column} is not a number")
    return parsed


def tokens(fields: Fields, column: str) -> int:
    """A whole number of tokens above zero; zero (mostly a failed request), negative and absurd are BadRow."""
    parsed = number(fields, column)
    if parsed == 0:
        raise BadRow(f"zero {column}")
    if parsed < 0:
        raise BadRow(f"negative {column}")
    if parsed > MAX_TOKENS:
        raise BadRow(f"{column} above {MAX_TOKENS:.0e}")
    if not parsed.is_integer():
        raise BadRow(f"{column} is not a whole number")
    return int(parsed)


def time(fields: Fields, column: str, seconds: float = 1.0) -> float:
    """A time in seconds from the file's origin, `seconds` per unit of the column. BadRow if negative."""
    parsed = number(fields, column) * seconds
    if parsed < 0:
        raise BadRow(f"negative {column}")
    return parsed


def block_ids(fields: Fields, prompt_tokens: int, block_tokens: int) -> tuple[int, ...]:
    """The `hash_ids` of a row. BadRow where they are none, or more than the prompt has blocks."""
    hashes = fields.get("hash_ids") or ()
    if not isinstance(hashes, list | tuple) or not all(type(block) is int for block in hashes):
        raise BadRow("hash_ids is not a list of whole numbers")
    if len(hashes) > -(-prompt_tokens // block_tokens):
        raise BadRow(f"more hash_ids than blocks of {block_tokens} tokens; block_tokens says another size")
    return tuple(hashes)
