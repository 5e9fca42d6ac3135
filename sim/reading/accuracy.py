"""How far simulated times are from measured ones, by what they are of: the file that `sim validate --errors`
writes and that a run only reads.

An error is (simulated - measured) / measured. A cell has the errors of points that have some things in
common (`of`: the GPU, the kernel, the engine); the coarser cells stand beside the finer ones, so that a thin
cell has one to fall back on, and every answer says which cell it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sim.reading.data_files import accuracy_file

LEAST_POINTS = 10  # fewer say little of a tenth on either side
PERCENTS = (5, 10, 90, 95)


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of `n` points: the median of their size, the median with its sign, percentiles with theirs, and
    the 90th percentile of their size (NaN in a file of a version that did not write it).
    """

    of: Mapping[str, str]
    n: int
    median: float
    bias: float
    p5: float
    p10: float
    p90: float
    p95: float
    size_p90: float = math.nan

    @classmethod
    def over(cls, of: Mapping[str, str], errors: Sequence[float]) -> Errors:
        """Of signed relative errors; to four digits, no more is known.

        >>> Errors.over({"gpu": "mine"}, [-0.5, 0.0, 0.5]).p90
        0.4
        """
        numbers = [
            float(np.median(np.abs(errors))),
            float(np.median(errors)),
            *map(float, np.percentile(errors, PERCENTS)),
            float(np.percentile(np.abs(errors), 90)),
        ]
        return cls(dict(of), len(errors), *(float(f"{number:.4g}") for number in numbers))

    @property
    def eight_in_ten(self) -> tuple[float, float]:
        """Measured over simulated, from the 10th to the 90th percentile."""
        return 1.0 / (1.0 + self.p90), 1.0 / (1.0 + self.p10)

    @property
    def nine_in_ten(self) -> tuple[float, float]:
        """Measured over simulated, from the 5th to the 95th percentile."""
        return 1.0 / (1.0 + self.p95), 1.0 / (1.0 + self.p5)

    def as_dict(self) -> dict[str, Any]:
        """A line of the file."""
        names = ("n", "median", "bias", "p5", "p10", "p90", "p95", "size_p90")
        numbers = {name: getattr(self, name) for name in names}
        return {**self.of, **{name: value for name, value in numbers.items() if not math.isnan(value)}}


class Section:
    """The cells of one kind of points, by what they are of."""

    def __init__(self, cells: Iterable[Errors]) -> None:
        self.cells = {frozenset(cell.of.items()): cell for cell in cells}

    def nearest(self, of: Mapping[str, str], *keys: str) -> Errors | None:
        """The cell of `of`; where it has too few points, that of fewer keys: each of `keys`, words with
        spaces between, names those that are kept. None where no cell is left.

        >>> fine, coarse = Errors.over({"gpu": "a", "op": "b"}, [0.1]), Errors.over({"op": "b"}, [0.1] * 10)
        >>> Section([fine, coarse]).nearest({"gpu": "a", "op": "b"}, "gpu op", "op").of
        {'op': 'b'}
        """
        for names in keys:
            kept = names.split()
            cell = self.cells.get(frozenset((name, of[name]) for name in kept)) if _has(of, kept) else None
            if cell is not None and cell.n >= LEAST_POINTS:
                return cell
        return None

    def values(self, key: str) -> list[str]:
        """All values that cells have of a key."""
        return sorted({cell.of[key] for cell in self.cells.values() if key in cell.of})


def _has(of: Mapping[str, str], names: Iterable[str]) -> bool:
    return all(name in of for name in names)


NONE = Section(())


@dataclass(frozen=True)
class Accuracy:
    """All sections of the file by name, and by which run of which version each was written."""

    sections: Mapping[str, Section]
    written: Mapping[str, Mapping[str, Any]]

    def __getitem__(self, section: str) -> Section:
        return self.sections.get(section, NONE)


@cache
def accuracy() -> Accuracy:
    """The shipped file, read once."""
    return read_accuracy(accuracy_file())


def read_accuracy(path: Path) -> Accuracy:
    """A file as `as_text` leaves it; empty where there is none."""
    if not path.is_file():
        return Accuracy({}, {})
    sections = json.loads(path.read_text(encoding="utf-8"))
    cells = {name: [_errors(line) for line in section["cells"]] for name, section in sections.items()}
    written = {name: section["written"] for name, section in sections.items()}
    return Accuracy({name: Section(of) for name, of in cells.items()}, written)


def _errors(line: Mapping[str, Any]) -> Errors:
    of = {name: value for name, value in line.items() if isinstance(value, str)}
    numbers = {name: value for name, value in line.items() if not isinstance(value, str)}
    return Errors(of, **numbers)


def as_text(found: Accuracy) -> str:
    """The file: a section after the other, a cell a line."""
    sections = []
    for name, section in found.sections.items():
        lines = ",\n".join(f"   {json.dumps(cell.as_dict())}" for cell in section.cells.values())
        written = json.dumps(found.written[name])
        sections.append(f' {json.dumps(name)}: {{\n  "written": {written},\n  "cells": [\n{lines}\n  ]\n }}')
    return "{\n" + ",\n".join(sections) + "\n}\n"
