"""What every calibration here shares: a robust fit of positive numbers, and errors on what no fit saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """Errors on the points of one system, library, op (or phase) and size (ranks, or servers).

    `how` says what was held out of the fit. Quantiles are of |error|, `bias` is the signed median;
    `alpha_beta_median` and `link_rate_median` are those of plainer models on the same points, NaN where they
    do not stand beside.
    """

    how: str
    system: str
    library: str
    op: str
    size: int
    points: int
    median: float
    p90: float
    bias: float
    alpha_beta_median: float = np.nan
    link_rate_median: float = np.nan


def judged(
    how: str,
    group: tuple[str, str, str, int],
    errors: Sequence[float],
    alpha_beta: Sequence[float] = (),
    link_rate: Sequence[float] = (),
) -> Judged:
    """The relative errors of one group of points (system, library, op, size) in a row of a table."""
    median, p90 = quantile(errors, 0.5), quantile(errors, 0.9)
    plain = (quantile(beside, 0.5) if len(beside) else np.nan for beside in (alpha_beta, link_rate))
    return Judged(how, *group, len(errors), median, p90, float(np.median(errors)), *plain)


def quantile(errors: Sequence[float], share: float) -> float:
    """Of |error|."""
    return float(np.quantile(np.abs(errors), share))


def log_fit(
    ratios: Callable[[Floats], Sequence[float]],
    start: Sequence[float],
    bounds: Sequence[tuple[float, float]] | None = None,
    **limits: Any,
) -> Floats:
    """The positive numbers that bring modelled over measured times nearest to one.

    Least squares of the logarithms of `ratios`, soft for outliers beyond 10 % (soft L1): a factor of 1.1
    counts the same at 10 us and at 10 ms. `bounds` are the least and the most of each number; `limits` are
    scipy's.

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
