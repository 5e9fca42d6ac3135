"""Kernel times looked up in a measured table: the second way of pricing kernels, beside the formulas.

Between measured points the formula is corrected by what it is off at the nearest four of them, weighted
by distance in the logarithm of the sizes: at a measured point the table's value comes out, and between
points the formula's shape. Outside the table's sizes the formula stands alone, with one warning for each
kernel."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from inspect import signature
from typing import Any

from sim.cost.kernels.kernels import KERNELS, KernelModel, formula
from sim.cost.kernels.timing import KernelTiming
from sim.inputs.errors import InputError, Problem
from sim.inputs.hardware import Gpu
from sim.reading.measurements import Measurement

NEIGHBOURS = 4
PACE = ("sustained", "warm")  # clocks and caches that the formula assumes; a table has one pace, its own

_Key = tuple[str, str, Hashable]


class MeasuredKernels:
    """A `KernelModel` of measured times. `fallback` prices what is outside of them and gives the shape
    between them.

    >>> from sim.reading.measurements import Measurement
    >>> from sim.inputs.hardware import Gpu
    >>> gpu = Gpu(name="mine", hbm_bytes=8e10, hbm_bytes_per_s=3e12, flops={"bf16": 1e15}, sms=132,
    ...           l2_bytes=5e7, pcie_generation=5)
    >>> sizes = {"m": 64, "n": 8192, "k": 8192, "dtype": "bf16"}
    >>> model = MeasuredKernels([Measurement("mine", "vllm", "gemm", "bf16", sizes, seconds=50e-6)])
    >>> round(model(gpu, "gemm", **sizes).total_s * 1e6, 9)
    50.0
    """

    def __init__(
        self, table: Iterable[Measurement], fallback: KernelModel = formula, source: str = ""
    ) -> None:
        self.fallback = fallback
        self.source = source
        self._table: dict[_Key, list[tuple[tuple[float, ...], Mapping[str, Any], float]]] = defaultdict(list)
        self._corrections: dict[tuple[_Key, str], list[tuple[tuple[float, ...], float]]] = {}
        self._warned: set[tuple[str, str]] = set()
        for one in table:
            if fallback is formula:
                _refuse_other_sizes(one, source)
            numbers, words = _features(one.sizes)
            self._table[one.gpu, one.op, words].append((numbers, one.sizes, one.seconds))

    def __call__(self, gpu: Gpu, op: str, **sizes: Any) -> KernelTiming:
        """Seconds of kernel `op`; those of `fallback`, with a warning, where the table has nothing around
        it.
        """
        timing = self.fallback(gpu, op, **sizes)
        numbers, words = _features(sizes)
        key = (gpu.name, op, words)
        if not self._surrounds(key, numbers):
            if (gpu.name, op) not in self._warned:
                self._warned.add((gpu.name, op))
                warnings.warn(
                    f"{op} on {gpu.name}: {_shown(sizes)} is outside the measured table; the formula is used "
                    "there, now and for all other sizes outside",
                    stacklevel=2,
                )
            return timing
        factor = math.exp(self._correction(key, gpu, numbers))
        return KernelTiming(*(part * factor for part in timing))

    def _surrounds(self, key: _Key, numbers: tuple[float, ...]) -> bool:
        points = self._table.get(key)
        if not points:
            return False
        return all(
            min(column) <= value <= max(column)
            for value, column in zip(
                numbers, zip(*(point for point, _, _ in points), strict=True), strict=True
            )
        )

    def _correction(self, key: _Key, gpu: Gpu, numbers: tuple[float, ...]) -> float:
        known = self._corrections.get((key, gpu.name))
        if known is None:
            known = self._corrections[key, gpu.name] = [
                (point, math.log(seconds / self.fallback(gpu, key[1], **sizes).total_s))
                for point, sizes, seconds in self._table[key]
            ]
        nearest = sorted((math.dist(point, numbers), off) for point, off in known)[:NEIGHBOURS]
        if nearest[0][0] == 0.0:
            return nearest[0][1]
        weights = [1.0 / (distance * distance) for distance, _ in nearest]
        return sum(weight * off for weight, (_, off) in zip(weights, nearest, strict=True)) / sum(weights)


def _refuse_other_sizes(one: Measurement, source: str) -> None:
    """InputError for a kernel that the formulas do not have, or sizes that are not its arguments."""
    if one.op.startswith("mla"):
        return  # whole blocks of latent attention, which no step looks up
    if one.op not in KERNELS:
        known = ", ".join(KERNELS)
        raise InputError(Problem(f"{one.op!r} is no kernel; known are {known}", source, key="kernel"))
    taken = _arguments(one.op)
    lacking = [name for name, needed in taken.items() if needed and name not in one.sizes]
    unknown = [name for name in one.sizes if name not in taken]
    for names, what in ((lacking, "has no"), (unknown, "does not take")):
        if names:
            row = f"the {one.op} of {one.seconds * 1e6:g} us with {_shown(one.sizes)}"
            raise InputError(
                Problem(f"{row} {what} {', '.join(names)}; its arguments are {', '.join(taken)}", source)
            )


@cache
def _arguments(op: str) -> dict[str, bool]:
    """The arguments of a kernel's formula, and whether it needs them; its paces are no sizes."""
    _, *parameters = signature(KERNELS[op]).parameters.values()
    return {one.name: one.default is one.empty for one in parameters if one.name not in PACE}


def _features(sizes: Mapping[str, Any]) -> tuple[tuple[float, ...], Hashable]:
    """Logarithms of the sizes, in the order of their names, and what is no size (formats)."""
    numbers, words = [], []
    for name, value in sorted(sizes.items()):
        if name in PACE or name == "hit":  # follows from the tokens
            continue
        if name == "chunks":
            numbers += [
                _log(len(value)),
                _log(sum(new for new, _ in value)),
                _log(sum(past for _, past in value)),
            ]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers.append(_log(value))
        else:
            words.append((name, "bf16" if value == "fp16" else value))
    return tuple(numbers), tuple(words)


def _log(value: float) -> float:
    return math.log2(1.0 + value)


def _shown(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sizes.items())
