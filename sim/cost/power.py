"""Watts of a GPU: what it asks for in a step, and what flows of that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.cost.step_work import Work
from sim.inputs.hardware import Gpu
from sim.inputs.power import GpuPower

Floats = NDArray[np.float64]
CAP_EXPONENT = 4.0  # assumed: how sharply the draw bends at the limit; 3 to 6 fit H100 and B200 alike


def asked_w(power: GpuPower, gpu: Gpu, work: Work, step_s: Floats) -> dict[str, Floats]:
    """Watts that a GPU asks for while it does `work` in `step_s` seconds, by term."""
    return {
        "idle": np.full(len(step_s), power.idle_w),
        "step": np.full(len(step_s), power.step_w),
        "hbm": power.hbm_w * work.hbm_bytes / gpu.hbm_bytes_per_s / step_s,
        "tensor": power.tensor_w * work.peak_s / step_s,
        "activations": power.activation_nj * 1e-9 * work.values / step_s,
    }


def watts_asked(power: GpuPower, gpu: Gpu, work: Work, step_s: Floats) -> Floats:
    """The same, all terms together."""
    return sum(asked_w(power, gpu, work, step_s).values(), np.zeros(len(step_s)))


def drawn_w(asked: Floats, max_w: float) -> Floats:
    """What flows of what is asked for: all of it far below the limit, and the limit far above."""
    ratio: Floats = asked / max_w
    return np.asarray(asked / (1.0 + ratio**CAP_EXPONENT) ** (1.0 / CAP_EXPONENT), dtype=float)
