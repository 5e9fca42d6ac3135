"""What a pipeline stage needs to know of its steps, whoever prices them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim.cost.batch import Batch, Causes
from sim.cost.program import Program, Traffic

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
