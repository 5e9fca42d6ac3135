"""A pipeline stage at work: programs played op by op on the clock, or folded into one event while alone.

Playing is the meaning of the model; folding gives the same result with fewer events. A stage with links to
itself need not visit every op: it waits for the end and stands ready, as a watcher of its links, to say at
any instant which op it is in. When other traffic comes onto its links, it goes on playing at that instant, in
the middle of the op, and folds again at the next op that begins while the links are quiet. Both ways compute
every instant from the same expression (sim.cost.program), so a folded run has the records of a played one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import accumulate
from math import inf

import numpy as np
import simpy

from sim.cost.batch import Batch, Causes
from sim.cost.program import Block, Position, Program, Traffic
from sim.cost.step_cost import FloatArray, StepCost
from sim.cost.uneven_cost import UnevenCost
from sim.runtime.clock import COMPLETION, at
from sim.runtime.engine.pace import Pace
from sim.runtime.fabric.fabric import Fabric, Transfer
from sim.runtime.fabric.transfer import State

LISTED_STEPS = 64
"""The ends of up to so many steps are kept as a list, of more as an array: whichever is built sooner."""


@dataclass(slots=True)
class Passed:
    """What a stage did for one batch: `steps` steps from `start_s` to `end_s`, and where the seconds went.

    `ends_s` are the instants at which the steps ended. `sharing_s` is what their transfers lost to other
    traffic; `waited_s` is the time before `start_s` in which the batch waited for the stage.
    """

    start_s: float
    ends_s: FloatArray | list[float]
    causes: Causes
    sharing_s: float
    waited_s: float

    @property
    def steps(self) -> int:
        return len(self.ends_s)

    @property
    def end_s(self) -> float:
        return float(self.ends_s[-1])


class Stage:
    """One program at a time, first come first served. `fold` False plays everything. With a `pace` every
    step has kernels of its own.

    A stage watches the links of its programs, and goes on from one program to the next until another watcher
    asks for quiet there (`Fabric.rest`).
    """

    def __init__(
        self, env: simpy.Environment, fabric: Fabric, cost: StepCost, *, fold: bool, pace: Pace | None = None
    ) -> None:
        self.env = env
        self.fabric = fabric
        self.cost = cost
        self.fold = fold
        self.pace = pace
        self._folds_steps = fold and pace is None
        self.busy_s = 0.0
        self.is_ending = False  # folded steps, in an event that does nothing else
        self._queue: deque[tuple[Batch, int, float, Callable[[Passed], None]]] = deque()
        self._run: _Run | None = None

    def start(self, batch: Batch, steps: int, on_passed: Callable[[Passed], None]) -> None:
        """Compute `batch`, then up to `steps - 1` further decode steps of the same batch; call `on_passed` at
        the end.

        Fewer steps pass when `cut` is called, or when a step meets other traffic to its very end.
        """
        if self._run is None:
            self._begin(batch, steps, self.env.now, on_passed)
        else:
            self._queue.append((batch, steps, self.env.now, on_passed))

    # ---- for the fold of a whole pipeline

    @property
    def is_folded(self) -> bool:
        """True where nothing is at work, or a step that no other traffic has disturbed."""
        return self._run is None or (self._run.folded and self._run.playing < 0)

    @property
    def begun_s(self) -> float | None:
        """When the step at work began."""
        return None if self._run is None else self._run.start_s

    def discard(self) -> None:
        """Forget what is at work and what waits."""
        if self._run is not None:
            self._run.forget()
            self._run = None
        self._queue.clear()

    def resume(
        self, batch: Batch, since_s: float, start_s: float, on_passed: Callable[[Passed], None]
    ) -> None:
        """Be at work on a batch that came at `since_s` and began at `start_s`, undisturbed until now."""
        self._run = _Run(self, batch, 1, since_s, start_s, on_passed)
        self._run.fold()

    def wait(self, batch: Batch, since_s: float, on_passed: Callable[[Passed], None]) -> None:
        """Queue a batch that came at `since_s`."""
        self._queue.append((batch, 1, since_s, on_passed))

    def count(self, batch: Batch, steps: int, busy_s: float) -> None:
        """Count steps that were folded with those of other stages."""
        self.busy_s += busy_s
        self.fabric.carried_steps(self.cost.traffic(batch), steps)

    # ---- from outside

    def cut(self, more: int = 0) -> None:
        """End the running steps with the one in progress, or `more` steps later: the batch is about to
        change.
        """
        if self._run is not None:
            self._run.cut(more)

    def steps_done(self) -> int:
        """How many of the running steps have ended by now."""
        return 0 if self._run is None else bisect_right(self._run.ends_s, self.env.now)

    def steps_over(self) -> int:
        """How many of the running steps have ended before this instant."""
        return 0 if self._run is None else bisect_left(self._run.ends_s, self.env.now)

    def stop(self) -> None:
        """The clock stops at this instant: report the steps that have ended before it, and count what the
        step under way has put on its links.
        """
        if self._run is not None:
            self.busy_s += self.env.now - self._run.start_s
            self._run.stop()

    def fail(self) -> None:
        """All work here is lost at this instant; steps that have ended before it are reported."""
        self._queue.clear()
        if self._run is not None:
            self.stop()
            self._run.abort()
            self._run = None

    def reprice(self, cost: StepCost, dead: Collection[int]) -> None:
        """Traffic goes other ways from this instant on: `cost` prices them. A transfer over a `dead` link
        sends what is left the new way; a folded run ends with the step in progress.
        """
        self.cost = cost
        if self._run is not None:
            self._run.reprice(cost, dead)

    def disturbed(self, now: float) -> None:
        """Other traffic comes onto the links at this instant."""
        if self._run is not None:
            self._run.disturbed(now)

    def left_alone(self) -> None:
        """Other traffic has left the links: what is played may be folded, unless it flows there itself."""
        if self._run is not None:
            self._run.left_alone()

    def _begin(self, batch: Batch, steps: int, since_s: float, on_passed: Callable[[Passed], None]) -> None:
        self._run = _Run(self, batch, steps if self._folds_steps else 1, since_s, self.env.now, on_passed)
        self._run.begin()

    def _ended(self, passed: Passed, on_passed: Callable[[Passed], None]) -> None:
        self._run = None
        self.busy_s += passed.end_s - passed.start_s
        if self._queue:
            self._begin(*self._queue.popleft())
        on_passed(passed)


class _Run:
    """One batch on a stage: up to `most` steps of it, folded or played.

    Steps are counted from 0; `ends_s` has the instants at which they end, as far as they are folded. One step
    may be played in part: number `playing`, whose `program` began at `anchor_s`, and whose op in progress is
    number `op` of repetition `repetition` of its block number `number`, `block`. While the rest of that step
    is folded again, with the steps behind it, the op is where the folding began. What the first `credited`
    steps have put on the links is counted.

    Events cannot be unscheduled: one that finds another `version` than it was scheduled for is void.
    """

    __slots__ = (
        "after_s", "anchor_s", "batch", "block", "causes_of", "cost", "credited", "ends_s", "folded", "most",
        "number", "on_passed", "op", "playing", "program", "repetition", "seconds", "shared_before_s",
        "sharing_s", "stage", "start_s", "traffic", "transfer", "version", "waited_s",
    )  # fmt: skip

    block: Block
    program: Program
    anchor_s: float
    after_s: float
    causes_of: Callable[[int], Causes]
    seconds: FloatArray | list[float]
    ends_s: FloatArray | list[float]

    def __init__(
        self,
        stage: Stage,
        batch: Batch,
        steps: int,
        since_s: float,
        start_s: float,
        on_passed: Callable[[Passed], None],
    ) -> None:
        self.stage = stage
        self.batch = batch
        self.start_s = start_s
        self.waited_s = start_s - since_s
        self.on_passed = on_passed
        self.cost = cost = stage.cost if stage.pace is None else stage.pace.next(stage.cost, start_s)
        self.traffic = cost.traffic(batch)
        self.version = 0
        self.sharing_s = self.shared_before_s = 0.0  # of all steps; before the one played
        self.folded = False
        self.most = steps
        self.playing = -1
        self.credited = 0
        self.transfer: Transfer | None = None  # the last one that was played
        if steps == 1:
            step_s, causes = cost.step(batch)
            self.ends_s = [start_s + step_s]
            self.causes_of = lambda n: causes
        else:
            steps_s, self.causes_of = cost.decode_steps(batch, steps)
            self.seconds = steps_s.tolist() if steps <= LISTED_STEPS else steps_s
            self.ends_s = _ends(start_s, self.seconds)

    # ---- from outside

    def begin(self) -> None:
        stage, links = self.stage, self.traffic.links
        if stage.fold and (not links or stage.fabric.is_quiet(links, stage)):
            self.fold()
        else:
            if links:
                stage.fabric.watch(links, stage)
            self._play(0)

    def fold(self) -> None:
        if self.traffic.links:
            self.stage.fabric.watch(self.traffic.links, self.stage)
        self.folded = True
        self._wait_for_end()

    def forget(self) -> None:
        """The pipeline's fold takes over: nothing of this has been counted, nothing will be."""
        self.version += 1
        if self.traffic.links:
            self.stage.fabric.rest(self.traffic.links, self.stage)

    def cut(self, more: int) -> None:
        """Keep the step in progress and `more` after it; a step that ends at this very instant is in progress
        until its event has come.
        """
        if self.folded:
            keep = bisect_left(self.ends_s, self.stage.env.now) + 1 + more
            if keep < len(self.ends_s):
                self.ends_s = self.ends_s[:keep]
                self._wait_for_end()
        else:
            keep = self.playing + 1 + more
        self.most = min(self.most, keep)

    def disturbed(self, now: float) -> None:
        """Other traffic comes onto the links at this instant: play from here."""
        if self.folded:
            self._unfold(now, bisect_right(self.ends_s, now))

    def reprice(self, cost: StepCost, dead: Collection[int]) -> None:
        """Go on in the op in progress with what the step costs now. Its kernels end when they would have."""
        self.cut(0)
        if self.folded or not any(link in dead for link in self.traffic.links):
            return
        if isinstance(self.cost, UnevenCost):
            cost = UnevenCost(cost, self.cost.factor)
        program = cost.program(self.batch.grown(self.playing) if self.playing else self.batch)
        shape, was = ([(one.repeat, len(one.ops)) for one in each.blocks] for each in (program, self.program))
        if shape != was:
            return  # an algorithm with other ops has been chosen: the step under way ends as it began
        stage, transfer = self.stage, self.transfer
        position = Position(self.number, self.repetition, self.op)
        moved_s = self.program.start_s(position) - program.start_s(position)
        self.anchor_s += moved_s
        # The causes of this step are those of the way that it began on; what the other takes more is lost.
        self.sharing_s += moved_s + program.total_s - self.program.total_s
        after = program.after(position)
        self.after_s = program.start_s(after)
        self.cost, self.program, self.block = cost, program, program.blocks[self.number]
        stage.fabric.rest(self.traffic.links, stage)
        self.traffic = cost.traffic(self.batch)
        if self.traffic.links:
            stage.fabric.watch(self.traffic.links, stage)
        if transfer is None or not transfer.crosses(dead):
            return
        if transfer.state is State.WAITING:  # it has put nothing on its links yet
            stage.fabric.abort(transfer)
            self._begin_op()
        else:
            demand = program.op(position).demand
            assert demand is not None
            stage.fabric.divert(transfer, demand)

    def left_alone(self) -> None:
        """Fold the rest where the next transfer has not begun to flow."""
        stage, transfer = self.stage, self.transfer
        if self.folded or transfer is None or transfer.state is not State.WAITING:
            return
        if stage.fold and stage.fabric.is_quiet(self.traffic.links, stage):
            stage.fabric.abort(transfer)  # it has put nothing on its links yet
            self._fold_again()

    def stop(self) -> None:
        """As at a disturbance, but what would end at this very instant does not end any more."""
        now = self.stage.env.now
        if self.folded:
            self._unfold(now, bisect_left(self.ends_s, now))
        done = self.playing
        if done:
            ends_s = self.ends_s[:done]
            shared_s = self.shared_before_s
            self.on_passed(Passed(self.start_s, ends_s, self.causes_of(done), shared_s, self.waited_s))

    def abort(self) -> None:
        """Nothing of the step that is played happens any more."""
        self.version += 1
        if self.transfer is not None:
            self.stage.fabric.abort(self.transfer)
        if self.traffic.links:
            self.stage.fabric.rest(self.traffic.links, self.stage)

    # ---- folded: one event at the end

    def _wait_for_end(self) -> None:
        self.version += 1
        at(self.stage.env, float(self.ends_s[-1]), self._fold_ended, COMPLETION, self.version)

    def _fold_ended(self, version: int) -> None:
        if version == self.version:
            self.stage.is_ending = True
            self._finish()
            self.stage.is_ending = False

    def _unfold(self, now: float, done: int) -> None:
        """Go on op by op in the step after `done` steps."""
        self.folded = False
        self.version += 1
        if done == self.playing:  # that step was played in part before it was folded again
            self._take_up(now)
        else:
            self._credit_steps(done)
            self._play(done, now)

    def _fold_again(self) -> None:
        """The links are quiet: fold the rest of the step that is played, and those behind it."""
        self.folded = True
        done, end_s = self.playing, self.anchor_s + self.program.total_s
        self.ends_s[done] = end_s
        if done + 1 < self.most:
            behind = _ends(end_s, self.seconds[done + 1 : self.most])
            if isinstance(behind, list):
                self.ends_s = [*self.ends_s[: done + 1], *behind]
            else:
                self.ends_s = np.concatenate((self.ends_s[: done + 1], behind))
        self._wait_for_end()

    # ---- played: one event an op

    def _play(self, step: int, now: float | None = None) -> None:
        """Play step number `step` from its start, or from the instant `now` in its middle."""
        batch = self.batch.grown(step) if step else self.batch
        self.anchor_s = float(self.ends_s[step - 1]) if step else self.start_s
        self.ends_s = self.ends_s[: step + 1]
        self.ends_s[step] = inf  # only then is it known
        self.playing = step
        self.shared_before_s = self.sharing_s
        self.number = self.repetition = self.op = 0
        self.program = program = self.cost.program(batch)
        self.block = program.blocks[0]
        if now is None:
            self._begin_op()
        else:
            self._take_up(now)

    def _take_up(self, now: float) -> None:
        """Go on playing in the middle of the op that began at or before `now`."""
        # What was folded of this step has put its bytes on the links; the fabric counts only what is played.
        program = self.program
        self.ends_s = self.ends_s[: self.playing + 1]
        self.ends_s[self.playing] = inf
        folded_from = Position(self.number, self.repetition, self.op)
        position = program.locate(self.anchor_s, now)
        if position != folded_from:
            self._credit(program.traffic(folded_from, position))
        self.number, self.repetition, self.op = position
        self.block = program.blocks[self.number]
        self._begin_op()

    def _begin_op(self) -> None:
        """Begin an op. While folding is allowed, kernels and the transfer behind them are one event: no other
        traffic can meet a kernel.
        """
        block, i = self.block, self.op
        ops = block.ops
        if self.stage.fold:
            while ops[i].demand is None and i + 1 < len(ops):
                i += 1
            self.op = i
        before_s, offsets_s = self.repetition * block.period_s, block.offsets_s
        if i + 1 < len(ops):  # the same floats as those of `Program.start_s`
            self.after_s = block.start_s + (before_s + offsets_s[i + 1])
        else:
            self.after_s = block.start_s + (self.repetition + 1) * block.period_s
        ends_s = self.anchor_s + self.after_s
        demand = ops[i].demand
        if demand is None:
            at(self.stage.env, ends_s, self._op_ended, COMPLETION, self.version)
        else:
            self.transfer = self.stage.fabric.start(
                demand,
                began_at=self.anchor_s + (block.start_s + (before_s + offsets_s[i])),
                planned_end=ends_s,
                on_done=self._transferred,
                owner=self.stage,
            )

    def _op_ended(self, version: int) -> None:
        if version == self.version:
            self._next()

    def _transferred(self, transfer: Transfer) -> None:
        now = self.stage.env.now
        planned_s = self.anchor_s + self.after_s
        # Moving the anchor moves everything after the transfer, and keeps every later instant one sum.
        if now != planned_s:  # it shared a link
            self.sharing_s += now - planned_s
            self.anchor_s = now - self.after_s
        self._next()

    def _next(self) -> None:
        block = self.block
        self.op += 1
        if self.op == len(block.ops):
            self.op = 0
            self.repetition += 1
            if self.repetition == block.repeat:
                self.repetition = 0
                self.number += 1
                if self.number == len(self.program.blocks):
                    self._finish()
                    return
                self.block = self.program.blocks[self.number]
        stage = self.stage
        if stage.fold and stage.fabric.is_quiet(self.traffic.links, stage):
            self._fold_again()
        else:
            self._begin_op()

    def _finish(self) -> None:
        stage = self.stage
        self.version += 1
        if self.folded:
            self._credit_steps(len(self.ends_s))
        else:
            self.ends_s[self.playing] = stage.env.now
        if self.traffic.links:
            stage.fabric.rest(self.traffic.links, stage)
        steps = len(self.ends_s)
        passed = Passed(self.start_s, self.ends_s, self.causes_of(steps), self.sharing_s, self.waited_s)
        stage._ended(passed, self.on_passed)

    # ---- counted on the links: what was folded; the fabric counts what is played

    def _credit_steps(self, done: int) -> None:
        """Count what the first `done` steps have put on the links and has not been counted yet."""
        if done > self.playing >= self.credited:  # the rest of the step that was played in part
            since = Position(self.number, self.repetition, self.op)
            self._credit(self.program.traffic(since))
        whole = done - max(self.credited, self.playing + 1)
        if whole and self.traffic.demands:
            self.stage.fabric.carried_steps(self.traffic, whole)
        self.credited = done

    def _credit(self, traffic: Traffic) -> None:
        """Count a part of a step."""
        for demand, times, seconds in traffic.demands:
            self.stage.fabric.carried(demand, times, seconds)


def _ends(start_s: float, seconds: FloatArray | list[float]) -> FloatArray | list[float]:
    """When steps that take `seconds` end, the first begun at `start_s`: sums in the order of the steps."""
    if isinstance(seconds, list):
        return list(accumulate(seconds, initial=start_s))[1:]
    return np.cumsum(np.concatenate(((start_s,), seconds)))[1:]
