"""Errors as cells, which a run reads to say what it rests on (`sim.reading.accuracy`): from the rows of a
ledger, and from kernels and collectives priced without what was measured of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sim.basis import model_kind
from sim.calibration.collective_points import is_modelled, read_points
from sim.calibration.collectives import shipped
from sim.calibration.kernels import measurements_of
from sim.calibration.unseen import borrowed_collective_cells, collective_cells, kernel_cells, stand_in_cells
from sim.catalog import load_model, load_topology
from sim.reading.accuracy import Accuracy, Errors, Section, as_text, read_accuracy
from sim.reading.data_files import measured as measured_folder
from sim.results.basis import size_class
from sim.results.compared import BOX, Row
from sim.results.whole_files import whole_file
from sim.version import __version__

QUANTITIES = {
    "time per output token": "mean_tpot_ms",
    "time to first token": "mean_ttft_ms",
    "output tokens of all users": "output_throughput",
    "output throughput": "output_throughput",
}
# Of each section of services: what it is called in the file, and what its cells are told apart by.
SERVICES: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "closed-loops": (
        "closed_loops",
        (
            ("model", "gpu", "engine", "users"),
            ("model", "gpu", "engine"),
            ("gpu", "engine", "users"),
            ("model", "engine", "users"),
            ("model", "engine"),
            ("engine", "users"),
            ("users",),
            ("model",),
            (),
        ),
    ),
    "throughput": ("queued", (("model", "gpu"), ("model",), ())),
    "pools": ("pools", (("model", "gpu"), ("model",), ())),
}


def sections_of(rows: Iterable[Row]) -> dict[str, list[Errors]]:
    """Cells of the sections of a ledger that have any: whole services, kernels and collectives."""
    found: dict[str, dict[tuple[tuple[str, str], ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    there = set()
    for row in rows:
        there.add(row.section)
        quantity = QUANTITIES.get(row.quantity)
        if row.error is None:
            continue
        if row.section in SERVICES and quantity is not None and row.kind == "predicted":
            name, kinds = SERVICES[row.section]
            of = {"quantity": quantity, **_service_of(row)}
            for keys in kinds:
                found[name][tuple((key, of[key]) for key in ("quantity", *keys) if key in of)].append(
                    row.error
                )
        elif row.section == "collectives" and row.quantity.endswith(ACROSS):
            op = row.quantity.removesuffix(ACROSS)
            for cell in ({"all": "all"}, {"op": op}, {"op": op, "size": size_class(row.size or 0.0)}):
                found["collectives_across"][tuple(cell.items())].append(row.error)
    cells = {
        name: [Errors.over(dict(of), errors) for of, errors in sorted(groups.items())]
        for name, groups in found.items()
    }
    if "kernels" in there:
        measured = measurements_of([measured_folder()])
        cells |= {"kernels": kernel_cells(measured), "stand_ins": stand_in_cells(measured)}
    if "collectives" in there:
        tables = [measured_folder() / "collectives" / name for name in ("nccl.csv", "engines.csv")]
        points = [point for point in read_points(tables) if is_modelled(point)]
        cells["collectives"] = collective_cells(points, shipped())
        cells["borrowed_collectives"] = borrowed_collective_cells(points, shipped())
    return cells


ACROSS = " across nodes"


def _service_of(row: Row) -> Mapping[str, str]:
    """What a row is of, by the names in the catalog."""
    of = {"model": _kind(row.of["model"]), "gpu": _gpu(row.of[BOX])}
    return of | {key: row.of[key] for key in ("engine", "users") if key in row.of}


@cache
def _kind(model: str) -> str:
    return model_kind(load_model(model))


@cache
def _gpu(topology: str) -> str:
    return next(iter(load_topology(topology).gpus))


def write(rows: Iterable[Row], path: Path, command: str) -> None:
    """Write the file, or the sections of it that these rows have; the others stay as they were written."""
    rows = list(rows)
    before = read_accuracy(path)
    sections, written = dict(before.sections), dict(before.written)
    for name, cells in sections_of(rows).items():
        sections[name] = Section(cells)
        points = max((cell.n for cell in cells), default=0)
        written[name] = _written(command, points)
    with whole_file(path) as partial:
        partial.write_text(as_text(Accuracy(sections, written)), encoding="utf-8")


def _written(command: str, points: int) -> dict[str, Any]:
    return {"by": command, "version": __version__, "most_points": points}
