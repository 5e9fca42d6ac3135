"""Fits the blocks of `topologies/collectives/experts.yaml` again, beside what is written.

    sim calibrate experts MOE_ALL_TO_ALL.csv

Least squares of relative errors over the rows that a block names (hidden 7168, top-8 of 256 experts, the best
number of SMs). What a block takes over from another stays as it is written: `doubling_s` where ranks do not
differ, `inside` of traffic between servers.

Where it stops: `one_sided`, and the dispatch of `low_latency_across`, come out with another start and another
growth with the ranks than are written; a few numbers of ranks hardly tell the two apart. The block of eight
servers was measured with tokens held to 4 of 8 groups and is not fitted here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

import numpy as np

from sim.calibration.fitting import Floats
from sim.calibration.held_out_expert_exchange import PHASES, ExchangePoint, points_of
from sim.cost.collectives.expert_exchange import Phase
from sim.cost.collectives.parameters import collectives_folder

USUAL = {"hidden": "7168", "topk": "8", "experts": "256"}
FREE = ("base_s", "doubling_s", "inside", "across")


@dataclass(frozen=True, slots=True)
class Block:
    """The measured rows of a block, and which of its numbers are fitted to them."""

    library: str
    system: str
    version: str
    ranks: tuple[int, ...]
    free: tuple[str, ...]


BLOCKS = {
    "one_sided": Block("trtllm_NVLinkOneSided_nvfp4", "gb200", "1.2.0rc6", (4, 8, 16), FREE[:3]),
    "low_latency_hopper": Block("deepep_low_latency", "h100_sxm", "0.5.12", (8,), ("base_s", "inside")),
    "low_latency_blackwell": Block("deepep_low_latency", "b200_sxm", "0.5.12", (8,), ("base_s", "inside")),
    "low_latency_across": Block(
        "deepep_low_latency", "h100_sxm", "0.5.0", (16, 64), ("base_s", "doubling_s", "across")
    ),
    "normal_hopper": Block("deepep_normal", "h100_sxm", "0.5.12", (8,), ("base_s", "inside")),
    "normal_blackwell": Block("deepep_normal", "b200_sxm", "0.5.12", (8,), ("base_s", "inside")),
    "normal_across": Block("deepep_normal", "h100_sxm", "0.5.0", (16,), ("base_s", "across")),
}


def written(name: str, phase: Phase) -> dict[str, float]:
    """The numbers of a block as they are shipped."""
    import yaml

    text = (collectives_folder() / "experts.yaml").read_text(encoding="utf-8")
    numbers: dict[str, float] = yaml.safe_load(text)["kernels"][name][phase]
    return numbers


def block_points(path: Path, name: str) -> list[ExchangePoint]:
    """The rows of a table that a block is fitted to."""
    block = BLOCKS[name]
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["library"], row["system"], row["version"]) == (block.library, block.system, block.version)
            and int(row["ep"]) in block.ranks
            and all((row.get(key) or usual) == usual for key, usual in USUAL.items())
        ]
    return points_of(rows)


def fitted(name: str, phase: Phase, points: Sequence[ExchangePoint]) -> dict[str, float]:
    """The numbers of a block with the free ones fitted to its points."""
    from scipy.optimize import least_squares

    own = [one for one in points if one.phase == phase]
    numbers, free = written(name, phase), BLOCKS[name].free
    size = np.array([numbers[key] or 1e-6 for key in free])

    def with_values(values: Floats) -> dict[str, float]:
        return {**numbers, **dict(zip(free, (values * size).tolist(), strict=True))}

    def errors(values: Any, /) -> list[float]:
        now = with_values(values)
        return [_seconds(one, now) / one.seconds - 1.0 for one in own]

    return with_values(least_squares(errors, np.ones(len(free)), bounds=(1e-9, np.inf)).x)


def _seconds(one: ExchangePoint, numbers: dict[str, float]) -> float:
    start_s = numbers["base_s"] + numbers["doubling_s"] * log2(one.ranks)
    return start_s + max(one.intra_node_s / numbers["inside"], one.inter_node_s / numbers["across"])


@dataclass(frozen=True, slots=True)
class Refitted:
    """One phase of a block: how many points it has, and each free number as fitted now and as written."""

    block: str
    phase: Phase
    points: int
    numbers: dict[str, tuple[float, float]]


def refitted(path: Path) -> Iterator[Refitted]:
    """Every block that a table has the points for, fitted again, one phase after the other."""
    for name, block in BLOCKS.items():
        points = block_points(path, name)
        for phase in PHASES:
            own = [one for one in points if one.phase == phase]
            if len(own) < len(block.free):
                continue
            now, before = fitted(name, phase, own), written(name, phase)
            yield Refitted(name, phase, len(own), {key: (now[key], before[key]) for key in block.free})
