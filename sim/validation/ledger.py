"""The ledger: everything published that the simulator is held against, section by section.

What it needs travels with the package, so that the ledger is the same in a checkout and in an installed
wheel. Whole services are sampled, which takes a minute, or run to the last published row.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sim.inputs.errors import InputError, Problem
from sim.reading.data_files import experiment_scripts, experiment_source
from sim.reading.problems import unknown_name
from sim.results.compared import BOX, ErrorSummary, Row, RowKind
from sim.validation.checkpoint import Case, Outcome, Simulate, outcomes
from sim.validation.laws import law_rows
from sim.validation.memory import memory_rows
from sim.validation.microbenchmarks import collective_rows, kernel_rows
from sim.validation.power import power_rows
from sim.validation.services.closed_loop_rows import own_point_rows
from sim.validation.services.closed_loops import read_point_rows
from sim.validation.services.cold_starts import row_key
from sim.validation.services.tables import LOOPS, TABLES, cases, is_in_cell, simulated
from sim.validation.theory import formula_rows


def experiment_rows() -> Iterator[Row]:
    """The rows of every experiment that have a published number, from its quick run."""
    for path in experiment_scripts():
        described = importlib.util.spec_from_file_location(
            f"sim_experiment_{path.stem}", experiment_source(path)
        )
        assert described is not None
        assert described.loader is not None
        module = sys.modules[described.name] = importlib.util.module_from_spec(described)
        described.loader.exec_module(module)
        for row in module.answer(True).rows:
            if row.published is not None:
                yield replace(row, case=f"{path.stem}: {row.case}")


ALONE: dict[str, Callable[[], Iterable[Row]]] = {
    "laws": law_rows,
    "formulas": formula_rows,
    "experiments": experiment_rows,
    "kernels": kernel_rows,
    "collectives": collective_rows,
    "memory": memory_rows,
    "power": power_rows,
}
SECTIONS = (*ALONE, *dict.fromkeys(table.section for table in TABLES.values()))
"""The first of them are functions of nothing; the rest are tables of services, row by row."""


def chosen(names: Iterable[str]) -> list[str]:
    """The names of sections, if all of them are, or of all; InputError otherwise."""
    names = list(names) or list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            raise InputError(Problem(unknown_name("section", name, SECTIONS)))
    return names


@dataclass(frozen=True)
class Services:
    """How tables of services are run: to the last row or in samples, on so many processes (all processors),
    the file that keeps what has ended, and the cell whose rows alone are run, all of them.
    """

    every_row: bool = False
    processes: int | None = None
    keep: Path | None = None
    cell: Mapping[str, str] = field(default_factory=dict)


SAMPLED = Services()


def ledger(
    sections: Sequence[str] = (),
    how: Services = SAMPLED,
    on_progress: Callable[[str, int, int], None] = lambda section, done, total: None,
    own_loops: Path | None = None,
) -> Iterator[Row | Outcome]:
    """The rows of the named sections, or of all, as they are computed; and each published row of a service
    that came to nothing, as its outcome. `on_progress` gets how many of a section's runs have ended, of how
    many, or of 0 in a section that does not know. `own_loops`: a table of closed loops in place of the one
    that is shipped. InputError for an unknown name.
    """
    for name in chosen(sections):
        if name in ALONE:
            for done, row in enumerate(ALONE[name](), start=1):
                yield replace(row, section=name)
                on_progress(name, done, 0)
            continue
        run: Simulate = simulated
        held = cases(name, whole=how.every_row or bool(how.cell))
        sample = {(case.table, row_key(case.cells)) for case in cases(name, whole=False)}
        if how.cell:
            held = [case for case in held if is_in_cell(case, how.cell)]
        if own_loops is not None and name == LOOPS:
            run, held = own_point_rows, [Case("closed loops", row) for row in read_point_rows(own_loops)]
            sample = set()
        for outcome in outcomes(run, held, how.processes, how.keep, partial(on_progress, name)):
            sampled = (outcome.case.table, row_key(outcome.case.cells)) in sample
            yield from (replace(row, is_sampled=sampled) for row in outcome.rows)
            if outcome.reason:
                yield outcome


def rows_only(found: Iterable[Row | Outcome]) -> list[Row]:
    """The rows of a ledger."""
    return [one for one in found if isinstance(one, Row)]


@dataclass(frozen=True, slots=True)
class KindErrors:
    """How far the rows of one kind, predicted or fitted, of one quantity are off."""

    section: str
    quantity: str
    kind: str
    errors: ErrorSummary

    def as_dict(self) -> dict[str, Any]:
        """A row of JSON, and of the table that the command prints."""
        names = {"section": self.section, "quantity": self.quantity, "kind": self.kind}
        return names | _flat(self.errors)


def summarised(rows: Iterable[Row]) -> list[KindErrors]:
    """Errors by section, quantity and kind. Experiments are one quantity each: theirs are many and small."""
    groups: dict[tuple[str, str, RowKind], list[float]] = {}
    for row in rows:
        if row.error is not None:
            what = row.case.split(":")[0] if row.section == "experiments" else row.quantity
            groups.setdefault((row.section, what, row.kind), []).append(row.error)
    return [KindErrors(*group, ErrorSummary.of(errors)) for group, errors in groups.items()]


@dataclass(frozen=True, slots=True)
class GroupErrors:
    """Errors of one quantity over the predicted rows that have one thing in common, `by` its name; and the
    topologies that stood for the machines that they were measured on.
    """

    section: str
    by: str
    name: str
    quantity: str
    errors: ErrorSummary
    boxes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """A row of JSON, and of the table that the command prints."""
        names = {"section": self.section, "by": self.by, "name": self.name, "box": ", ".join(self.boxes)}
        return {**names, "quantity": self.quantity, **_flat(self.errors)}


def grouped(rows: Iterable[Row]) -> list[GroupErrors]:
    """Errors of what nothing was fitted on, by model, GPU and whatever else the rows say they are of; over
    all of a section first. Quantities in the order of the rows.
    """
    found: dict[tuple[str, str, str, str], list[float]] = {}
    boxes: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for row in rows:
        if row.error is None or row.kind == "fitted" or not row.of:
            continue
        for by, name in (("all", "all"), *row.of.items()):
            if by == BOX:
                continue
            found.setdefault((row.section, by, name, row.quantity), []).append(row.error)
            boxes.setdefault((row.section, by, name, row.quantity), {})[row.of.get(BOX, "")] = None
    groups = [
        GroupErrors(*group, ErrorSummary.of(errors), tuple(sorted(filter(None, boxes[group]))))
        for group, errors in found.items()
    ]
    order = {key: i for i, key in enumerate(dict.fromkeys((one.section, one.by) for one in groups))}
    return sorted(groups, key=lambda one: (order[one.section, one.by], _natural(one.name)))


def _flat(errors: ErrorSummary) -> dict[str, Any]:
    return {"rows": errors.count, "median": errors.median, "p90": errors.p90, "bias": errors.bias}


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in a name by their size, before words."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
