"""The loop of an engine: choose a batch, let its time pass, deliver the tokens.

An engine keeps as many batches in flight as it has pipeline stages. Two folds save events, and neither moves
an instant. With one batch in flight, a batch of decodes that is sure to be chosen again (`fold_horizon.py`)
goes to the stage as many steps at once; an arrival ends that run of steps with the step in progress, which is
when an engine would have looked at its queue again. With several in flight, batches that come round unchanged
are one event (`pipeline_fold.py`), which has to be settled before anything reads or changes their sequences.

With data-parallel attention an engine has several queues, each with its own KV cache and scheduler; all join
every step, in lock-step, with work or without.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Literal

import simpy

from sim.cost.batch import Batch, Causes
from sim.cost.collectives.demands import Demand
from sim.cost.step_cost import StepCost
from sim.inputs.engine import Engine
from sim.policy.scheduling import EngineView, Grants
from sim.runtime.clock import SCHEDULE, at
from sim.runtime.engine.attribution import STEP_PIPELINE, STEP_SHARING, no_seconds
from sim.runtime.engine.flight import Flight, Part, begun
from sim.runtime.engine.fold_horizon import fold_horizon, pipeline_fold_horizon
from sim.runtime.engine.pipeline_fold import FoldedState, PipelineFold, deliver_tokens
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.speculation import Speculator
from sim.runtime.engine.stage import Passed, Stage
from sim.runtime.engine.step_records import StepRecorder
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.transfer import Transfer

Role = Literal["both", "prefill", "decode"]
Rule = Callable[[EngineView[Sequence]], Grants[Sequence]]
REMEMBERED = 4096
"""Steps without the chunks of some prompts, whose prices are kept at a time."""
KERNELS = Causes._fields.index("kernel_latency") + 1
"""So many causes of a step, the first ones, are of its kernels."""
HOST = Causes._fields.index("host")
SETTLE_FIRST = "sequences are behind while rounds are folded: call settle() first"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine works. `rule` chooses its batches; a `prefill` engine gives its sequences away after
    their prompts, with their first token where `first_token_from_prefill`; `seed` decides which drafts are
    accepted.
    """

    engine: Engine
    rule: Rule
    role: Role = "both"
    first_token_from_prefill: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class EngineListener:
    """What an engine reports as it happens; a listener fills in what it wants to hear of.

    `finished`: a sequence has its last token. `aborted`: it has left unfinished. `prefilled`: its prompt is
    computed and the engine goes no further with it. `last_chunk`: a step has begun with the last chunk of its
    prompt, and takes so many seconds with links to itself. `steps_passed`: all steps before this number have
    ended.
    """

    finished: Callable[[Sequence], None] | None = None
    aborted: Callable[[Sequence], None] | None = None
    prefilled: Callable[[Sequence], None] | None = None
    last_chunk: Callable[[Sequence, float], None] | None = None
    steps_passed: Callable[[int], None] | None = None


class EngineCore:
    """Steps of an engine over its queues. From outside only `Replica` calls it, and settles folded
    rounds before."""

    def __init__(
        self,
        env: simpy.Environment,
        fabric: Fabric,
        stages: list[Stage],
        queues: list[RequestQueue],
        stage_send: Callable[[int, int], Demand],
        rows: StepRecorder,
        settings: EngineSettings,
    ) -> None:
        """`stage_send` gives the transfer of so many tokens from a stage to the next."""
        self.env = env
        self.fabric = fabric
        self.stages = stages
        self.queues = queues
        self.stage_send = cache(stage_send)
        self.rows = rows
        self.engine = settings.engine
        self.rule = settings.rule
        self.role = settings.role
        self.first_token_from_prefill = settings.first_token_from_prefill
        self.ledger = queues[0].ledger
        self.is_up = True

        self._in_flight: deque[Flight] = deque()
        self._max_in_flight = len(stages)
        self._speculator = Speculator(self.engine.speculation, settings.seed)
        # Chosen while the step before runs: a request that arrives meanwhile is seen one step later.
        self._steps_ahead = 1 if self.engine.schedules_async and len(stages) == 1 else 0
        self._step = 0  # steps begun so far
        self._schedule_pending = False
        self._fold = PipelineFold(env, fabric, stages, self.stage_send, rows, self.settle, self._disturbed)
        self._aborting: list[Sequence] = []  # leave when the step in progress ends
        self._causes_of = lru_cache(REMEMBERED)(self._priced)
        self._stands_since_s = 0.0
        self._ledger_s = 0.0  # up to when the ledger has all steps
        self._on_finished: list[Callable[[Sequence], None]] = []
        self._on_aborted: list[Callable[[Sequence], None]] = []
        self._on_prefilled: list[Callable[[Sequence], None]] = []
        self._on_last_chunk: list[Callable[[Sequence, float], None]] = []
        self._on_steps_passed: list[Callable[[int], None]] = []
        self.on_room: Callable[[], None] = lambda: None  # KV caches that were turned away may come now

    def listen(self, listener: EngineListener) -> None:
        """Report to one more listener, after those that came before it."""
        if listener.finished is not None:
            self._on_finished.append(listener.finished)
        if listener.aborted is not None:
            self._on_aborted.append(listener.aborted)
        if listener.prefilled is not None:
            self._on_prefilled.append(listener.prefilled)
        if listener.last_chunk is not None:
            self._on_last_chunk.append(listener.last_chunk)
        if listener.steps_passed is not None:
            self._on_steps_passed.append(listener.steps_passed)

    # ---- from outside, with folded rounds settled

    def enqueue(self, sequence: Sequence) -> None:
        """Put a sequence behind those that wait in its queue, to be admitted from `eligible_step` on."""
        assert not self._fold.folded, SETTLE_FIRST
        queue = sequence.queue
        sequence.eligible_step = 0
        next_step, ahead = self._step, 0
        if self._in_flight:
            ended_before, ended_by_now = self._folded_steps()
            next_step += ended_before
            # If one ends at this very instant, the engine looks at its queue at this instant, after all
            # arrivals, and the sequence is seen there.
            if ended_before == ended_by_now:
                ahead = self._steps_ahead
                sequence.eligible_step = next_step + ahead
        patience = self.engine.batch_wait_timeout_iters
        if patience and self._any_running():  # prompts wait for each other: decodes pause less often
            soonest = sequence.eligible_step or next_step
            last = queue.waiting[-1].eligible_step if queue.waiting else 0
            sequence.eligible_step = last if last > soonest else soonest + patience
        queue.enqueue(sequence)
        self.look_again(ahead)

    def _any_running(self) -> bool:
        return any(queue.running for queue in self.queues)

    def abort(self, sequence: Sequence) -> None:
        """It leaves the queue at once, or its batch when the step in progress ends.

        As vLLM does it (`EngineCore._process_input_queue`): between two steps, and with several batches in
        flight as soon as one of them ends.
        """
        assert not self._fold.folded, SETTLE_FIRST
        if sequence in sequence.queue.running and len(self._in_flight) == self._max_in_flight:
            self._aborting.append(sequence)
        else:
            self.catch_up()
            self._drop(sequence)
        self.look_again()

    def tokens_by_now(self, sequence: Sequence) -> int:
        """Tokens that a sequence has generated, also within a run of folded steps."""
        assert not self._fold.folded, SETTLE_FIRST
        _, ended = self._folded_steps()
        if not ended or sequence not in sequence.queue.running:
            return sequence.generated
        return min(sequence.generated + self._speculator.gain(sequence, ended), sequence.output_tokens)

    def fail(self) -> None:
        """All work is lost at this instant; what was in it is charged up to now.

        Steps that ended before this instant have given their tokens; one that would end now has not.
        """
        assert not self._fold.folded, SETTLE_FIRST
        self.catch_up()
        self.is_up = False  # before the stages report what has ended: nothing is chosen any more
        self._aborting.clear()
        for stage in self.stages:
            stage.fail()
        if self.ledger is not None:
            since_s = max(self._ledger_s, *(flight.start_s for flight in self._in_flight), 0.0)
            for queue in self.queues:
                for sequence in queue.running:
                    self.ledger.charge(sequence, since_s)
        for flight in self._in_flight:
            if flight.sent is not None:
                self.fabric.abort(flight.sent)
        self._in_flight.clear()

    def reprice(
        self, costs: list[StepCost], stage_send: Callable[[int, int], Demand], dead: Collection[int]
    ) -> None:
        """Traffic goes other ways from this instant on, at these prices; what is on its way over a `dead`
        link turns off.
        """
        assert not self._fold.folded, SETTLE_FIRST
        self.stage_send = cache(stage_send)
        self._causes_of.cache_clear()
        self._fold.reprice(self.stage_send)
        for stage, cost in zip(self.stages, costs, strict=True):
            stage.reprice(cost, dead)
        for flight in self._in_flight:
            if flight.sent is not None and flight.sent.crosses(dead):
                self.fabric.divert(flight.sent, self.stage_send(flight.stage, flight.batch.tokens))

    def stand_still(self) -> None:
        """No step begins any more when the one in progress has ended, until `go_on`."""
        self.cut()
        if self._max_in_flight:  # a second pause goes on where the first one began
            self._stands_since_s = self.env.now
        self._max_in_flight = 0

    def lose(self, queues: list[RequestQueue]) -> list[Sequence]:
        """Queues leave, between two steps, with all that they hold: their sequences, charged up to now."""
        assert not self._in_flight
        for queue in queues:
            if self.ledger is not None:
                for sequence in queue.running:
                    self.ledger.charge(sequence, self._ledger_s)
            self.queues.remove(queue)
        return [sequence for queue in queues for sequence in queue.fail()]

    def go_on(self) -> None:
        """Steps begin again. Sequences that run have waited for their host."""
        self._max_in_flight = len(self.stages)
        if self.ledger is not None:
            waited = no_seconds()
            waited[HOST] = self.env.now - max(self._ledger_s, self._stands_since_s)
            self.ledger.add(waited)
            self._ledger_s = self.env.now
        self.schedule_soon()

    def halt(self) -> None:
        """Every sequence has left: what is under way computes for none, and goes no further."""
        assert not self._fold.folded, SETTLE_FIRST
        for stage in self.stages:
            stage.fail()
        for flight in self._in_flight:
            if flight.sent is not None:
                self.fabric.abort(flight.sent)
        self._in_flight.clear()

    def stop(self) -> None:
        """The clock stops at this instant: what ends now does not end any more."""
        assert not self._fold.folded, SETTLE_FIRST
        self.catch_up()
        for queue in self.queues:
            queue.block_pool.changed(queue.block_pool.used)  # how far they have grown
        for stage in self.stages:
            stage.stop()

    def _folded_steps(self) -> tuple[int, int]:
        """How many steps of the run under way have ended before this instant, and by it."""
        if self.ledger is None:
            return 0, 0
        return self.stages[0].steps_over(), self.stages[0].steps_done()

    def look_again(self, more: int = 0) -> None:
        """Something may be possible now that was not before: a run of folded steps ends with the one in
        progress, or `more` steps later; an idle engine schedules.
        """
        if not self.cut(more):
            self.schedule_soon()

    def cut(self, more: int = 0) -> bool:
        """End a run of folded steps with the one in progress, or `more` later; False where none is under
        way.
        """
        if not self._in_flight or self.ledger is None:
            return False
        self.stages[0].cut(more)
        return True

    def catch_up(self) -> None:
        """Allocate the blocks of folded steps that are over, as scheduling each of them would have by now."""
        if not self._in_flight or self.ledger is None:
            return
        flight, over = self._in_flight[0], self.stages[0].steps_over()
        if over > flight.caught_up:
            self._grow(flight, over)

    @property
    def is_idle(self) -> bool:
        """True where no batch is in flight, folded or not."""
        return not self._in_flight and not self._fold.folded

    @property
    def tokens_begun(self) -> int:
        """Tokens of folded steps and rounds that have begun by now and are not in the books yet. Exact
        without settling, since a router asks at every request.
        """
        return self._tokens_begun_in_run() + self._fold.tokens_begun

    def _tokens_begun_in_run(self) -> int:
        ended_before, ended = self._folded_steps()
        if not ended:
            return 0
        flight = self._in_flight[0]
        # The books have the step in progress when the run began. The step after one that ends just now has
        # not begun: it is chosen after all arrivals of this instant.
        in_progress = int(ended == ended_before)
        if not self._speculator.drafts:
            return (ended - flight.caught_up + in_progress - 1) * flight.batch.decodes
        booked = flight.caught_up
        return sum(
            self._speculator.gain(sequence, ended) - self._speculator.gain(sequence, booked) + in_progress - 1
            for sequence, _ in flight.grants
        )

    # ---- the loop: choose

    def schedule_soon(self) -> None:
        """Look at the queues at this instant, after everything else that happens in it."""
        if not self._schedule_pending:
            self._schedule_pending = True
            at(self.env, self.env.now, self._schedule, SCHEDULE)

    def _schedule(self, _: None = None) -> None:
        self._schedule_pending = False
        self._fill_pipeline()
        if self.ledger is None:
            self._fold_rounds()
        if self.role == "decode":
            self._take_back_in()

    def _take_back_in(self) -> None:
        """The preempted sequences that were in the way of KV caches from elsewhere run again."""
        for queue in self.queues:
            if queue.turned_away and not queue.is_owed_blocks:
                queue.turned_away = False
                self.on_room()

    def _fill_pipeline(self) -> None:
        """Choose batches until every stage has one, or nothing more can be granted."""
        while self.is_up and len(self._in_flight) < self._max_in_flight:
            grants: list[Grants[Sequence]] = []
            for queue in self.queues:
                queue.step = self._step
                grants.append(self.rule(queue) if queue.running or queue.waiting else [])
                queue.release_ended()
            if any(grants):
                self._start(grants)
                continue
            # Nothing was granted, but the choice itself may have made room: a preemption, or places of
            # sequences that have ended and were still taken while it was made. Then choose once more.
            roomier = [queue for queue in self.queues if queue.roomier_after_step == self._step]
            for queue in roomier:
                queue.roomier_after_step = -1
            if not roomier and not self._skips_to_eligible():
                return

    def _skips_to_eligible(self) -> bool:
        """An idle engine takes no steps, so a request that waits for a later one may be admitted now."""
        if self._in_flight or self._any_running():
            return False
        # Those that may be admitted already have found no room: it may be held by one that comes later.
        later = [step for queue in self.queues if (step := queue.next_unseen_step(self._step)) is not None]
        if not later:
            return False
        self._step = min(later)
        return True

    # ---- the loop: let time pass

    def _start(self, grants: list[Grants[Sequence]]) -> None:
        """Begin a step with what each queue was granted, or a run of steps that are sure to be alike."""
        parts, batches = [], []
        for queue, granted in zip(self.queues, grants, strict=True):
            part, batch = begun(queue, granted, self._speculator)
            parts.append(part)
            batches.append(batch)
        if len(batches) > 1:
            batch = Batch.of_ranks(batches)
        self._step += 1
        flight = Flight(parts, batch, self.env.now)
        flight.number = self.rows.number_of([] if batch.chunks else flight.request_ids)
        self._in_flight.append(flight)
        steps = 1
        if not batch.chunks and self.ledger is not None:
            steps = fold_horizon(flight, self.queues, self._speculator, self._step - 1)
        self._enter(0, flight, steps)
        if self._on_last_chunk:
            self._report_last_chunks(flight)

    def _report_last_chunks(self, flight: Flight) -> None:
        flow_s = sum(stage.cost.step(flight.batch)[0] for stage in self.stages)
        for part in flight.parts:
            for (sequence, _), is_last in zip(part.grants, part.samples, strict=True):
                if is_last:
                    for report in self._on_last_chunk:
                        report(sequence, flow_s)

    def _enter(self, stage: int, flight: Flight, steps: int) -> None:
        flight.stage, flight.since_s = stage, self.env.now
        self.stages[stage].start(flight.batch, steps, self._on_passed(stage, flight))

    def _on_passed(self, stage: int, flight: Flight) -> Callable[[Passed], None]:
        return partial(self._passed, stage, flight)

    def _passed(self, stage: int, flight: Flight, passed: Passed) -> None:
        """A stage has computed a batch: its tokens are delivered, or its activations sent on."""
        causes = flight.causes
        for cause, seconds in enumerate(passed.causes):
            causes[cause] += seconds
        causes[STEP_SHARING] += passed.sharing_s
        causes[STEP_PIPELINE] += passed.waited_s
        if self.ledger is not None:
            self.rows.of_one_stage(flight, passed, gives_tokens=self.role != "prefill")
            self._in_flight.popleft()
            self._ledger_s = passed.end_s
            self._deliver(flight, passed.steps, passed.end_s)
            if self.stages[0].is_ending and self.env.peek() > self.env.now and not self._schedule_pending:
                self._schedule()  # nothing else is left to happen at this instant: it needs no event
            else:
                self.schedule_soon()
            return
        self.rows.passed(stage, flight.batch, flight.number, passed, gaps_are_steps=False)
        if stage + 1 < len(self.stages):
            self._send_on(stage, flight)
            return
        # A later batch may have overtaken on a link; tokens are delivered in the order of the steps.
        flight.done = True
        while self._in_flight and self._in_flight[0].done:
            self._deliver(self._in_flight.popleft(), 1, self.env.now)
        self.schedule_soon()

    def _send_on(self, stage: int, flight: Flight, since_s: float | None = None) -> None:
        """The activations of a batch go to the next stage over the fabric; this stage is free at once."""
        sent_s = self.env.now if since_s is None else since_s
        flight.stage = stage

        def received(transfer: Transfer) -> None:
            flight.sent = None
            flight.causes[STEP_PIPELINE] += self.env.now - sent_s
            self._enter(stage + 1, flight, 1)

        demand = self.stage_send(stage, flight.batch.tokens)
        flight.sent = self.fabric.start(demand, began_at=since_s, on_done=received)

    # ---- the loop: deliver tokens

    def _price_without_chunks(self, flight: Flight) -> None:
        """What a step with chunks of prompts would have cost the sequences in it without those of others."""
        batch = flight.batch
        priced = self._causes_of if self.stages[0].pace is None else self._at_the_pace_of(flight)
        flight.without_chunks = priced(batch.without_chunks) if batch.decodes else Causes()
        if len(batch.chunks) > 1:
            flight.chunk_tokens = batch.prefill_tokens
            flight.with_least_chunk = priced(batch.with_least_chunk)

    def _at_the_pace_of(self, flight: Flight) -> Callable[[Batch], Causes]:
        """Prices whose kernels take longer by as much as those of a step did that has passed."""
        alone_s = sum(self._causes_of(flight.batch)[:KERNELS])
        pace = sum(flight.causes[:KERNELS]) / alone_s if alone_s else 1.0

        def priced(batch: Batch) -> Causes:
            causes = self._causes_of(batch)
            return Causes(*(pace * seconds for seconds in causes[:KERNELS]), *causes[KERNELS:])

        return priced

    def _priced(self, batch: Batch) -> Causes:
        """Seconds of a step on all stages."""
        if len(self.stages) == 1:
            return self.stages[0].cost.step(batch)[1]
        return Causes(*map(sum, zip(*(stage.cost.step(batch)[1] for stage in self.stages), strict=True)))

    def _deliver(self, flight: Flight, steps: int, now: float) -> None:
        """Give every sequence the tokens of the steps that have passed, the last of them `now`."""
        more = steps - 1
        if flight.batch.chunks:
            self._price_without_chunks(flight)
        if self.ledger is not None:
            # Before any sequence is charged: its share is what the ledger has gained since its last reading.
            self._step += more
            self.ledger.add(flight.seen_by(0))
        elif self.role != "prefill":
            self.rows.gaps_of(flight.number, flight.last_tokens_s(), now)
        if more > flight.caught_up:
            self._grow(flight, more)
        ended: list[Sequence] = []
        for part in flight.parts:
            if part.together:
                ended += part.queue.cohort.give(steps, now)
            if part.grants:
                given = self._give(flight, part, steps, now)
                ended += [one for one in given if one.own_generated >= one.output_tokens]
        self._finish(ended, now)
        if self._aborting:
            self._drop_aborted()
        for report in self._on_steps_passed:
            report(self._step - len(self._in_flight))

    def _give(self, flight: Flight, part: Part, steps: int, now: float) -> Iterator[Sequence]:
        """Give the tokens of sequences outside the cohort; those that have got some."""
        mark = None if self.ledger is None else self.ledger.read()
        for (sequence, tokens), samples in zip(part.grants, part.samples, strict=True):
            sequence.in_flight -= 1
            if sequence.dropped:  # preempted while this step was under way
                sequence.dropped -= 1
                continue
            chunk_tokens = 0 if tokens == 1 and samples else tokens  # as `begun` tells chunks from decodes
            if self.ledger is None:
                flight.charge(sequence, now, chunk_tokens)
            elif chunk_tokens:
                flight.charge_chunk(sequence, chunk_tokens, now)
                sequence.mark = mark
            if not samples:
                continue
            # What a step is charged to changes with its first token, and with the end of a recomputation:
            # charge what came before to what it was.
            if not chunk_tokens and (sequence.generated == 0 or sequence.recomputing):
                sequence.queue.charge_steps(sequence)
            sequence.recomputing = False
            if self.role == "prefill" and (sequence in self._aborting or self._ends_here(sequence, now)):
                continue
            self._speculator.give(sequence, steps, now, decoded=tokens == 1)
            yield sequence

    def _grow(self, flight: Flight, steps: int) -> None:
        """Allocate the blocks of folded steps up to the one that follows on `steps` of them."""
        for part in flight.parts:
            if part.together:
                part.queue.grow_together(steps - flight.caught_up)
            for sequence, _ in part.grants:
                more = self._speculator.gain(sequence, steps) - self._speculator.gain(
                    sequence, flight.caught_up
                )
                part.queue.grow(sequence, more)
        flight.caught_up = steps

    def _finish(self, sequences: Iterable[Sequence], now: float) -> None:
        """They have their last token."""
        for sequence in sequences:
            sequence.queue.charge_steps(sequence)
            sequence.finished_s = now
            sequence.queue.finish(sequence)
            for report in self._on_finished:
                report(sequence)

    def _drop_aborted(self) -> None:
        dropped, self._aborting = self._aborting, []
        for sequence in dropped:
            if sequence.finished_s is None:  # else that step was its last
                self._drop(sequence)

    def _drop(self, sequence: Sequence) -> None:
        sequence.queue.leave(sequence)
        for report in self._on_aborted:
            report(sequence)

    def _ends_here(self, sequence: Sequence, now: float) -> bool:
        """A prompt is prefilled whose tokens another engine decodes. True: this engine gives it no more."""
        if self.first_token_from_prefill and sequence.generated == 0:
            self._speculator.give(sequence, 1, now)
            if sequence.generated >= sequence.output_tokens:
                sequence.finished_s = now
                sequence.queue.finish(sequence)
                for report in self._on_finished:
                    report(sequence)
                return True
        sequence.queue.stop_running(sequence)
        for report in self._on_prefilled:
            report(sequence)
        return True

    # ---- batches that come round in a pipeline

    def _fold_rounds(self) -> None:
        """Fold the rounds of the batches in flight, where all are decodes that come back as they are."""
        flights, queue = list(self._in_flight), self.queues[0]
        if not flights or not self.stages[0].fold or self._fold.folded or self._aborting:
            return
        if self.stages[0].pace is not None:
            return  # no two rounds are alike
        if len(self.queues) > 1 or self.role != "both" or self._speculator.drafts or self.engine.kv_tiers:
            return
        if queue.waiting and len(queue.running) < queue.max_running:
            return  # a waiting sequence may be admitted as soon as there are blocks
        if any(flight.batch.chunks for flight in flights) or not self._fold.may_fold(flights):
            return
        shares = len(self.stages) if self.engine.pipeline_split == "even" else 1
        rounds = pipeline_fold_horizon(flights, queue, self._speculator, shares)
        if rounds and max(rounds) > 1:
            self._fold.fold(flights, rounds)

    def _disturbed(self) -> None:
        """Other traffic comes onto a link of the folded rounds."""
        # It may come from an engine that has scheduled at this instant, so this one has scheduled too.
        self.settle(schedules_now=True)
        for stage in self.stages:
            stage.disturbed(self.env.now)

    def settle(self, *, ends_now: bool = True, schedules_now: bool = False) -> None:
        """Deliver what folded rounds have brought by now, and go on from here batch by batch. Nothing where
        no rounds are folded.

        `ends_now`: what ends at this very instant has ended; `schedules_now`: and what it leads to has been
        chosen.
        """
        if not self._fold.folded:
            return
        self._in_flight.clear()
        states = self._fold.settle(ends_now=ends_now, schedules_now=schedules_now)
        for state in states:  # all blocks are in use before the first are free
            self._step += state.begun - 1
            deliver_tokens(state, self.rows, self._speculator)
        for state in states:
            if state.stage >= 0:
                self._go_on(state)
            else:  # between two turns: only a batch that is not begun again can have sequences that end
                given = (sequence for sequence, _ in state.flight.grants)
                self._finish([one for one in given if one.generated >= one.output_tokens], self.env.now)
        if ends_now and not schedules_now:
            self.schedule_soon()

    def _go_on(self, state: FoldedState) -> None:
        """Put a batch where it is by now: on its way to a stage, waiting there, or at work."""
        flight, stage = state.flight, state.stage
        self._in_flight.append(flight)
        flight.batch, flight.causes = state.batch, state.causes
        if state.sent_s is not None:
            self._send_on(stage - 1, flight, state.sent_s)
            return
        flight.stage, flight.since_s = stage, state.came_s
        on_passed = self._on_passed(stage, flight)
        if state.begun_s is None:
            self.stages[stage].wait(flight.batch, state.came_s, on_passed)
        else:
            self.stages[stage].resume(flight.batch, state.came_s, state.begun_s, on_passed)
