"""What every calibration shares: a robust fit of positive numbers, and the errors of one measured curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.compared import ErrorSummary

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CurveErrors:
    """Errors on the points of one system, library, op (or phase) and size (ranks, or servers).

    `how` says what the fit did not see, or `shipped` of the parameters in use. Plainer models on the same
    points: `alpha_beta`, one latency and one rate, and `link_rate`, the rate of the links alone; None where
    they do not stand beside.
    """

    how: str
    system: str
    library: str
    op: str
    size: int
    errors: ErrorSummary
    alpha_beta: ErrorSummary | None = None
    link_rate: ErrorSummary | None = None


def log_fit(
    ratios: Callable[[Floats], Sequence[float]],
    start: Sequence[float],
    bounds: Sequence[tuple[float, float]] | None = None,
    **limits: Any,
) -> Floats:
    """The positive numbers that bring modelled over measured times nearest to one.

    Least squares of the logarithms of `ratios`, soft for outliers beyond 10 % (soft L1): a factor of 1.1
    counts the same at 10 us and at 10 ms. `bounds` are the lowest and the highest of each number; `limits`
    are scipy's.

    >>> log_fit(lambda numbers: [numbers[0] / 2.0, numbers[0] / 8.0], [1.0]).round(3).tolist()
    [4.0]
    """
    from scipy.optimize import least_squares

    logs = np.log(np.asarray(start, dtype=np.float64))
    if bounds is not None:
        low, high = np.log(np.asarray(bounds, dtype=np.float64)).T
        logs = np.clip(logs, low + 1e-6, high - 1e-6)
        limits["bounds"] = (low, high)

    def residuals(logs: Any, /) -> Any:
        return np.log(ratios(np.exp(logs)))

    found: Floats = np.exp(least_squares(residuals, logs, loss="soft_l1", f_scale=0.1, **limits).x)
    return found
