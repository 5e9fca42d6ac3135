"""The ledger: everything published that the simulator is held against, section by section.

Each section is a function of nothing that yields rows. What it needs travels with the package, so that the
ledger is the same in a checkout and in an installed wheel; the whole of it takes about two minutes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sim.catalog import data_folder
from sim.inputs.errors import InputError, Problem
from sim.reading.problems import did_you_mean
from sim.studies.ledger import LedgerRow
from sim.studies.validation_alone import collective_rows, kernel_rows
from sim.studies.validation_laws import formula_rows, law_rows
from sim.studies.validation_points import point_rows, simulate_points

CLOSED_LOOPS = Path(__file__).parent.parent / "data" / "measured" / "serving" / "closed_loops.csv"


def experiment_rows() -> Iterator[LedgerRow]:
    """The rows of every experiment that have a published number, from its quick run."""
    folder = data_folder() / "experiments"
    for path in sorted(folder.glob("*.py")):
        described = importlib.util.spec_from_file_location(f"sim_experiment_{path.stem}", path)
        assert described is not None
        assert described.loader is not None
        module = sys.modules[described.name] = importlib.util.module_from_spec(described)
        described.loader.exec_module(module)
        for row in module.answer(True).rows:
            if row.published is not None:
                case = f"{path.stem}: {row.case}"
                yield LedgerRow(
                    case, row.quantity, row.unit, row.published, row.simulated, row.kind, row.source
                )


def service_rows() -> Iterator[LedgerRow]:
    """Request logs, static batches, offline and online throughput of whole services."""
    from sim.studies.serving_validation import serving_rows

    return serving_rows(quick=True)


def closed_loop_rows() -> Iterator[LedgerRow]:
    """Closed loops at a concurrency: the rows that travel with the package."""
    return (row for one in simulate_points(CLOSED_LOOPS) for row in point_rows(one))


LOOPS = "closed-loops"
SECTIONS: dict[str, Callable[[], Iterable[LedgerRow]]] = {
    "laws": law_rows,
    "formulas": formula_rows,
    "experiments": experiment_rows,
    "kernels": kernel_rows,
    "collectives": collective_rows,
    "services": service_rows,
    LOOPS: closed_loop_rows,
}


def chosen(names: Iterable[str]) -> list[str]:
    """The names of sections, if all of them are; InputError otherwise."""
    names = list(names)
    for name in names:
        if name not in SECTIONS:
            known = ", ".join(SECTIONS)
            raise InputError(Problem(f"{name!r} is no section; {known} are{did_you_mean(name, SECTIONS)}"))
    return names


def ledger(sections: Sequence[str] = ()) -> Iterator[LedgerRow]:
    """The rows of the named sections, or of all, as they are computed. InputError for an unknown name."""
    for name in chosen(sections or SECTIONS):
        for row in SECTIONS[name]():
            yield replace(row, section=name)


@dataclass(frozen=True, slots=True)
class Errors:
    """How far the rows of one kind are off. `bias` is the median with its sign."""

    section: str
    quantity: str
    kind: str
    rows: int
    median: float
    p90: float
    bias: float


def summarised(rows: Iterable[LedgerRow]) -> list[Errors]:
    """Median and 90th percentile of the absolute errors, by section, quantity and kind. Experiments are one
    quantity each: theirs are many and small.
    """
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row.error is not None:
            what = row.case.split(":")[0] if row.section == "experiments" else row.quantity
            groups.setdefault((row.section, what, row.kind), []).append(row.error)
    found = []
    for (section, quantity, kind), errors in groups.items():
        median, p90 = (float(np.quantile(np.abs(errors), share)) for share in (0.5, 0.9))
        found.append(Errors(section, quantity, kind, len(errors), median, p90, float(np.median(errors))))
    return found
