"""A step whose kernels take longer than in the mean, because the slowest of its ranks does.

Every rank waits for all others at every transfer, so that the whole step has the pace of the slowest one.
Transfers and host work keep their seconds. A layer that waits for its launches waits less by what its kernels
take longer. What runs beside a transfer and is hidden by it keeps its time, too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import numpy as np

from sim.cost.batch import Batch, Causes
from sim.cost.program import Op, Program, Traffic
from sim.cost.step_cost import FloatArray, StepCost

OF_THE_HOST = "host"  # as `Pricer.host` calls its op
WAITS = "wait for launch"  # as `LayerKind.timed_ops` calls it
SHORTEST_WAIT_S = 1e-12  # what rounding leaves is no wait, there as here


class UnevenCost:
    """The prices of `cost`, with kernels that take `factor` times as long."""

    __slots__ = ("cost", "factor")

    def __init__(self, cost: StepCost, factor: float) -> None:
        self.cost = cost
        self.factor = factor

    def step(self, batch: Batch) -> tuple[float, Causes]:
        """Seconds of one step, and their causes."""
        alone_s, causes = self.cost.step(batch)
        program, hidden_s = self._paced(batch)
        kernels_s = causes.compute + causes.memory + causes.kernel_latency
        share = 1.0 + (program.total_s - alone_s + hidden_s) / kernels_s if kernels_s else 1.0
        return program.total_s, causes._replace(
            compute=share * causes.compute,
            memory=share * causes.memory,
            kernel_latency=share * causes.kernel_latency,
            host=causes.host - hidden_s,
        )

    def decode_steps(self, batch: Batch, steps: int) -> tuple[FloatArray, Callable[[int], Causes]]:
        """Seconds of consecutive decode steps, and the causes of the first n of them."""
        each = [self.step(batch.grown(step)) for step in range(steps)]
        seconds = np.array([one for one, _ in each])
        return seconds, lambda n: Causes(*map(sum, zip(*(causes for _, causes in each[:n]), strict=True)))

    def program(self, batch: Batch) -> Program:
        """The ops of one step."""
        return self._paced(batch)[0]

    def traffic(self, batch: Batch) -> Traffic:
        """The transfers of one step."""
        return self.cost.traffic(batch)

    def _paced(self, batch: Batch) -> tuple[Program, float]:
        """The ops of one step, and by how much its waits for launches are shorter."""
        blocks, hidden_s = [], 0.0
        for block in self.cost.program(batch).blocks:
            ops, later_s = [], 0.0  # since the last wait
            for op in block.ops:
                seconds = op.seconds
                if op.name == WAITS:
                    seconds = seconds - later_s if seconds - later_s > SHORTEST_WAIT_S else 0.0
                    hidden_s += block.repeat * (op.seconds - seconds)
                    later_s = 0.0
                    if not seconds:
                        continue
                elif op.demand is None and op.name != OF_THE_HOST:
                    seconds = self.factor * seconds
                    later_s += seconds - op.seconds
                ops.append(op if seconds == op.seconds else Op(op.name, seconds, op.demand))
            # As `Block.of` adds them up, so that the last op does not begin after the end of its block.
            *_, period_s = accumulate([op.seconds for op in ops], initial=0.0)
            blocks.append((tuple(ops), block.repeat, period_s))
        return Program(blocks), hidden_s
