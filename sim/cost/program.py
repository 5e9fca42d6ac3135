"""One forward step of a pipeline stage as a program: the ops of a layer, repeated over the layers.

A program says when each of its ops begins and ends if nothing interferes. Every such instant is one
expression of the step's start (never a running sum), so that whoever plays the ops one by one and whoever
folds them into a single event meet on the same floating-point numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sim.cost.demands import Demand


@dataclass(frozen=True, slots=True)
class Op:
    """A kernel, host work or a wait (`demand` is None), or a transfer; `seconds` is its time alone."""

    name: str
    seconds: float
    demand: Demand | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Transfers that ops put on links: each demand with how often it comes, and the seconds in which its
    bytes flow when alone, all times together. `links` are the links of all of them.
    """

    demands: tuple[tuple[Demand, int, float], ...] = ()
    links: tuple[int, ...] = ()


NO_TRAFFIC = Traffic()


class Position(NamedTuple):
    """Which op: block, repetition of the block, op within it."""

    block: int
    repetition: int
    op: int


@dataclass(frozen=True, slots=True)
class Block:
    """Ops that follow each other, `repeat` times over; `period_s` is the time of one repetition."""

    ops: tuple[Op, ...]
    offsets_s: tuple[float, ...]
    repeat: int
    period_s: float
    start_s: float
    transfers: tuple[tuple[int, Demand, float], ...]  # which op, what, and for how long its bytes flow


class Program:
    """Blocks of ops, one after the other. Instants are seconds from the start of the program."""

    __slots__ = ("blocks", "links", "total_s")

    def __init__(
        self, blocks: Iterable[tuple[tuple[Op, ...], int, float]], links: tuple[int, ...] | None = None
    ) -> None:
        """`blocks`: (ops, repeat, seconds of one repetition); a repetition longer than its ops ends in a
        wait. `links` of all ops, where they are known already.
        """
        start = 0.0
        built = []
        for ops, repeat, period in blocks:
            if not ops or not repeat:
                continue
            offsets, offset, transfers = [], 0.0, []
            for i, op in enumerate(ops):
                offsets.append(offset)
                offset += op.seconds
                if op.demand is not None:
                    transfers.append((i, op.demand, op.seconds - op.demand.latency_s))
            built.append(Block(ops, tuple(offsets), repeat, period, start, tuple(transfers)))
            start = start + repeat * period
        self.blocks = tuple(built)
        if links is None:
            used = {link for block in built for _, demand, _ in block.transfers for link in demand.links}
            links = tuple(sorted(used))
        self.links = links
        self.total_s = start

    def op(self, at: Position) -> Op:
        return self.blocks[at.block].ops[at.op]

    def start_s(self, at: Position) -> float:
        """When op `at` begins; the position after the last op begins at `total_s`."""
        if at.block == len(self.blocks):
            return self.total_s
        block = self.blocks[at.block]
        return block.start_s + (at.repetition * block.period_s + block.offsets_s[at.op])

    def after(self, at: Position) -> Position:
        """The op that follows `at`; after the last one, a position whose block does not exist."""
        block = self.blocks[at.block]
        if at.op + 1 < len(block.ops):
            return Position(at.block, at.repetition, at.op + 1)
        if at.repetition + 1 < block.repeat:
            return Position(at.block, at.repetition + 1, 0)
        return Position(at.block + 1, 0, 0)

    def is_end(self, at: Position) -> bool:
        return at.block == len(self.blocks)

    def locate(self, anchor_s: float, now_s: float) -> Position:
        """The op in progress at `now_s` when the program began at `anchor_s`: the last one that has begun by
        then.
        """
        blocks = self.blocks
        b = bisect_right(blocks, now_s, key=lambda block: anchor_s + block.start_s) - 1
        if b < 0:
            return Position(0, 0, 0)
        block = blocks[b]
        guess = (
            int((now_s - anchor_s - block.start_s) / block.period_s)
            if block.period_s > 0.0
            else block.repeat - 1
        )
        repetition = min(max(guess, 0), block.repeat - 1)
        while (
            repetition + 1 < block.repeat and anchor_s + self.start_s(Position(b, repetition + 1, 0)) <= now_s
        ):
            repetition += 1
        while repetition > 0 and anchor_s + self.start_s(Position(b, repetition, 0)) > now_s:
            repetition -= 1
        op = 0
        while op + 1 < len(block.ops) and anchor_s + self.start_s(Position(b, repetition, op + 1)) <= now_s:
            op += 1
        return Position(b, repetition, op)

    def traffic(self, first: Position | None = None, end: Position | None = None) -> Traffic:
        """The transfers of the ops from `first` up to, not including, `end`; by default of the whole
        program.
        """
        first = Position(0, 0, 0) if first is None else first
        end = Position(len(self.blocks), 0, 0) if end is None else end
        demands: dict[int, tuple[Demand, int, float]] = {}
        for b in range(first.block, min(end.block + 1, len(self.blocks))):
            block = self.blocks[b]
            before = (first.repetition, first.op) if b == first.block else (0, 0)
            until = (end.repetition, end.op) if b == end.block else (block.repeat, 0)
            for i, demand, fluid_s in block.transfers:
                times = (until[0] + (i < until[1])) - (before[0] + (i < before[1]))
                if times:
                    _, counted, seconds = demands.get(id(demand), (demand, 0, 0.0))
                    demands[id(demand)] = (demand, counted + times, seconds + times * fluid_s)
        return Traffic(tuple(demands.values()), self.links)
