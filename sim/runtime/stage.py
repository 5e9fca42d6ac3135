"""A pipeline stage at work: programs played op by op on the clock, or folded into one event while alone.

Playing is the meaning; folding is the same thing sooner. A stage that alone uses its links need not visit
every op: it waits for the end and stands ready, as a watcher of its links, to say at any instant which op it
is in. When something else comes onto its links, it takes up playing at that instant, in the middle of the op,
and folds again at the next op that begins while the links are quiet. Both ways compute every instant from the
same expression (sim.cost.program), so a folded run has the records of a played one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simpy

from sim.cost.batch import Batch, Causes
from sim.cost.program import Position, Program
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
    """One program at a time, first come first served. `fold` False plays everything."""

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
        return 0 if self._run is None else self._run.steps_done()

    def stop(self) -> None:
        """The clock stops at this instant: hand in the steps that have ended before it, and count what the
        step under way has put on its links.
        """
        if self._run is not None:
            self.busy_s += self.env.now - self._run.start_s
            self._run.stop()

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
    """One batch on a stage: `steps` folded steps, or the play of one."""

    def __init__(
        self, stage: Stage, batch: Batch, steps: int, since_s: float, on_passed: Callable[[Passed], None]
    ) -> None:
        self.stage = stage
        self.batch = batch
        self.start_s = stage.env.now
        self.waited_s = self.start_s - since_s
        self.on_passed = on_passed
        self.traffic = stage.cost.traffic(batch)
        self.links = tuple(self.traffic)
        self.folded_from = Position(0, 0, 0)
        self.version = 0
        self.sharing_s = 0.0
        # the step that is being played, once one is
        self.program: Program | None = None
        self.anchor_s = self.start_s
        self.position = Position(0, 0, 0)
        self.folded = False
        if steps == 1:
            seconds, causes = stage.cost.step(batch)
            self.ends_s = np.array([self.start_s + seconds])
            self.causes_of: Callable[[int], Causes] = lambda n: causes
        else:
            all_seconds, self.causes_of = stage.cost.decode_steps(batch, steps)
            self.ends_s = np.cumsum(np.concatenate(((self.start_s,), all_seconds)))[1:]

    # ---- from outside

    def begin(self) -> None:
        fabric = self.stage.fabric
        if self.links:
            quiet = fabric.is_quiet(self.links)
            fabric.watch(self.links, self)
        else:
            quiet = True
        if self.stage.fold and quiet:
            self.folded = True
            self._wait_for_end()
        else:
            self._play_last_of(1)

    def steps_done(self) -> int:
        return int(np.searchsorted(self.ends_s, self.stage.env.now, side="right"))

    def cut(self, more: int) -> None:
        """Keep the step in progress and `more` after it. A step that ends now is over already."""
        if self.program is not None:
            return
        keep = int(np.searchsorted(self.ends_s, self.stage.env.now, side="left")) + 1 + more
        if keep < len(self.ends_s):
            self.ends_s = self.ends_s[:keep]
            self._wait_for_end()

    def disturbed(self, now: float) -> None:
        """Other traffic comes onto the links at this instant: play from here."""
        if not self.folded:
            return
        self._unfold(now, int(np.searchsorted(self.ends_s, now, side="right")))

    def stop(self) -> None:
        """As at a disturbance, but what would end at this very instant does not end any more."""
        now = self.stage.env.now
        if self.folded:
            self._unfold(now, int(np.searchsorted(self.ends_s, now, side="left")))
        done = len(self.ends_s) - 1
        if done:
            self.on_passed(Passed(self.start_s, self.ends_s[:done], self.causes_of(done), 0.0, self.waited_s))

    def _unfold(self, now: float, steps_done: int) -> None:
        """Go on op by op in the step after `steps_done` steps, or in the one that has been played in part."""
        self.folded = False
        self.version += 1
        if self.program is None:
            self._play_last_of(steps_done + 1, now)
        else:
            self._take_up(now)

    # ---- folded: one event at the end

    def _wait_for_end(self) -> None:
        self.version += 1
        at(self.stage.env, float(self.ends_s[-1]), self._fold_ended, COMPLETION, self.version)

    def _fold_ended(self, version: int) -> None:
        if version == self.version:
            self._finish()

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
        self.program = self.stage.cost.program(batch)
        self._credit(before)
        if now is None:
            self._begin_op(Position(0, 0, 0))
        else:
            self._take_up(now)

    def _take_up(self, now: float) -> None:
        """Go on playing in the middle of the op that began at or before `now`."""
        assert self.program is not None
        position = self.program.locate(self.anchor_s, now)
        self.stage.fabric.credit(self.program.traffic(self.folded_from, position))
        self._begin_op(position)

    def _begin_op(self, position: Position) -> None:
        program = self.program
        assert program is not None
        if program.is_end(position):
            self._finish()
            return
        self.position = position
        op = program.op(position)
        end_s = self.anchor_s + program.start_s(program.after(position))
        if op.demand is None:
            at(self.stage.env, end_s, self._op_ended, COMPLETION, self.version)
        else:
            began_s = self.anchor_s + program.start_s(position)
            self.stage.fabric.start(
                op.demand, began_at=began_s, planned_end=end_s, on_done=self._transferred, owner=self
            )

    def _op_ended(self, version: int) -> None:
        if version == self.version:
            self._next()

    def _transferred(self, transfer: Transfer) -> None:
        program = self.program
        assert program is not None
        now = self.stage.env.now
        after = program.start_s(program.after(self.position))
        if now != self.anchor_s + after:  # it shared a link: everything after it moves
            self.sharing_s += now - (self.anchor_s + after)
            self.anchor_s = now - after
        self._next()

    def _next(self) -> None:
        program = self.program
        assert program is not None
        position = program.after(self.position)
        if self.stage.fold and not program.is_end(position) and self.stage.fabric.is_quiet(self.links, self):
            self.folded = True
            self.folded_from = position
            self.ends_s[-1] = self.anchor_s + program.total_s
            self._wait_for_end()
        else:
            self._begin_op(position)

    def _finish(self) -> None:
        stage = self.stage
        self.version += 1
        steps = len(self.ends_s)
        if self.program is None:
            self._credit(steps)
        else:
            self.ends_s[-1] = stage.env.now
            if self.folded:
                stage.fabric.credit(self.program.traffic(self.folded_from))
        if self.links:
            stage.fabric.unwatch(self.links, self)
        passed = Passed(self.start_s, self.ends_s, self.causes_of(steps), self.sharing_s, self.waited_s)
        stage._ended(passed, self.on_passed)

    def _credit(self, steps: int) -> None:
        """Give the links the bytes of `steps` folded steps; what is played the fabric counts itself."""
        if steps and self.traffic:
            self.stage.fabric.credit(
                {link: (steps * n_bytes, steps * busy_s) for link, (n_bytes, busy_s) in self.traffic.items()}
            )
