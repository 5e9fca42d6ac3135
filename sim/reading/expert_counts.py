"""How often each expert was chosen, as an engine counted it (vLLM's and SGLang's load statistics, summed)."""

from __future__ import annotations

import csv
from pathlib import Path

from sim.inputs.engine import refuse_no_counts
from sim.inputs.errors import InputError, Problem
from sim.reading.text_files import text_of
from sim.reading.yaml_lines import MAX_BYTES, read_yaml


def read_expert_counts(path: Path) -> tuple[float, ...]:
    """Counts by number of the expert: `expert,tokens` rows (.csv), or YAML with a list or mapping `counts`.

    Experts that are not named were never chosen. InputError names file and line of what is no count.
    """
    pairs = _of_csv(path) if path.suffix == ".csv" else _of_yaml(path)
    counts: dict[int, float] = {}
    for line, expert, written in pairs:
        try:
            number, count = int(str(expert)), float(str(written))
        except ValueError:
            number, count = -1, -1.0
        if number < 0 or not 0.0 <= count < float("inf") or number > 65_535:
            raise InputError(
                Problem(
                    f"{expert!r}: {written!r} must be an expert's number and its count, as in 17: 1024",
                    file=str(path),
                    line=line,
                )
            )
        counts[number] = counts.get(number, 0.0) + count
    weights = tuple(counts.get(expert, 0.0) for expert in range(max(counts, default=-1) + 1))
    try:
        refuse_no_counts(weights)
    except ValueError as error:
        raise InputError(Problem(str(error), file=str(path))) from error
    return weights


def _of_csv(path: Path) -> list[tuple[int, object, object]]:
    text = text_of(path, "a CSV file of counts", MAX_BYTES)
    rows = csv.DictReader(text.splitlines())
    if not rows.fieldnames or not {"expert", "tokens"} <= set(rows.fieldnames):
        raise InputError(Problem("needs the columns expert and tokens", file=str(path), line=1))
    return [(rows.line_num, row["expert"], row["tokens"]) for row in rows]


def _of_yaml(path: Path) -> list[tuple[int, object, object]]:
    document = read_yaml(path)
    named = document.data.get("counts")
    if not isinstance(named, dict | list):
        raise InputError(document.problem((), "has no counts; write counts: [1024, 980, ...], by expert"))
    items = named.items() if isinstance(named, dict) else enumerate(named)
    return [(document.lines.get(("counts", expert), 1), expert, count) for expert, count in items]
