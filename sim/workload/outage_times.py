"""When parts fail and are back: alternating times up and in repair, each part by itself.

A part is up for a Weibull time, whose hazard falls where the shape is below 1, and in repair for a lognormal
one. A run begins at no special instant of a part's life: its first failure is drawn from what is left of a
gap that is under way (the equilibrium distribution of a renewal process), so that failures come at the stated
rate from the first second on. With gaps drawn from their beginning, a falling hazard would make every run
begin with a burst of them.

The stream of a class of failures draws the first failure of all its parts; what comes later has a stream of
its own for each part. So neither another class nor a longer run changes what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.workload.random_streams import random_stream

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a part is up, in the mean and by the shape of a Weibull distribution (1: exponential), and how
    long in repair, by mean and median of a lognormal one.
    """

    mean_up_s: float
    shape: float
    repair_mean_s: float
    repair_median_s: float

    @property
    def availability(self) -> float:
        """The share of time that a part is up, in the long run.

        >>> Lifetimes(99.0, 0.7, 1.0, 0.5).availability
        0.99
        """
        return self.mean_up_s / (self.mean_up_s + self.repair_mean_s)

    @property
    def _scale_s(self) -> float:
        return self.mean_up_s / math.gamma(1.0 + 1.0 / self.shape)

    def up_s(self, stream: np.random.Generator) -> float:
        """A whole time up."""
        return self._scale_s * float(stream.weibull(self.shape))

    def left_up_s(self, n: int, stream: np.random.Generator) -> Floats:
        """What is left of the times up of `n` parts at an instant that has nothing to do with them: a uniform
        share of a gap, which is met in proportion to its length.
        """
        met = stream.gamma(1.0 + 1.0 / self.shape, size=n) ** (1.0 / self.shape)
        left: Floats = self._scale_s * met * stream.random(n)
        return left

    def repair_s(self, stream: np.random.Generator) -> float:
        """A time in repair."""
        spread = math.sqrt(2.0 * math.log(self.repair_mean_s / self.repair_median_s))
        return self.repair_median_s * math.exp(spread * float(stream.standard_normal()))


def outage_times(
    parts: int, lives: Lifetimes, until_s: float, seed: int, source: str
) -> Iterator[tuple[int, float, float, np.random.Generator]]:
    """The outages of so many parts that begin before `until_s`: part, begin, end, and a stream for what else
    is to be drawn of that outage, which changes no time. All parts are up at 0.
    """
    first_s = lives.left_up_s(parts, random_stream(seed, f"outages of {source}"))
    for part in np.flatnonzero(first_s < until_s).tolist():
        stream = random_stream(seed, f"outages of {source}, part {part}")
        beside = random_stream(seed, f"outages of {source}, part {part}, what else")
        at_s = float(first_s[part])
        while at_s < until_s:
            back_s = at_s + lives.repair_s(stream)
            yield part, at_s, back_s, beside
            at_s = back_s + lives.up_s(stream)
