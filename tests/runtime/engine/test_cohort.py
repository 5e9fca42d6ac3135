"""A cohort changes what a step costs, never what it does: a queue that counts decoding sequences as one is,
at every step, the queue that goes from one to the next.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.policy.scheduling import ContinuousBatching, Grants, PrefillFirst, StaticBatching
from sim.runtime.engine.attribution import StepLedger
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.cohort import Cohort
from sim.runtime.engine.flight import begun
from sim.runtime.engine.queue import QueueLimits, RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.speculation import Speculator
from sim.workload.request import Request

ANSWERS = Speculator(None, 0)
Rule = Callable[[Any], Grants[Sequence]]


class Engine:
    """A queue and the steps that it takes, a second each, some of them several at once; `counts` False asks
    about each sequence by itself.
    """

    def __init__(self, limits: dict[str, Any], *, counts: bool = True) -> None:
        self.env = SimpleNamespace(now=0.0)
        self.cache = BlockPool(
            limits["blocks"], limits["block_size"], enable_prefix_caching=True, watermark=limits["watermark"]
        )
        self.evicted: list[tuple[int, int]] = []
        self.cache.on_evicted = lambda unit, blocks: self.evicted.append((unit, blocks))
        self.queue = RequestQueue(
            self.env,
            self.cache,
            QueueLimits(
                token_budget=limits["budget"],
                max_num_seqs=limits["max_num_seqs"],
                by_priority=limits["by_priority"],
                reserve_full_prompt=limits["reserve_full_prompt"],
                async_scheduling=limits["async_scheduling"],
            ),
            StepLedger(),
        )
        if not counts:
            self.queue.allocate_together = lambda most: []  # type: ignore[method-assign]
        self.sequences: list[Sequence] = []
        self.ended: list[tuple[float, int]] = []

    def add(self, prompt: int, output: int, priority: int, hashes: tuple[int, ...]) -> None:
        request = Request(
            len(self.sequences), self.env.now, prompt, output, hashes, 16 if hashes else 0, priority=priority
        )
        sequence = Sequence(request, output, self.env.now, 0)
        sequence.queue = self.queue
        self.queue.hash_blocks(sequence, request)
        self.queue.enqueue(sequence)
        self.sequences.append(sequence)

    def abort(self, number: int) -> None:
        sequence = self.sequences[number % len(self.sequences)] if self.sequences else None
        if sequence in self.queue.running or sequence in self.queue.waiting:
            self.queue.leave(sequence)

    def step(self, rule: Rule, most: int) -> list[tuple[int, int]]:
        """A step, or up to `most` alike where all decode and there are blocks; what it granted."""
        granted = rule(self.queue)
        self.queue.release_ended()
        shown = [(sequence.request.request_id, tokens) for sequence, tokens in granted]
        part, batch = begun(self.queue, granted, ANSWERS)
        together = self.queue.cohort if part.together else None
        steps = 1
        if granted and not batch.chunks:
            alone = [one for one, _ in part.grants]
            fits = [1 for one in alone if one.recomputing or not one.generated]
            left = [one.output_tokens - one.generated for one in alone]
            most = min([most, *fits, *left, *([together.steps_left] if together else [])])
            while steps < most and self._blocks(granted, steps) <= self.cache.free_blocks:
                steps += 1
        if together:
            assert together.blocks_for(steps - 1) == self._blocks(together.grants, steps - 1)
            self.queue.grow_together(steps - 1)
        for sequence, _ in part.grants:
            self.queue.grow(sequence, steps - 1)
        self.env.now += steps
        given = together.give(steps, self.env.now) if together else []
        for (sequence, _), samples in zip(part.grants, part.samples, strict=True):
            if samples:
                sequence.recomputing = False
                ANSWERS.give(sequence, steps, self.env.now)
                given.append(sequence)
        for sequence in [one for one in given if one.generated >= one.output_tokens]:
            self.queue.finish(sequence)
            self.ended.append((self.env.now, sequence.request.request_id))
        return [*shown, (batch.decodes, int(batch.decode_kv_tokens)), (batch.sampled, steps)]

    def _blocks(self, granted: Grants[Sequence], steps: int) -> int:
        size = self.cache.block_size
        return sum(-(-(one.computed + steps) // size) - -(-one.computed // size) for one, _ in granted)

    def state(self) -> Any:
        """All that can be seen from outside, and the order in which blocks will be taken."""
        self.cache.check()
        return (
            [self._figures(sequence) for sequence in self.sequences],
            [sequence.request.request_id for sequence in self.queue.running],
            [sequence.request.request_id for sequence in self.queue.waiting],
            [(0 if isinstance(key, tuple) else key, n) for key, n in self.cache._free_queue.items()],
            (self.queue.tokens, self.queue.preemptions, self.cache.free_blocks, self.queue.max_running),
            self.evicted,
            self.ended,
        )

    def _figures(self, sequence: Sequence) -> tuple[Any, ...]:
        tokens = sequence.computed, sequence.generated, sequence.known_tokens, sequence.pending_tokens
        last_s = sequence.last_token_s if sequence.cohort is None else sequence.cohort.last_token_s
        blocks = sequence.unhashed_blocks, sequence.held
        return *tokens, last_s, *blocks, sequence.preemptions, sequence.recomputing


def one_by_one(queue: Any) -> Grants[Sequence]:
    """A rule from a script that knows nothing of cohorts: what decodes, the last first."""
    return [(one, 1) for one in reversed(queue.running) if one.pending_tokens == 1 and queue.allocate(one, 1)]


def every_other(queue: Any) -> Grants[Sequence]:
    """A rule from a script that takes half of what another one has granted."""
    return ContinuousBatching()(queue)[::2]


def none_of_them(queue: Any) -> Grants[Sequence]:
    ContinuousBatching()(queue)
    return []


RULES: dict[str, Rule] = {
    "vllm": ContinuousBatching(),
    "priority": ContinuousBatching(by_priority=True),
    "threshold": ContinuousBatching(long_prefill_token_threshold=20),
    "whole prompts": ContinuousBatching(chunked_prefill=False),
    "continuous": PrefillFirst(),
    "static": StaticBatching(),
    "one by one": one_by_one,
    "every other": every_other,
    "none of them": none_of_them,
}
USUAL = ("vllm", "priority", "threshold", "whole prompts", "continuous", "static")


@st.composite
def limits(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "blocks": draw(st.sampled_from([30, 45, 400])),
        "block_size": draw(st.sampled_from([4, 16])),
        "budget": draw(st.sampled_from([3, 40, 2048])),
        "max_num_seqs": draw(st.sampled_from([3, 6, 20])),
        "by_priority": draw(st.booleans()),
        "reserve_full_prompt": draw(st.booleans()),
        "async_scheduling": draw(st.booleans()),
        "watermark": draw(st.sampled_from([0.0, 0.1])),
    }


def differs(limits: dict[str, Any], rule: str, seed: int, steps: int = 120) -> str:
    """Where a queue with a cohort first differs from one without; empty where it never does."""
    rng = random.Random(seed)
    queues = Engine(limits), Engine(limits, counts=False)
    whole = int(limits["blocks"] * 0.9) * limits["block_size"]
    for number in range(steps):
        while rng.random() < 0.4:
            prompt, output = rng.randint(1, min(60, whole // 2)), rng.randint(1, min(60, whole // 2))
            first = 1000 * rng.randrange(3) if rng.random() < 0.5 else 1000 * (10 + number)
            hashed = rng.randrange(1 + (prompt + output) // 16) if rng.random() < 0.5 else 0
            hashes = tuple(range(first, first + hashed))
            priority = rng.randrange(3)
            for engine in queues:
                engine.add(prompt, output, priority, hashes)
        if rng.random() < 0.1:
            which = rng.randrange(1000)
            for engine in queues:
                engine.abort(which)
        chosen = rng.choice(tuple(RULES)) if rng.random() < 0.1 else rule
        most = rng.choice((1, 1, 3, 40))
        with_cohort, without = (engine.step(RULES[chosen], most) for engine in queues)
        if with_cohort != without:
            return f"step {number} by {chosen} grants {with_cohort}, not {without}"
        if queues[0].state() != queues[1].state():
            return f"step {number} by {chosen} leaves {queues[0].state()}, not {queues[1].state()}"
    return ""


def test_a_member_is_preempted_for_a_more_urgent_prompt_in_the_middle_of_a_choice() -> None:
    """Two decode and have been granted their step when a prompt that is not whole yet finds no block."""
    limits = {
        "blocks": 12, "block_size": 4, "budget": 20, "max_num_seqs": 4, "by_priority": True,
        "reserve_full_prompt": False, "async_scheduling": False, "watermark": 0.0,
    }  # fmt: skip
    queues = Engine(limits), Engine(limits, counts=False)
    for engine in queues:
        engine.add(9, 30, 7, ())
        engine.add(9, 30, 3, ())
        engine.step(RULES["priority"], 1)
        engine.step(RULES["priority"], 1)
        engine.add(40, 5, 0, ())
    patient, plain, urgent = queues[0].sequences
    assert patient.cohort is plain.cohort is queues[0].queue.cohort
    for _ in range(2):
        assert queues[0].step(RULES["priority"], 1) == queues[1].step(RULES["priority"], 1)
        assert queues[0].state() == queues[1].state()
    assert (patient.preemptions, plain.preemptions, urgent.preemptions) == (1, 0, 0)
    assert patient.cohort is None
    assert plain.cohort is queues[0].queue.cohort


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(limits(), st.sampled_from(USUAL), st.integers(0, 10_000))
def test_a_queue_with_a_cohort_is_the_queue_without(limits: dict[str, Any], rule: str, seed: int) -> None:
    assert differs(limits, rule, seed) == ""


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(limits(), st.sampled_from(USUAL), st.integers(0, 10_000))
def test_a_queue_with_a_cohort_is_the_queue_without_in_many_more_runs(
    limits: dict[str, Any], rule: str, seed: int
) -> None:
    assert differs(limits, rule, seed) == ""


def test_without_hashes_to_come_no_step_fills_a_block_that_others_could_ask_for() -> None:
    assert not Cohort(4).hashes_a_block_within(1000)
