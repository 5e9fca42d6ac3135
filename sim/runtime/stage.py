"""A pipeline stage at work: programs played op by op on the clock, or folded into one event while alone.

Playing is the meaning; folding is the same thing sooner. A stage that alone uses its links need not visit
every op: it waits for the end and stands ready, as a watcher of its links, to say at any instant which op it
is in. When something else comes onto its links, it takes up playing at that instant, in the middle of the op,
and folds again at the next op that begins while the links are quiet. Both ways compute every instant from the
same expression (sim.cost.program), so a folded run has the records of a played one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simpy

from sim.cost.batch import Batch, Causes
from sim.cost.program import Block, Position, Program, Traffic
from sim.cost.steps import FloatArray, StepCost
from sim.runtime.clock import COMPLETION, at
from sim.runtime.fabric import Fabric, Transfer


@dataclass(slots=True)
class Passed:
    """What a stage did for one batch: `steps` steps from `start_s` to `end_s`, and where the seconds went.

    `ends_s` are the instants at which the steps ended. `sharing_s` is what the transfers lost to other
    traffic, all of it in the last step; `waited_s` is the time before `start_s` in which the batch waited for
    the stage.
    """

    start_s: float
    ends_s: FloatArray
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
    """One program at a time, first come first served. `fold` False plays everything.

    A stage watches the links of its programs, from one program to the next for as long as nobody else looks
    for quiet there.
    """

    def __init__(self, env: simpy.Environment, fabric: Fabric, cost: StepCost, *, fold: bool) -> None:
        self.env = env
        self.fabric = fabric
        self.cost = cost
        self.fold = fold
        self.busy_s = 0.0
        self._queue: deque[tuple[Batch, int, float, Callable[[Passed], None]]] = deque()
        self._run: _Run | None = None

    def start(self, batch: Batch, steps: int, on_passed: Callable[[Passed], None]) -> None:
        """Compute `batch`, then as many as `steps - 1` further decode steps of the same batch; call
        `on_passed` at the end.

        Fewer steps pass when `cut` is called or other traffic comes onto the links.
        """
        if self._run is None:
            self._begin(batch, steps, self.env.now, on_passed)
        else:
            self._queue.append((batch, steps, self.env.now, on_passed))

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
        """The clock stops at this instant: hand in the steps that have ended before it, and count what the
        step under way has put on its links.
        """
        if self._run is not None:
            self.busy_s += self.env.now - self._run.start_s
            self._run.stop()

    def disturbed(self, now: float) -> None:
        """Other traffic comes onto the links at this instant."""
        if self._run is not None:
            self._run.disturbed(now)

    def _begin(self, batch: Batch, steps: int, since_s: float, on_passed: Callable[[Passed], None]) -> None:
        self._run = _Run(self, batch, steps if self.fold else 1, since_s, on_passed)
        self._run.begin()

    def _ended(self, passed: Passed, on_passed: Callable[[Passed], None]) -> None:
        self._run = None
        self.busy_s += passed.end_s - passed.start_s
        if self._queue:
            self._begin(*self._queue.popleft())
        on_passed(passed)


class _Run:
    """One batch on a stage: `steps` folded steps, or the play of one.

    `program` is the step that is being played, once one is; it began at `anchor_s`, and the op in progress is
    number `op` of repetition `repetition` of its block number `number`, `block`. While that step is folded
    again, from that op on, the op is where the folding began.
    """

    __slots__ = (
        "after_s", "anchor_s", "batch", "block", "causes_of", "ends_s", "folded", "number", "on_passed", "op",
        "program", "repetition", "sharing_s", "stage", "start_s", "traffic", "version", "waited_s",
    )  # fmt: skip

    block: Block
    after_s: float

    def __init__(
        self, stage: Stage, batch: Batch, steps: int, since_s: float, on_passed: Callable[[Passed], None]
    ) -> None:
        self.stage = stage
        self.batch = batch
        self.start_s = start_s = stage.env.now
        self.waited_s = start_s - since_s
        self.on_passed = on_passed
        self.traffic = stage.cost.traffic(batch)
        self.version = 0
        self.sharing_s = 0.0
        self.folded = False
        self.program: Program | None = None
        self.anchor_s = start_s
        self.number = self.repetition = self.op = 0
        self.causes_of: Callable[[int], Causes]
        self.ends_s: FloatArray | list[float]
        if steps == 1:
            seconds, causes = stage.cost.step(batch)
            self.ends_s = [start_s + seconds]
            self.causes_of = lambda n: causes
        else:
            all_seconds, self.causes_of = stage.cost.decode_steps(batch, steps)
            self.ends_s = np.cumsum(np.concatenate(((start_s,), all_seconds)))[1:]

    # ---- from outside

    def begin(self) -> None:
        stage, links = self.stage, self.traffic.links
        quiet = True
        if links:
            quiet = stage.fabric.is_quiet(links, stage)
            stage.fabric.watch(links, stage)
        if stage.fold and quiet:
            self.folded = True
            self._wait_for_end()
        else:
            self._play_last_of(1)

    def cut(self, more: int) -> None:
        """Keep the step in progress and `more` after it. A step that ends now is over already."""
        if self.program is not None:
            return
        keep = bisect_left(self.ends_s, self.stage.env.now) + 1 + more
        if keep < len(self.ends_s):
            self.ends_s = self.ends_s[:keep]
            self._wait_for_end()

    def disturbed(self, now: float) -> None:
        """Other traffic comes onto the links at this instant: play from here."""
        if self.folded:
            self._unfold(now, bisect_right(self.ends_s, now))

    def stop(self) -> None:
        """As at a disturbance, but what would end at this very instant does not end any more."""
        now = self.stage.env.now
        if self.folded:
            self._unfold(now, bisect_left(self.ends_s, now))
        done = len(self.ends_s) - 1
        if done:
            ends_s = np.asarray(self.ends_s[:done])
            self.on_passed(Passed(self.start_s, ends_s, self.causes_of(done), 0.0, self.waited_s))

    # ---- folded: one event at the end

    def _wait_for_end(self) -> None:
        self.version += 1
        at(self.stage.env, float(self.ends_s[-1]), self._fold_ended, COMPLETION, self.version)

    def _fold_ended(self, version: int) -> None:
        if version == self.version:
            self._finish()

    def _unfold(self, now: float, steps_done: int) -> None:
        """Go on op by op in the step after `steps_done` steps, or in the one that has been played in part."""
        self.folded = False
        self.version += 1
        if self.program is None:
            self._play_last_of(steps_done + 1, now)
        else:
            self._take_up(now)

    # ---- played: one event an op

    def _play_last_of(self, steps: int, now: float | None = None) -> None:
        """Play step number `steps` (counted from 1) of this run as its last, from its start or from the
        instant `now`.
        """
        before = steps - 1
        batch = self.batch.grown(before) if before else self.batch
        if before:
            self.anchor_s = float(self.ends_s[before - 1])
        self.ends_s = self.ends_s[:steps]
        self.program = program = self.stage.cost.program(batch)
        self._credit(self.traffic, before)
        self.block = program.blocks[0]
        if now is None:
            self._begin_op()
        else:
            self._take_up(now)

    def _take_up(self, now: float) -> None:
        """Go on playing in the middle of the op that began at or before `now`."""
        program = self.program
        assert program is not None
        folded_from = Position(self.number, self.repetition, self.op)
        position = program.locate(self.anchor_s, now)
        self._credit(program.traffic(folded_from, position))
        self.number, self.repetition, self.op = position
        self.block = program.blocks[self.number]
        self._begin_op()

    def _begin_op(self) -> None:
        block, i = self.block, self.op + 1
        op = block.ops[i - 1]
        if op.demand is None and self.stage.fold:  # nobody can come between one kernel and the next
            while i < len(block.ops) and block.ops[i].demand is None:
                i += 1
            self.op = i - 1
        if i < len(block.ops):  # the same floats as those of `Program.start_s`
            after_s = block.start_s + (self.repetition * block.period_s + block.offsets_s[i])
        else:
            after_s = block.start_s + (self.repetition + 1) * block.period_s
        self.after_s = after_s
        if op.demand is None:
            at(self.stage.env, self.anchor_s + after_s, self._op_ended, COMPLETION, self.version)
        else:
            began_s = block.start_s + (self.repetition * block.period_s + block.offsets_s[i - 1])
            self.stage.fabric.start(
                op.demand,
                began_at=self.anchor_s + began_s,
                planned_end=self.anchor_s + after_s,
                on_done=self._transferred,
                owner=self.stage,
            )

    def _op_ended(self, version: int) -> None:
        if version == self.version:
            self._next()

    def _transferred(self, transfer: Transfer) -> None:
        now = self.stage.env.now
        planned_s = self.anchor_s + self.after_s
        if now != planned_s:  # it shared a link: everything after it moves
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
                assert self.program is not None
                if self.number == len(self.program.blocks):
                    self._finish()
                    return
                self.block = self.program.blocks[self.number]
        stage = self.stage
        if stage.fold and stage.fabric.is_quiet(self.traffic.links, stage):
            assert self.program is not None
            self.folded = True
            self.ends_s[-1] = self.anchor_s + self.program.total_s
            self._wait_for_end()
        else:
            self._begin_op()

    def _finish(self) -> None:
        stage = self.stage
        self.version += 1
        steps = len(self.ends_s)
        if self.program is None:
            self._credit(self.traffic, steps)
        else:
            self.ends_s[-1] = stage.env.now
            if self.folded:
                self._credit(self.program.traffic(Position(self.number, self.repetition, self.op)))
        if self.traffic.links:
            stage.fabric.rest(self.traffic.links, stage)
        passed = Passed(
            self.start_s, np.asarray(self.ends_s), self.causes_of(steps), self.sharing_s, self.waited_s
        )
        stage._ended(passed, self.on_passed)

    def _credit(self, traffic: Traffic, steps: int = 1) -> None:
        """Count what was folded, `steps` times over; what is played the fabric counts itself."""
        if steps:
            for demand, times, seconds in traffic.demands:
                self.stage.fabric.carried(demand, steps * times, steps * seconds)
