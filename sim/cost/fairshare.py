"""Max-min fair shares of links among transfers at one instant; no notion of time.

A transfer puts `load[k]` bytes/s on its link `links[k]` for each unit of its *level*. All levels rise
together from zero; where a link is full, the transfers on it stop rising; a transfer with a cap stops there.
The result is the one allocation in which no level can rise without lowering one that is not higher
(progressive filling; Bertsekas and Gallager, Data Networks, 6.5.2).

The definition of a level decides what counts as an equal share. `loads_of` makes it the transfer's byte rate
on its own busiest link, divided by its weight. For point-to-point flows that is the classical max-min
fairness; a collective counts as one flow as wide as its busiest link, and slows down as a whole where one of
its links is shared, as a chunk-pipelined one does.

Two solvers for one allocation: plain Python with a heap of links, quicker for a few transfers, and
`FlowTable`, numpy arrays that are kept up to date while transfers come and go, quicker for many. They agree
to rounding (tested at 1e-9).

Where it stops: a fluid has no packets, so no incast, no head-of-line blocking, no hash collisions, and tiny
transfers start at their full rate at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

SAME = 1.0 + 1e-12
"""Two shares within this ratio are one share, so that rounding does not make equal transfers differ."""


class Flow(NamedTuple):
    """Equal transfers as the solvers see them.

    `loads`: bytes/s of one of them on each link per unit of level; `cap`: the level that they cannot exceed;
    `copies`: their number.
    """

    links: tuple[int, ...]
    loads: tuple[float, ...]
    cap: float = inf
    copies: int = 1


class FlowLike(Protocol):
    """An object with the attributes of a `Flow`."""

    @property
    def links(self) -> tuple[int, ...]: ...
    @property
    def loads(self) -> tuple[float, ...]: ...
    @property
    def cap(self) -> float: ...
    @property
    def copies(self) -> int: ...


def loads_of(n_bytes: Sequence[float], weight: float = 1.0) -> tuple[float, ...]:
    """Bytes/s on each link per unit of level, where level times weight is the byte rate on the busiest
    link.
    """
    busiest = max(n_bytes)
    return tuple([weight * (amount / busiest) for amount in n_bytes])


def max_min(
    demands: Sequence[tuple[Sequence[int], Sequence[float], float, float]], capacity: Sequence[float]
) -> list[float]:
    """The rate of each demand `(links, n_bytes, weight, min_flow_s)`, as a fraction of its bytes per second.

    `n_bytes` are above zero, one for each link; `min_flow_s` is the shortest time in which its bytes can flow
    (0: no limit); `capacity` is bytes/s of each link, 0 for one that is down.

    Example: the parking lot, a long flow over links of 10 and 4 beside a short one on each (long 2, short 8
    and 2).
        >>> max_min([((0, 1), (1, 1), 1, 0), ((0,), (1,), 1, 0), ((1,), (1,), 1, 0)], [10.0, 4.0])
        [2.0, 8.0, 2.0]
    """
    flows = []
    for links, n_bytes, weight, min_flow_s in demands:
        cap = max(n_bytes) / (min_flow_s * weight) if min_flow_s > 0.0 else inf
        flows.append(Flow(tuple(links), loads_of(n_bytes, weight), cap))
    levels = fair_levels(flows, capacity)
    return [
        level * weight / max(n_bytes) for level, (_, n_bytes, weight, _) in zip(levels, demands, strict=True)
    ]


def fair_levels(flows: Sequence[FlowLike], capacity: Sequence[float]) -> list[float]:
    """The max-min level of each flow. Cost: links touched, times the logarithm of their number."""
    if len(flows) == 1:
        (flow,) = flows
        shares_alone = [
            capacity[link] / (flow.copies * amount)
            for link, amount in zip(flow.links, flow.loads, strict=True)
        ]
        return [min(flow.cap, *shares_alone)]
    left: dict[int, float] = {}  # capacity of a link that the stopped flows do not use
    load: dict[int, float] = {}
    users: dict[int, list[tuple[int, float]]] = {}
    for i, flow in enumerate(flows):
        copies = flow.copies
        for link, amount in zip(flow.links, flow.loads, strict=True):
            amount *= copies
            if link in users:
                load[link] += amount
                users[link].append((i, amount))
            else:
                left[link] = capacity[link]
                load[link] = amount
                users[link] = [(i, amount)]
    # The next link to fill is the one with the smallest share. Shares only grow as flows stop, so an entry in
    # the heap is a lower bound: one that has grown since is computed anew and put back (lazy updates; a
    # decrease never has to be found inside the heap). Caps are entries too, with negative numbers for links.
    shares = [(left[link] / load[link], link) for link in users]
    shares += [(flow.cap, -1 - i) for i, flow in enumerate(flows) if flow.cap < inf]
    heapify(shares)
    levels = [-1.0] * len(flows)
    rising = len(flows)
    while rising:
        share, link = heappop(shares)
        if link < 0:
            stopped = [-1 - link] if levels[-1 - link] < 0.0 else []
        else:
            remaining = [(i, amount) for i, amount in users[link] if levels[i] < 0.0]
            if not remaining:
                continue
            if len(remaining) < len(users[link]):  # some have stopped since, and left more for the others
                users[link] = remaining
                grown = left[link] / sum([amount for _, amount in remaining])
                if grown > share * SAME:
                    heappush(shares, (grown, link))
                    continue
                share = grown
            stopped = [i for i, _ in remaining]
        rising -= len(stopped)
        for i in stopped:
            levels[i] = share
            if rising:
                used = share * flows[i].copies
                # never below 0: rounding of many small parts must not give the last flow a negative share
                for other, amount in zip(flows[i].links, flows[i].loads, strict=True):
                    left[other] = max(0.0, left[other] - used * amount)
    return levels


class FlowTable:
    """Many flows as arrays, one row each, with the links in use numbered densely.

    Adding and removing costs the flow's links. `levels` costs a few vector operations per round, and each
    round stops every flow on every link that is the tightest for all the flows on it, so a large network
    takes few rounds.
    """

    def __init__(self, capacity: Sequence[float]) -> None:
        """`capacity` is read at every solution; the caller may change it in between."""
        self._capacity = capacity
        self._rows = 0
        self._links = np.zeros((64, 4), dtype=np.int64)  # padded with column 0, a link without limit
        self._loads = np.zeros((64, 4))
        self._caps = np.zeros(64)
        self._column: dict[int, int] = {}
        self._link_in: list[int] = [-1]
        self._users: list[int] = [0]
        self._free: list[int] = []

    def __len__(self) -> int:
        return self._rows

    def add(self, flow: FlowLike) -> int:
        """Add a flow; its row, the last one."""
        row = self._rows
        if row == len(self._links) or len(flow.links) > self._links.shape[1]:
            self._grow(len(flow.links))
        columns = [self._use(link) for link in flow.links]
        width = len(columns)
        self._links[row, :width] = columns
        self._links[row, width:] = 0
        self._loads[row, width:] = 0.0
        self._caps[row] = flow.cap
        self._rows += 1
        self.recount(row, flow)
        return row

    def recount(self, row: int, flow: FlowLike) -> None:
        """Take over the number of transfers of the flow in this row."""
        self._loads[row, : len(flow.loads)] = [flow.copies * amount for amount in flow.loads]

    def remove(self, row: int) -> None:
        """Remove a flow; the last row moves into its place."""
        for column in self._links[row].tolist():
            if column:
                self._users[column] -= 1
                if not self._users[column]:
                    del self._column[self._link_in[column]]
                    self._link_in[column] = -1
                    self._free.append(column)
        self._rows -= 1
        last = self._rows
        if row != last:
            self._links[row] = self._links[last]
            self._loads[row] = self._loads[last]
            self._caps[row] = self._caps[last]

    def levels(self) -> FloatArray:
        """The max-min level of each row."""
        n = self._rows
        capacity = self._capacity
        left = np.array([inf if link < 0 else capacity[link] for link in self._link_in])
        columns = len(left)
        level = np.empty(n)
        rising = np.arange(n)
        links, loads, caps = self._links[:n], self._loads[:n], self._caps[:n]
        width = links.shape[1]
        while rising.size:
            flat = links.ravel()
            load = np.bincount(flat, loads.ravel(), columns)
            share = np.full(columns, inf)
            np.divide(left, load, out=share, where=load > 0.0)
            shares = share[links]
            tightest = shares.min(axis=1)  # of each flow, the link that would stop it first
            capped = caps <= tightest
            # A link is a local bottleneck if it is the tightest for every flow on it, none of which stops
            # short of it at its cap: nothing that happens elsewhere can change its share any more. All such
            # links are filled in one round, not just the smallest share as in the textbook, which is what
            # keeps the number of rounds small; the levels are the same.
            tight_here = shares <= tightest[:, None] * SAME
            tight_here[capped] = False
            full = np.bincount(flat, tight_here.ravel(), columns) == np.bincount(flat, minlength=columns)
            full[0] = False
            stopped = full[links].any(axis=1) | capped
            reached = np.minimum(tightest[stopped], caps[stopped])
            level[rising[stopped]] = reached
            goes_on = ~stopped
            rising = rising[goes_on]
            if rising.size:  # what has stopped takes its part; the rest competes for what is left
                used = np.repeat(reached, width) * loads[stopped].ravel()
                left -= np.bincount(links[stopped].ravel(), used, columns)
                np.maximum(left, 0.0, out=left)
                links, loads, caps = links[goes_on], loads[goes_on], caps[goes_on]
        return level

    def _use(self, link: int) -> int:
        column = self._column.get(link)
        if column is None:
            if self._free:
                column = self._free.pop()
                self._link_in[column] = link
            else:
                column = len(self._link_in)
                self._link_in.append(link)
                self._users.append(0)
            self._column[link] = column
        self._users[column] += 1
        return column

    def _grow(self, width: int) -> None:
        rows, old_width = self._links.shape
        shape = (2 * rows if self._rows == rows else rows, max(width, old_width))
        links, loads, caps = np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape[0])
        links[:rows, :old_width] = self._links
        loads[:rows, :old_width] = self._loads
        caps[:rows] = self._caps
        self._links, self._loads, self._caps = links, loads, caps
