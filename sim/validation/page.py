"""The page on accuracy: its prose is in `page.txt` beside this, its numbers come from a ledger."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.reading.accuracy import Errors, Section
    from sim.results.compared import ErrorSummary
    from sim.validation.ledger import GroupErrors, KindErrors
    from sim.validation.services.tables import LeftOut

PROSE = Path(__file__).with_suffix(".txt")
FEW_BOXES = 2
FEW_ROWS = 10  # have no 90th percentile to speak of
PLACE = re.compile(
    r"<!-- (headline|left out|board|cell: ([^>]+?)|group: ([^>]+?)|groups: ([\w-]+)((?:, [\w -]+)*)|"
    r"errors: ([\w-]+)) -->"
)


def accuracy_page(
    errors: Sequence[KindErrors],
    groups: Sequence[GroupErrors],
    left_out: Sequence[LeftOut] = (),
    cells: Mapping[str, Sequence[Errors]] | None = None,
    before: Mapping[str, Section] | None = None,
) -> str:
    """The page as Markdown. `cells`: of services, in this ledger; `before`: those of the version before."""
    from sim.validation.board import board

    cells = cells or {}

    def filled(place: re.Match[str]) -> str:
        if place[1] == "headline":
            return _headline(groups)
        if place[1] == "left out":
            return _left_out(left_out)
        if place[1] == "board":
            return board(cells, before or {})
        if place[2]:
            return _of_cell(cells, place[2])
        if place[3]:
            return _of_group(groups, place[3])
        if place[4]:
            by = [name for name in place[5].split(", ") if name]
            return _groups([one for one in groups if one.section == place[4]], by)
        own = [line for line in errors if line.section == place[6]]
        return _table(own) if own else "Not in this run of the ledger."

    return PLACE.sub(filled, PROSE.read_text(encoding="utf-8"))


NOT_RUN = "not in this run"


def _of_cell(cells: Mapping[str, Sequence[Errors]], words: str) -> str:
    """Errors of one cell, as `section; key value; key value` names it."""
    section, *pairs = words.split("; ")
    of = dict(pair.split(" ", 1) for pair in pairs)
    for cell in cells.get(section, ()):
        if cell.of == of:
            return _short(cell.median, cell.size_p90, cell.n)
    return NOT_RUN


def _of_group(groups: Sequence[GroupErrors], words: str) -> str:
    """Errors of one group, as `section; by; name; quantity` names it."""
    for one in groups:
        if (one.section, one.by, one.name, one.quantity) == tuple(words.split("; ")):
            return _short(one.errors.median, one.errors.p90, one.errors.count)
    return NOT_RUN


def _short(median: float, p90: float, rows: int) -> str:
    return (
        f"{_percent(median)} ({rows:,})"
        if rows < FEW_ROWS
        else f"{_percent(median)}, {_percent(p90)} ({rows:,})"
    )


def _headline(groups: Sequence[GroupErrors]) -> str:
    every = {one.quantity: one for one in groups if (one.section, one.by) == ("closed-loops", "all")}
    if not every:
        return "This run left out the closed loops, the rows of whole services that nothing was fitted on."
    tpot, ttft, tokens = (
        every[name] for name in ("time per output token", "time to first token", "output tokens of all users")
    )
    return (
        f"In short: over {tpot.errors.count:,} closed loops of real servers that nothing was fitted on, the\n"
        f"median error is {_percent(tpot.errors.median)} on the time per output token, "
        f"{_percent(tokens.errors.median)} on throughput and {_percent(ttft.errors.median)} on the "
        "time to first token."
    )


def _table(lines: Sequence[KindErrors]) -> str:
    rows = [
        "| quantity | kind | rows | median | 90th percentile | bias |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for line in sorted(lines, key=lambda line: (line.quantity, line.kind)):
        rows.append(f"| {line.quantity} | {line.kind} | {line.errors.count:,} | {_numbers(line.errors)} |")
    return "\n".join(rows)


def _groups(groups: Sequence[GroupErrors], by: Sequence[str]) -> str:
    """A line for each group, a median, a 90th percentile and a bias for each quantity; of tables that measure
    different things, a line for each quantity.
    """
    groups = [one for one in groups if not by or one.by in by]
    if not groups:
        return "Not in this run of the ledger."
    quantities = list(dict.fromkeys(one.quantity for one in groups))
    if by == ["table"]:
        lines = [
            "| table | box | quantity | rows | median | p90 | bias |",
            "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        ]
        for one in groups:
            names = f"{one.name} | {_boxes(one)} | {one.quantity}"
            lines.append(f"| {names} | {one.errors.count:,} | {_numbers(one.errors)} |")
        return "\n".join(lines)
    lines = [
        "| by | | box | rows | " + " | ".join(f"{name} | p90 | bias" for name in quantities) + " |",
        "| --- | --- | --- | ---: |" + " ---: |" * (3 * len(quantities)),
    ]
    last = ""
    for key in dict.fromkeys((one.by, one.name) for one in groups):
        own = {one.quantity: one for one in groups if (one.by, one.name) == key}
        rows = max(one.errors.count for one in own.values())
        numbers = " | ".join(_numbers(own[name].errors) if name in own else " | | " for name in quantities)
        names = f"{key[0] if key[0] != last else ''} | {key[1]} | {_boxes(next(iter(own.values())))}"
        lines.append(f"| {names} | {rows:,} | {numbers} |")
        last = key[0]
    return "\n".join(lines)


def _boxes(group: GroupErrors) -> str:
    """The topologies that stood for the measured machines, where they are few."""
    return ", ".join(group.boxes) if len(group.boxes) <= FEW_BOXES else "several"


def _left_out(lines: Iterable[LeftOut]) -> str:
    table = ["| table | rows left out | of | why |", "| --- | ---: | ---: | --- |"]
    table += [f"| {line.table} | {line.rows} | {line.of:,} | {line.reason} |" for line in lines]
    return "\n".join(table)


def _numbers(errors: ErrorSummary) -> str:
    return f"{_percent(errors.median)} | {_percent(errors.p90)} | {_signed(errors.bias)}"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f} %"


def _percent(value: float) -> str:
    percent = 100.0 * value
    if percent < 0.005:
        return "0 %"
    return f"{percent:.1f} %" if percent < 10.0 else f"{percent:,.0f} %"
