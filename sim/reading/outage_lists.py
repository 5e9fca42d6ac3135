"""Outages as they were recorded: a CSV table, or a JSON object a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.inputs.errors import InputError, Problem
from sim.inputs.outages import PartOutage
from sim.reading.problems import did_you_mean
from sim.reading.text_files import text_of
from sim.reading.yaml_lines import MAX_BYTES

COLUMNS = tuple(PartOutage.model_fields)
NEEDED = ("kind", "name", "at_s")
MAX_SHOWN = 20


def recorded_outages(path: Path) -> list[tuple[int, PartOutage]]:
    """The outages of a file, each with its line. `kind`, `name` and `at_s` are needed; `until_s`, `capacity`,
    `slower` and `warned_s` may be empty. InputError with file and line of everything that is wrong.
    """
    rows = _of_json_lines(path) if path.suffix in (".jsonl", ".json") else _of_csv(path)
    found, problems = [], []
    for line, row in rows:
        unknown = [name for name in row if name not in COLUMNS]
        if unknown:
            near = did_you_mean(unknown[0], COLUMNS)
            what = f"{unknown[0]!r} is not a column; {', '.join(COLUMNS)} are{near}"
            problems.append(Problem(what, str(path), line))
            continue
        try:
            found.append((line, PartOutage.model_validate(row)))
        except ValidationError as error:
            for one in error.errors():
                what = one["msg"].removeprefix("Value error, ")
                key = ".".join(map(str, one["loc"]))
                value = repr(one["input"]) if key else ""
                problems.append(Problem(what, str(path), line, key, value))
        if len(problems) >= MAX_SHOWN:
            break
    if problems:
        raise InputError(problems)
    return found


def _of_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(text_of(path, "a CSV file of outages", MAX_BYTES).splitlines())
    missing = [name for name in NEEDED if name not in (rows.fieldnames or ())]
    if missing:
        near = did_you_mean(missing[0], rows.fieldnames or ())
        what = f"has no column {missing[0]}; {', '.join(NEEDED)} are needed{near}"
        raise InputError(Problem(what, str(path), 1))
    for row in rows:
        if None in row:
            what = f"has more cells than the {len(rows.fieldnames or ())} columns of line 1"
            raise InputError(Problem(what, str(path), rows.line_num))
        filled = {name: cell.strip() for name, cell in row.items() if cell and cell.strip()}
        yield rows.line_num, {name: _number(cell) for name, cell in filled.items()}


def _of_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = text_of(path, "a JSONL file of outages", MAX_BYTES).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(Problem(f"is no JSON: {error}", str(path), number)) from error
        if not isinstance(row, dict):
            what = 'is no object; write {"kind": "gpu", "name": "node0.gpu3", "at_s": 60}'
            raise InputError(Problem(what, str(path), number))
        yield number, {name: value for name, value in row.items() if value is not None}


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell
