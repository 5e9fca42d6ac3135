"""What an answer rests on, part by part, and the band that held-out errors put around it.

A part (kernels, collectives, host, memory) is `measured` on this hardware, borrowed from a named `stand-in`
and scaled by the ratios of the datasheets, known by its `datasheet` alone, `fitted` to whole services, or
`given` by the scenario. A band is of what would be measured, over what was simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["measured", "stand-in", "datasheet", "fitted", "given"]
WORST = ("datasheet", "stand-in", "fitted", "measured", "given")
Band = tuple[float, float]
CERTAIN: Band = (1.0, 1.0)
FITTED_POINTS = "points that they were fitted to"

# Which kernels the layers of a kind of model have.
_DENSE = ("gemm", "attention_prefill", "attention_decode", "attention_mixed", "elementwise", "sampling")
MIXES: dict[str, tuple[str, ...]] = {
    "dense": _DENSE,
    "moe": (*_DENSE, "moe"),
    "mla": ("gemm", "mla_prefill", "mla_decode", "moe", "elementwise", "sampling"),
}
SIZES = {"up to 16 kB": 16_384.0, "up to 1 MB": 1_048_576.0, "above 1 MB": math.inf}
"""Sizes of collectives as their errors are grouped: by latency, by both, by the rate of the links."""


def size_class(n_bytes: float) -> str:
    """The class of a message's size.

    >>> size_class(16_384), size_class(8e6)
    ('up to 16 kB', 'above 1 MB')
    """
    return next(name for name, most in SIZES.items() if n_bytes <= most)


def users_band(users: int) -> str:
    """The band of a number of users, by which errors are grouped.

    >>> users_band(1), users_band(64), users_band(500)
    ('1 to 4', '17 to 64', '129 and more')
    """
    low = 1
    for high in (4, 16, 64, 128):
        if users <= high:
            return f"{low} to {high}"
        low = high + 1
    return "129 and more"


@dataclass(frozen=True, slots=True)
class Basis:
    """One part: where its constants are from (`of`), and the errors that points of this kind had.

    `band` is measured over simulated: 8 in 10 of held-out points, or 9 in 10 of what stand-ins were off on
    GPUs that were left out. None where there are no such points. `under`: which of the kernels were measured
    on this GPU under another engine than the one that serves.
    """

    kind: Kind
    of: str
    n: int = 0
    median_error: float | None = None
    band: Band | None = None
    points: str = ""
    under: str = ""

    def __str__(self) -> str:
        verb = {"measured": "measured on", "stand-in": "borrowed from", "datasheet": "by the datasheet of"}
        text = f"{verb.get(self.kind, self.kind)} {self.of}"
        if self.band is None or self.median_error is None:
            return text
        if self.kind == "stand-in":
            low, high = self.band
            return f"{text} (true times {low:.2f} to {high:.2f} of these: {self.points})"
        what = "error of the fit" if self.points == FITTED_POINTS else "held-out error"
        return f"{text} ({what} {100 * self.median_error:.2g} %)"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        band = None if self.band is None else list(self.band)
        written = {
            "basis": self.kind, "of": self.of, "n": self.n, "median_error": self.median_error, "band": band,
            "points": self.points,
        }  # fmt: skip
        return written | ({"under": self.under} if self.under else {})


def together(*bands: Band) -> Band:
    """Errors that have nothing to do with each other: each side of their logarithms adds up in squares."""
    low = math.hypot(*(min(0.0, math.log(band[0])) for band in bands))
    high = math.hypot(*(max(0.0, math.log(band[1])) for band in bands))
    return math.exp(-low), math.exp(high)


def weighed(parts: Mapping[str, tuple[float, Band]]) -> Band:
    """The band of a sum, from the size and the band of each part, as if all were off to the same side."""
    whole = sum(size for size, _ in parts.values())
    if not whole > 0.0:
        return CERTAIN
    low, high = (sum(size * band[side] for size, band in parts.values()) / whole for side in (0, 1))
    return low, high


@dataclass(frozen=True, slots=True)
class RunBasis:
    """What a run rests on; `bands` are of quantities of its summary, lowest and highest, and `points` what
    they are taken from.
    """

    kernels: Basis
    collectives: Basis | None
    host: Basis
    memory: Basis | None
    by_gpu: Mapping[str, Basis]
    bands: Mapping[str, Band]
    points: str

    def parts(self) -> dict[str, Basis]:
        """Those that the run has, by name."""
        every = {
            "kernels": self.kernels, "collectives": self.collectives, "host": self.host, "memory": self.memory
        }  # fmt: skip
        return {name: part for name, part in every.items() if part is not None}

    def as_dict(self) -> dict[str, Any]:
        """The block `basis` of a summary."""
        found: dict[str, Any] = {name: part.as_dict() for name, part in self.parts().items()}
        found["kernels_by_gpu"] = {gpu: part.as_dict() for gpu, part in self.by_gpu.items()}
        found["bands"] = {name: list(band) for name, band in self.bands.items()}
        found["bands_of"] = self.points
        return found


QUANTITIES = {
    "mean_tpot_ms": ("TPOT", "ms"),
    "mean_ttft_ms": ("TTFT", "ms"),
    "output_throughput": ("output", "tokens/s"),
}


def basis_lines(numbers: Mapping[str, Any]) -> list[str]:
    """What a summary says that the run rests on: a line of parts, and one of bands where there are any."""
    basis = numbers.get("basis")
    if not basis:
        return []
    parts = [
        f"{name} {part_of(basis[name])}"
        for name in ("kernels", "collectives", "host", "memory")
        if name in basis
    ]
    lines = [f"Rests on: {'; '.join(parts)}"]
    shown = []
    for name, (low, high) in basis["bands"].items():
        word, unit = QUANTITIES[name]
        shown.append(f"{word} {numbers[name]:,.4g} {unit}, {low:,.3g} to {high:,.3g}")
    if shown:
        lines.append(f"Bands: {'; '.join(shown)} ({basis['bands_of']})")
    return lines


def part_of(written: Mapping[str, Any]) -> Basis:
    """A part from its dictionary."""
    band = written["band"]
    return Basis(
        written["basis"], written["of"], written["n"], written["median_error"],
        None if band is None else (band[0], band[1]), written["points"], written.get("under", ""),
    )  # fmt: skip


def basis_notes(numbers: Mapping[str, Any]) -> list[str]:
    """What a summary says of GPUs and machines that were not measured: whose constants stand in, and how far
    they may be off.
    """
    basis = numbers.get("basis")
    if not basis:
        return []
    notes = [kernel_note(gpu, part_of(written)) for gpu, written in basis["kernels_by_gpu"].items()]
    if "collectives" in basis:
        notes.append(collective_note(part_of(basis["collectives"])))
    notes.append(host_note(part_of(basis["host"])))
    return [note for note in notes if note]


def kernel_note(gpu: str, part: Basis) -> str:
    """That kernels of a GPU were not measured, or not under this engine, and what to do; else empty."""
    if part.kind != "stand-in":
        return f"on {gpu} {part.under}" if part.under else ""
    return (
        f"not measured on {gpu}: kernels of {part.of} stand in, scaled by the ratios of the datasheets"
        f"{_range(part)}; measure them, and give them with kernels: {{kind: measured, path: ...}}"
    )


def host_note(part: Basis) -> str:
    """That what the host takes was measured with GPUs of another make; empty where it was not."""
    if part.kind != "stand-in":
        return ""
    return (
        f"times of the host (steps, launches of kernels) are those of {part.of}: none was measured with this "
        "GPU; give your own with engine.host"
    )


def collective_note(part: Basis) -> str:
    """That collectives of a machine were not measured; empty where they were."""
    if part.kind != "stand-in":
        return ""
    return (
        f"not measured on this machine: collectives of {part.of} stand in, scaled by the rates of its links"
        f"{_range(part)}"
    )


def _range(part: Basis) -> str:
    if part.band is None:
        return ""
    return f"; true times may be {part.band[0]:.2f} to {part.band[1]:.2f} of these ({part.points})"
