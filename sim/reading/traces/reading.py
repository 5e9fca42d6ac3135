"""A trace file to columns: its family by the header, then row by row, counting what cannot be used."""

from __future__ import annotations

import csv
import difflib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sim.inputs.errors import InputError, Problem
from sim.reading.text_files import refuse_what_is_no_file, shown_header
from sim.reading.traces.families import FAMILIES, BadRow, Family, Row
from sim.reading.traces.recorded import RecordedTrace

LONGEST_LINE = 50_000_000  # characters; beyond it a file is no trace


def read_trace(path: str | Path) -> RecordedTrace:
    """All rows of a trace file that can be replayed, in order of arrival, the first at time zero.

    The family is told by the header. Rows with missing, unparsable, zero, negative or absurd values are
    dropped and counted by reason. InputError if the file is missing, empty, of no known family, or has no
    usable row.
    """
    path = Path(path)
    refuse_what_is_no_file(path, "a trace")
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            return _read(str(path), lines)
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror or error}", str(path))) from error


def _read(path: str, file: Any) -> RecordedTrace:
    header, number = "", 0
    while not header.strip():
        header, number = file.readline(LONGEST_LINE), number + 1
        if not header:
            raise InputError(Problem("the file is empty; a trace has a header and a row per request", path))
    family, columns = family_of(header, path, number)
    read_row = family.reader()
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    total = 0
    lines = file if family.lines == "csv" else _from(header, file)
    for line in lines:
        if not line.strip():
            continue
        total += 1
        try:
            fields = _csv_fields(line, columns) if family.lines == "csv" else _json_fields(line)
            rows.extend(read_row(fields))
        except BadRow as reason:
            dropped[str(reason)] += 1
    if not rows:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(5))
        why = why or "it has a header only"
        raise InputError(Problem(f"{family.name} with no usable row: {why}", path))
    timed = family.arrivals is not None and (family.lines == "json" or family.arrivals in columns)
    return _in_columns(path, family, rows, timed, total, dropped)


def family_of(header: str, path: str = "", line: int = 1) -> tuple[Family, list[str]]:
    """The family whose columns are all in a header or a first JSON object, and that header's columns.

    InputError names the known families, the nearest first, and what a near miss lacks.
    """
    if header.lstrip().startswith("{"):
        try:
            columns = list(_json_fields(header))
        except BadRow:
            columns = []
        kind = "json"
    else:
        columns, kind = [column.strip() for column in _split(header)], "csv"
    for family in FAMILIES:
        if family.lines == kind and family.columns <= set(columns):
            return family, columns
    raise InputError(Problem(_unknown(header, columns), path, line))


def _unknown(header: str, columns: list[str]) -> str:
    if {"conversations", "messages"} & set(columns) or header.lstrip().startswith("["):
        return (
            "this looks like conversations in text (ShareGPT); a trace needs token counts: tokenize them and "
            "write a CSV with arrival_s, prompt_tokens, output_tokens"
        )

    def likeness(family: Family) -> float:
        found = len(family.columns & set(columns)) / len(family.columns)
        written = ", ".join(sorted(columns))[:500]
        return found + difflib.SequenceMatcher(None, family.header, written).ratio() / 10

    families = sorted(FAMILIES, key=likeness, reverse=True)
    lacking = ", ".join(sorted(families[0].columns - set(columns)))
    known = "; ".join(f"{family.name}: {family.header}" for family in families)
    return (
        f"no known trace has the header {shown_header(columns)!r}; the nearest, {families[0].name}, "
        f"lacks {lacking}; known are {known}"
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


def _json_fields(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRow("not JSON") from None
    if not isinstance(fields, dict):
        raise BadRow("not a JSON object")
    return fields


def _from(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _in_columns(
    path: str, family: Family, rows: list[Row], timed: bool, total: int, dropped: Counter[str]
) -> RecordedTrace:
    times_s = np.array([row.time_s for row in rows])
    out_of_order = 0
    arrival_s = None
    if timed:
        # later turns stay behind the first turn of their session
        begun_s = np.maximum.accumulate(np.where(np.isnan(times_s), -np.inf, times_s))
        keys_s = np.where(np.isnan(times_s), np.nan, times_s)
        for index in np.flatnonzero(np.isnan(keys_s)):
            keys_s[index] = keys_s[index - 1]
        out_of_order = int(np.sum(times_s < begun_s))
        order = np.argsort(keys_s, kind="stable")
        rows = [rows[index] for index in order]
        arrival_s = times_s[order] - np.nanmin(times_s)
    sessions = any(row.session >= 0 for row in rows)
    return RecordedTrace(
        path=path,
        family=family.name,
        source=family.source,
        prompt_tokens=np.array([row.prompt_tokens for row in rows], dtype=np.int64),
        output_tokens=np.array([row.output_tokens for row in rows], dtype=np.int64),
        arrival_s=arrival_s,
        session=np.array([row.session for row in rows], dtype=np.int64) if sessions else None,
        turn=np.array([row.turn for row in rows], dtype=np.int64) if sessions else None,
        delay_s=np.array([row.delay_s for row in rows]) if sessions else None,
        request_class=tuple(row.request_class for row in rows)
        if any(row.request_class for row in rows)
        else None,
        model=tuple(row.model for row in rows) if any(row.model for row in rows) else None,
        block_hashes=tuple(row.hashes for row in rows) if any(row.hashes for row in rows) else None,
        hash_block_tokens=family.hash_block_tokens,
        rows=total,
        dropped=tuple(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        out_of_order=out_of_order,
    )
