"""The board: what whole services are off by, cell by cell, beside the version before; its rows as a table;
and which cells of the sample have got worse.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sim.reading.accuracy import Errors, Section
from sim.results.compared import Row
from sim.validation.error_cells import QUANTITIES, SERVICES, service_of
from sim.validation.services.tables import CELL_KEYS

LOADS = {"closed_loops": "closed loop", "pools": "prefill and decode apart", "queued": "all queued at once"}
SHOWN = {"mean_tpot_ms": "TPOT", "mean_ttft_ms": "TTFT", "output_throughput": "tokens/s"}
ROWS = (
    "section", *CELL_KEYS, "case", "quantity", "unit", "published", "simulated", "error", "kind", "sampled",
)  # fmt: skip
WORSE_BY, WORSE_TIMES = 0.02, 1.1  # two points and a tenth, as AISimulate's own alarm has it
LEAST_ROWS = 3  # of a cell that is watched


def board(cells: Mapping[str, Sequence[Errors]], before: Mapping[str, Section]) -> str:
    """Markdown: a line for each kind of model, engine, GPU and band of users; `before`: the sections of the
    version before, for the medians in brackets.
    """
    lines = []
    for section, load in LOADS.items():
        lines += _lines(load, cells.get(section, ()), before.get(section, Section(())))
    if not lines:
        return "Not in this run of the ledger."
    head = ["load", *CELL_KEYS, "rows"]
    head += [column for name in SHOWN.values() for column in (name, "p90", "bias")]
    rule = ["---"] * (len(CELL_KEYS) + 1) + ["---:"] * (1 + 3 * len(SHOWN))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _lines(load: str, cells: Iterable[Errors], before: Section) -> list[list[str]]:
    keys = [key for key in CELL_KEYS if load != LOADS["queued"] or key != "users"]
    found: dict[tuple[str, ...], dict[str, Errors]] = {}
    for cell in cells:
        if set(cell.of) == {"quantity", *keys}:
            found.setdefault(tuple(cell.of[key] for key in keys), {})[cell.of["quantity"]] = cell
    lines = []
    for names, own in sorted(found.items(), key=lambda one: (one[0][:3], _first_number(one[0][-1]))):
        words = [
            load,
            *names,
            *[""] * (len(CELL_KEYS) - len(names)),
            f"{max(one.n for one in own.values()):,}",
        ]
        for quantity in SHOWN:
            words += _numbers(own.get(quantity), before)
        lines.append(words)
    return lines


def _first_number(users: str) -> int:
    first = users.split()[0] if users else ""
    return int(first) if first.isdigit() else 0


def _numbers(cell: Errors | None, before: Section) -> list[str]:
    if cell is None:
        return ["", "", ""]
    was = before.cells.get(frozenset(cell.of.items()))
    trend = f" ({_percent(was.median)})" if was is not None else ""
    return [_percent(cell.median) + trend, _percent(cell.size_p90), f"{100 * cell.bias:+.1f} %"]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if value < 0.0995 else f"{100 * value:,.0f} %"


def rows_csv(rows: Iterable[Row]) -> str:
    """The rows behind the board, cell by cell, as CSV; numbers to five digits, errors to four."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        if row.section in SERVICES and row.quantity in QUANTITIES and row.error is not None:
            of = service_of(row)
            numbers = (f"{row.published:.5g}", f"{row.simulated:.5g}", f"{row.error:.4f}")
            cell = tuple(of.get(key, "") for key in CELL_KEYS)
            names = (row.case, row.quantity, row.unit)
            lines.append((row.section, *cell, *names, *numbers, row.kind, str(int(row.is_sampled))))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(ROWS)
    lines.sort(key=lambda line: (line[:4], _first_number(line[4]), line[5:]))
    table.writerows(lines)
    return text.getvalue()


@dataclass(frozen=True, slots=True)
class Worse:
    """A cell of the sample that has got worse, or lost rows."""

    of: Mapping[str, str]
    before: Errors
    now: Errors | None

    def __str__(self) -> str:
        what = ", ".join(self.of.values())
        if self.now is None or self.now.n < self.before.n:
            return f"{what}: {0 if self.now is None else self.now.n} of {self.before.n} rows are left"
        return f"{what}: median error {_percent(self.before.median)} before, {_percent(self.now.median)} now"


def worse(before: Iterable[Errors], now: Iterable[Errors]) -> list[Worse]:
    """The cells whose median error has grown by two points and by a tenth, or that have lost rows."""
    cells = Section(now).cells
    found = []
    for was in before:
        one = cells.get(frozenset(was.of.items()))
        lost = one is None or one.n < was.n
        grown = one is not None and one.median > max(was.median + WORSE_BY, was.median * WORSE_TIMES)
        if was.n >= LEAST_ROWS and (lost or grown):
            found.append(Worse(was.of, was, one))
    return found
