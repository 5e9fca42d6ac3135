"""A trace file to columns: its family by the header, then row by row, counting what cannot be used."""

from __future__ import annotations

import csv
import difflib
import json
import math
import sys
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.inputs.errors import InputError, Problem
from sim.reading.text_files import refuse_what_is_no_file, shown_header
from sim.reading.traces.documents import is_document, items_of
from sim.reading.traces.families import FAMILIES, BadRow, Family, Row
from sim.reading.traces.how import AS_WRITTEN, How
from sim.reading.traces.own_columns import own_family
from sim.reading.traces.recorded import RecordedTrace
from sim.reading.traces.texts import TEXT_FAMILIES, THE_TRACE, TIMES

LONGEST_LINE = 50_000_000  # characters; beyond it a file is no trace
LOOK_AHEAD = 10_000
"""Rows that are read past the part that is wanted, to see whether the file is in order of arrival. Assumed:
what several collectors wrote into one file is out of order by their delays, of seconds, and that is found."""


def read_trace(path: str | Path, wanted: Wanted | None = None, how: How = AS_WRITTEN) -> RecordedTrace:
    """The rows of a trace file that can be replayed, in order of arrival, the first at time zero.

    The family is told by the header, or is what `how` says of the columns. Rows with missing, unparsable,
    zero, negative or absurd values are dropped and counted by reason. InputError if the file is
    missing, empty, of no known family, or has no usable row.

    With `wanted` the file is read no further than that part of it, and `LOOK_AHEAD` rows on, as long as its
    rows are in order of arrival; a file with rows out of order among those is read whole.
    """
    path = Path(path)
    refuse_what_is_no_file(path, "a trace")
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            return _read(str(path), lines, wanted or Wanted(), how)
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror or error}", str(path))) from error


def _read(path: str, file: Any, wanted: Wanted, how: How) -> RecordedTrace:
    header, number = "", 0
    while not header.strip():
        header, number = file.readline(LONGEST_LINE), number + 1
        if not header:
            raise InputError(Problem("the file is empty; a trace has a header and a row per request", path))
    lines = iter(partial(file.readline, LONGEST_LINE), "")
    items: Iterable[Any] = chain([header], lines)  # of JSON lines the first is a row
    if header.lstrip()[:1] in ("{", "[") and is_document(header):
        items = items_of(header, file, path)
        first = next(iter(items), None)
        family, columns = family_of(first if isinstance(first, dict) else header, path, number, how)
        items = chain([first], items)
    else:
        family, columns = family_of(header, path, number, how)
        items = items if family.lines == "json" else lines
    _refuse_what_does_not_apply(family, how, path)
    timed = _has_times(family, columns, header)
    read_row = family.reader(how)
    rows = _Columns()
    dropped: Counter[str] = Counter()
    total, is_whole = 0, True
    enough = _Enough(wanted) if timed and wanted != Wanted() else None
    try:
        for item in items:
            if isinstance(item, str) and not item.strip():
                continue
            if enough is not None and enough.is_read:
                is_whole = False
                break
            total += 1
            try:
                fields = _csv_fields(item, columns) if family.lines == "csv" else _json_fields(item)
                for row in read_row(fields):
                    rows.append(row)
                    if enough is not None:
                        enough.take(row.time_s)
                        if family.scattered_sessions and row.session >= 0:
                            enough = None  # a turn of it may stand anywhere below
            except BadRow as reason:
                dropped[str(reason)] += 1
    except InputError as error:
        named = (replace(one, file=path) if one.file == THE_TRACE else one for one in error.problems)
        raise InputError(list(named)) from None
    if not len(rows):
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(5))
        why = why or "it has a header only"
        raise InputError(Problem(f"{family.name} with no usable row: {why}", path))
    if family.time_unit and how.time_unit:
        family = replace(family, time_unit=how.time_unit)
    blocks = how.block_tokens or getattr(read_row, "block_tokens", 0) or family.hash_block_tokens
    return rows.trace(path, replace(family, hash_block_tokens=blocks), timed, total, dropped, is_whole)


def _has_times(family: Family, columns: list[str], header: str) -> bool:
    if family.lines == "csv" or family.arrivals is None:
        return family.arrivals is not None and family.arrivals in columns
    if family not in TEXT_FAMILIES:
        return True
    in_turns = "turns" in family.columns and any(f'"{name}"' in header for name in (*TIMES, "arrival_s"))
    return in_turns or any(name in columns for name in (*TIMES, "arrival_s", family.arrivals))


def _refuse_what_does_not_apply(family: Family, how: How, path: str) -> None:
    """InputError for what a workload says of a file that says it itself."""
    if how.time_unit and not family.time_unit and family not in TEXT_FAMILIES:
        what = f"time_unit: the times of {family.name} say their unit themselves; leave it out"
        raise InputError(Problem(what, path))
    has_blocks = family.hash_block_tokens or "requests" in family.columns
    if how.block_tokens and (family in TEXT_FAMILIES or not has_blocks):
        raise InputError(Problem(f"block_tokens: {family.name} has no hash_ids; leave it out", path))
    if (how.tokenizer or how.characters_per_token) and family not in TEXT_FAMILIES:
        key = "tokenizer" if how.tokenizer else "characters_per_token"
        raise InputError(
            Problem(f"{key}: {family.name} has numbers of tokens and no text; leave it out", path)
        )


@dataclass(frozen=True)
class Wanted:
    """A part of a trace, as `selected` takes it: so many rows, or so many seconds, from `start_s` on."""

    start_s: float = 0.0
    duration_s: float | None = None
    limit: int | None = None


class _Enough:
    """Tells when a file in order of arrival has been read as far as a part of it goes, and some rows more."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.is_read = False
        self._in_order = wanted.duration_s is not None or wanted.limit is not None
        self._first_s = self._last_s = math.nan
        self._taken = self._beyond = 0

    def take(self, time_s: float) -> None:
        """A row as it was read; NaN is a later turn of the session before it."""
        if math.isnan(time_s):
            self._taken += self._taken > 0
            return
        if math.isnan(self._first_s):
            self._first_s = self._last_s = time_s
        self._in_order &= time_s >= self._last_s
        self._last_s = time_s
        after_s = time_s - self._first_s - self.wanted.start_s
        self._taken += after_s >= 0.0
        limit, duration_s = self.wanted.limit, self.wanted.duration_s
        if (limit is not None and self._taken > limit) or (duration_s is not None and after_s >= duration_s):
            self._beyond += 1
            self.is_read = self._in_order and self._beyond > LOOK_AHEAD


def family_of(
    header: str | dict[str, Any], path: str = "", line: int = 1, how: How = AS_WRITTEN
) -> tuple[Family, list[str]]:
    """The family whose columns are all in a header or a first JSON object (of several, the one with most),
    and that header's columns.

    InputError names the known families, the nearest first, and what a near miss lacks.
    """
    if isinstance(header, dict) or header.lstrip().startswith("{"):
        try:
            columns = list(_json_fields(header))
        except BadRow:
            columns = []
        kind = "json"
    else:
        columns, kind = [column.strip() for column in _split(header)], "csv"
    if how.columns:
        return own_family(how, columns, kind, path, line), columns
    found = [family for family in FAMILIES if family.lines == kind and family.columns <= set(columns)]
    if found:
        return max(found, key=lambda family: len(family.columns)), columns
    raise InputError(Problem(_unknown(header if isinstance(header, str) else "", columns), path, line))


def _unknown(header: str, columns: list[str]) -> str:
    if {"time_to_first_token", "request_latency"} & set(columns) or "mean_ttft_ms" in columns:
        return (
            "this is the summary of a benchmark, which has no requests; take its records (AIPerf's "
            "profile_export.jsonl, vllm bench serve --save-detailed), or put a run beside it: sim compare-run"
        )

    def likeness(family: Family) -> float:
        found = len(family.columns & set(columns)) / len(family.columns)
        written = ", ".join(sorted(columns))[:500]
        return found + difflib.SequenceMatcher(None, family.header, written).ratio() / 10

    families = sorted(FAMILIES, key=likeness, reverse=True)
    lacking = ", ".join(sorted(families[0].columns - set(columns)))
    as_lines = "a JSON object on each line" if families[0].lines == "json" else "a CSV file"
    nearest = f"lacks {lacking}" if lacking else f"has them in {as_lines}"
    known = "; ".join(f"{family.name}: {family.header}" for family in families)
    return (
        f"no known trace has the header {shown_header(columns)!r}; the nearest, {families[0].name}, "
        f"{nearest}; columns: {{prompt_tokens: NAME, ...}} says which are which; known are {known}"
    )


def _split(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return line.replace('"', "").split(",")


def _csv_fields(line: str, columns: list[str]) -> dict[str, str]:
    values = _split(line)
    if len(values) > len(columns):
        raise BadRow("more values than columns")
    return {column: value.strip() for column, value in zip(columns, values, strict=False)}


def _json_fields(line: str | dict[str, Any]) -> dict[str, Any]:
    try:
        fields = json.loads(line) if isinstance(line, str) else line
    except (ValueError, RecursionError):
        raise BadRow("not JSON") from None
    if not isinstance(fields, dict):
        raise BadRow("not a JSON object")
    return fields


class _Columns:
    """Rows as columns of machine numbers, in the order of the file: a row takes sixty bytes, and not
    hundreds.
    """

    def __init__(self) -> None:
        self._times_s, self._delays_s = array("d"), array("d")
        self._prompts, self._outputs = array("q"), array("q")
        self._sessions, self._turns = array("q"), array("q")
        self._classes: list[str] = []
        self._models: list[str] = []
        self._hashes: list[tuple[int, ...]] = []
        self._after: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._times_s)

    def append(self, row: Row) -> None:
        if row.after:
            self._after[len(self._times_s)] = row.after
        self._times_s.append(row.time_s)
        self._prompts.append(row.prompt_tokens)
        self._outputs.append(row.output_tokens)
        self._sessions.append(row.session)
        self._turns.append(row.turn)
        self._delays_s.append(row.delay_s)
        self._classes.append(sys.intern(row.request_class))
        self._models.append(sys.intern(row.model))
        self._hashes.append(row.hashes)

    def _behind_their_sessions(self, keys_s: NDArray[np.float64]) -> None:
        """Fill in, for rows that wait for an answer, when their session began, or the one before."""
        begun: dict[int, float] = {}
        for index, session in enumerate(self._sessions):
            if math.isnan(keys_s[index]):
                follows = self._after[index][0] if index in self._after else session
                keys_s[index] = begun.setdefault(session, begun.get(follows, math.nan))
            elif session >= 0:
                begun.setdefault(session, float(keys_s[index]))

    def trace(
        self, path: str, family: Family, timed: bool, total: int, dropped: Counter[str], is_whole: bool
    ) -> RecordedTrace:
        times_s = np.array(self._times_s)
        order = np.arange(len(times_s))
        out_of_order = 0
        arrival_s = None
        if timed:
            # later turns stay behind the first turn of their session
            begun_s = np.maximum.accumulate(np.where(np.isnan(times_s), -np.inf, times_s))
            keys_s = times_s.copy()
            if np.isnan(keys_s).any():
                self._behind_their_sessions(keys_s)
            out_of_order = int(np.sum(times_s < begun_s))
            order = np.argsort(keys_s, kind="stable")
            arrival_s = times_s[order] - np.nanmin(times_s)
        sessions = max(self._sessions) >= 0

        def texts(column: list[Any]) -> tuple[Any, ...] | None:
            return tuple(column[index] for index in order) if any(column) else None

        return RecordedTrace(
            path=path,
            family=family.name,
            source=family.source,
            prompt_tokens=np.array(self._prompts, dtype=np.int64)[order],
            output_tokens=np.array(self._outputs, dtype=np.int64)[order],
            arrival_s=arrival_s,
            session=np.array(self._sessions, dtype=np.int64)[order] if sessions else None,
            turn=np.array(self._turns, dtype=np.int64)[order] if sessions else None,
            delay_s=np.array(self._delays_s)[order] if sessions else None,
            request_class=texts(self._classes),
            model=texts(self._models),
            block_hashes=texts(self._hashes),
            hash_block_tokens=family.hash_block_tokens,
            rows=total,
            dropped=tuple(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
            out_of_order=out_of_order,
            is_whole=is_whole,
            after=tuple(self._after.get(index) for index in order.tolist()) if self._after else None,
            time_unit=family.time_unit if timed else "",
        )
