"""What a kernel's time consists of, and the number formats that kernels know."""

from __future__ import annotations

from typing import NamedTuple

from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import KernelParameters


class KernelTiming(NamedTuple):
    """Seconds of one kernel alone, with the parts it is made of.

    `floor_s` is what the smallest call of its kind takes; `compute_s` and `memory_s` are what arithmetic
    and memory traffic would take alone. They overlap, so `total_s` is less than their sum. Fields are
    arrays where a size was one."""

    total_s: float
    floor_s: float
    compute_s: float
    memory_s: float

    @property
    def bound(self) -> str:
        """Which part is the largest: "latency", "compute" or "memory"."""
        parts = {"latency": self.floor_s, "compute": self.compute_s, "memory": self.memory_s}
        return max(parts, key=lambda name: parts[name])


class NumberFormat(NamedTuple):
    """Bytes of a weight and of an activation, and the formats whose peak rate the arithmetic runs at,
    best first.
    """

    weight_bytes: float
    activation_bytes: float
    arithmetic: tuple[str, ...]


# Block-scaled formats carry their scale factors: 8 bits for 16 values (NVFP4) or 32 values (MXFP4), 32
# bits for a 128 x 128 block (FP8). int4, w4a16 and w4a8 expand 4-bit weights inside the kernel and
# compute in 16 or 8 bits.
FORMATS: dict[str, NumberFormat] = {
    "fp32": NumberFormat(4, 4, ("fp32",)),
    "bf16": NumberFormat(2, 2, ("bf16", "fp16")),
    "fp16": NumberFormat(2, 2, ("fp16", "bf16")),
    "fp8": NumberFormat(1, 1, ("fp8",)),
    "fp8_block": NumberFormat(1 + 4 / 128**2, 1, ("fp8",)),
    "int8": NumberFormat(1, 1, ("int8", "fp8")),
    "nvfp4": NumberFormat(0.5625, 0.5625, ("nvfp4", "fp4")),
    "fp4": NumberFormat(0.53125, 0.5625, ("fp4", "nvfp4")),
    "int4": NumberFormat(0.53125, 2, ("bf16", "fp16")),
    "w4a16": NumberFormat(0.53125, 2, ("bf16", "fp16")),
    "w4a8": NumberFormat(0.53125, 1, ("fp8",)),
}
# Which fitted set stands in where a format has none of its own, nearest first.
STAND_INS: dict[str, tuple[str, ...]] = {
    "bf16": ("fp16",),
    "fp16": ("bf16",),
    "fp32": ("bf16",),
    "fp8": ("fp8_block", "bf16"),
    "fp8_block": ("fp8", "bf16"),
    "int8": ("fp8", "bf16"),
    "nvfp4": ("fp4", "fp8", "bf16"),
    "fp4": ("nvfp4", "fp8", "bf16"),
    "int4": ("w4a16", "bf16"),
    "w4a16": ("int4", "bf16"),
    "w4a8": ("fp8", "w4a16", "bf16"),
}

UNMEASURED = KernelParameters()


def number_format(dtype: str) -> NumberFormat:
    """The format of that name. InputError lists the names there are."""
    known = FORMATS.get(dtype)
    if known is None:
        raise InputError(f"dtype = {dtype!r}: must be one of {', '.join(FORMATS)}")
    return known


def peak_flops(gpu: Gpu, dtype: str) -> float:
    """FLOP/s of the arithmetic that `dtype` runs in. InputError where the GPU has none."""
    for arithmetic in number_format(dtype).arithmetic:
        rate = gpu.flops.get(arithmetic)
        if rate is not None:
            return rate
    able = [name for name, known in FORMATS.items() if any(name in gpu.flops for name in known.arithmetic)]
    raise InputError(f"dtype = {dtype!r}: {gpu.name} has no such arithmetic; it has {', '.join(able)}")
