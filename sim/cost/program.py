"""One forward step of a pipeline stage as a program: the ops of a layer, repeated over the layers.

A program says when each of its ops begins and ends if nothing interferes. Every such instant is one
expression of the step's start (never a running sum), so that ops played one by one and ops folded into a
single event meet on the same floating-point numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from sim.cost.collectives.demands import Demand


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


class Block(NamedTuple):
    """Ops that follow each other, `repeat` times over; `period_s` is the time of one repetition."""

    ops: tuple[Op, ...]
    offsets_s: tuple[float, ...]
    repeat: int
    period_s: float
    start_s: float
    transfers: tuple[tuple[int, Demand, float], ...]  # which op, what, and for how long its bytes flow

    @classmethod
    def of(cls, ops: tuple[Op, ...], repeat: int, period_s: float, start_s: float) -> Block:
        """A block with the offsets and transfers of its ops."""
        transfers = [
            (i, op.demand, op.seconds - op.demand.latency_s)
            for i, op in enumerate(ops)
            if op.demand is not None
        ]
        offsets = tuple(accumulate([op.seconds for op in ops[:-1]], initial=0.0))
        return cls(ops, offsets, repeat, period_s, start_s, tuple(transfers))


class Program:
    """Blocks of ops, one after the other. Instants are seconds from the start of the program."""

    __slots__ = ("blocks", "links", "total_s")

    def __init__(self, blocks: Iterable[tuple[tuple[Op, ...], int, float]]) -> None:
        """`blocks`: (ops, repeat, seconds of one repetition); a repetition longer than its ops ends in a
        wait.
        """
        start = 0.0
        built = []
        for ops, repeat, period in blocks:
            if ops and repeat:
                built.append(Block.of(ops, repeat, period, start))
                start = start + repeat * period
        self.blocks = tuple(built)
        used = {link for block in built for _, demand, _ in block.transfers for link in demand.links}
        self.links = tuple(sorted(used))
        self.total_s = start

    @classmethod
    def of_blocks(cls, blocks: tuple[Block, ...], links: tuple[int, ...], total_s: float) -> Program:
        """From blocks that are built already, one after the other, and the links of all their transfers."""
        program = cls.__new__(cls)
        program.blocks = blocks
        program.links = links
        program.total_s = total_s
        return program

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

    def locate(self, anchor_s: float, now_s: float) -> Position:
        """The op in progress at `now_s` when the program began at `anchor_s`: the last one that has begun by
        then.
        """
        # Division finds the place to within one; the loops then compare instants in the very form in which
        # `start_s` states them, so that an op begins here exactly when it does for the stage that plays it.
        blocks = self.blocks
        b = len(blocks) - 1
        while b and anchor_s + blocks[b].start_s > now_s:
            b -= 1
        _, offsets_s, repeat, period_s, start_s, _ = blocks[b]
        inside_s = now_s - anchor_s - start_s
        repetition = min(max(int(inside_s / period_s), 0), repeat - 1) if period_s > 0.0 else repeat - 1
        while repetition + 1 < repeat and anchor_s + (start_s + (repetition + 1) * period_s) <= now_s:
            repetition += 1
        while repetition and anchor_s + (start_s + repetition * period_s) > now_s:
            repetition -= 1
        since_s = repetition * period_s
        op = max(bisect_right(offsets_s, inside_s - since_s) - 1, 0)  # but for rounding
        while op + 1 < len(offsets_s) and anchor_s + (start_s + (since_s + offsets_s[op + 1])) <= now_s:
            op += 1
        while op and anchor_s + (start_s + (since_s + offsets_s[op])) > now_s:
            op -= 1
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
            if not block.transfers:
                continue
            before = (first.repetition, first.op) if b == first.block else (0, 0)
            until = (end.repetition, end.op) if b == end.block else (block.repeat, 0)
            for i, demand, flow_s in block.transfers:
                # whole repetitions between the two positions, and one more or less by the place within them
                times = (until[0] + (i < until[1])) - (before[0] + (i < before[1]))
                if times:
                    _, counted, seconds = demands.get(id(demand), (demand, 0, 0.0))
                    demands[id(demand)] = (demand, counted + times, seconds + times * flow_s)
        return Traffic(tuple(demands.values()), self.links)
