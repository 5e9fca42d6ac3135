"""One engine: the loop "choose a batch, let its time pass, hand out the tokens".

The loop keeps as many batches in flight as there are pipeline stages. While a batch of decodes cannot change
(nobody finishes, no block runs out, nobody can be admitted) it is handed to the stage as many steps at once;
an arrival ends that run with the step in progress, which is when an engine would have looked at its queue
again.

With data-parallel attention an engine has several queues, each with its own KV cache and scheduler; all join
every step, in lock-step, whether they have work or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import simpy
from numpy.typing import NDArray

from sim.cost.batch import Batch
from sim.cost.demands import Demand
from sim.cost.shard import Shard
from sim.inputs.engine import Engine
from sim.policy.scheduling import EngineView, Grants
from sim.results.blame import STEP_CAUSES
from sim.runtime.clock import SCHEDULE, at
from sim.runtime.draws import random_stream, tokens_by_step
from sim.runtime.engine_queue import EngineQueue, Ledger
from sim.runtime.fabric import Fabric
from sim.runtime.request import Request
from sim.runtime.sequence import Sequence
from sim.runtime.stage import Passed, Stage
from sim.runtime.step_rows import StepRows
from sim.runtime.transfer import Transfer

Role = Literal["both", "prefill", "decode"]
Rule = Callable[[EngineView[Sequence]], Grants[Sequence]]

SHARING, PIPELINE = STEP_CAUSES, STEP_CAUSES + 1
MOST_FOLDED_STEPS = 65536  # bounds the vectors of one run of steps; a longer run is cut in two


@dataclass(slots=True)
class _InFlight:
    """A batch on its way through the stages."""

    grants: Grants[Sequence]
    samples: list[bool]  # whether a grant brings its sequence to its last known token
    batch: Batch
    number: int
    start_s: float
    causes: list[float] = field(default_factory=lambda: [0.0] * (STEP_CAUSES + 2))
    done: bool = False
    caught_up: int = 0  # folded steps whose blocks have been taken before the end of the run of steps


class Replica:
    """An engine and its sequences. `submit` puts a request in; `on_prefilled` and `on_finished` tell of
    it.
    """

    def __init__(
        self,
        env: simpy.Environment,
        fabric: Fabric,
        stages: list[Stage],
        queues: list[EngineQueue],
        hand_over: Callable[[int, int], Demand],
        rows: StepRows,
        *,
        index: int,
        engine: Engine,
        model: str,
        rule: Rule,
        max_model_len: int,
        gpus: tuple[str, ...],
        ledger: Ledger | None,
        layers: int = 1,
        kv_bytes_per_token: float = 0.0,
        first_token_from_prefill: bool = False,
        shards: list[Shard] | None = None,
        role: Role = "both",
        hops: int = 0,
        seed: int = 0,
    ) -> None:
        """`hand_over` gives the transfer of so many tokens from a stage to the next; `seed` decides which
        drafts are accepted.
        """
        self.env = env
        self.fabric = fabric
        self.stages = stages
        self.queues = queues
        self.hand_over = hand_over
        self.rows = rows
        self.index = index
        self.engine = engine
        self.model = model
        self.rule = rule
        self.max_model_len = max_model_len
        self.gpus = gpus
        self.ledger = ledger
        self.layers = layers
        self.kv_bytes_per_token = kv_bytes_per_token
        self.first_token_from_prefill = first_token_from_prefill
        self.shards = shards or []
        self.role = role
        self.hops = hops
        self.seed = seed
        self.routed = 0
        self.on_last_chunk: Callable[[Sequence, Replica], None] | None = None
        self.on_prefilled: Callable[[Sequence, Replica], None] = lambda sequence, replica: None
        self.on_finished: Callable[[Sequence], None] = lambda sequence: None
        self.on_steps_passed: Callable[[int], None] | None = None  # all before this number have ended

        self._flying: deque[_InFlight] = deque()
        self._hand_overs: dict[tuple[int, int], Demand] = {}
        self._most_in_flight = len(stages)
        self._speculation = engine.speculation
        self._tokens_per_step = engine.speculation.tokens_per_step if engine.speculation else 1.0
        self._lookahead = 1 if engine.schedules_ahead and len(stages) == 1 else 0
        self._step = 0  # steps begun so far
        self._schedule_pending = False

    # ---- requests

    def submit(self, request: Request) -> Sequence:
        """Queue a request that has just arrived; its lengths have been checked."""
        most = self.max_model_len - request.prompt_tokens
        sequence = Sequence(request, max(1, min(request.output_tokens, most)), self.env.now, self.index)
        queue = self._emptiest()
        queue.name_blocks(sequence, request)
        self.routed += 1
        self.enqueue(sequence, queue)
        return sequence

    def enqueue(self, sequence: Sequence, queue: EngineQueue) -> None:
        """Put a sequence behind those that wait in one of this engine's queues."""
        sequence.queue = queue
        sequence.replica = self.index
        sequence.eligible_step = 0
        if self._flying:
            done = self.stages[0].steps_done() if self.ledger is not None else 0
            sequence.eligible_step = self._step + done + self._lookahead
        patience = self.engine.batch_wait_timeout_iters
        if patience and self.running:  # prompts wait for each other, so that decodes pause less often
            soonest = sequence.eligible_step or self._step
            last = queue.waiting[-1].eligible_step if queue.waiting else 0
            sequence.eligible_step = last if last > soonest else soonest + patience
        queue.enqueue(sequence)
        self.look_again(self._lookahead)

    def look_again(self, more: int = 0) -> None:
        """What could not be before may be possible now: a run of steps ends with the one in progress, or
        `more` steps later; an idle engine schedules.
        """
        if self._flying and self.ledger is not None:
            self.stages[0].cut(more)
        else:
            self.schedule_soon()

    def _emptiest(self) -> EngineQueue:
        """The data-parallel rank with the fewest requests, waiting ones counting four times (vLLM's DP
        balancer).
        """
        if len(self.queues) == 1:
            return self.queues[0]
        return min(self.queues, key=lambda queue: 4 * len(queue.waiting) + len(queue.running))

    def reserve(self, tokens: int) -> tuple[EngineQueue, int] | None:
        """Blocks for a KV cache that comes from elsewhere, in the queue with the most free; None if there
        are none.
        """
        self._catch_up()
        queue = max(self.queues, key=lambda queue: queue.kv_cache.free)
        blocks = queue.reserve(tokens)
        if blocks is None:
            return None
        if self._flying and self.ledger is not None:
            self.stages[0].cut()  # how many steps the blocks last for has to be worked out again
        return queue, blocks

    def _catch_up(self) -> None:
        """Take the blocks of folded steps that are over, as scheduling them one by one has done by now."""
        if not self._flying or self.ledger is None:
            return
        flight, over = self._flying[0], self.stages[0].steps_over()
        if over > flight.caught_up:
            for sequence, _ in flight.grants:
                self._grow(sequence, flight.caught_up, over)
            flight.caught_up = over

    # ---- what a router sees

    @property
    def requests(self) -> int:
        return sum(queue.requests for queue in self.queues)

    @property
    def running(self) -> int:
        return sum(len(queue.running) for queue in self.queues)

    @property
    def waiting(self) -> int:
        return sum(len(queue.waiting) for queue in self.queues)

    @property
    def tokens(self) -> int:
        growth = 0
        if self._flying and self.ledger is not None:
            flight, done = self._flying[0], self.stages[0].steps_done()
            if self._speculation is None:
                growth = (done - flight.caught_up) * flight.batch.decodes
            elif done:
                growth = sum(
                    self._gain(sequence, done) - self._gain(sequence, flight.caught_up)
                    for sequence, _ in flight.grants
                )
        return growth + sum(queue.tokens for queue in self.queues)

    @property
    def has_seat(self) -> bool:
        return any(queue.requests < queue.seats for queue in self.queues)

    def cached_prompt_tokens(self, request: Request) -> int:
        """Prompt tokens of a request that this replica has in its KV cache."""
        probe = Sequence(request, request.output_tokens, self.env.now, self.index)
        self.queues[0].name_blocks(probe, request)
        return max(queue.cached_tokens(probe) for queue in self.queues)

    # ---- the loop

    def schedule_soon(self) -> None:
        """Look at the queues at this instant, after everything else that happens in it."""
        if not self._schedule_pending:
            self._schedule_pending = True
            at(self.env, self.env.now, self._schedule, SCHEDULE)

    def _schedule(self, _: None = None) -> None:
        self._schedule_pending = False
        while len(self._flying) < self._most_in_flight:
            grants: list[Grants[Sequence]] = []
            for queue in self.queues:
                queue.step = self._step
                grants.append(self.rule(queue) if queue.running or queue.waiting else [])
                queue.let_go()
            roomier = [queue for queue in self.queues if queue.roomier_after_step == self._step]
            if any(grants):
                self._start(grants)
            elif roomier:  # nobody computes in this step, and who is looked at again may
                for queue in roomier:
                    queue.roomier_after_step = -1
            elif not self._skips_to_eligible():
                return

    def _skips_to_eligible(self) -> bool:
        """An idle engine does not let a request wait for steps that nobody takes."""
        heads = [queue.waiting[0].eligible_step for queue in self.queues if queue.waiting]
        if self._flying or self.running or not heads or min(heads) <= self._step:
            return False
        self._step = min(heads)
        return True

    def _start(self, grants: list[Grants[Sequence]]) -> None:
        together = [grant for rank in grants for grant in rank]
        samples = [sequence.computed + tokens == sequence.known_tokens for sequence, tokens in together]
        batches = [self._batch(rank) for rank in grants]
        batch = batches[0] if len(batches) == 1 else Batch.of_ranks(batches)
        self._step += 1
        members = [] if batch.chunks else [sequence.request.request_id for sequence, _ in together]
        flight = _InFlight(together, samples, batch, self.rows.number_of(members), self.env.now)
        self._flying.append(flight)
        steps = self._steps_alike(flight) if not batch.chunks and self.ledger is not None else 1
        self._enter(0, flight, steps)
        if self.on_last_chunk is not None:
            for (sequence, _), is_last in zip(together, samples, strict=True):
                if is_last:
                    self.on_last_chunk(sequence, self)

    def _batch(self, grants: Grants[Sequence]) -> Batch:
        """The work of a step of one queue; from here on the granted tokens count as computed."""
        chunks: list[tuple[int, int]] = []
        decodes = sampled = 0
        kv_tokens = 0.0
        for sequence, tokens in grants:
            past = sequence.computed
            samples = past + tokens == sequence.known_tokens
            sequence.computed = past + tokens
            sequence.in_flight += 1
            sampled += samples
            if tokens == 1 and samples:  # kernels treat a chunk of one token as a decode
                decodes += 1
                if self._speculation is None:
                    kv_tokens += past + 1
                else:  # the mean context, so that a run of steps grows evenly
                    generated = sequence.decode_steps * self._tokens_per_step
                    kv_tokens += sequence.request.prompt_tokens + 1 + generated
            else:
                chunks.append((tokens, past))
        drafts = self._speculation.num_speculative_tokens if self._speculation else 0
        logits = sampled + decodes * drafts
        return Batch(tuple(chunks), decodes, kv_tokens, logits, 1 + drafts, self._tokens_per_step)

    def _steps_alike(self, flight: _InFlight) -> int:
        """For how many steps from now on this very batch of decodes is sure to be chosen if nothing
        arrives.
        """
        if len(flight.grants) < self.running or any(
            one.recomputing or not one.generated for one, _ in flight.grants
        ):
            return 1
        if any(queue.waiting and queue.roomier_after_step == self._step - 1 for queue in self.queues):
            return 1  # the next step may admit what this one did not look at, or had no room for
        steps = min(self._steps_left(sequence) for sequence, _ in flight.grants)
        steps = min(steps, MOST_FOLDED_STEPS)
        for queue in self.queues:
            seen_from = queue.next_unseen_step(self._step - 1)
            if seen_from is not None:
                steps = min(steps, max(1, seen_from - self._step + 1))
        for queue in self.queues:
            if steps > 1:
                steps = self._steps_that_fit(queue, flight, steps)
        return steps

    def _steps_that_fit(self, queue: EngineQueue, flight: _InFlight, steps: int) -> int:
        """As many of `steps` steps as the free blocks of one queue last for."""
        size, free = queue.kv_cache.block_size, queue.free_to_grow
        sequences = [sequence for sequence, _ in flight.grants if sequence.queue is queue]

        def blocks(more: int) -> int:
            after = (sequence.computed + self._gain(sequence, more) for sequence in sequences)
            return sum(-(-tokens // size) for tokens in after) - now

        now = sum(-(-sequence.computed // size) for sequence in sequences)
        if blocks(steps - 1) <= free:
            return steps
        low, high = 1, steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if blocks(middle - 1) <= free else (low, middle)
        return low

    def _enter(self, stage: int, flight: _InFlight, steps: int) -> None:
        self.stages[stage].start(flight.batch, steps, lambda passed: self._passed(stage, flight, passed))

    def _passed(self, stage: int, flight: _InFlight, passed: Passed) -> None:
        causes = flight.causes
        for cause, seconds in enumerate(passed.causes):
            causes[cause] += seconds
        causes[SHARING] += passed.sharing_s
        causes[PIPELINE] += passed.waited_s
        if self.ledger is not None:
            self._record(flight, passed)
            self._flying.popleft()
            self._hand_out(flight, passed.steps)
            self.schedule_soon()
            return
        self.rows.passed(stage, flight.batch, flight.number, passed, gaps_are_steps=False)
        if stage + 1 < len(self.stages):
            self._send_on(stage, flight)
            return
        flight.done = True
        while self._flying and self._flying[0].done:
            self._hand_out(self._flying.popleft(), 1)
        self.schedule_soon()

    def _send_on(self, stage: int, flight: _InFlight) -> None:
        """The activations of a batch go to the next stage over the fabric; this stage is free at once."""
        sent_s, tokens = self.env.now, flight.batch.tokens
        demand = self._hand_overs.get((stage, tokens))
        if demand is None:
            demand = self._hand_overs[stage, tokens] = self.hand_over(stage, tokens)

        def received(transfer: Transfer) -> None:
            flight.causes[PIPELINE] += self.env.now - sent_s
            self._enter(stage + 1, flight, 1)

        self.fabric.start(demand, on_done=received)

    def _record(self, flight: _InFlight, passed: Passed) -> None:
        """The rows of an engine with one stage. A sequence that missed a step has a longer gap than the
        step, and one that gets its first token has none.
        """
        since_s = [
            sequence.last_token_s
            for (sequence, _), samples in zip(flight.grants, flight.samples, strict=True)
            if samples and sequence.last_token_s is not None
        ]
        late = [last_s for last_s in since_s if last_s != flight.start_s]
        on_time = len(since_s) - len(late)
        if late or on_time != flight.batch.decodes:
            members = [sequence.request.request_id for sequence, _ in flight.grants]
            self.rows.passed_late(flight.batch, members, passed, late, on_time)
        else:
            self.rows.passed(0, flight.batch, flight.number, passed, gaps_are_steps=True)

    # ---- handing out

    def _hand_out(self, flight: _InFlight, steps: int) -> None:
        """Give every sequence the tokens of the steps that have passed."""
        now, more = self.env.now, steps - 1
        if self.ledger is not None:
            self._step += more
            self.ledger.add(flight.causes)
        else:
            self._record_gaps(flight, now)
        finished = []
        for (sequence, tokens), samples in zip(flight.grants, flight.samples, strict=True):
            sequence.in_flight -= 1
            if sequence.dropped:  # preempted while this step was under way
                sequence.dropped -= 1
                continue
            if self.ledger is None:
                self._charge_step(sequence, flight, now)
            if not samples:
                continue
            if sequence.generated == 0 or sequence.recomputing:
                sequence.queue.settle(sequence)
            sequence.recomputing = False
            if self.role == "prefill" and self._ends_here(sequence, now):
                continue
            if more > flight.caught_up:
                self._grow(sequence, flight.caught_up, more)
            self._give(sequence, steps, now, decoded=tokens == 1)
            if sequence.generated >= sequence.output_tokens:
                finished.append(sequence)
        for sequence in finished:
            sequence.queue.settle(sequence)
            sequence.finished_s = now
            sequence.queue.finish(sequence)
            self.on_finished(sequence)
        if self.on_steps_passed is not None:
            self.on_steps_passed(self._step - len(self._flying))

    def _ends_here(self, sequence: Sequence, now: float) -> bool:
        """A prompt is prefilled where others decode: True once it is somebody else's."""
        if self.first_token_from_prefill and sequence.generated == 0:
            self._give(sequence, 1, now)
            if sequence.generated >= sequence.output_tokens:
                sequence.finished_s = now
                sequence.queue.finish(sequence)
                self.on_finished(sequence)
                return True
        sequence.queue.running.remove(sequence)
        self.on_prefilled(sequence, self)
        return True

    def _give(self, sequence: Sequence, steps: int, now: float, *, decoded: bool = True) -> None:
        """The tokens of `steps` decode steps, or the one that a chunk ends with."""
        if sequence.generated == 0:
            sequence.generated = 1
        elif self._speculation is None or not decoded:
            sequence.generated += steps
        else:  # accepted drafts count as computed; their blocks are taken with those of the next step
            gained = min(self._gain(sequence, steps), sequence.output_tokens - sequence.generated)
            sequence.computed += max(0, gained - 1 - self._gain(sequence, steps - 1))
            sequence.decode_steps += steps
            sequence.generated += gained
        if sequence.first_token_s is None:
            sequence.first_token_s = now
        sequence.last_token_s = now

    def _gain(self, sequence: Sequence, steps: int) -> int:
        """Tokens that a decoding sequence gets in its next `steps` steps; with drafts, those of them that
        are accepted.
        """
        if self._speculation is None:
            return steps
        decoded, done = self._decoded(sequence), sequence.decode_steps
        return int(decoded[done + steps - 1]) - (int(decoded[done - 1]) if done else 0) if steps else 0

    def _decoded(self, sequence: Sequence) -> NDArray[np.int64]:
        if sequence.decoded is None:
            assert self._speculation is not None
            stream = random_stream(self.seed, f"drafts of {sequence.request.request_id}")
            sequence.decoded = tokens_by_step(self._speculation, sequence.output_tokens, stream)
        return sequence.decoded

    def _grow(self, sequence: Sequence, before: int, steps: int) -> None:
        """Tokens and blocks that scheduling the first `steps` folded steps would have taken, `before` of them
        counted already.
        """
        sequence.queue.grow(sequence, self._gain(sequence, steps) - self._gain(sequence, before))

    def _steps_left(self, sequence: Sequence) -> int:
        """Decode steps until its last token."""
        left = sequence.output_tokens - sequence.generated
        if self._speculation is None:
            return left
        decoded, done = self._decoded(sequence), sequence.decode_steps
        before = int(decoded[done - 1]) if done else 0
        return int(np.searchsorted(decoded, before + left)) + 1 - done

    # ---- of batches that pass several stages

    def _charge_step(self, sequence: Sequence, flight: _InFlight, now: float) -> None:
        """Charge one step through the pipeline; chunks of one prompt may overlap, then each gets its
        share.
        """
        lasted, since = now - flight.start_s, now - sequence.charged_s
        share = min(1.0, since / lasted) if lasted > 0.0 else 0.0
        causes = [share * seconds for seconds in flight.causes]
        causes[PIPELINE] += since - sum(causes)
        sequence.charge(causes, now)

    def _record_gaps(self, flight: _InFlight, now: float) -> None:
        last_token_s = (
            sequence.last_token_s
            for (sequence, _), samples in zip(flight.grants, flight.samples, strict=True)
            if samples and not sequence.dropped
        )
        self.rows.gaps_of(flight.number, (last for last in last_token_s if last is not None), now)
