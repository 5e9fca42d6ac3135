"""A service time that is simply given: for queueing laws and for teaching, in place of kernels and layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sim.cost.batch import Batch, Causes
from sim.cost.program import NO_TRAFFIC, Op, Program, Traffic
from sim.cost.step_cost import FloatArray


@dataclass(frozen=True, slots=True)
class GivenCost:
    """A step takes `step_s` + `sequence_s` a sequence + `token_s` a token. No links, no context.

    With one request at a time, one output token and prompts of geometric length this is an M/M/1 server;
    without the token term M/D/1; with batches, Inoue's server with batch time a*b + t0 (Performance
    Evaluation 147, 2021).
    """

    step_s: float = 0.0
    sequence_s: float = 0.0
    token_s: float = 0.0

    def step(self, batch: Batch) -> tuple[float, Causes]:
        seconds = (
            self.step_s + self.sequence_s * (batch.decodes + len(batch.chunks)) + self.token_s * batch.tokens
        )
        return seconds, Causes(compute=seconds)

    def decode_steps(self, batch: Batch, steps: int) -> tuple[FloatArray, Callable[[int], Causes]]:
        seconds, _ = self.step(batch)
        return np.full(steps, seconds), lambda n: Causes(compute=n * seconds)

    def program(self, batch: Batch) -> Program:
        seconds, _ = self.step(batch)
        return Program([((Op("service", seconds),), 1, seconds)])

    def traffic(self, batch: Batch) -> Traffic:
        return NO_TRAFFIC
