"""Laws of service times and of times between arrivals, for the formulas that two moments do not answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.theory.arguments import bounded

Floats = NDArray[np.float64]
Complex = NDArray[np.complex128]


@dataclass(frozen=True, slots=True)
class Law:
    """A law of positive times: `tail(x)` is the share above x, `transform(s)` the mean of exp(-s time).

    Both take arrays. `cv2` is the squared coefficient of variation.
    """

    name: str
    mean: float
    cv2: float
    tail: Callable[[Floats], Floats] = field(repr=False, compare=False)
    transform: Callable[[Any], Any] = field(repr=False, compare=False)

    @property
    def second_moment(self) -> float:
        return self.mean**2 * (1.0 + self.cv2)


@bounded
def exponential(mean_s: float) -> Law:
    """The law without memory.

    Example:
        >>> exponential(2.0)
        Law(name='exponential', mean=2.0, cv2=1.0)
    """
    return Law("exponential", mean_s, 1.0, lambda x: np.exp(-x / mean_s), lambda s: 1.0 / (1.0 + s * mean_s))


@bounded
def constant(mean_s: float) -> Law:
    """The same time, always.

    Example:
        >>> constant(2.0).cv2
        0.0
    """
    return Law(
        "constant", mean_s, 0.0, lambda x: np.where(x < mean_s, 1.0, 0.0), lambda s: np.exp(-s * mean_s)
    )


@bounded
def erlang(mean_s: float, phases: int) -> Law:
    """The sum of `phases` equal exponential times: cv2 = 1/phases. (Erlang 1917.)

    Example:
        >>> erlang(2.0, 4).cv2
        0.25
    """
    rate = phases / mean_s

    def tail(x: Floats) -> Floats:
        term = np.exp(-rate * x)
        total = term.copy()
        for k in range(1, phases):
            term = term * rate * x / k
            total = total + term
        return np.asarray(total)

    return Law("erlang", mean_s, 1.0 / phases, tail, lambda s: (rate / (rate + s)) ** phases)


@bounded
def hyperexponential(mean_s: float, cv2: float) -> Law:
    """One of two exponential times, by chance, with balanced means: each branch brings half of the work.

    ValueError for a cv2 below 1. (Tijms, A First Course in Stochastic Models, appendix B.)

    Example:
        >>> hyperexponential(1.0, 4.0).second_moment
        5.0
    """
    if cv2 < 1.0:
        raise ValueError(f"hyperexponential: cv2 = {cv2}: must be at least 1; `erlang` has laws below")
    often = 0.5 * (1.0 + sqrt((cv2 - 1.0) / (cv2 + 1.0)))
    shares = often, 1.0 - often
    rates = tuple(2.0 * share / mean_s for share in shares)
    branches = tuple((share, rate) for share, rate in zip(shares, rates, strict=True) if share)

    def tail(x: Floats) -> Floats:
        return np.asarray(sum(share * np.exp(-rate * x) for share, rate in branches))

    return Law(
        "hyperexponential",
        mean_s,
        cv2,
        tail,
        lambda s: sum(share * rate / (rate + s) for share, rate in branches),
    )


@bounded
def uniform(mean_s: float) -> Law:
    """Every time from 0 to twice the mean is as likely.

    Example:
        >>> round(uniform(1.0).cv2, 4)
        0.3333
    """
    high_s = 2.0 * mean_s
    return Law(
        "uniform",
        mean_s,
        1.0 / 3.0,
        lambda x: np.clip(1.0 - x / high_s, 0.0, 1.0),
        lambda s: -np.expm1(-s * high_s) / (s * high_s),
    )
