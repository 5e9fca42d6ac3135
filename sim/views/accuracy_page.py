"""The page on accuracy: its prose is in `accuracy_page.txt` beside this, its numbers come from a ledger."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

PROSE = Path(__file__).with_suffix(".txt")
PLACE = re.compile(r"<!-- (headline|groups|errors: ([\w-]+)) -->")

Groups = Sequence[Mapping[str, Any]]


class ErrorLine(Protocol):
    """Errors of the rows of one kind: `sim.studies.validation.Errors` has them."""

    @property
    def section(self) -> str: ...
    @property
    def quantity(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def median(self) -> float: ...
    @property
    def p90(self) -> float: ...
    @property
    def bias(self) -> float: ...


def accuracy_page(errors: Sequence[ErrorLine], groups: Groups) -> str:
    """The page as Markdown. `groups`: errors of closed loops by what they are of, the first over all."""

    def filled(place: re.Match[str]) -> str:
        if place[1] == "headline":
            return _headline(groups)
        if place[1] == "groups":
            return _groups(groups)
        own = [line for line in errors if line.section == place[2]]
        return _table(own) if own else "Not in this run of the ledger."

    return PLACE.sub(filled, PROSE.read_text(encoding="utf-8"))


def _headline(groups: Groups) -> str:
    if not groups:
        return "This run left out the closed loops, by which whole services are judged."
    every = groups[0]
    return (
        f"In short: over {every['rows']:,} closed loops of real servers that nothing was fitted on, the\n"
        f"median error is {_percent(every['tpot_median'])} on the time per output token, "
        f"{_percent(every['throughput_median'])} on throughput and {_percent(every['ttft_median'])} on the "
        "time to first token."
    )


def _table(lines: Sequence[ErrorLine]) -> str:
    rows = [
        "| quantity | kind | rows | median | 90th percentile | bias |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for line in sorted(lines, key=lambda line: (line.quantity, line.kind)):
        numbers = f"{_percent(line.median)} | {_percent(line.p90)} | {100 * line.bias:+.1f} %"
        rows.append(f"| {line.quantity} | {line.kind} | {line.rows:,} | {numbers} |")
    return "\n".join(rows)


def _groups(groups: Groups) -> str:
    names = ("tpot_median", "tpot_p90", "throughput_median", "throughput_p90", "ttft_median", "ttft_p90")
    rows = [
        "| by | | rows | TPOT | p90 | throughput | p90 | TTFT | p90 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    last = None
    for group in groups:
        by, last = group["by"] if group["by"] != last else "", group["by"]
        numbers = " | ".join(_percent(group[name]) for name in names)
        rows.append(f"| {by} | {group['group']} | {group['rows']:,} | {numbers} |")
    return "\n".join(rows)


def _percent(value: float) -> str:
    percent = 100.0 * value
    if percent < 0.005:
        return "0 %"
    return f"{percent:.1f} %" if percent < 10.0 else f"{percent:.0f} %"
