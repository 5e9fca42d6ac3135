"""Shipped failure rates, repair times and parts of racks: `sim/data/failures.yaml`, with its sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sim.reading.data_files import PACKAGE
from sim.reading.yaml_lines import read_yaml


@dataclass(frozen=True, slots=True)
class FailureClass:
    """Failures of one cause: how many there were of it (or its share), and which kind of part they take."""

    cause: str
    events: float
    fails: str
    repair: str


@dataclass(frozen=True, slots=True)
class FailureRates:
    """A set of rates. `per` is what was watched: `gpu_hours`, `node_hours`, `part_hours`, or `shares` where
    only the shares of the classes are known; `watched` how much of it.
    """

    name: str
    title: str
    tag: str
    source: str
    per: str
    watched: float
    classes: tuple[FailureClass, ...]

    @property
    def hours_between(self) -> float:
        """Hours of what was watched for each failure of any class."""
        return self.watched / sum(one.events for one in self.classes)


@dataclass(frozen=True, slots=True)
class Repair:
    """A lognormal time to repair, by its mean and its median."""

    mean_s: float
    median_s: float


@cache
def _shipped() -> Mapping[str, Any]:
    return read_yaml(PACKAGE / "data" / "failures.yaml").data


@cache
def failure_rates() -> dict[str, FailureRates]:
    """The shipped sets by name.

    >>> llama = failure_rates()["llama-3"]
    >>> sum(one.events for one in llama.classes), round(llama.hours_between, -2)
    (419, 50700.0)
    """
    found = {}
    for name, block in _shipped()["rates"].items():
        per, watched = "shares", 0.0
        for per, watched in block.get("exposure", {}).items():  # noqa: B007  # at most one
            pass
        classes = tuple(FailureClass(**one) for one in block["classes"])
        found[name] = FailureRates(
            name, block["title"], block["tag"], block["source"], per, float(watched), classes
        )
    return found


def weibull_shape() -> float:
    """The shape of the gaps between failures of one part; below 1 the hazard falls."""
    return float(_shipped()["gaps"]["weibull_shape"])


def repair_times() -> dict[str, Repair]:
    """Times to repair by what failed."""
    return {
        name: Repair(float(block["mean_s"]), float(block["median_s"]))
        for name, block in _shipped()["repairs"].items()
        if isinstance(block, Mapping)
    }


def hbm_stacks(gpu: str) -> int | None:
    """How many HBM stacks a kind of GPU has; None where that is not known, or there is none."""
    stacks: int | None = _shipped()["hbm_stacks"]["by_gpu"].get(gpu)
    return stacks


def power_shelves(gpu: str) -> tuple[int, int] | None:
    """How many power shelves a rack of trays with this kind of GPU has, and how many it needs."""
    found = _shipped()["power_shelves"]["by_gpu"].get(gpu)
    return None if found is None else (int(found[0]), int(found[1]))
