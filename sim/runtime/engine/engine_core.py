"""The loop of an engine: choose a batch, let its time pass, hand out the tokens.

The loop keeps as many batches in flight as there are pipeline stages. While a batch of decodes cannot change
(nobody finishes, no block runs out, nobody can be admitted) it is handed to the stage as many steps at once;
an arrival ends that run with the step in progress, which is when an engine would have looked at its queue
again.

With data-parallel attention an engine has several queues, each with its own KV cache and scheduler; all join
every step, in lock-step, whether they have work or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Literal

import simpy

from sim.cost.batch import Batch
from sim.cost.collectives.demands import Demand
from sim.inputs.engine import Engine
from sim.policy.scheduling import EngineView, Grants
from sim.runtime.clock import SCHEDULE, at
from sim.runtime.engine.attribution import STEP_PIPELINE, STEP_SHARING, StepLedger
from sim.runtime.engine.flight import Flight, Part, begun
from sim.runtime.engine.fold_horizon import fold_horizon, pipeline_fold_horizon
from sim.runtime.engine.pipeline_fold import PipelineFold, deliver_tokens
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.speculation import Speculator
from sim.runtime.engine.stage import Passed, Stage
from sim.runtime.engine.step_records import StepRecorder
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.transfer import Transfer

Role = Literal["both", "prefill", "decode"]
Rule = Callable[[EngineView[Sequence]], Grants[Sequence]]


class EngineCore:
    """Steps of an engine over its queues. `on_prefilled`, `on_finished` and `on_aborted` tell of the
    sequences that leave it.
    """

    def __init__(
        self,
        env: simpy.Environment,
        fabric: Fabric,
        stages: list[Stage],
        queues: list[RequestQueue],
        stage_send: Callable[[int, int], Demand],
        rows: StepRecorder,
        *,
        engine: Engine,
        rule: Rule,
        ledger: StepLedger | None,
        role: Role = "both",
        first_token_from_prefill: bool = False,
        seed: int = 0,
    ) -> None:
        """`stage_send` gives the transfer of so many tokens from a stage to the next; `seed` decides which
        drafts are accepted.
        """
        self.env = env
        self.fabric = fabric
        self.stages = stages
        self.queues = queues
        self.stage_send = cache(stage_send)
        self.rows = rows
        self.engine = engine
        self.rule = rule
        self.ledger = ledger
        self.role = role
        self.first_token_from_prefill = first_token_from_prefill
        self.is_up = True
        self.on_last_chunk: Callable[[Sequence, float], None] | None = None  # and the step's seconds
        self.on_prefilled: Callable[[Sequence], None] = lambda sequence: None
        self.on_finished: Callable[[Sequence], None] = lambda sequence: None
        self.on_aborted: Callable[[Sequence], None] = lambda sequence: None
        self.on_steps_passed: Callable[[int], None] | None = None  # all before this number have ended

        self._flying: deque[Flight] = deque()
        self._max_in_flight = len(stages)
        self._speculator = Speculator(engine.speculation, seed)
        self._steps_ahead = 1 if engine.schedules_async and len(stages) == 1 else 0
        self._step = 0  # steps begun so far
        self._schedule_pending = False
        self._rounds = PipelineFold(
            env, fabric, stages, self.stage_send, rows, self.leave_rounds, self._rounds_disturbed
        )
        self._aborting: list[Sequence] = []  # to go when the step in progress ends
        self._ledger_s = 0.0  # up to when the ledger has all steps

    # ---- from outside

    def enqueue(self, sequence: Sequence) -> None:
        """Put a sequence behind those that wait in its queue."""
        self.leave_rounds()
        queue = sequence.queue
        sequence.eligible_step = 0
        next_step, ahead = self._step, 0
        if self._flying:
            over, done = self._folded_steps()
            next_step += over
            if over == done:  # else one ends at this very instant, and the engine looks at its queue now
                ahead = self._steps_ahead
                sequence.eligible_step = next_step + ahead
        patience = self.engine.batch_wait_timeout_iters
        if patience and self._somebody_runs():  # prompts wait for each other: decodes pause less often
            soonest = sequence.eligible_step or next_step
            last = queue.waiting[-1].eligible_step if queue.waiting else 0
            sequence.eligible_step = last if last > soonest else soonest + patience
        queue.enqueue(sequence)
        self.look_again(ahead)

    def _somebody_runs(self) -> bool:
        return any(queue.running for queue in self.queues)

    def abort(self, sequence: Sequence) -> None:
        """It leaves the queue at once, or its batch when the step in progress ends.

        As vLLM does it (`EngineCore._process_input_queue`): between two steps, and with several batches in
        flight as soon as one of them ends.
        """
        self.leave_rounds()
        if sequence in sequence.queue.running and len(self._flying) == self._max_in_flight:
            self._aborting.append(sequence)
        else:
            sequence.queue.leave(sequence)
            self.on_aborted(sequence)
        self.look_again()

    def tokens_by_now(self, sequence: Sequence) -> int:
        """What a sequence has generated, also within a run of steps."""
        self.leave_rounds()
        _, done = self._folded_steps()
        if not done or sequence not in sequence.queue.running:
            return sequence.generated
        return min(sequence.generated + self._speculator.gain(sequence, done), sequence.output_tokens)

    def fail(self) -> None:
        """All work is lost at this instant; what was in it is charged up to now.

        Steps that ended before this instant have given their tokens; one that would end now has not.
        """
        self.leave_rounds(ends_now=False)
        self.is_up = False  # nothing is scheduled
        self._aborting.clear()
        for stage in self.stages:
            stage.fail()
        if self.ledger is not None:
            since_s = max(self._ledger_s, *(flight.start_s for flight in self._flying), 0.0)
            for queue in self.queues:
                for sequence in queue.running:
                    self.ledger.charge(sequence, since_s)
        for flight in self._flying:
            if flight.sent is not None:
                self.fabric.abort(flight.sent)
        self._flying.clear()

    def stop(self) -> None:
        """The clock stops at this instant: what ends now does not end any more."""
        self.leave_rounds(ends_now=False)
        for stage in self.stages:
            stage.stop()

    def _folded_steps(self) -> tuple[int, int]:
        """How many steps of the run under way have ended before this instant, and by it."""
        if self.ledger is None:
            return 0, 0
        return self.stages[0].steps_over(), self.stages[0].steps_done()

    def look_again(self, more: int = 0) -> None:
        """What could not be before may be possible now: a run of steps ends with the one in progress, or
        `more` steps later; an idle engine schedules.
        """
        if not self.cut(more):
            self.schedule_soon()

    def cut(self, more: int = 0) -> bool:
        """End a run of steps so; False where none is under way."""
        if not self._flying or self.ledger is None:
            return False
        self.stages[0].cut(more)
        return True

    def catch_up(self) -> None:
        """Take the blocks of folded steps that are over, as scheduling them one by one has done by now."""
        if not self._flying or self.ledger is None:
            return
        flight, over = self._flying[0], self.stages[0].steps_over()
        if over > flight.caught_up:
            self._grow(flight, over)

    @property
    def tokens_begun(self) -> int:
        """Tokens of folded steps and rounds that have been begun by now, and are not in the books yet."""
        return self._growth_in_run() + self._rounds.tokens_begun

    def _growth_in_run(self) -> int:
        over, done = self._folded_steps()
        if not done:
            return 0
        flight = self._flying[0]
        begun = int(done == over)  # the step after one that ends just now has not begun
        if not self._speculator.drafts:
            return (done - flight.caught_up + begun - 1) * flight.batch.decodes
        booked = flight.caught_up
        return sum(
            self._speculator.gain(sequence, done) - self._speculator.gain(sequence, booked) + begun - 1
            for sequence, _ in flight.grants
        )

    # ---- the loop

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

    def _fill_pipeline(self) -> None:
        while self.is_up and len(self._flying) < self._max_in_flight:
            grants: list[Grants[Sequence]] = []
            for queue in self.queues:
                queue.step = self._step
                grants.append(self.rule(queue) if queue.running or queue.waiting else [])
                queue.let_go()
            if any(grants):
                self._start(grants)
                continue
            roomier = [queue for queue in self.queues if queue.roomier_after_step == self._step]
            for queue in roomier:  # nobody computes in this step, and who is looked at again may
                queue.roomier_after_step = -1
            if not roomier and not self._skips_to_eligible():
                return

    def _skips_to_eligible(self) -> bool:
        """An idle engine does not let a request wait for steps that nobody takes."""
        heads = [queue.waiting[0].eligible_step for queue in self.queues if queue.waiting]
        if self._flying or not heads or min(heads) <= self._step:
            return False
        if self._somebody_runs():
            return False
        self._step = min(heads)
        return True

    def _start(self, grants: list[Grants[Sequence]]) -> None:
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
        self._flying.append(flight)
        steps = 1
        if not batch.chunks and self.ledger is not None:
            steps = fold_horizon(flight, self.queues, self._speculator, self._step - 1)
        self._enter(0, flight, steps)
        if self.on_last_chunk is not None:
            flow_s = sum(stage.cost.step(batch)[0] for stage in self.stages)
            for part in parts:
                for (sequence, _), is_last in zip(part.grants, part.samples, strict=True):
                    if is_last:
                        self.on_last_chunk(sequence, flow_s)

    def _enter(self, stage: int, flight: Flight, steps: int) -> None:
        flight.stage, flight.since_s = stage, self.env.now
        self.stages[stage].start(flight.batch, steps, self._on_passed(stage, flight))

    def _on_passed(self, stage: int, flight: Flight) -> Callable[[Passed], None]:
        return lambda passed: self._passed(stage, flight, passed)

    def _passed(self, stage: int, flight: Flight, passed: Passed) -> None:
        causes = flight.causes
        for cause, seconds in enumerate(passed.causes):
            causes[cause] += seconds
        causes[STEP_SHARING] += passed.sharing_s
        causes[STEP_PIPELINE] += passed.waited_s
        if self.ledger is not None:
            self.rows.of_one_stage(flight, passed, gives_tokens=self.role != "prefill")
            self._flying.popleft()
            self._ledger_s = passed.end_s
            self._deliver(flight, passed.steps, passed.end_s)
            self.schedule_soon()
            return
        self.rows.passed(stage, flight.batch, flight.number, passed, gaps_are_steps=False)
        if stage + 1 < len(self.stages):
            self._send_on(stage, flight)
            return
        flight.done = True
        while self._flying and self._flying[0].done:
            self._deliver(self._flying.popleft(), 1, self.env.now)
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

    # ---- handing out

    def _deliver(self, flight: Flight, steps: int, now: float) -> None:
        """Give every sequence the tokens of the steps that have passed, the last of them `now`."""
        more = steps - 1
        if self.ledger is not None:
            self._step += more
            self.ledger.add(flight.causes)
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
        if self.on_steps_passed is not None:
            self.on_steps_passed(self._step - len(self._flying))

    def _give(self, flight: Flight, part: Part, steps: int, now: float) -> Iterator[Sequence]:
        """The tokens of those that go by themselves; who has got some."""
        for (sequence, tokens), samples in zip(part.grants, part.samples, strict=True):
            sequence.in_flight -= 1
            if sequence.dropped:  # preempted while this step was under way
                sequence.dropped -= 1
                continue
            if self.ledger is None:
                flight.charge(sequence, now)
            if not samples:
                continue
            if sequence.generated == 0 or sequence.recomputing:
                sequence.queue.settle(sequence)
            sequence.recomputing = False
            if self.role == "prefill" and (sequence in self._aborting or self._ends_here(sequence, now)):
                continue
            self._speculator.give(sequence, steps, now, decoded=tokens == 1)
            yield sequence

    def _grow(self, flight: Flight, steps: int) -> None:
        """Take the blocks of folded steps up to the one that follows on `steps` of them."""
        for part in flight.parts:
            if part.together:
                part.queue.grow_together(steps - flight.caught_up)
            for sequence, _ in part.grants:
                more = self._speculator.gain(sequence, steps) - self._speculator.gain(
                    sequence, flight.caught_up
                )
                part.queue.grow(sequence, more)
        flight.caught_up = steps

    def _drop_aborted(self) -> None:
        dropped, self._aborting = self._aborting, []
        for sequence in dropped:
            if sequence.finished_s is None:  # else that step was its last
                sequence.queue.leave(sequence)
                self.on_aborted(sequence)

    def _ends_here(self, sequence: Sequence, now: float) -> bool:
        """A prompt is prefilled where others decode: True once it is somebody else's."""
        if self.first_token_from_prefill and sequence.generated == 0:
            self._speculator.give(sequence, 1, now)
            if sequence.generated >= sequence.output_tokens:
                sequence.finished_s = now
                sequence.queue.finish(sequence)
                self.on_finished(sequence)
                return True
        sequence.queue.runs_no_more(sequence)
        self.on_prefilled(sequence)
        return True

    # ---- of batches that pass several stages

    def _fold_rounds(self) -> None:
        """Where all batches in flight are decodes that will come back as they are, let them go round."""
        flights, queue = list(self._flying), self.queues[0]
        if not flights or not self.stages[0].fold or self._rounds.folded or self._aborting:
            return
        if len(self.queues) > 1 or self.role != "both" or self._speculator.drafts or self.engine.kv_tiers:
            return
        if queue.waiting and len(queue.running) < queue.max_running:
            return
        if any(flight.batch.chunks for flight in flights) or not self._rounds.may_fold(flights):
            return
        shares = len(self.stages) if self.engine.pipeline_split == "even" else 1
        rounds = pipeline_fold_horizon(flights, queue, self._speculator, shares)
        if rounds and max(rounds) > 1:
            self._rounds.fold(flights, rounds)

    def _rounds_disturbed(self) -> None:
        self.leave_rounds(schedules_now=True)
        for stage in self.stages:
            stage.disturbed(self.env.now)

    def leave_rounds(self, *, ends_now: bool = True, schedules_now: bool = False) -> None:
        """Hand out what the rounds have brought by now, and go on from here batch by batch."""
        if not self._rounds.folded:
            return
        self._flying.clear()
        for went in self._rounds.settle(ends_now=ends_now, schedules_now=schedules_now):
            flight, stage = went.flight, went.stage
            self._step += went.begun - 1
            deliver_tokens(went, self.rows, self._speculator)
            if stage < 0:
                given = (sequence for sequence, _ in flight.grants)
                self._finish([one for one in given if one.generated >= one.output_tokens], self.env.now)
                continue
            self._flying.append(flight)
            flight.batch, flight.causes = went.batch, went.causes
            if went.sent_s is not None:
                self._send_on(stage - 1, flight, went.sent_s)
                continue
            flight.stage, flight.since_s = stage, went.came_s
            if went.begun_s is None:
                self.stages[stage].wait(flight.batch, went.came_s, self._on_passed(stage, flight))
            else:
                self.stages[stage].resume(
                    flight.batch, went.came_s, went.begun_s, self._on_passed(stage, flight)
                )
        if ends_now and not schedules_now:
            self.schedule_soon()

    def _finish(self, sequences: Iterable[Sequence], now: float) -> None:
        """They have their last token."""
        for sequence in sequences:
            sequence.queue.settle(sequence)
            sequence.finished_s = now
            sequence.queue.finish(sequence)
            self.on_finished(sequence)
