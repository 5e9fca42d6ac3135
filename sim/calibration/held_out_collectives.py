"""How well the collective model holds on measured points that it was not fitted to.

    sim calibrate collectives NCCL.csv ENGINES.csv

Two ways of holding out, never points of a curve that was fitted: `ranks` leaves out all points of one
number of ranks of a kind of GPU, `system` leaves out a whole system, which then takes the parameters of its
stand-in (fitted without it) and its own link rates. Beside each stands a plain alpha-beta model (one latency,
one bus bandwidth per kind, library and op) fitted to the same points. Every fit starts from the middle of
the other kinds of GPU, so nothing of what is held out is in its start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np

from sim.calibration.collective_points import CollectivePoint
from sim.calibration.collectives import (
    Raw,
    by_curve,
    chosen,
    errors,
    fit_block,
    free_numbers,
    with_parameters_of,
)
from sim.calibration.fitting import CurveErrors, Floats, log_fit
from sim.calibration.stand_ins import ARCHITECTURE_STAND_INS


class Fold(NamedTuple):
    """What is held out, of which kind of GPU and library; points to fit to, and points to predict."""

    how: str
    kind: str
    library: str
    seen: list[CollectivePoint]
    unseen: list[CollectivePoint]


def held_out(measured: Sequence[CollectivePoint], files: Raw) -> list[CurveErrors]:
    """All rows of both ways of holding out."""
    rows: list[CurveErrors] = []
    for fold, fitted in _fitted(measured, files):
        rows += by_curve(fold.how, errors(fold.unseen, fitted), _alpha_beta(fold.seen))
    return rows


def held_out_points(
    measured: Sequence[CollectivePoint], files: Raw
) -> Iterator[tuple[str, CollectivePoint, float]]:
    """The same point by point: how it was held out, and its error."""
    for fold, fitted in _fitted(measured, files):
        for point, error in errors(fold.unseen, fitted):
            yield fold.how, point, error


def _fitted(measured: Sequence[CollectivePoint], files: Raw) -> Iterator[tuple[Fold, Raw]]:
    """Every fold that has points on both sides, with parameters that know nothing of the held-out ones."""
    for fold in _folds(measured, files):
        if not fold.seen or not fold.unseen:
            continue
        if fold.how == "stand-in":
            yield fold, _as_stand_in(files, fold.kind)
        else:
            start = _neutral(files, fold.kind, fold.library)
            yield fold, fit_block(start, free_numbers(fold.kind, fold.library, start), fold.seen)


def _folds(measured: Sequence[CollectivePoint], files: Raw) -> Iterator[Fold]:
    for kind, block in files["inside"]["architectures"].items():
        for library in ("nccl", "direct", *block["engines"]):
            own = chosen(measured, kind, library, files)
            for ranks in sorted({point.gpus for point in own}):
                seen = [point for point in own if point.gpus != ranks]
                # One number of ranks says nothing of how time grows with ranks.
                if len({point.gpus for point in seen}) > 1:
                    unseen = [point for point in own if point.gpus == ranks]
                    yield Fold("ranks", kind, library, seen, unseen)
            systems = sorted({point.system for point in own})
            for system in systems if len(systems) > 1 else ():
                seen = [point for point in own if point.system != system]
                unseen = [point for point in own if point.system == system]
                yield Fold("system", kind, library, seen, unseen)
            # The only system of its kind is predicted as an unmeasured kind would be. Engines other than
            # vLLM have no kernels for every kind to borrow.
            if len(systems) == 1 and library in ("nccl", "direct", "vllm"):
                seen = chosen(measured, ARCHITECTURE_STAND_INS[kind], library, files)
                yield Fold("stand-in", kind, library, seen, own)


def _neutral(files: Raw, kind: str, library: str) -> Raw:
    """The files with a kind's free numbers at the middle of what the other kinds have."""
    start = deepcopy(files)
    blocks = start["inside"]["architectures"]
    for path, low, high in free_numbers(kind, library, start):
        # The geometric median, since the numbers differ by factors; the middle of the bounds where no other
        # kind has the number.
        values = []
        for other in blocks:
            found: Any = blocks[other]
            for name in path[1:]:
                found = found.get(name) if isinstance(found, dict) else None
            if other != kind and found is not None:
                values.append(float(found))
        block = blocks
        for name in path[:-1]:
            block = block[name]
        block[path[-1]] = float(np.exp(np.median(np.log(values)))) if values else (low * high) ** 0.5
    return start


def _as_stand_in(files: Raw, kind: str) -> Raw:
    return with_parameters_of(files, kind, ARCHITECTURE_STAND_INS[kind])


def _bus_bytes(point: CollectivePoint) -> float:
    share = 2.0 if point.op == "all_reduce" else 1.0
    return point.n_bytes * share * (point.gpus - 1) / point.gpus


def _alpha_beta(seen: Sequence[CollectivePoint]) -> Callable[[CollectivePoint], float]:
    """Seconds by one latency and one rate on the bus for each library and op, fitted to what was seen; NaN
    for what was not.
    """
    fitted: dict[tuple[str, str], tuple[float, float]] = {}
    for key in sorted({(point.library, point.op) for point in seen}):
        own = [point for point in seen if (point.library, point.op) == key]

        def of_own(values: Floats, own: Sequence[CollectivePoint] = own) -> list[float]:
            alpha_s, per_byte_s = values
            return [(alpha_s + per_byte_s * _bus_bytes(point)) / point.seconds for point in own]

        start = [
            min(point.seconds for point in own),
            max(own, key=_bus_bytes).seconds / max(map(_bus_bytes, own)),
        ]
        alpha_s, per_byte_s = log_fit(of_own, start).tolist()
        fitted[key] = alpha_s, per_byte_s

    def seconds(point: CollectivePoint) -> float:
        alpha_s, per_byte_s = fitted.get((point.library, point.op), (math.nan, math.nan))
        return alpha_s + per_byte_s * _bus_bytes(point)

    return seconds
