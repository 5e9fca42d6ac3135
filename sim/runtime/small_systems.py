"""Small systems of a textbook, of given times and without a service around them: a queue, stations in series,
ranks that wait for each other.

They are exact and need no clock: what comes first is served first, so every instant is a maximum of earlier
ones (Lindley's recursion). `link` (`shared_link.py`) is the station where all share, and takes a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heapreplace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Given = Sequence[float] | Floats


def queue(arrival_s: Given, service_s: Given, servers: int = 1) -> Floats:
    """Seconds from the arrival of each customer to its departure, where the first to come is served first by
    one of so many servers. The times are in the order of the customers, in whatever order those come.

    ValueError for times that cannot be.

    Example: the second comes while the first is served.
        >>> queue([0.0, 0.5], [1.0, 1.0]).tolist()
        [1.0, 1.5]
    """
    arrives_s = _times("queue", "arrival_s", arrival_s, 1)
    serves_s = _times("queue", "service_s", service_s, 1)
    _as_many("queue", len(arrives_s), len(serves_s))
    if servers < 1:
        raise ValueError(f"queue: servers = {servers}: must be at least 1")
    took = np.empty(len(arrives_s))
    free_s = [0.0] * min(servers, max(1, len(arrives_s)))
    heapify(free_s)
    for number in np.argsort(arrives_s, kind="stable").tolist():
        came_s = float(arrives_s[number])
        left_s = max(came_s, free_s[0]) + float(serves_s[number])
        heapreplace(free_s, left_s)
        took[number] = left_s - came_s
    return took


def tandem(arrival_s: Given, *stations: Callable[[Floats], Floats]) -> Floats:
    """Seconds of each customer at each of the stations in series, shape [customers, stations].

    A station takes the instants at which customers come to it and gives the seconds that they stay, as
    `queue` and `link` do; customers go on in the order in which they leave.

    Example: a server of a second, then a link of 1 GB/s.
        >>> from sim.runtime.shared_link import link
        >>> tandem([0.0, 0.0], lambda come_s: queue(come_s, [1.0, 1.0]),
        ...        lambda come_s: link(1e9, come_s, [2e9, 2e9])).tolist()
        [[1.0, 3.0], [2.0, 3.0]]
    """
    now_s = _times("tandem", "arrival_s", arrival_s, 1)
    stays = []
    for place, station in enumerate(stations):
        stayed_s = _times("tandem", f"stations[{place}]", station(now_s), 1)
        _as_many("tandem", len(now_s), len(stayed_s))
        stays.append(stayed_s)
        now_s = now_s + stayed_s
    return np.stack(stays, axis=1) if stays else np.empty((len(now_s), 0))


def fork_join(arrival_s: Given, service_s: npt.ArrayLike) -> Floats:
    """Seconds from the arrival of each customer to the end of the last of its parts: it sends one part to
    each server, all at once, and has left when all are done. `service_s` has shape [customers, servers].

    With two exponential servers in the mean it is `sim.theory.queueing.fork_join` (Nelson and Tantawi, IEEE
    Transactions on Computers 37, 1988).

        >>> fork_join([0.0, 0.5], [[1.0, 2.0], [1.0, 1.0]]).tolist()
        [2.0, 2.5]
    """
    serves_s = _times("fork_join", "service_s", service_s, 2)
    if not serves_s.shape[1]:
        raise ValueError("fork_join: service_s has no servers: must have at least 1 column")
    joined: Floats = np.max([queue(arrival_s, of_server) for of_server in serves_s.T], axis=0)
    return joined


def barrier(work_s: npt.ArrayLike, slow: Mapping[int, float] | None = None) -> tuple[Floats, Floats]:
    """Rounds of ranks that all wait for the last: the seconds of each round, shape [rounds], and those that
    each rank waits in it, shape [rounds, ranks].

    `work_s` is what each rank computes in each round, shape [rounds, ranks]; the ranks in `slow` take so many
    times as long (a straggler). Of n normal times the mean of a round is
    `sim.theory.queueing.last_of_normals`.

        >>> rounds_s, waits_s = barrier([[1.0, 1.0, 2.0]], slow={0: 3.0})
        >>> rounds_s.tolist(), waits_s.tolist()
        ([3.0], [[0.0, 2.0, 1.0]])
    """
    works_s = _times("barrier", "work_s", work_s, 2).copy()
    ranks = works_s.shape[1]
    if not ranks:
        raise ValueError("barrier: work_s has no ranks: must have at least 1 column")
    for rank, factor in (slow or {}).items():
        if not 0 <= rank < ranks:
            raise ValueError(f"barrier: slow has rank {rank}: must be from 0 to {ranks - 1}")
        if not (np.isfinite(factor) and factor > 0.0):
            raise ValueError(f"barrier: slow[{rank}] = {factor}: must be a number, above 0")
        works_s[:, rank] *= factor
    rounds_s = works_s.max(axis=1)
    return rounds_s, rounds_s[:, None] - works_s


def _times(function: str, name: str, given: npt.ArrayLike, dimensions: int) -> Floats:
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{function}: {name}: must be numbers, in {dimensions} dimensions") from None
    if values.ndim != dimensions:
        raise ValueError(f"{function}: {name} has {values.ndim} dimensions: must have {dimensions}")
    good = np.isfinite(values) & (values >= 0.0)
    if not good.all():
        place = tuple(int(one) for one in np.argwhere(~good)[0])
        where = ", ".join(map(str, place))
        raise ValueError(f"{function}: {name}[{where}] = {values[place]}: must be a number, at least 0")
    return values


def _as_many(function: str, customers: int, times: int) -> None:
    if customers != times:
        raise ValueError(f"{function}: {customers} customers and {times} times: must be as many")
