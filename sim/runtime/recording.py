"""A run that keeps what it does in some windows of time, for a timeline: steps, ops, transfers, causes.

The parts of a recorded run are those of any other, each with a note of what it did; a run that is not
recorded has none of them, so that it pays nothing. Folded steps stay folded. Kept of a step is what its
instants follow from (its batch, its start, and where a transfer that shared a link moved what came behind
it), and the ops are worked out from the same expressions by which they are played: so what is recorded of a
folded run is what would be recorded of a played one, to the last bit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import Any, NamedTuple

import simpy

from sim.cost.batch import Batch
from sim.cost.network import Network
from sim.cost.program import Op, Position
from sim.cost.stage_cost import StageCost
from sim.cost.step_cost import FloatArray, StepCost
from sim.results.blame import CAUSES
from sim.results.recorded import (
    OUTSIDE,
    Recorded,
    RecordedCause,
    RecordedGpu,
    RecordedOp,
    RecordedStep,
    RecordedTransfer,
    Windows,
)
from sim.runtime.engine.engine_core import EngineCore
from sim.runtime.engine.flight import Flight
from sim.runtime.engine.pipeline_fold import FoldedBatch, PipelineFold, Turn
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.stage import Passed, Stage, _Run
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.transfer import CompiledDemand, State, Transfer, Watcher
from sim.runtime.fabric.uncontended import UncontendedFabric
from sim.runtime.kv.transfer import KvTransfers
from sim.workload.request import Request

NAMES = {
    "sim.runtime.engine.engine_core": "activations to the next stage",
    "sim.runtime.kv.transfer": "KV cache to another replica",
    "sim.runtime.kv.tiers": "KV cache between tiers",
}
"""What a transfer is of, by the module that wants to hear of its end."""
BESIDE = "other traffic"

Levels = list[tuple[float, float]]
"""Since when a transfer flows at which level; only of those that met others on a link."""


class Label(NamedTuple):
    """What a transfer is of, when it began, and of which replica and requests it is."""

    name: str
    begin_s: float
    replica: int = -1
    requests: tuple[int, ...] = ()


class Mark(NamedTuple):
    """An op of a step whose transfer met others: it ended at `end_s`, and what follows has `anchor_s` as the
    start of its program.
    """

    position: Position
    end_s: float
    anchor_s: float
    levels: Levels


class Members(NamedTuple):
    """The requests in a batch: those that it decodes, and prompts with their tokens."""

    replica: int = -1
    stage: int = 0
    decodes: tuple[int, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()


class Recorder:
    """What is kept of a run in `windows`; the run ends at `ends_at_s`."""

    def __init__(self, windows: Windows, ends_at_s: float = inf) -> None:
        self.windows = windows
        self.ends_at_s = ends_at_s
        self.recorded = Recorded(windows)
        self.levels: dict[Transfer, Levels] = {}
        self.labels: dict[Transfer, Label] = {}
        self.next_label: tuple[int, tuple[int, ...]] = (-1, ())  # replica and requests of what starts now

    def of_replica(self, replica: int) -> bool:
        """Whether a replica is of interest."""
        return self.windows.replicas is None or replica in self.windows.replicas

    def charged(self, sequence: _RecordedSequence, begin_s: float, was: list[float], steps: str) -> None:
        """A request's time has been charged, from `begin_s` on; `was` are its causes before. Steps of one
        kind that follow each other are one row, however many were charged at once.
        """
        request, wanted = sequence.request.request_id, self.windows.requests
        if wanted is not None and request not in wanted:
            return
        seconds = {name: b - a for name, a, b in zip(CAUSES, was, sequence.blame, strict=True) if b != a}
        rows = self.recorded.causes.setdefault(request, [])
        if steps and rows and rows[-1].steps == steps and rows[-1].end_s == begin_s:
            begin_s, _, before, _ = rows.pop()
            seconds = {
                name: before.get(name, 0.0) + seconds.get(name, 0.0)
                for name in CAUSES
                if name in before or name in seconds
            }
        rows.append(RecordedCause(begin_s, sequence.charged_s, seconds, steps))

    def step(
        self,
        cost: StepCost,
        members: Members,
        batch: Batch,
        begin_s: float,
        end_s: float,
        marks: tuple[Mark, ...] = (),
        is_whole: bool = True,
    ) -> None:
        """Keep a step that is over, or was cut off."""
        blocks = cost.program(batch).blocks
        self.recorded.steps.append(
            RecordedStep(
                members.replica,
                members.stage,
                begin_s,
                end_s,
                members.decodes,
                members.chunks,
                batch.decode_kv_tokens,
                sum(len(block.ops) * block.repeat for block in blocks),
                partial(_ops, cost, members.replica, batch, begin_s, end_s, marks),
                is_whole,
            )
        )

    def levels_of(self, transfer: Transfer) -> Levels | None:
        """The levels at which a transfer flowed; None where it lost nothing to others. Asked once."""
        levels = self.levels.pop(transfer, None)
        return None if levels is None or not transfer.rate_changed else levels

    def transferred(self, transfer: Transfer, end_s: float) -> None:
        """Keep a transfer that is no op of a step, and has ended or was cut off."""
        label, levels = self.labels.pop(transfer, None), self.levels_of(transfer)
        if label is None or not self.windows.meet(label.begin_s, end_s):
            return
        compiled = transfer.demand
        flows_s = min(transfer.flows_s, end_s)
        shares = _shares(levels, compiled.busiest / transfer.weight, flows_s, compiled.flow_s)
        row = RecordedTransfer(
            label.name, label.replica, label.begin_s, flows_s, end_s,
            compiled.links, compiled.n_bytes, shares, label.requests,
        )  # fmt: skip
        self.recorded.transfers.append(row)

    def close(self, network: Network, replicas: list[Replica], now: float) -> Recorded:
        """All rows, those of transfers under way among them, which are cut off here."""
        for transfer in list(self.labels):
            self.transferred(transfer, now)
        recorded = self.recorded
        recorded.causes = {
            request: rows
            for request, rows in recorded.causes.items()
            if self.windows.meet(rows[0].begin_s, rows[-1].end_s)
        }
        recorded.steps.sort(key=lambda step: (step.begin_s, step.replica, step.stage, step.end_s))
        recorded.transfers.sort(key=lambda row: (row.begin_s, row.replica, row.end_s))
        recorded.links = tuple(str(link) for link in network.links)
        recorded.bytes_per_s = tuple(network.capacity)
        recorded.gpus = tuple(
            RecordedGpu(gpu, f"node{network.node_of[gpu]}", replica.index, stage, rank)
            for replica in replicas
            for stage, shard in enumerate(replica.shards)
            for rank, gpu in enumerate(shard.ranks)
        )
        recorded.end_s = now
        return recorded


def _shares(levels: Levels | None, whole: float, flows_s: float, flow_s: float) -> tuple[Any, ...]:
    """Shares of all bytes a second, and since when: constant where a transfer met no other."""
    if levels is None:
        return ((flows_s, 1.0 / flow_s if flow_s > 0.0 else 0.0),)
    return tuple((since_s, level / whole if whole else 0.0) for since_s, level in levels)


# ---- the ops of a step


def _ops(
    cost: StepCost, replica: int, batch: Batch, begin_s: float, end_s: float, marks: tuple[Mark, ...]
) -> Iterator[RecordedOp]:
    """The ops of a step in their order, each begun before `end_s`, with the instants of a played run."""
    program = cost.program(batch)
    layers = cost.layers_of(batch) if isinstance(cost, StageCost) else ()
    moved = {mark.position: mark for mark in marks}
    anchor_s, began_s = begin_s, begin_s
    for number, block in enumerate(program.blocks):
        starts = layers[number] if number < len(layers) else None
        for repetition in range(block.repeat):
            for i, op in enumerate(block.ops):
                here = Position(number, repetition, i)
                following = program.after(here)
                mark = moved.get(here)
                if mark is None:
                    ends_s = anchor_s + program.start_s(following)
                else:
                    ends_s, anchor_s = mark.end_s, mark.anchor_s
                if began_s >= end_s and began_s > begin_s:
                    return  # cut off
                layer = OUTSIDE
                if starts is not None:
                    layer = starts[0] + repetition * len(starts[1]) + bisect_right(starts[1], i) - 1
                stop_s = min(ends_s, end_s)
                yield RecordedOp(op.name, layer, began_s, stop_s, _sent(op, replica, began_s, stop_s, mark))
                began_s = ends_s


def _sent(op: Op, replica: int, began_s: float, end_s: float, mark: Mark | None) -> RecordedTransfer | None:
    demand = op.demand
    if demand is None:
        return None
    flows_s = min(began_s + demand.latency_s, end_s)
    shares: tuple[tuple[float, float], ...]
    if mark is None:
        flow_s = op.seconds - demand.latency_s
        shares = ((flows_s, 1.0 / flow_s if flow_s > 0.0 else 0.0),)
    else:
        shares = _shares(mark.levels, max(demand.n_bytes, default=0.0), flows_s, 0.0)
    return RecordedTransfer(op.name, replica, began_s, flows_s, end_s, demand.links, demand.n_bytes, shares)


# ---- the parts of a recorded run


class _RecordedFabric(Fabric):
    """Notes of every transfer what it is of, and the levels at which it flows beside others."""

    recorder: Recorder

    def _start(
        self,
        compiled: CompiledDemand,
        weight: float,
        began_at: float | None,
        planned_end: float | None,
        on_done: Callable[[Transfer], None] | None,
        owner: Watcher | None,
    ) -> Transfer:
        transfer = super()._start(compiled, weight, began_at, planned_end, on_done, owner)
        if owner is None:
            name = NAMES.get(getattr(on_done, "__module__", ""), BESIDE)
            begin_s = self.env.now if began_at is None else began_at
            self.recorder.labels[transfer] = Label(name, begin_s, *self.recorder.next_label)
        return transfer

    def abort(self, transfer: Transfer) -> float:
        is_over = transfer.state >= State.DONE
        part = super().abort(transfer)
        if not is_over:
            self.recorder.transferred(transfer, self.env.now)
        return part

    def _begin_flowing(self, transfer: Transfer) -> None:
        super()._begin_flowing(transfer)
        if transfer.state is State.FLOWING:
            self.recorder.levels[transfer] = [(transfer.flows_s, transfer.level)]

    def _set_level(self, transfer: Transfer, level: float, now: float) -> None:
        before = transfer.level
        super()._set_level(transfer, level, now)
        if transfer.level != before:
            self.recorder.levels[transfer].append((now, level))

    def _succeed(self, transfer: Transfer) -> None:
        if transfer.owner is None:
            self.recorder.transferred(transfer, self.env.now)
        super()._succeed(transfer)


class _RecordedUncontended(_RecordedFabric, UncontendedFabric):
    pass


def recorded_fabric(
    recorder: Recorder, env: simpy.Environment, network: Network, *, is_contended: bool
) -> Fabric:
    """A fabric whose runs `recorder` hears of."""
    fabric = (_RecordedFabric if is_contended else _RecordedUncontended)(env, network)
    fabric.recorder = recorder
    return fabric


def _recorder(fabric: Fabric) -> Recorder:
    assert isinstance(fabric, _RecordedFabric)
    return fabric.recorder


def _members(replica: int, stage: int, flight: Flight) -> Members:
    decodes: list[int] = []
    chunks: list[tuple[int, int]] = []
    for part in flight.parts:
        if part.together:
            decodes += part.queue.cohort.members
        for (sequence, tokens), samples in zip(part.grants, part.samples, strict=True):
            request = sequence.request.request_id
            if tokens == 1 and samples:  # as `begun` tells chunks from decodes
                decodes.append(request)
            else:
                chunks.append((request, tokens))
    return Members(replica, stage, tuple(decodes), tuple(chunks))


class _RecordedRun(_Run):
    __slots__ = ("marks", "members", "recorder")

    def __init__(
        self,
        stage: Stage,
        batch: Batch,
        steps: int,
        since_s: float,
        start_s: float,
        on_passed: Callable[[Passed], None],
    ) -> None:
        super().__init__(stage, batch, steps, since_s, start_s, on_passed)
        self.recorder = _recorder(stage.fabric)
        assert isinstance(on_passed, partial)
        core, number, flight = on_passed.func.__self__, *on_passed.args  # type: ignore[attr-defined]
        self.members = _members(core.rows.replica, number, flight)
        self.marks: dict[int, list[Mark]] = {}

    def _transferred(self, transfer: Transfer) -> None:
        self._mark(transfer, self.stage.env.now)
        super()._transferred(transfer)

    def _mark(self, transfer: Transfer, now: float) -> None:
        levels = self.recorder.levels_of(transfer)
        if levels is not None:
            here = Position(self.number, self.repetition, self.op)
            # The same floats as those by which the run goes on.
            anchor_s = now - self.after_s if now != self.anchor_s + self.after_s else self.anchor_s
            self.marks.setdefault(self.playing, []).append(Mark(here, now, anchor_s, levels))

    def _finish(self) -> None:
        ends_s = list(self.ends_s)
        if not self.folded:
            ends_s[self.playing] = self.stage.env.now
        self._keep(ends_s)
        super()._finish()

    def stop(self) -> None:
        super().stop()
        ends_s, now = list(self.ends_s[: self.playing]), self.stage.env.now
        self._keep(ends_s)
        if self.transfer is not None and self.transfer.state is State.FLOWING:
            self._mark(self.transfer, now)
        begin_s = float(ends_s[-1]) if ends_s else self.start_s
        if now > begin_s:
            self._step(self.playing, begin_s, now, is_whole=False)

    def _keep(self, ends_s: FloatArray | list[float]) -> None:
        """The steps that have ended and meet a window."""
        for since_s, until_s in self.recorder.windows.spans:
            if self.start_s >= until_s:
                continue
            for step in range(bisect_right(ends_s, since_s), len(ends_s)):
                begin_s = float(ends_s[step - 1]) if step else self.start_s
                if begin_s >= until_s:
                    break
                self._step(step, begin_s, float(ends_s[step]))

    def _step(self, step: int, begin_s: float, end_s: float, is_whole: bool = True) -> None:
        if self.recorder.of_replica(self.members.replica) and self.recorder.windows.meet(begin_s, end_s):
            batch = self.batch.grown(step) if step else self.batch
            marks = tuple(self.marks.get(step, ()))
            cost = self.stage.cost
            self.recorder.step(cost, self.members, batch, begin_s, end_s, marks, is_whole)


class RecordedStage(Stage):
    """A stage that notes every step, and where transfers of its ops met others."""

    def resume(
        self, batch: Batch, since_s: float, start_s: float, on_passed: Callable[[Passed], None]
    ) -> None:
        self._run = _RecordedRun(self, batch, 1, since_s, start_s, on_passed)
        self._run.fold()

    def _begin(self, batch: Batch, steps: int, since_s: float, on_passed: Callable[[Passed], None]) -> None:
        self._run = _RecordedRun(self, batch, steps if self.fold else 1, since_s, self.env.now, on_passed)
        self._run.begin()


class _RecordedPipelineFold(PipelineFold):
    def _count(self, one: FoldedBatch, stage: int, over: list[Turn]) -> None:
        super()._count(one, stage, over)
        recorder, replica = _recorder(self.fabric), self.rows.replica
        if not recorder.of_replica(replica):
            return
        members = _members(replica, stage, one.flight)
        first = 0 if stage >= one.first_stage else 1
        for number, turn in enumerate(over[first:], start=first):
            begin_s, end_s = turn.begins_s[stage], turn.ends_s[stage]
            if recorder.windows.meet(begin_s, end_s):
                cost = self.stages[stage].cost
                recorder.step(cost, members, one.batch.grown(number), begin_s, end_s)

    def _count_sent(self, one: FoldedBatch, stage: int, came: int) -> None:
        super()._count_sent(one, stage, came)
        recorder, replica = _recorder(self.fabric), self.rows.replica
        demand, flow_s = one.sends[stage - 1]
        requests = tuple(sequence.request.request_id for sequence, _ in one.flight.grants)
        for turn in one.turns[0 if stage > one.first_stage else 1 : came]:
            begin_s, end_s = turn.ends_s[stage - 1], turn.came_s[stage]
            if recorder.of_replica(replica) and recorder.windows.meet(begin_s, end_s):
                flows_s = begin_s + demand.latency_s
                shares = _shares(None, 0.0, flows_s, flow_s)
                name = NAMES["sim.runtime.engine.engine_core"]
                row = RecordedTransfer(
                    name, replica, begin_s, flows_s, end_s, demand.links, demand.n_bytes, shares, requests
                )
                recorder.recorded.transfers.append(row)


class RecordedCore(EngineCore):
    """An engine that says whose activations it sends."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._fold = _RecordedPipelineFold(
            self.env, self.fabric, self.stages, self.stage_send, self.rows, self.settle, self._disturbed
        )

    def _send_on(self, stage: int, flight: Flight, since_s: float | None = None) -> None:
        recorder = _recorder(self.fabric)
        recorder.next_label = self.rows.replica, tuple(flight.request_ids)
        super()._send_on(stage, flight, since_s)
        recorder.next_label = -1, ()


class RecordedKvTransfers(KvTransfers):
    """KV transfers that say whose cache they send."""

    def _send(self, pending: Any, *rest: Any, **named: Any) -> None:
        recorder = _recorder(self.fabric)
        recorder.next_label = pending.sender.index, (pending.sequence.request.request_id,)
        super()._send(pending, *rest, **named)
        recorder.next_label = -1, ()


class _RecordedSequence(Sequence):
    __slots__ = ("recorder",)

    recorder: Recorder

    def charge(self, causes: Any, until_s: float) -> None:
        since_s, was = self.charged_s, list(self.blame)
        steps = "recompute" if self.recomputing else "decode" if self.generated else "prefill"
        super().charge(causes, until_s)
        self.recorder.charged(self, since_s, was, steps)

    def wait(self, cause: int, until_s: float) -> None:
        since_s, was = self.charged_s, list(self.blame)
        super().wait(cause, until_s)
        self.recorder.charged(self, since_s, was, "")


class RecordedReplica(Replica):
    """A replica whose sequences note what their time is charged to."""

    def submit(self, request: Request) -> Sequence:
        sequence = _RecordedSequence(request, request.output_tokens, self.env.now, self.index)
        sequence.recorder = _recorder(self._core.fabric)
        self.take_up(sequence)
        return sequence
