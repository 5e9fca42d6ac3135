"""A request inside an engine: what is computed of it, which KV blocks it holds, and where its time went.

The state is public: the queue, the cohort, the speculator and the loop each write their own part of it in the
inner loop of a run, where a method per field would cost more than it protects. What moves several fields
together has a verb: `admit`, `start_over`, `end_within`, `charge`, `wait`.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.results.blame import CAUSES
from sim.runtime.engine.attribution import (
    DECODE_STEP,
    PREFILL_STEP,
    REQUEST_ADMISSION,
    REQUEST_PREEMPTED,
    REQUEST_RECOMPUTE,
)
from sim.workload.request import Request

if TYPE_CHECKING:
    from sim.runtime.engine.cohort import Cohort
    from sim.runtime.engine.queue import RequestQueue


class Sequence:
    """Mutable state of one request in one replica. Tokens are counts; times are simulated seconds.

    `own_computed`, `own_generated` and `own_unhashed_blocks` are its counts, or, of a member of a cohort, the
    differences to what the cohort has counted; `last_token_s` of a member is the cohort's. The first `held`
    of its `block_hashes` are of blocks that it holds; `hash_ends` are the tokens that each covers up to.
    """

    __slots__ = (
        "admitted_s",
        "blame",
        "blame_at_first",
        "block_hashes",
        "cached_tokens",
        "charged_s",
        "cohort",
        "decode_steps",
        "decoded",
        "dropped",
        "eligible_step",
        "finished_s",
        "first_token_s",
        "hash_ends",
        "held",
        "in_flight",
        "last_token_s",
        "mark",
        "output_tokens",
        "own_computed",
        "own_generated",
        "own_unhashed_blocks",
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

    queue: RequestQueue

    def __init__(self, request: Request, output_tokens: int, queued_s: float, replica: int) -> None:
        self.request = request
        self.output_tokens = output_tokens  # what it will generate: known to the clock, never to a rule
        self.cohort: Cohort | None = None
        self.own_generated = 0
        self.own_computed = 0
        self.own_unhashed_blocks = 0
        self.in_flight = 0  # steps under way that it is in
        self.eligible_step = 0  # the first step that may admit it
        self.block_hashes: tuple[int, ...] = request.block_hashes
        self.hash_ends: tuple[int, ...] = ()
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
        self.charged_s = queued_s  # up to when its seconds have been charged to causes
        self.recomputing = False  # since a preemption or failure, until its next token
        self.blame = [0.0] * len(CAUSES)
        self.blame_at_first: tuple[float, ...] = ()  # what of it came before the first token
        self.replica = replica
        self.mark: tuple[float, ...] | None = None  # the ledger at `charged_s`
        self.dropped = 0  # steps under way that give it no tokens any more
        self.decode_steps = 0
        self.decoded: NDArray[np.int64] | None = None  # tokens after each decode step, with drafts
        self.received = False  # its KV cache came from another replica, or from a lower tier

    def start_over(self) -> None:
        """Its replica has failed: its tokens are known, and their KV cache has to be computed again."""
        self.recomputing = self.recomputing or self.admitted_s is not None
        self.computed = self.in_flight = self.dropped = 0
        self.unhashed_blocks = self.held = 0
        self.received = False
        self.mark = None
        self.resubmissions += 1

    # ---- how far it is

    @property
    def generated(self) -> int:
        cohort = self.cohort
        return self.own_generated if cohort is None else self.own_generated + cohort.generated

    @generated.setter
    def generated(self, tokens: int) -> None:
        assert self.cohort is None, "a cohort gives its tokens to all"
        self.own_generated = tokens

    @property
    def computed(self) -> int:
        """Tokens whose KV cache is there, or comes with the step under way."""
        cohort = self.cohort
        return self.own_computed if cohort is None else self.own_computed + cohort.computed

    @computed.setter
    def computed(self, tokens: int) -> None:
        assert self.cohort is None, "a cohort computes for all"
        self.own_computed = tokens

    @property
    def unhashed_blocks(self) -> int:
        """Blocks that it holds and no other sequence can find."""
        cohort = self.cohort
        own = self.own_unhashed_blocks
        return own if cohort is None else own + cohort.blocks_of(self)

    @unhashed_blocks.setter
    def unhashed_blocks(self, blocks: int) -> None:
        cohort = self.cohort
        self.own_unhashed_blocks = blocks if cohort is None else blocks - cohort.blocks_of(self)

    # ---- what scheduling rules see

    @property
    def known_tokens(self) -> int:
        return self.request.prompt_tokens + self.generated

    @property
    def pending_tokens(self) -> int:
        cohort = self.cohort
        own = self.request.prompt_tokens + self.own_generated - self.own_computed
        return own if cohort is None else own + cohort.generated - cohort.computed

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def arrival_s(self) -> float:
        return self.request.arrival_s

    def end_within(self, max_model_len: int) -> None:
        """Its output ends where prompt and output are as long as a replica takes them."""
        longest = max_model_len - self.request.prompt_tokens
        self.output_tokens = max(1, self.generated, min(self.output_tokens, longest))

    # ---- where its time went

    def admit(self, now: float, cached_tokens: int, mark: tuple[float, ...] | None) -> None:
        """It runs from here on; `mark` is what the ledger reads at this instant."""
        self.charge_queueing(now)
        if self.admitted_s is None:
            self.admitted_s = now
            self.cached_tokens = cached_tokens
        self.mark = mark

    def charge_queueing(self, until_s: float) -> None:
        """Charge the time since the last charge to standing in a queue."""
        self.wait(REQUEST_PREEMPTED if self.recomputing else REQUEST_ADMISSION, until_s)

    def charge(self, causes: Ordered[float], until_s: float) -> None:
        """Charge the time since the last charge to the causes of the steps it was in, `causes` by
        `STEP_CAUSES`. Steps that recompute are one cause, whatever they spend their time on.
        """
        blame = self.blame
        if self.recomputing:
            blame[REQUEST_RECOMPUTE] += until_s - self.charged_s
        else:
            columns = DECODE_STEP if self.generated else PREFILL_STEP
            for column, seconds in zip(columns, causes, strict=True):
                blame[column] += seconds
        self.charged_s = until_s

    def wait(self, cause: int, until_s: float) -> None:
        """Charge the time since the last charge to one cause."""
        self.blame[cause] += until_s - self.charged_s
        self.charged_s = until_s
