"""Watts of every GPU, server, rack and pool of a run: what a breaker or a cooler has to bear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sim.results.energy import Energy

Floats = NDArray[np.float64]
KINDS = ("gpu", "node", "rack", "pool")


@dataclass(frozen=True, slots=True)
class Served:
    """A GPU that served: the stage whose rows are its own, where it stands, and what it draws beside steps.

    `around_w` are its shares of what stands around it and draws the same at all times, None where they are
    not known; all of it, times `factor`, comes out of the wall. `node` is a server (a tray, where a domain
    fills a rack); `rack` is None where it is not known which servers share one.
    """

    gpu: str
    kind: str
    stage: int
    pool: str
    node: str
    rack: str | None
    idle_w: float
    nvlink_j: float
    around_w: float | None
    factor: float

    def place(self, kind: str) -> str | None:
        """Where it stands, by kind of place."""
        return {"gpu": self.gpu, "node": self.node, "rack": self.rack, "pool": self.pool}[kind]


class PlaceWatts(NamedTuple):
    """Watts of the GPUs that served at a place, and with what stands around them, None where that is not
    known. A peak is that of whole steps, each at its own mean.
    """

    kind: str
    name: str
    gpus: int
    gpu_mean_w: float
    gpu_peak_w: float
    mean_w: float | None
    peak_w: float | None


def watts_of_places(energy: Energy) -> tuple[PlaceWatts, ...]:
    """Of every GPU, server, rack and pool, in this order."""
    order = np.argsort(energy.row_stage, kind="stable")
    stages, firsts = np.unique(energy.row_stage[order], return_index=True)
    rows_of = dict(zip(stages.tolist(), np.split(order, firsts)[1:], strict=True))
    curves: dict[tuple[tuple[int, float, int], ...], tuple[float, float]] = {}

    def curve(parts: Counter[tuple[int, float]]) -> tuple[float, float]:
        """Watts above idle in the mean and at most, of so many GPUs of each stage times their factor."""
        key = tuple(sorted((stage, factor, count) for (stage, factor), count in parts.items()))
        if key not in curves:
            curves[key] = _mean_and_peak(energy, rows_of, key)
        return curves[key]

    found = []
    for kind in KINDS:
        members: dict[str, list[Served]] = {}
        for one in energy.served:
            place = one.place(kind)
            if place is not None:
                members.setdefault(place, []).append(one)
        for name, here in members.items():
            above, most = curve(Counter((one.stage, 1.0) for one in here))
            idle = sum(one.idle_w for one in here)
            links = sum(one.nvlink_j for one in here) / energy.run_s if energy.run_s else 0.0
            with_servers: tuple[float, float] | tuple[None, None] = (None, None)
            if energy.has_servers:
                above_all, most_all = curve(Counter((one.stage, one.factor) for one in here))
                still = sum((one.idle_w + (one.around_w or 0.0)) * one.factor for one in here)
                crossed = sum(one.nvlink_j * one.factor for one in here) / (energy.run_s or 1.0)
                with_servers = still + above_all + crossed, still + most_all
            found.append(PlaceWatts(kind, name, len(here), idle + above + links, idle + most, *with_servers))
    return tuple(found)


def _mean_and_peak(
    energy: Energy, rows_of: dict[int, NDArray[np.int64]], parts: Sequence[tuple[int, float, int]]
) -> tuple[float, float]:
    """Watts above idle. Rows of one stage do not overlap, so that one stage needs no sums over time."""
    mean_j, starts, ends, watts = 0.0, [], [], []
    for stage, factor, count in parts:
        rows = rows_of.get(stage)
        if rows is None:
            continue
        above = energy.above_idle_w_of_one[rows] * (factor * count)
        start_s, end_s = energy.start_s[rows], energy.end_s[rows]
        mean_j += float(np.dot(above, end_s - start_s))
        starts.append(start_s)
        ends.append(end_s)
        watts.append(above)
    mean_w = mean_j / energy.run_s if energy.run_s else 0.0
    if len(watts) <= 1:
        return mean_w, max(float(watts[0].max()), 0.0) if watts else 0.0
    return mean_w, peak_of(*(np.concatenate(one) for one in (starts, ends, watts)))


def peak_of(start_s: Floats, end_s: Floats, watts: Floats) -> float:
    """The most of these watts at one instant, each flowing from its start to its end."""
    instants = np.concatenate([start_s, end_s])
    at = np.argsort(instants, kind="stable")
    flowing = np.cumsum(np.concatenate([watts, -watts])[at])
    times = instants[at]
    last = np.append(times[1:] > times[:-1], True)  # of several changes at one instant, the last
    return max(float(flowing[last].max()), 0.0)


def summary_of_places(places: Sequence[PlaceWatts], no_racks: str) -> dict[str, Any]:
    """What a summary has of servers, racks and pools: with what stands around GPUs where that is known."""
    found: dict[str, Any] = {}
    for kind in ("node", "rack"):
        here = [one for one in places if one.kind == kind]
        found[f"{kind}s"] = _summed(here) if here else {"unavailable": no_racks}
    found["pools"] = {one.name: _summed([one]) for one in places if one.kind == "pool"}
    return found


def _summed(here: Sequence[PlaceWatts]) -> dict[str, Any]:
    means, peaks = ([_watts(one, with_peak) for one in here] for with_peak in (False, True))
    hottest = max(range(len(here)), key=lambda place: peaks[place])
    return {
        "places": len(here),
        "gpus": sum(one.gpus for one in here),
        "mean_w": sum(means) / len(here),
        "peak_w": peaks[hottest],
        "hottest": here[hottest].name,
        "of": "GPUs alone" if here[0].mean_w is None else "GPUs and servers",
    }


def _watts(one: PlaceWatts, peak: bool) -> float:
    whole, alone = (one.peak_w, one.gpu_peak_w) if peak else (one.mean_w, one.gpu_mean_w)
    return alone if whole is None else whole


def lines_of_places(energy: dict[str, Any]) -> Iterator[str]:
    """What a run prints of its servers and racks."""
    words = []
    for kind, word in (("nodes", "server"), ("racks", "rack")):
        of = energy[kind]
        if "unavailable" in of:
            words.append(f"{word} unavailable, because {of['unavailable']}")
            continue
        words.append(
            f"{word} {of['mean_w'] / 1e3:.3g} kW in the mean, {of['peak_w'] / 1e3:.3g} at most "
            f"({of['hottest']}, {of['of']})"
        )
    yield f"watts by place: {'; '.join(words)}"
