"""Fair rates: the max-min levels of flowing transfers, solved anew in the connected components that have
changed.

Two link sets are neighbours if they have a link in common; a connected component is all that is reached from
one over neighbours on which something flows. Max-min levels of one component do not depend on another, so a
change is solved within its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sim.cost.fairshare import fair_levels
from sim.runtime.fabric.bulk_solver import BulkSolver
from sim.runtime.fabric.transfer import CompiledDemand, LinkSet, State, Stream, Transfer

MAX_IN_PYTHON = 48
"""Components of up to so many streams are solved in plain Python (measured: benchmarks/fabric.py)."""

MAX_REMEMBERED_STREAMS = 4
"""Levels of components of up to so many streams are remembered: the same few streams meet again and again."""

REMEMBERED = 4096
"""Components whose levels are remembered at a time."""

Component = tuple[tuple[Stream, int], ...]
"""The streams of a connected component, each with its number of transfers."""


class FairRates:
    """The max-min fair levels of flowing transfers.

    Args:
        capacity: bytes/s by link. The owner may change it, and calls `forget` then.
        flow_s_now: `flow_s` of a demand on the links as they are now.
    """

    def __init__(self, capacity: list[float], flow_s_now: Callable[[CompiledDemand], float]) -> None:
        self._capacity = capacity
        self._flow_s_now = flow_s_now
        self._bulk = BulkSolver(capacity)
        self._levels: dict[Component, list[float]] = {}  # remembered, for the capacities as they are

    def forget(self) -> None:
        """Drop what is remembered: capacities have changed."""
        self._levels.clear()

    def dissolve(self) -> None:
        """Take all streams out of the bulk solver, which holds the caps that they entered with."""
        self._bulk.dissolve()

    def recount(self, stream: Stream) -> None:
        """Take over the number of transfers of a stream, which has just changed."""
        if stream.row >= 0:
            self._bulk.recount(stream)

    def of(self, unsettled: Iterable[LinkSet], began: Iterable[Transfer]) -> list[tuple[Transfer, float]]:
        """New levels, by transfer, in the components of the `unsettled` link sets.

        Every transfer that has just `began` is among them; of the others in the bulk, those whose level has
        changed.
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
                    bulk.add(stream)  # the whole component: the walk has stopped only at members of the bulk
            elif len(streams) == 1 and streams[0].copies == 1:
                # Without neighbours no solver is needed, and the level must be the float of the uncontended
                # transfer, which folding is held against.
                (transfer,) = streams[0].transfers
                levels.append((transfer, transfer.whole / self._flow_s_now(transfer.demand)))
            else:
                for stream, level in zip(streams, self._levels_of(streams), strict=True):
                    levels += [(transfer, level) for transfer in stream.transfers]
        if bulk_changes:
            for stream, level in bulk.settle():
                levels += [(transfer, level) for transfer in stream.transfers]
            # A new transfer of a stream whose level stays has not been given that level yet.
            for transfer in began:
                if transfer.state is State.FLOWING and transfer.stream.row >= 0:
                    levels.append((transfer, bulk.level(transfer.stream)))
        # Half the size at which components enter, so that one of that size does not go in and out.
        if 0 < len(bulk) < MAX_IN_PYTHON // 2:
            bulk.dissolve()
        return levels

    def _levels_of(self, streams: list[Stream]) -> list[float]:
        if len(streams) > MAX_REMEMBERED_STREAMS or not any(stream.recurs for stream in streams):
            # The order of filling decides how sums round; it must not depend on which transfer came first.
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
    """The streams of the component of a link set that are not in the bulk yet, and whether some are.

    The walk does not go on from a link set with members of the bulk: what lies beyond is in the bulk already.
    Such a link set stays out of `met`, because a walk from another start has to meet the bulk there too.
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
