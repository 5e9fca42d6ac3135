"""The kinds of trace files that are known: their columns, and how one row of each is read.

Each family is a set of columns that its header (CSV) or its first object (JSON lines) must have, and a
function from one row to `Row`s. A row that cannot be used raises `BadRow` with the reason under which it is
counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from sim.inputs.lengths import MAX_TOKENS

MOONCAKE_BLOCK_TOKENS = 512  # github.com/kvcache-ai/Mooncake, FAST'25 release: one hash id per 512 tokens
TOKEN_BLOCK = 16  # vLLM's block size: the grain at which a trace's own token ids are compared


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


Fields = Mapping[str, Any]
RowReader = Callable[[Fields], Iterator[Row]]


@dataclass(frozen=True)
class Family:
    """One kind of trace file. `reader()` makes a row reader with its own memory (days, sessions, blocks)."""

    name: str
    source: str
    columns: frozenset[str]
    reader: Callable[[], RowReader]
    lines: str = "csv"
    arrivals: str | None = None  # the column without which there are lengths only
    hash_block_tokens: int = 0

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


_UTC = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d(?:\.\d+)?)(?:Z|\+00:00)?")


def _azure() -> RowReader:
    origin: list[int] = []  # the first row's day: seconds since 1970 in a double would lose the 100 ns digits

    def read(fields: Fields) -> Iterator[Row]:
        written = str(fields.get("TIMESTAMP") or "").strip()
        if not written:
            raise BadRow("no TIMESTAMP")
        parts = _UTC.fullmatch(written)
        if parts is None:
            raise BadRow("TIMESTAMP is not a time in UTC")
        year, month, day, hour, minute = (int(part) for part in parts.groups()[:5])
        try:
            ordinal = date(year, month, day).toordinal()
        except ValueError:
            raise BadRow("TIMESTAMP is not a time in UTC") from None
        if not origin:
            origin.append(ordinal)
        time_s = (ordinal - origin[0]) * 86400 + hour * 3600 + minute * 60 + float(parts[6])
        yield Row(time_s, tokens(fields, "ContextTokens"), tokens(fields, "GeneratedTokens"))

    return read


def _burstgpt() -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        yield Row(
            time(fields, "Timestamp"),
            tokens(fields, "Request tokens"),
            tokens(fields, "Response tokens"),
            request_class=str(fields.get("Model") or ""),
        )

    return read


def _splitwise() -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        at_s = time(fields, "arrival_timestamp")
        yield Row(at_s, tokens(fields, "prompt_size"), tokens(fields, "token_size"))

    return read


def _vidur() -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        at_s = time(fields, "arrived_at") if "arrived_at" in fields else 0.0
        yield Row(at_s, tokens(fields, "num_prefill_tokens"), tokens(fields, "num_decode_tokens"))

    return read


def _native() -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        yield Row(
            time(fields, "arrival_s"),
            tokens(fields, "prompt_tokens"),
            tokens(fields, "output_tokens"),
            request_class=str(fields.get("request_class") or ""),
            model=str(fields.get("model") or ""),
        )

    return read


def _mooncake() -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        hashes = fields.get("hash_ids") or ()
        if not isinstance(hashes, list | tuple) or not all(type(block) is int for block in hashes):
            raise BadRow("hash_ids is not a list of whole numbers")
        prompt_tokens = tokens(fields, "input_length")
        if len(hashes) > -(-prompt_tokens // MOONCAKE_BLOCK_TOKENS):
            raise BadRow("more hash_ids than blocks of 512 tokens")
        at_s = time(fields, "timestamp", 1e-3)
        yield Row(at_s, prompt_tokens, tokens(fields, "output_length"), hashes=tuple(hashes))

    return read


def _llmservingsim() -> RowReader:
    sessions: list[int] = []
    block_of: dict[tuple[int, tuple[Any, ...]], int] = {}

    def blocks(call: Fields) -> tuple[int, ...]:
        """Ids of the text's full blocks: equal ids, equal text up to there."""
        prompt = call.get("input_tok_ids")
        answer = call.get("output_tok_ids")
        if not isinstance(prompt, list):
            return ()
        text = prompt + (answer if isinstance(answer, list) else [])
        ids: list[int] = []
        before = -1
        for start in range(0, len(text) - TOKEN_BLOCK + 1, TOKEN_BLOCK):
            key = (before, tuple(map(str, text[start : start + TOKEN_BLOCK])))
            before = block_of.setdefault(key, len(block_of))
            ids.append(before)
        return tuple(ids)

    def read(fields: Fields) -> Iterator[Row]:
        calls = fields.get("sub_requests")
        at_s = time(fields, "arrival_time_ns", 1e-9)
        if calls is None:
            lengths_of_one = tokens(fields, "input_toks"), tokens(fields, "output_toks")
            yield Row(at_s, *lengths_of_one, hashes=blocks(fields))
            return
        if not isinstance(calls, list) or not calls or not all(isinstance(call, dict) for call in calls):
            raise BadRow("sub_requests is not a list of calls")
        lengths = [(tokens(call, "input_toks"), tokens(call, "output_toks")) for call in calls]
        delays_s = [_tool_s(call) for call in calls]
        session = len(sessions)
        sessions.append(session)
        for turn, (call, (prompt_tokens, output_tokens)) in enumerate(zip(calls, lengths, strict=True)):
            yield Row(
                math.nan if turn else at_s,
                prompt_tokens,
                output_tokens,
                session=session,
                turn=turn,
                delay_s=delays_s[turn - 1] if turn else 0.0,  # a tool runs after the call that asked for it
                hashes=blocks(call),
            )

    return read


def _tool_s(call: Fields) -> float:
    return time(call, "tool_duration_ns", 1e-9) if call.get("tool_duration_ns") else 0.0


FAMILIES: tuple[Family, ...] = (
    Family(
        "native CSV",
        "fabricsim; the requests.csv of a run is one",
        frozenset({"arrival_s", "prompt_tokens", "output_tokens"}),
        _native,
        arrivals="arrival_s",
    ),
    Family(
        "Azure LLM inference trace (2023, 2024)",
        "github.com/Azure/AzurePublicDataset, CC-BY 4.0; Patel et al., Splitwise, ISCA 2024",
        frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}),
        _azure,
        arrivals="TIMESTAMP",
    ),
    Family(
        "BurstGPT",
        "github.com/HPMLL/BurstGPT, CC-BY 4.0; Wang et al., BurstGPT, KDD 2025",
        frozenset({"Timestamp", "Request tokens", "Response tokens"}),
        _burstgpt,
        arrivals="Timestamp",
    ),
    Family(
        "Splitwise simulator trace",
        "github.com/Mutinifni/splitwise-sim, MIT",
        frozenset({"arrival_timestamp", "prompt_size", "token_size"}),
        _splitwise,
        arrivals="arrival_timestamp",
    ),
    Family(
        "Vidur trace",
        "github.com/microsoft/vidur, MIT",
        frozenset({"num_prefill_tokens", "num_decode_tokens"}),
        _vidur,
        arrivals="arrived_at",
    ),
    Family(
        "Mooncake trace",
        "github.com/kvcache-ai/Mooncake, Apache-2.0; Qin et al., Mooncake, FAST 2025",
        frozenset({"timestamp", "input_length", "output_length"}),
        _mooncake,
        lines="json",
        arrivals="timestamp",
        hash_block_tokens=MOONCAKE_BLOCK_TOKENS,
    ),
    Family(
        "LLMServingSim sessions",
        "github.com/casys-kaist/LLMServingSim, MIT",
        frozenset({"sub_requests"}),
        _llmservingsim,
        lines="json",
        arrivals="arrival_time_ns",
        hash_block_tokens=TOKEN_BLOCK,
    ),
    Family(
        "LLMServingSim requests",
        "github.com/casys-kaist/LLMServingSim, MIT",
        frozenset({"input_toks", "output_toks"}),
        _llmservingsim,
        lines="json",
        arrivals="arrival_time_ns",
        hash_block_tokens=TOKEN_BLOCK,
    ),
)
