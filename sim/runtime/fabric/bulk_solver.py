"""The streams of large connected-together groups, solved as arrays."""

from __future__ import annotations

import numpy as np

from sim.cost.fairshare import SAME, FlowTable
from sim.runtime.fabric.transfer import Stream


class BulkSolver:
    """Streams in a `FlowTable`, with the levels they have as one vector beside it.

    Whoever is connected to one of the bulk by a shared link is in it, so a walk that meets it need go no
    further.
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
        self._levels[stream.row] = -1.0

    def recount(self, stream: Stream) -> None:
        """A transfer has joined or left a stream; where none is left, the stream leaves the bulk."""
        if stream.transfers:
            self._table.recount(stream.row, stream)
            return
        row = stream.row
        self._table.remove(row)
        last = self._members.pop()
        if last is not stream:
            self._members[row] = last
            self._levels[row] = self._levels[last.row]
            last.row = row
        stream.row = -1

    def settle(self) -> list[tuple[Stream, float]]:
        """Work out all levels; the streams whose level is another one now."""
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
        """Nobody is in the bulk any more; whoever remains will be found by walking."""
        for stream in self._members:
            stream.row = -1
        self._members.clear()
        self._table = FlowTable(self._capacity)
