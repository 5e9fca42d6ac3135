"""Fit what vLLM's host costs around a step, where it does not schedule ahead: so much a step, and so much for
every sequence in it.

A row is a service in its steady state: its median time between tokens is a step of decodes alone. What the
GPUs need of it is priced, and the rest is the host's. What a fit predicts for a model is from a fit without
any row of that model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim.calibration.power import gpu_of, models_of, read_power_rows, simulated_step_s
from sim.inputs.errors import InputError, Problem

BANDS = (32, 130, 400)  # sequences: rows with as many at most, and those with more


class Waited(NamedTuple):
    """A service's step as it was measured, and what its GPUs need of it."""

    model: str
    sequences: float
    measured_s: float
    gpus_s: float


@dataclass(frozen=True)
class HostFit:
    """What was fitted, and the signed relative errors of the rows' steps: without any time of the host, and
    with that of a fit that did not see the row's model.
    """

    step_s: float
    sequence_s: float
    rows: tuple[Waited, ...]
    without: tuple[float, ...]
    held_out: tuple[float, ...]

    def bands(self) -> list[tuple[str, list[float], list[float]]]:
        """Both errors of services with few sequences and with many, and of all."""
        found = [("all", list(self.without), list(self.held_out))]
        for above, most in zip((0, *BANDS), (*BANDS, None), strict=True):
            at = [i for i, row in enumerate(self.rows) if above < row.sequences <= (most or row.sequences)]
            name = f"{above + 1} to {most}" if most else f"over {above}"
            found.append((name, [self.without[i] for i in at], [self.held_out[i] for i in at]))
        return found


def read_waits(path: Path, models: Path | None = None) -> tuple[list[Waited], list[str]]:
    """The rows of a table of services that have a time between tokens, and the models that no file describes.
    `models`: a folder of config.json files. InputError where no row is left.
    """
    rows = [row for row in read_power_rows(path) if row.median_itl_s]
    known = models_of(rows, models)
    found = []
    for row in rows:
        gpu, model = gpu_of(row.gpu), known[row.model]
        steps = simulated_step_s(row, model, gpu) if gpu is not None and model is not None else None
        if steps is not None and row.median_itl_s is not None:
            found.append(Waited(row.model, row.sequences, row.median_itl_s, steps[0]))
    if len({row.model for row in found}) < 3:
        what = (
            "has rows with median_itl_ms of fewer than three models; three are the fewest that tell anything"
        )
        raise InputError(Problem(what, file=str(path)))
    return found, [name for name, model in known.items() if model is None]


def fit(rows: Sequence[Waited]) -> HostFit:
    """The two times that leave the smallest sum of relative errors, and what they predict held out."""
    held_out: list[float] = []
    for row in rows:
        step_s, sequence_s = _fitted_without(row.model, rows)
        held_out.append((row.gpus_s + step_s + sequence_s * row.sequences) / row.measured_s - 1.0)
    without = tuple(row.gpus_s / row.measured_s - 1.0 for row in rows)
    return HostFit(*_fitted(rows), tuple(rows), without, tuple(held_out))


def _fitted_without(model: str, rows: Sequence[Waited]) -> tuple[float, float]:
    return _fitted([row for row in rows if row.model != model])


def _fitted(rows: Sequence[Waited]) -> tuple[float, float]:
    from scipy.optimize import least_squares

    sequences, measured_s, gpus_s = (np.array(of) for of in list(zip(*rows, strict=True))[1:])

    def residuals(numbers: Any, /) -> Any:
        host_s = 1e-3 * numbers[0] + 1e-6 * numbers[1] * sequences
        return (gpus_s + host_s) / measured_s - 1.0

    # Some services were measured with kernels that others' rows contradict: the middle counts.
    found = least_squares(residuals, [1.0, 40.0], bounds=(0.0, np.inf), loss="soft_l1", f_scale=0.02)
    return float(f"{1e-3 * found.x[0]:.3g}"), float(f"{1e-6 * found.x[1]:.3g}")
