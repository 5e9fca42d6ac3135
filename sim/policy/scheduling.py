"""Which sequences compute how many tokens in the next step.

A rule is a frozen dataclass whose fields are its knobs and whose `__call__` asks an engine for what it wants:
`allocate` KV blocks to a running sequence, `admit` a waiting one, `preempt`. The engine says whether there is
room; the rule says in which order. Any callable with the same signature serves, as long as it answers the
same for the same engine: a step in which nothing can change is taken as chosen like the one before it, and
the rule is not called.

`ContinuousBatching` follows vLLM V1's `Scheduler.schedule` (v1/core/sched/scheduler.py): running sequences
first, in order, under one token budget; then waiting ones, unless a sequence had to be preempted.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Schedulable(Protocol):
    """What a rule may know of a sequence. Its output length is not among it."""

    @property
    def pending_tokens(self) -> int:
        """Known tokens that are not computed yet: 1 when decoding, 0 while a step that computes them is in
        flight.
        """

    @property
    def known_tokens(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def arrival_s(self) -> float: ...


S = TypeVar("S", bound=Schedulable)
Grants = list[tuple[S, int]]


class EngineView(Protocol[S]):
    """What a rule may ask of the engine it schedules for."""

    token_budget: int
    draft_tokens: int
    """Speculated tokens that every decode computes beside its own."""

    @property
    def max_running(self) -> int:
        """The most sequences that may run in this step: vLLM's `max_num_seqs`, less those that have ended and
        keep their place until the step is chosen.
        """

    @property
    def running(self) -> Ordered[S]:
        """Sequences that hold blocks, in the order in which they were admitted."""

    @property
    def requests(self) -> int:
        """Running and waiting sequences."""

    def next_waiting(self) -> S | None:
        """The first waiting sequence in the engine's order, or None."""

    def cached_tokens(self, sequence: S) -> int:
        """Tokens of a waiting sequence whose KV blocks are present."""

    def allocate_together(self, max_grants: int, /) -> Grants[S]:
        """A token for each of those in front of `running` that decode in step with each other, at most
        `max_grants` of them, and their blocks. Where the blocks do not suffice for all of them, or none
        decode in step, nothing is granted here, and the rule asks for each by itself.
        """

    def allocate(self, sequence: S, tokens: int) -> bool:
        """Blocks for `tokens` more tokens of a running sequence; False when there are not enough."""

    def admit(self, sequence: S, cached_tokens: int, tokens: int) -> bool:
        """Move the first waiting sequence to the running ones, with blocks for its cached and `tokens` new
        tokens.
        """

    def preempt(self, sequence: S) -> None:
        """Free a running sequence's blocks and put it at the front of the waiting ones; it will be
        recomputed.
        """


@dataclass(frozen=True, slots=True)
class ContinuousBatching:
    """vLLM V1: one budget over decodes and prefill chunks; preemption from the back, by recomputation.

    `chunked_prefill` False admits only whole prompts. `long_prefill_token_threshold` caps one sequence's
    tokens in a step (0: no cap). `by_priority` preempts the lowest priority (then latest arrival) instead of
    the last to run. `even_shares` spreads the sequences over so many batches in flight, where vLLM would give
    the first batch all that are ready and leave the other pipeline stages idle (vllm#15330).
    """

    chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    by_priority: bool = False
    even_shares: int = 1

    def __call__(self, engine: EngineView[S]) -> Grants[S]:
        max_grants = -(-engine.requests // self.even_shares)
        # Those that decode in step with each other stand in front and take one token each, all at once.
        grants = engine.allocate_together(min(engine.token_budget, max_grants))
        position = len(grants)
        budget = engine.token_budget - position
        preempted = False
        running, speculates = engine.running, engine.draft_tokens > 0
        while position < len(running) and budget > 0 and len(grants) < max_grants:
            sequence = running[position]
            tokens = sequence.pending_tokens
            if tokens != 1:  # a decode is never capped, and most are decodes
                tokens = min(self._capped(tokens), budget)
            if tokens == 0:
                position += 1
                continue
            if not engine.allocate(sequence, tokens):
                preempted = True
                victims = self._make_room(engine, sequence, tokens)
                grants, freed = self._without(engine, grants, victims)
                budget += freed
                if victims[-1] is sequence:  # preempted itself: those behind it have lower rank, and no step
                    break
                position = running.index(sequence)  # victims by priority may have stood before it
            grants.append((sequence, tokens))
            budget -= tokens
            if speculates:
                budget -= min(self._drafts(engine, sequence, tokens), budget)
            position += 1
        # A sequence that is admitted now would take the blocks for which another was just preempted.
        if not preempted:
            self._admit(engine, grants, budget, max_grants)
        return grants

    def _make_room(self, engine: EngineView[S], sequence: S, tokens: int) -> list[S]:
        """Preempt until `sequence` gets its blocks; the victims in order, `sequence` itself the last of them
        where preempting all others was not enough.
        """
        victims: list[S] = []
        while True:
            victim = self._victim(engine.running)
            engine.preempt(victim)
            victims.append(victim)
            if victim is sequence or engine.allocate(sequence, tokens):
                return victims

    def _without(self, engine: EngineView[S], grants: Grants[S], victims: list[S]) -> tuple[Grants[S], int]:
        """The grants of all but the victims, and the tokens that the victims' grants give back."""
        kept: Grants[S] = []
        freed = 0
        for granted, tokens in grants:
            if any(granted is victim for victim in victims):
                freed += tokens + self._drafts(engine, granted, tokens)
            else:
                kept.append((granted, tokens))
        return kept, freed

    def _admit(self, engine: EngineView[S], grants: Grants[S], budget: int, max_grants: int) -> None:
        while budget > 0 and len(engine.running) < engine.max_running and len(grants) < max_grants:
            sequence = engine.next_waiting()
            if sequence is None:
                return
            cached = engine.cached_tokens(sequence)
            tokens = self._capped(sequence.known_tokens - cached)
            if tokens > budget and not self.chunked_prefill:
                return
            tokens = min(tokens, budget)
            # First come, first served: a sequence that finds no blocks holds up all behind it, as in vLLM.
            if not engine.admit(sequence, cached, tokens):
                return
            grants.append((sequence, tokens))
            budget -= tokens

    @staticmethod
    def _drafts(engine: EngineView[S], sequence: S, tokens: int) -> int:
        return engine.draft_tokens if tokens == sequence.pending_tokens == 1 else 0

    def _capped(self, tokens: int) -> int:
        threshold = self.long_prefill_token_threshold
        return min(tokens, threshold) if threshold else tokens

    def _victim(self, running: Ordered[S]) -> S:
        if self.by_priority:
            return max(running, key=lambda sequence: (sequence.priority, sequence.arrival_s))
        return running[-1]


@dataclass(frozen=True, slots=True)
class PrefillFirst:
    """Continuous batching without chunks: a step is either whole prompts or decodes, prompts first (vLLM V0,
    Orca).
    """

    def __call__(self, engine: EngineView[S]) -> Grants[S]:
        budget = engine.token_budget
        grants: Grants[S] = []
        while len(engine.running) < engine.max_running:
            sequence = engine.next_waiting()
            if sequence is None:
                break
            cached = engine.cached_tokens(sequence)
            tokens = sequence.known_tokens - cached
            if (tokens > budget and grants) or not engine.admit(sequence, cached, tokens):
                break
            grants.append((sequence, tokens))
            budget -= tokens
        return grants or _decodes(engine)


def _decodes(engine: EngineView[S]) -> Grants[S]:
    """A step of every running sequence, the last ones preempted where blocks run out."""
    grants = engine.allocate_together(len(engine.running))
    position = len(grants)
    while position < len(engine.running):
        sequence = engine.running[position]
        tokens = sequence.pending_tokens
        while tokens and not engine.allocate(sequence, tokens):
            victim = engine.running[-1]
            engine.preempt(victim)
            if victim is sequence:
                return grants
        if tokens:
            grants.append((sequence, tokens))
        position += 1
    return grants


@dataclass(frozen=True, slots=True)
class StaticBatching:
    """A batch is formed when the engine is empty and runs until its last sequence is done; none joins
    meanwhile.
    """

    def __call__(self, engine: EngineView[S]) -> Grants[S]:
        if engine.running:
            return _decodes(engine)
        return PrefillFirst()(engine)
