"""A request inside an engine: what is computed of it, which KV blocks it holds, and where its time went."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.results.blame import CAUSES
from sim.runtime.request import Request

if TYPE_CHECKING:
    from sim.runtime.engine_queue import EngineQueue

_COMPUTE = (CAUSES.index("prefill_compute"), CAUSES.index("decode_compute"))
_RECOMPUTE = CAUSES.index("recompute")


class Sequence:
    """Mutable state of one request in one replica. Tokens are counts; times are simulated seconds."""

    __slots__ = (
        "admitted_s",
        "blame",
        "cached_tokens",
        "charged_s",
        "computed",
        "decode_steps",
        "decoded",
        "dropped",
        "eligible_step",
        "finished_s",
        "first_token_s",
        "generated",
        "held",
        "in_flight",
        "last_token_s",
        "mark",
        "name_ends",
        "nameless_blocks",
        "names",
        "output_tokens",
        "preemptions",
        "queue",
        "queued_s",
        "received",
        "recomputing",
        "replica",
        "request",
        "resubmissions",
        "routed_s",
    )  # fmt: skip

    queue: EngineQueue

    def __init__(self, request: Request, output_tokens: int, queued_s: float, replica: int) -> None:
        self.request = request
        self.output_tokens = output_tokens  # what it will generate: known to the clock, never to a rule
        self.generated = 0
        self.computed = 0
        self.in_flight = 0
        self.eligible_step = 0
        self.nameless_blocks = 0
        self.names: tuple[int, ...] = request.block_hashes
        self.name_ends: tuple[int, ...] = ()
        self.held = 0
        self.cached_tokens = 0
        self.preemptions = 0
        self.resubmissions = 0
        self.routed_s = request.arrival_s
        self.queued_s = queued_s
        self.admitted_s: float | None = None
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.finished_s: float | None = None
        self.charged_s = queued_s
        self.recomputing = False
        self.blame = [0.0] * len(CAUSES)
        self.replica = replica
        self.mark: tuple[float, ...] | None = None
        self.dropped = 0
        self.decode_steps = 0
        self.decoded: NDArray[np.int64] | None = None  # tokens after each decode step, with drafts
        self.received = False  # KV cache of it came from another replica, or from a lower tier

    def start_over(self) -> None:
        """Its replica has failed: what it has generated is known, and all of it has to be computed again."""
        self.recomputing = self.recomputing or self.admitted_s is not None
        self.computed = self.in_flight = self.dropped = 0
        self.nameless_blocks = self.held = 0
        self.received = False
        self.mark = None
        self.resubmissions += 1

    # ---- what scheduling rules see

    @property
    def known_tokens(self) -> int:
        return self.request.prompt_tokens + self.generated

    @property
    def pending_tokens(self) -> int:
        return self.request.prompt_tokens + self.generated - self.computed

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def arrival_s(self) -> float:
        return self.request.arrival_s

    def end_within(self, max_model_len: int) -> None:
        """Its answer ends where the text is as long as a replica can have it."""
        longest = max_model_len - self.request.prompt_tokens
        self.output_tokens = max(1, self.generated, min(self.output_tokens, longest))

    # ---- where its time went

    def charge(self, causes: Ordered[float], until_s: float) -> None:
        """Charge the time since the last charge to the causes of the steps it sat in."""
        blame = self.blame
        if self.recomputing:
            blame[_RECOMPUTE] += until_s - self.charged_s
        else:
            phase = _COMPUTE[self.generated > 0]
            blame[phase] += causes[0]
            for cause, seconds in enumerate(causes):
                if cause:
                    blame[cause + 1] += seconds
        self.charged_s = until_s

    def wait(self, cause: int, until_s: float) -> None:
        """Charge the time since the last charge to one cause."""
        self.blame[cause] += until_s - self.charged_s
        self.charged_s = until_s
