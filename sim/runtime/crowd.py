"""The transfers of large tied-together groups, solved as arrays."""

from __future__ import annotations

import numpy as np

from sim.cost.fairshare import SAME, FlowTable
from sim.runtime.transfer import Transfer


class Crowd:
    """Transfers in a `FlowTable`, with the levels they have as one vector beside it.

    Whoever is tied to one of the crowd by a shared link is in it, so a walk that meets it need go no further.
    """

    def __init__(self, capacity: list[float]) -> None:
        self._capacity = capacity
        self._table = FlowTable(capacity)
        self._members: list[Transfer] = []
        self._levels = np.zeros(64)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, transfer: Transfer) -> None:
        transfer.row = self._table.add(transfer.flow)
        self._members.append(transfer)
        if transfer.row == len(self._levels):
            self._levels = np.concatenate((self._levels, np.zeros_like(self._levels)))
        self._levels[transfer.row] = transfer.level

    def remove(self, transfer: Transfer) -> None:
        row = transfer.row
        self._table.remove(row)
        last = self._members.pop()
        if last is not transfer:
            self._members[row] = last
            self._levels[row] = self._levels[last.row]
            last.row = row
        transfer.row = -1

    def set_level(self, transfer: Transfer) -> None:
        self._levels[transfer.row] = transfer.level

    def changed(self) -> list[tuple[Transfer, float]]:
        """Whose level is another one now, and which."""
        old = self._levels[: len(self._members)]
        new = self._table.levels()
        rows = np.nonzero((new > old * SAME) | (old > new * SAME))[0]
        return [
            (self._members[row], level) for row, level in zip(rows.tolist(), new[rows].tolist(), strict=True)
        ]

    def dissolve(self) -> None:
        """Nobody is in the crowd any more; whoever remains will be found by walking."""
        for transfer in self._members:
            transfer.row = -1
        self._members.clear()
        self._table = FlowTable(self._capacity)
