"""The bulk solver: streams of large connected components, solved as arrays."""

from __future__ import annotations

import numpy as np

from sim.cost.fairshare import SAME, FlowTable
from sim.runtime.fabric.transfer import Stream


class BulkSolver:
    """Streams in a `FlowTable`, with their current levels as a vector beside it.

    Invariant: a connected component is in the bulk as a whole or not at all, so a walk that meets a member
    need go no further. Components that are joined here are solved together, which gives each the levels that
    it would have by itself.
    """

    def __init__(self, capacity: list[float]) -> None:
        self._capacity = capacity
        self._table = FlowTable(capacity)
        self._members: list[Stream] = []
        self._levels = np.zeros(64)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, stream: Stream) -> None:
        stream.row = self._table.add(stream)
        self._members.append(stream)
        if stream.row == len(self._levels):
            self._levels = np.concatenate((self._levels, np.zeros_like(self._levels)))
        self._levels[stream.row] = -1.0  # below any level, so that the next one counts as changed

    def recount(self, stream: Stream) -> None:
        """Take over the number of transfers of a stream; with none left, the stream leaves the bulk."""
        if stream.transfers:
            self._table.recount(stream.row, stream)
            return
        # The table moves its last row into the gap; members and levels follow.
        row = stream.row
        self._table.remove(row)
        last = self._members.pop()
        if last is not stream:
            self._members[row] = last
            self._levels[row] = self._levels[last.row]
            last.row = row
        stream.row = -1

    def settle(self) -> list[tuple[Stream, float]]:
        """Solve all levels; the streams whose level has changed by more than rounding."""
        old = self._levels[: len(self._members)]
        new = self._table.levels()
        rows = np.nonzero((new > old * SAME) | (old > new * SAME))[0]
        changed = new[rows]
        old[rows] = changed
        return [
            (self._members[row], level) for row, level in zip(rows.tolist(), changed.tolist(), strict=True)
        ]

    def level(self, stream: Stream) -> float:
        return float(self._levels[stream.row])

    def dissolve(self) -> None:
        """Take all streams out; the next walks find those that remain."""
        for stream in self._members:
            stream.row = -1
        self._members.clear()
        self._table = FlowTable(self._capacity)
