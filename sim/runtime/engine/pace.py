"""By how much longer the kernels of each step take on the slowest rank of a stage: drawn anew for each step.

A stage with a pace goes step by step, since no two steps are alike; it still folds the ops of a step while
its links are quiet. Without jitter the pace is that of the slowest straggler, the same in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.cost.step_cost import StepCost
from sim.cost.uneven_cost import UnevenCost
from sim.inputs.unevenness import Jitter

DRAWN_AT_A_TIME = 256  # steps


class Pace:
    """Of one stage whose ranks take `factors` times as long as others, beside their jitter."""

    def __init__(self, factors: Sequence[float], jitter: Jitter | None, stream: np.random.Generator) -> None:
        self._factors = np.array(factors)
        self._jitter = jitter
        self._stream = stream
        self._drawn: list[float] = []  # the next steps', the last one first

    def next(self, cost: StepCost) -> StepCost:
        """The prices of the step that begins now."""
        if not self._drawn:
            self._drawn = self._draw()
        factor = self._drawn.pop()
        return cost if factor == 1.0 else UnevenCost(cost, factor)

    def _draw(self) -> list[float]:
        jitter, shape = self._jitter, (DRAWN_AT_A_TIME, len(self._factors))
        if jitter is None:
            return [float(self._factors.max())] * DRAWN_AT_A_TIME
        if jitter.kind == "gamma":
            drawn = self._stream.gamma(jitter.cv**-2, jitter.cv**2, shape)
        else:
            variance = float(np.log1p(jitter.cv**2))
            drawn = self._stream.lognormal(-0.5 * variance, variance**0.5, shape)
        slowest: list[float] = (drawn * self._factors).max(axis=1).tolist()
        return slowest[::-1]
