"""The prices of a pipeline stage's steps: what a stage asks for, and the simplest answer.

`StageCost` (`stage_cost.py`) answers from kernels, layers and collectives; `GivenCost` from three constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim.cost.batch import Batch, Causes
from sim.cost.program import NO_TRAFFIC, Op, Program, Traffic

FloatArray = npt.NDArray[np.float64]


class StepCost(Protocol):
    """Prices of one stage's steps when nothing interferes. All methods are pure."""

    def step(self, batch: Batch) -> tuple[float, Causes]:
        """Seconds of one step, and their causes."""

    def decode_steps(self, batch: Batch, steps: int) -> tuple[FloatArray, Callable[[int], Causes]]:
        """Seconds of consecutive decode steps of one batch, shape [steps]; and the causes of the first n of
        them.

        `decode_steps(batch, n)[0][0]` equals `step(batch)[0]` to the last bit, and so on for the grown
        batches.
        """

    def program(self, batch: Batch) -> Program:
        """The ops of one step; its `total_s` equals `step(batch)[0]` to the last bit."""

    def traffic(self, batch: Batch) -> Traffic:
        """The transfers of one step, and the links that the stage uses. Independent of the context."""


@dataclass(frozen=True, slots=True)
class GivenCost:
    """Service times for queueing laws and for teaching: a step takes `step_s` + `sequence_s` a sequence +
    `token_s` a token. No links, no context.

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
