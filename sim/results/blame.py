"""Where a request's time went: the names of the causes, and what stands in which column.

Every second between a request's arrival and its last token is charged to exactly one cause, along the
request's own path: while it waits, to what it waits for; while a step computes it, to the parts of that step,
as far as it would have had them without the prompts of others, and to `interference` for the rest.
A request's causes add up to its latency, those of an aborted one to the time until it left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.results.columns import Table

CAUSES: tuple[str, ...] = (
    "prefill_compute",  # FLOP-bound kernel time of steps before its first token
    "decode_compute",  # FLOP-bound kernel time of steps after it
    "memory",  # HBM-bound kernel time
    "kernel_latency",  # launch floors of kernels
    "collective_latency",  # start-up and hops of collectives
    "collective_bytes",  # bytes of collectives over links that carry nothing else
    "host",  # the engine's processor time that the GPUs wait for, and the API server
    "sharing",  # what transfers lost to other traffic on their links
    "pipeline",  # waiting for a pipeline stage, and sending between stages
    "interference",  # what prompt chunks of other requests added to its steps
    "routing",  # from arrival to the replica's queue
    "admission",  # in the queue before the first step
    "preempted",  # in the queue after a preemption
    "recompute",  # steps that compute again what a preemption or a failure threw away
    "hand_over",  # KV cache on its way to another replica or tier
)
"""Column order of `Result.blame`."""


class BlameRecords(Table):
    """One row per finished or aborted request: seconds by cause."""

    def __init__(self) -> None:
        super().__init__({"request_id": "count", **dict.fromkeys(CAUSES, "number")})

    def add(self, request_id: int, seconds: Sequence[float]) -> None:
        """`seconds` in the order of CAUSES."""
        self.append(request_id, *seconds)

    def order(self) -> NDArray[np.int64]:
        """By request_id, as the requests are shown."""
        return np.argsort(self["request_id"], kind="stable")
