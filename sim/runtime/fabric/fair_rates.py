"""Who gets how much of the links, worked out anew where something has changed and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sim.cost.fairshare import fair_levels
from sim.runtime.fabric.bulk_solver import BulkSolver
from sim.runtime.fabric.transfer import CompiledDemand, LinkSet, State, Stream, Transfer

MAX_IN_PYTHON = 48
"""Up to so many streams connected together are solved in plain Python (measured: benchmarks/fabric.py)."""

MAX_REMEMBERED_STREAMS = 4
"""Levels of up to so many streams that are connected together are remembered: a few that meet meet again."""

REMEMBERED = 4096
"""Sets of streams whose levels are remembered at a time."""

Component = tuple[tuple[Stream, int], ...]
"""Streams that are connected together, each with its number of transfers."""


class FairRates:
    """The max-min fair levels of what flows.

    Args:
        capacity: bytes/s by link, which the owner may change; it then says `forget`.
        flow_s_now: the time of a compiled's flowing with nobody else about.
    """

    def __init__(self, capacity: list[float], flow_s_now: Callable[[CompiledDemand], float]) -> None:
        self._capacity = capacity
        self._flow_s_now = flow_s_now
        self._bulk = BulkSolver(capacity)
        self._levels: dict[Component, list[float]] = {}  # remembered, for the capacities as they are

    def forget(self) -> None:
        """Capacities are others now."""
        self._levels.clear()

    def recount(self, stream: Stream) -> None:
        """A transfer has joined or left a stream."""
        if stream.row >= 0:
            self._bulk.recount(stream)

    def of(self, unsettled: Iterable[LinkSet], began: Iterable[Transfer]) -> list[tuple[Transfer, float]]:
        """The levels of everybody who is connected to one of the `unsettled` by shared links, or of those of
        them whose level is another one now; among them all that have just `began`.
        """
        levels: list[tuple[Transfer, float]] = []
        met: set[LinkSet] = set()
        bulk = self._bulk
        bulk_changes = False
        for start in unsettled:
            if start in met or not start.flowing:
                continue
            streams, meets_bulk = _connected_to(start, met)
            if meets_bulk or len(streams) > MAX_IN_PYTHON:
                bulk_changes = True
                for stream in streams:
                    bulk.add(stream)
            elif len(streams) == 1 and streams[0].copies == 1:
                (transfer,) = streams[0].transfers
                levels.append((transfer, transfer.whole / self._flow_s_now(transfer.demand)))
            else:
                for stream, level in zip(streams, self._levels_of(streams), strict=True):
                    levels += [(transfer, level) for transfer in stream.transfers]
        if bulk_changes:
            for stream, level in bulk.settle():
                levels += [(transfer, level) for transfer in stream.transfers]
            for transfer in began:
                if transfer.state is State.FLOWING and transfer.stream.row >= 0:
                    levels.append((transfer, bulk.level(transfer.stream)))
        if 0 < len(bulk) < MAX_IN_PYTHON // 2:
            bulk.dissolve()
        return levels

    def _levels_of(self, streams: list[Stream]) -> list[float]:
        if len(streams) > MAX_REMEMBERED_STREAMS or not any(stream.recurs for stream in streams):
            streams.sort(key=_order)
            return fair_levels(streams, self._capacity)
        component = tuple([(stream, len(stream.transfers)) for stream in streams])
        levels = self._levels.get(component)
        if levels is None:
            if len(self._levels) >= REMEMBERED:
                self._levels.clear()
            by_order = sorted(streams, key=_order)
            found = dict(zip(by_order, fair_levels(by_order, self._capacity), strict=True))
            levels = self._levels[component] = [found[stream] for stream in streams]
        return levels


def _connected_to(start: LinkSet, met: set[LinkSet]) -> tuple[list[Stream], bool]:
    """What is connected to a link_set and not in the bulk yet, and whether the bulk is.

    The walk stops at the bulk: whoever is connected to one of the bulk is in it. A place where the bulk is
    met has to be met again by the next walk; all others are in `met` from then on.
    """
    passed = {start}
    stack = [start]
    streams: list[Stream] = []
    meets_bulk = False
    while stack:
        link_set = stack.pop()
        fresh = [stream for stream in link_set.flowing if stream.row < 0]
        streams += fresh
        if len(fresh) < len(link_set.flowing):
            meets_bulk = True
        else:
            met.add(link_set)
            onward = [other for other in link_set.neighbours if other.flowing and other not in passed]
            stack += onward
            passed.update(onward)
    return streams, meets_bulk


def _order(stream: Stream) -> tuple[tuple[int, ...], tuple[float, ...], float]:
    return stream.order
