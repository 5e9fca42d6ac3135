"""Errors as cells, which a run reads to say what it rests on (`sim.reading.accuracy`): from the rows of a
ledger, and from kernels and collectives priced without what was measured of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sim.calibration.collective_points import is_modelled, read_points
from sim.calibration.collectives import shipped
from sim.calibration.kernels import measurements_of
from sim.calibration.unseen import borrowed_collective_cells, collective_cells, kernel_cells, stand_in_cells
from sim.reading.accuracy import Accuracy, Errors, Section, as_text, read_accuracy
from sim.reading.data_files import measured as measured_folder
from sim.results.basis import size_class, users_band
from sim.results.compared import BOX, Row
from sim.results.whole_files import whole_file
from sim.validation.services.cells import gpu_of, kind_of_model
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
    "throughput": ("queued", (("model", "engine", "gpu"), ("model", "gpu"), ("model",), ())),
    "pools": ("pools", (("model", "gpu", "engine", "users"), ("model", "gpu"), ("model",), ())),
}
SAMPLE = "sample"
SAMPLES = (("table",), ("table", "model", "engine"), ("table", "users"))
"""What the errors of samples are told apart by, section by section: those that an alarm watches."""


def service_cells(rows: Iterable[Row]) -> dict[str, list[Errors]]:
    """Cells of whole services, by the names of their sections in the file."""
    found: _Found = defaultdict(lambda: defaultdict(list))
    for row in rows:
        quantity = QUANTITIES.get(row.quantity)
        if row.section in SERVICES and quantity is not None and _counts(row):
            name, kinds = SERVICES[row.section]
            _add(found[name], {"quantity": quantity, **service_of(row)}, kinds, row)
    return _cells(found)


def sample_cells(rows: Iterable[Row]) -> list[Errors]:
    """Cells of the rows that samples have, by table and quantity."""
    found: _Found = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.is_sampled and _counts(row):
            of = {"quantity": row.quantity, "table": row.of["table"]}
            if row.section in SERVICES:
                of |= service_of(row)
            _add(found[SAMPLE], of, SAMPLES, row)
    return _cells(found).get(SAMPLE, [])


_Found = dict[str, dict[tuple[tuple[str, str], ...], list[float]]]


def _counts(row: Row) -> bool:
    return row.kind == "predicted" and row.error is not None


def _add(
    found: dict[tuple[tuple[str, str], ...], list[float]],
    of: Mapping[str, str],
    kinds: Iterable[tuple[str, ...]],
    row: Row,
) -> None:
    """The error of a row, to each of its cells; to none that is of something that the row has not."""
    assert row.error is not None
    for keys in kinds:
        if all(key in of for key in keys):
            found[tuple((key, of[key]) for key in ("quantity", *keys))].append(row.error)


def _cells(found: _Found) -> dict[str, list[Errors]]:
    return {
        name: [Errors.over(dict(of), errors) for of, errors in sorted(groups.items())]
        for name, groups in found.items()
    }


def sections_of(rows: Iterable[Row], *, whole: bool = True) -> dict[str, list[Errors]]:
    """Cells of the sections of a ledger that have any: whole services, kernels and collectives, and the
    sample of services. Of a ledger that is not `whole` no cells but the last say what services are off by.
    """
    rows = list(rows)
    found: _Found = defaultdict(lambda: defaultdict(list))
    there = set()
    for row in rows:
        there.add(row.section)
        if row.error is None:
            continue
        if row.section == "collectives" and row.quantity.endswith(ACROSS):
            op = row.quantity.removesuffix(ACROSS)
            for cell in ({"all": "all"}, {"op": op}, {"op": op, "size": size_class(row.size or 0.0)}):
                found["collectives_across"][tuple(cell.items())].append(row.error)
    cells = (service_cells(rows) if whole else {}) | _cells(found)
    if sampled := sample_cells(rows):
        cells[SAMPLE] = sampled
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


def service_of(row: Row) -> dict[str, str]:
    """Kind of model, GPU, engine and band of users of a row, as far as it has them."""
    of = {"model": kind_of_model(row.of["model"]), "gpu": gpu_of(row.of[BOX])}
    of |= {key: row.of[key] for key in ("engine", "users") if key in row.of}
    if row.section == "pools":
        of["users"] = users_band(int(row.size or 0))
    if row.section == "throughput":
        of["engine"] = "trtllm"
    return of


def write(rows: Iterable[Row], path: Path, command: str, *, whole: bool = True) -> None:
    """Write the file, or the sections of it that these rows have; the others stay as they were written."""
    rows = list(rows)
    before = read_accuracy(path)
    sections, written = dict(before.sections), dict(before.written)
    for name, cells in sections_of(rows, whole=whole).items():
        sections[name] = Section(cells)
        points = max((cell.n for cell in cells), default=0)
        written[name] = _written(command, points)
    with whole_file(path) as partial:
        partial.write_text(as_text(Accuracy(sections, written)), encoding="utf-8")


def _written(command: str, points: int) -> dict[str, Any]:
    return {"by": command, "version": __version__, "most_points": points}
