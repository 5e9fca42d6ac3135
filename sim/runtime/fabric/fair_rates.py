"""Who gets how much of the links, worked out anew where something has changed and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sim.cost.fairshare import fair_levels
from sim.runtime.fabric.bulk_solver import Crowd
from sim.runtime.fabric.transfer import Footprint, Plan, State, Stream, Transfer

FEW = 48
"""Up to so many streams tied together are solved in plain Python (measured: benchmarks/fabric.py)."""

SMALL = 4
"""Levels of up to so many streams that are tied together are remembered: a few that meet meet again."""

REMEMBERED = 4096
"""Sets of streams whose levels are remembered at a time."""

Tie = tuple[tuple[Stream, int], ...]
"""Streams that are tied together, each with its number of transfers."""


class Shares:
    """The max-min fair levels of what flows.

    Args:
        capacity: bytes/s by link, which the owner may change; it then says `forget`.
        seconds_alone: the time of a plan's flowing with nobody else about.
    """

    def __init__(self, capacity: list[float], seconds_alone: Callable[[Plan], float]) -> None:
        self._capacity = capacity
        self._seconds_alone = seconds_alone
        self._crowd = Crowd(capacity)
        self._levels: dict[Tie, list[float]] = {}  # remembered, for the capacities as they are

    def forget(self) -> None:
        """Capacities are others now."""
        self._levels.clear()

    def recount(self, stream: Stream) -> None:
        """A transfer has joined or left a stream."""
        if stream.row >= 0:
            self._crowd.recount(stream)

    def of(self, unsettled: Iterable[Footprint], began: Iterable[Transfer]) -> list[tuple[Transfer, float]]:
        """The levels of everybody who is tied to one of the `unsettled` by shared links, or of those of them
        whose level is another one now; among them all that have just `began`.
        """
        levels: list[tuple[Transfer, float]] = []
        met: set[Footprint] = set()
        crowd = self._crowd
        crowd_changes = False
        for start in unsettled:
            if start in met or not start.flowing:
                continue
            streams, meets_crowd = _tied_to(start, met)
            if meets_crowd or len(streams) > FEW:
                crowd_changes = True
                for stream in streams:
                    crowd.add(stream)
            elif len(streams) == 1 and streams[0].copies == 1:
                (transfer,) = streams[0].transfers
                levels.append((transfer, transfer.whole / self._seconds_alone(transfer.plan)))
            else:
                for stream, level in zip(streams, self._levels_of(streams), strict=True):
                    levels += [(transfer, level) for transfer in stream.transfers]
        if crowd_changes:
            for stream, level in crowd.settle():
                levels += [(transfer, level) for transfer in stream.transfers]
            for transfer in began:
                if transfer.state is State.FLOWING and transfer.stream.row >= 0:
                    levels.append((transfer, crowd.level(transfer.stream)))
        if 0 < len(crowd) < FEW // 2:
            crowd.dissolve()
        return levels

    def _levels_of(self, streams: list[Stream]) -> list[float]:
        if len(streams) > SMALL or not any(stream.comes_again for stream in streams):
            streams.sort(key=_order)
            return fair_levels(streams, self._capacity)
        tie = tuple([(stream, len(stream.transfers)) for stream in streams])
        levels = self._levels.get(tie)
        if levels is None:
            if len(self._levels) >= REMEMBERED:
                self._levels.clear()
            by_order = sorted(streams, key=_order)
            found = dict(zip(by_order, fair_levels(by_order, self._capacity), strict=True))
            levels = self._levels[tie] = [found[stream] for stream in streams]
        return levels


def _tied_to(start: Footprint, met: set[Footprint]) -> tuple[list[Stream], bool]:
    """What is tied to a footprint and not in the crowd yet, and whether the crowd is.

    The walk stops at the crowd: whoever is tied to one of the crowd is in it. A place where the crowd is met
    has to be met again by the next walk; all others are in `met` from then on.
    """
    passed = {start}
    stack = [start]
    streams: list[Stream] = []
    meets_crowd = False
    while stack:
        footprint = stack.pop()
        fresh = [stream for stream in footprint.flowing if stream.row < 0]
        streams += fresh
        if len(fresh) < len(footprint.flowing):
            meets_crowd = True
        else:
            met.add(footprint)
            onward = [other for other in footprint.near if other.flowing and other not in passed]
            stack += onward
            passed.update(onward)
    return streams, meets_crowd


def _order(stream: Stream) -> tuple[tuple[int, ...], tuple[float, ...], float]:
    return stream.order
