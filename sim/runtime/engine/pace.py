"""By how much longer the kernels of each step take on the slowest rank of a stage: drawn anew for each step.

A stage with a pace goes step by step, since no two steps are alike; it still folds the ops of a step while
its links are quiet. Without jitter the pace is that of the slowest straggler, the same in every step.
An outage can make a rank slow for a while: a step has the pace of the instant at which it begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.cost.step_cost import StepCost
from sim.cost.uneven_cost import UnevenCost
from sim.inputs.unevenness import Jitter

Floats = NDArray[np.float64]

DRAWN_AT_A_TIME = 256  # steps

Slow = tuple[float, float | None, float]
"""From when until when (None: for ever) a rank is slow, and by which factor."""


class Pace:
    """Of one stage whose ranks take `factors` times as long as others, beside their jitter; `slow` has the
    times in which each rank is slower still.
    """

    def __init__(
        self,
        factors: Sequence[float],
        jitter: Jitter | None,
        stream: np.random.Generator,
        slow: Sequence[Sequence[Slow]] = (),
    ) -> None:
        self._factors = np.array(factors)
        self._jitter = jitter
        self._stream = stream
        self._slow = slow
        self._drawn: list[float] = []  # the next steps', the last one first
        self._by_rank: list[Floats] = []

    def next(self, cost: StepCost, at_s: float) -> StepCost:
        """The prices of the step that begins at `at_s`, which is now."""
        factor = self._at(at_s) if self._slow else self._any_time()
        return cost if factor == 1.0 else UnevenCost(cost, factor)

    def _any_time(self) -> float:
        if not self._drawn:
            slowest: list[float] = self._draw().max(axis=1).tolist()
            self._drawn = slowest
        return self._drawn.pop()

    def _at(self, at_s: float) -> float:
        if not self._by_rank:
            self._by_rank = list(self._draw())
        now = [
            math.prod(factor for begin_s, end_s, factor in slow if begin_s <= at_s < (end_s or math.inf))
            for slow in self._slow
        ]
        return float((self._by_rank.pop() * now).max())

    def _draw(self) -> Floats:
        """The factors of every rank in the next steps, the last step first: shape [steps, ranks]."""
        jitter, shape = self._jitter, (DRAWN_AT_A_TIME, len(self._factors))
        if jitter is None:
            return np.broadcast_to(self._factors, shape)
        if jitter.kind == "gamma":
            drawn = self._stream.gamma(jitter.cv**-2, jitter.cv**2, shape)
        else:
            variance = float(np.log1p(jitter.cv**2))
            drawn = self._stream.lognormal(-0.5 * variance, variance**0.5, shape)
        factors: Floats = (drawn * self._factors)[::-1]
        return factors
