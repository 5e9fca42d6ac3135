"""A pipeline whose batches come round unchanged, folded into one event.

While no sequence finishes and none is admitted, each batch passes the stages, gets its tokens and begins
again at once. Every instant of that follows from earlier ones: a batch begins at a stage when it has come
there and the batch before it has left, stays as long as its step takes, and comes to the next stage when its
activations have been sent. So a whole run of rounds is worked out in one go, with the very floats that
playing them would give, and one event stands for all of it.

That is exact where no two batches can meet on a link: with one batch in flight, or where every stage and
every way between two of them has links of its own. Elsewhere each stage folds its own steps (`stage.py`).
When other traffic comes onto a link, or a request into the engine, the rounds are settled up to that instant
and the pipeline goes on from there batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from math import inf

import numpy as np
import simpy

from sim.cost.batch import Batch, Causes
from sim.cost.collectives.demands import Demand
from sim.runtime.clock import COMPLETION, at
from sim.runtime.engine.attribution import STEP_PIPELINE, no_seconds
from sim.runtime.engine.flight import Flight
from sim.runtime.engine.speculation import Speculator
from sim.runtime.engine.stage import Stage
from sim.runtime.engine.step_records import StepRecorder
from sim.runtime.fabric.fabric import Fabric

REMEMBERED = 4096
"""Sets of batches whose links are kept at a time."""
MIN_PLANNED, MAX_PLANNED = 16, 1024
"""Rounds that are worked out at a time; more once they have been left to go to their end."""


@dataclass(slots=True)
class Turn:
    """One batch's way through all stages: when it came to each, began and ended there. -inf at stages that it
    had passed before the rounds were folded.
    """

    came_s: list[float]
    begins_s: list[float]
    ends_s: list[float]


@dataclass(slots=True)
class FoldedBatch:
    """A batch and its turns. `rounds` of them are sure to be alike; `seconds` are those of each stage's
    steps, `causes` the seconds by cause of the first so many of them; `sends` the transfers between stages,
    with their seconds of flow (`flow_s`).
    """

    flight: Flight
    batch: Batch
    first_stage: int
    rounds: int
    seconds: list[list[float]]
    causes: list[Callable[[int], Causes]]
    sends: list[tuple[Demand, float]]
    turns: list[Turn] = field(default_factory=list)

    def begun(self, now: float, at_this_instant: bool = False) -> int:
        """Turns that have begun before this instant, or by it."""
        begun = 1
        # A turn begins when the engine has looked at its queue after the one before has ended.
        while begun < len(self.turns):
            scheduled_s = self.turns[begun - 1].ends_s[-1]
            if scheduled_s > now or (scheduled_s == now and not at_this_instant):
                break
            begun += 1
        return begun


@dataclass(slots=True)
class FoldedState:
    """What a batch has done in the rounds, and where it is now.

    `delivered_s` are the ends of those of its `begun` turns that have ended: `first_causes` are the seconds
    of the first, which was under way when the rounds were folded, `later_causes` those of the others. If a
    turn is under way, `causes` are its seconds on the stages that the batch, as it is now, has passed. It is
    at `stage`, where it came at `came_s` and began at `begun_s`, or waits (None); or on its way there since
    `sent_s`. `stage` is -1 between two turns.
    """

    flight: Flight
    batch: Batch
    begun: int
    delivered_s: list[float]
    first_causes: list[float]
    later_causes: list[float]
    causes: list[float] = field(default_factory=list)
    stage: int = -1
    came_s: float = inf
    begun_s: float | None = None
    sent_s: float | None = None


class PipelineFold:
    """The rounds of one engine's pipeline; a watcher of all its links while they are folded."""

    def __init__(
        self,
        env: simpy.Environment,
        fabric: Fabric,
        stages: Sequence[Stage],
        sent: Callable[[int, int], Demand],
        rows: StepRecorder,
        on_over: Callable[[], None],
        on_disturbed: Callable[[], None],
    ) -> None:
        """`sent` gives the transfer of so many tokens from a stage to the next; `on_over` is called when the
        planned rounds have ended, `on_disturbed` when other traffic comes onto a link before.
        """
        self.env = env
        self.fabric = fabric
        self.stages = stages
        self.sent = sent
        self.rows = rows
        self.on_over = on_over
        self.on_disturbed = on_disturbed
        self.folded: list[FoldedBatch] = []
        self._planned = MIN_PLANNED
        self._links: tuple[int, ...] = ()
        self._links_by_batches: dict[tuple[tuple[int, int], ...], tuple[int, ...] | None] = {}
        self._version = 0

    def reprice(self, sent: Callable[[int, int], Demand]) -> None:
        """Traffic goes other ways from now on."""
        self.sent = sent
        self._links_by_batches.clear()

    @property
    def tokens_begun(self) -> int:
        """Tokens of turns that have begun since the rounds were folded, before this instant."""
        now = self.env.now
        return sum((one.begun(now) - 1) * one.batch.decodes for one in self.folded)

    def disturbed(self, now: float) -> None:
        """Other traffic comes onto a link: what follows is played."""
        self.on_disturbed()

    def left_alone(self) -> None:
        """Part of a watcher: nothing is played here that could be folded."""

    def may_fold(self, flights: Sequence[Flight]) -> bool:
        """True where every batch is at a stage, undisturbed and in its order, and none can meet another on a
        link.
        """
        if any(flight.sent is not None or flight.done for flight in flights):
            return False
        if not all(stage.is_folded for stage in self.stages):
            return False
        if not all((-a.stage, a.since_s) < (-b.stage, b.since_s) for a, b in pairwise(flights)):
            return False  # one has overtaken another on a link
        return self._links_of(flights) is not None

    def fold(self, flights: Sequence[Flight], rounds: Sequence[int]) -> None:
        """Fold as many rounds of each batch as are sure to be alike; of batches that `may_fold`."""
        links = self._links_of(flights)
        assert links is not None, "`may_fold` has looked"
        folded = [
            self._folded(flight, min(most, self._planned))
            for flight, most in zip(flights, rounds, strict=True)
        ]
        began_s = [stage.begun_s for stage in self.stages]
        for stage in self.stages:
            stage.discard()  # what is at work there is the first turn of a folded batch
        self.folded = folded
        until_s = self._plan(began_s)
        if self.fabric.is_quiet(links, self):
            self._links = links
            self.fabric.watch(links, self)
            at(self.env, until_s, self._ended, COMPLETION, self._version)
        else:  # traffic was there before: settle at once, and play
            self.on_disturbed()

    def _folded(self, flight: Flight, rounds: int) -> FoldedBatch:
        costs = [stage.cost.decode_steps(flight.batch, rounds) for stage in self.stages]
        demands = [self.sent(stage, flight.batch.tokens) for stage in range(len(self.stages) - 1)]
        return FoldedBatch(
            flight,
            flight.batch,
            flight.stage,
            rounds,
            [seconds.tolist() for seconds, _ in costs],
            [causes for _, causes in costs],
            [(demand, self.fabric.flow_s(demand)) for demand in demands],
        )

    def _links_of(self, flights: Sequence[Flight]) -> tuple[int, ...] | None:
        """All links that the batches use; None where two might meet on one."""
        key = tuple((flight.batch.tokens, flight.batch.sampled) for flight in flights)
        if key not in self._links_by_batches:
            if len(self._links_by_batches) == REMEMBERED:
                self._links_by_batches.clear()
            used: list[set[int]] = []
            for i, stage in enumerate(self.stages):
                used.append({link for one in flights for link in stage.cost.traffic(one.batch).links})
                if i + 1 < len(self.stages):
                    used.append({link for one in flights for link in self.sent(i, one.batch.tokens).links})
            meet = len(flights) > 1 and not all(a.isdisjoint(b) for a, b in combinations(used, 2))
            self._links_by_batches[key] = None if meet else tuple(sorted(set().union(*used)))
        return self._links_by_batches[key]

    def _plan(self, began_s: Sequence[float | None]) -> float:
        """Work out all turns, up to the instant from which they are not sure any more: a batch has had all of
        its rounds, or would catch up with the one before it on the way to a stage.

        Turn by turn of one batch after the other, since a turn needs to know when the batch before it leaves
        each stage.
        """
        free_s = [-inf] * len(self.stages)
        last_came_s = [-inf] * len(self.stages)
        until_s = inf
        going_on = True
        while going_on:
            going_on = False
            for one in self.folded:
                if len(one.turns) == one.rounds or (one.turns and one.turns[-1].ends_s[-1] >= until_s):
                    continue
                turn = self._turn(one, began_s, free_s)
                one.turns.append(turn)
                going_on = True
                if len(one.turns) == one.rounds:
                    until_s = min(until_s, turn.ends_s[-1])
                for stage in range(1, len(self.stages)):
                    sent_s, came_s = turn.ends_s[stage - 1], turn.came_s[stage]
                    if -inf < sent_s < last_came_s[stage]:  # the batch before it is still on the same links
                        until_s = min(until_s, sent_s)
                    last_came_s[stage] = max(last_came_s[stage], came_s)
        return until_s

    def _turn(self, one: FoldedBatch, began_s: Sequence[float | None], free_s: list[float]) -> Turn:
        """The next turn of a batch, behind all turns that have been worked out before it."""
        stages, number = len(self.stages), len(one.turns)
        first = one.first_stage if not number else 0
        turn = Turn([-inf] * stages, [-inf] * stages, [-inf] * stages)
        came_s = one.turns[-1].ends_s[-1] if number else one.flight.since_s
        for stage in range(first, stages):
            begins_s = max(came_s, free_s[stage])
            if not number and stage == first and free_s[stage] == -inf:
                begun_s = began_s[stage]
                assert begun_s is not None, "the first batch of a stage is at work there"
                begins_s = begun_s
            ends_s = begins_s + one.seconds[stage][number]
            turn.came_s[stage], turn.begins_s[stage], turn.ends_s[stage] = came_s, begins_s, ends_s
            free_s[stage] = ends_s
            if stage + 1 < stages:
                demand, flow_s = one.sends[stage]
                came_s = (ends_s + demand.latency_s) + flow_s  # in this order: the fabric's own floats
        return turn

    def _ended(self, version: int) -> None:
        if version == self._version:
            planned = self._planned
            self.on_over()  # settles, which halves the plan; this one went to its end
            self._planned = min(2 * planned, MAX_PLANNED)

    # ---- settled

    def settle(self, *, ends_now: bool = True, schedules_now: bool = False) -> list[FoldedState]:
        """Count and record all that has passed, and give the batches back, the one furthest ahead first.

        `ends_now`: what ends at this very instant has ended; `schedules_now`: and the engine has looked at
        its queue since.
        """
        now = self.env.now
        self._version += 1  # the end that is on the clock is of rounds that are no more
        self._planned = max(self._planned // 2, MIN_PLANNED)
        self.fabric.unwatch(self._links, self)
        self._links = ()
        folded, self.folded = self.folded, []

        def is_over(instant_s: float) -> bool:
            return instant_s < now or (ends_now and instant_s == now)

        states = []
        for one in folded:
            begun = one.turns[: one.begun(now, schedules_now)]
            for stage in range(len(self.stages)):
                self._count(one, stage, [turn for turn in begun if is_over(turn.ends_s[stage])])
                if stage:
                    self._count_sent(one, stage, sum(is_over(turn.came_s[stage]) for turn in begun))
            states.append(self._state_of(one, begun, is_over))
        states.sort(key=lambda one: one.begun)  # stable: batches stood in their order
        return states

    def _count(self, one: FoldedBatch, stage: int, over: list[Turn]) -> None:
        """Rows, busy time and bytes of the turns that are over at a stage."""
        first = 0 if stage >= one.first_stage else 1
        if len(over) > first:
            starts_s = np.array([turn.begins_s[stage] for turn in over[first:]])
            ends_s = np.array([turn.ends_s[stage] for turn in over[first:]])
            batch = one.batch.grown(first)
            self.rows.rounds_passed(stage, batch, one.flight.number, starts_s, ends_s)
            self.stages[stage].count(batch, len(starts_s), float(np.sum(ends_s - starts_s)))

    def _count_sent(self, one: FoldedBatch, stage: int, came: int) -> None:
        """Bytes of what has been sent to a stage. In its first turn the batch may have come there before the
        rounds were folded; the fabric has counted that.
        """
        times = came if stage > one.first_stage else came - 1
        if times:
            demand, flow_s = one.sends[stage - 1]
            self.fabric.carried(demand, times, times * flow_s)

    def _state_of(self, one: FoldedBatch, begun: list[Turn], is_over: Callable[[float], bool]) -> FoldedState:
        delivered_s = [turn.ends_s[-1] for turn in begun if is_over(turn.ends_s[-1])]
        done = len(delivered_s)
        first, later = _causes_of(one, done)
        state = FoldedState(one.flight, one.batch.grown(done), len(begun), delivered_s, first, later)
        if done < len(begun):
            self._place(state, one, begun[done], is_over)
        return state

    def _place(
        self, state: FoldedState, one: FoldedBatch, turn: Turn, is_over: Callable[[float], bool]
    ) -> None:
        """Where a batch is in the turn that is under way."""
        done = len(state.delivered_s)
        state.causes = no_seconds() if done else state.first_causes
        stage = 0 if done else one.first_stage
        while is_over(turn.ends_s[stage]):
            _add(state.causes, self.stages[stage].cost.step(state.batch)[1])
            stage += 1
        came_s, begins_s = turn.came_s[stage], turn.begins_s[stage]
        state.stage, state.came_s = stage, came_s
        state.begun_s = begins_s if is_over(begins_s) else None
        state.sent_s = None if is_over(came_s) else turn.ends_s[stage - 1]


def _causes_of(one: FoldedBatch, done: int) -> tuple[list[float], list[float]]:
    """Seconds by cause of a batch's first turn, and of all later ones among `done` that have ended.

    The first turn has what the batch had come to before the rounds were folded, and its stages since.
    """
    first, later = list(one.flight.causes), no_seconds()
    if done:
        for stage, causes_of in enumerate(one.causes):
            of_first = causes_of(1)
            if stage >= one.first_stage:
                _add(first, of_first)
            if done > 1:
                _add(later, causes_of(done))
                _add(later, of_first, -1.0)
    return first, later


def _add(causes: list[float], more: Causes, times: float = 1.0) -> None:
    for cause, seconds in enumerate(more):
        causes[cause] += times * seconds


def deliver_tokens(state: FoldedState, rows: StepRecorder, speculator: Speculator) -> None:
    """Give every sequence of a batch the tokens of its rounds, and blocks for those that have begun."""
    flight, ends_s = state.flight, state.delivered_s
    sequences = [sequence for sequence, _ in flight.grants]
    if state.begun > 1:
        rows.number_of([sequence.request.request_id for sequence in sequences])
    if ends_s:
        flight.causes = state.first_causes
        # Only before the first of these tokens may the gaps of the sequences differ.
        rows.gaps_of(flight.number, flight.last_tokens_s(), ends_s[0])
        for before_s, now in pairwise(ends_s):
            rows.gaps_of(flight.number, [before_s] * len(sequences), now)
    for sequence in sequences:
        if ends_s:
            flight.charge(sequence, ends_s[0])
            causes = list(state.later_causes)
            causes[STEP_PIPELINE] += (ends_s[-1] - ends_s[0]) - sum(causes)
            sequence.charge(causes, ends_s[-1])
            speculator.give(sequence, len(ends_s), ends_s[-1])
        sequence.queue.grow(sequence, state.begun - 1)
        if state.stage < 0:
            sequence.in_flight -= 1
    if ends_s:
        flight.start_s = ends_s[-1]
