"""A step on GPUs whose limit is set below their board's: where it would draw more, its kernels take longer.

The clock falls until the limit holds. Measured, the watts above idle fall with the clock to the power
`clock_exponent`, so that kernels take `(asked above idle / allowed above idle) ** (1 / clock_exponent)` times
as long. What a step asks for is the mean over all of it: firmware regulates over many milliseconds, longer
than a kernel. It depends on the step alone, so that a capped run folds, as any other, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sim.cost.batch import Batch, Causes
from sim.cost.power import drawn_w, watts_asked
from sim.cost.program import Program, Traffic
from sim.cost.shard import Shard
from sim.cost.step_cost import FloatArray, StepCost
from sim.cost.step_work import StepWork
from sim.cost.uneven_cost import UnevenCost

CLEARLY_BELOW = 1.0 - 1e-9  # of the cap: sums over arrays and over single steps differ in their last bits


class CappedCost:
    """The prices of `cost` under the cap of its shard."""

    __slots__ = ("_cap_w", "_work", "cost")

    def __init__(self, cost: StepCost, shard: Shard) -> None:
        assert shard.power_cap_w is not None
        self.cost = cost
        self._cap_w = shard.power_cap_w
        self._work = StepWork(shard)

    def step(self, batch: Batch) -> tuple[float, Causes]:
        """Seconds of one step, and their causes."""
        alone = self.cost.step(batch)
        factor = self._factor(batch, alone[0])
        return alone if factor == 1.0 else UnevenCost(self.cost, factor).step(batch)

    def decode_steps(self, batch: Batch, steps: int) -> tuple[FloatArray, Callable[[int], Causes]]:
        """Seconds of consecutive decode steps, and the causes of the first n of them: all at once where the
        cap binds in none.
        """
        seconds, causes = self.cost.decode_steps(batch, steps)
        if float(self._drawn_w([batch.grown(step) for step in (0, steps - 1)], seconds[[0, -1]]).max()) < (
            CLEARLY_BELOW * self._cap_w
        ) and float(self._drawn_w([batch.grown(step) for step in range(steps)], seconds).max()) < (
            CLEARLY_BELOW * self._cap_w
        ):
            return seconds, causes
        each = [self.step(batch.grown(step)) for step in range(steps)]
        return np.array([one for one, _ in each]), lambda n: Causes(
            *map(sum, zip(*(causes for _, causes in each[:n]), strict=True))
        )

    def program(self, batch: Batch) -> Program:
        """The ops of one step."""
        factor = self._factor(batch, self.cost.step(batch)[0])
        return self.cost.program(batch) if factor == 1.0 else UnevenCost(self.cost, factor).program(batch)

    def traffic(self, batch: Batch) -> Traffic:
        """The transfers of one step."""
        return self.cost.traffic(batch)

    def _drawn_w(self, batches: Sequence[Batch], seconds: FloatArray) -> FloatArray:
        """Watts of one GPU without the cap."""
        power = self._work.shard.gpu.power
        assert power is not None
        first = batches[0]
        new = float(first.prefill_tokens)
        back = sum(tokens * (cached + tokens / 2.0) for tokens, cached in first.chunks) / new if new else 0.0
        ones = np.ones(len(batches))
        work = self._work.of(
            new * ones,
            first.decodes * first.decode_tokens * ones,
            first.sampled * ones,
            np.array([float(one.decode_kv_tokens) for one in batches]),
            back,
        )
        return drawn_w(watts_asked(power, self._work.shard.gpu, work, seconds), power.max_w)

    def _factor(self, batch: Batch, seconds: float) -> float:
        if seconds <= 0.0:
            return 1.0
        power = self._work.shard.gpu.power
        assert power is not None
        drawn = float(self._drawn_w([batch], np.array([seconds]))[0])
        if drawn <= self._cap_w:
            return 1.0
        above = (drawn - power.idle_w) / (self._cap_w - power.idle_w)
        return float(above ** (1.0 / power.clock_exponent))
