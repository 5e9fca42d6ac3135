"""Readings of a fabric at one instant: rows, load, stalled transfers, and the invariants of its rates.

Pure functions of the state: nothing here changes it or lets time pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from sim.runtime.fabric.link_counters import LinkCounters, LinkRow
from sim.runtime.fabric.transfer import LinkSet, State, Transfer

ROUNDING = 1.0 + 1e-9
"""Relative difference that is put down to rounding when rates are held against capacities."""


def mean_capacity(pieces: Sequence[tuple[float, float]], end_s: float) -> float:
    """The mean up to `end_s` of a capacity in pieces: until when, and how much.

    >>> mean_capacity([(1.0, 8.0), (3.0, 0.0), (9.0, 8.0)], end_s=4.0)
    4.0
    """
    since_s, n_bytes = 0.0, 0.0
    for until_s, bytes_per_s in pieces:
        until_s = min(until_s, end_s)
        n_bytes += bytes_per_s * (until_s - since_s)
        since_s = until_s
    return n_bytes / end_s


def link_rows(
    links: Sequence[Hashable],
    capacity: Sequence[float],
    counters: LinkCounters,
    link_sets: Iterable[LinkSet],
    now: float,
) -> list[LinkRow]:
    """A row per link: what has been counted, and of transfers under way the part that has flowed by `now`."""
    n_bytes = list(counters.n_bytes)
    busy_s, shared_s = counters.until(now)
    for link_set in link_sets:
        under_way = link_set.transfers()
        uncontended = link_set.uncontended
        if uncontended is not None and now > uncontended.flows_s:
            under_way.append(uncontended)
            for link in link_set.links:  # those that flow are in the counters' busy seconds already
                busy_s[link] += now - uncontended.flows_s
        for transfer in under_way:
            part = transfer.done_part(now)
            for link, amount in zip(link_set.links, transfer.demand.n_bytes, strict=True):
                n_bytes[link] += part * amount
    return [LinkRow(*row) for row in zip(links, capacity, n_bytes, busy_s, shared_s, strict=True)]


def load_by_link(n_links: int, link_sets: Iterable[LinkSet], now: float) -> list[float]:
    """Bytes/s on every link at `now`."""
    load = [0.0] * n_links
    for link_set in link_sets:
        for stream in link_set.flowing:
            for transfer in stream.transfers:
                for link, amount in zip(stream.links, stream.loads, strict=True):
                    load[link] += transfer.level * amount
        uncontended = link_set.uncontended
        if uncontended is not None and uncontended.flows_s <= now < uncontended.end_s:
            for link, n_bytes in zip(link_set.links, uncontended.demand.n_bytes, strict=True):
                load[link] += n_bytes / (uncontended.end_s - uncontended.flows_s)
    return load


def stalled_transfers(
    links: Sequence[Hashable], capacity: Sequence[float], link_sets: Iterable[LinkSet]
) -> list[tuple[Transfer, tuple[Hashable, ...]]]:
    """Transfers of level 0, each with its links that are down."""
    return [
        (transfer, tuple(links[link] for link in link_set.links if not capacity[link]))
        for link_set in link_sets
        for transfer in link_set.transfers()
        if transfer.level == 0.0
    ]


def check_rates(
    links: Sequence[Hashable],
    capacity: Sequence[float],
    counters: LinkCounters,
    link_sets: Iterable[LinkSet],
) -> None:
    """Raise AssertionError unless no link is above its capacity and no transfer could be faster.

    A level is max-min fair if its transfer is at its cap, or on a full link on which no level is higher
    (the bottleneck condition: Bertsekas and Gallager, Data Networks, 6.5.2).
    """
    load = [0.0] * len(links)
    users = [0] * len(links)
    top: dict[int, float] = {}
    flowing = [transfer for link_set in link_sets for transfer in link_set.transfers()]
    for transfer in flowing:
        assert transfer.state is State.FLOWING
        assert 0.0 <= transfer.left <= transfer.whole
        for link, amount in zip(transfer.stream.links, transfer.stream.loads, strict=True):
            load[link] += transfer.level * amount
            users[link] += 1
            top[link] = max(top.get(link, 0.0), transfer.level)
    for link, bytes_per_s in enumerate(capacity):
        assert load[link] <= bytes_per_s * ROUNDING, f"{links[link]} carries {load[link]} of {bytes_per_s}"
        assert users[link] == counters.users(link)
    for transfer in flowing:
        at_cap = transfer.level * ROUNDING >= transfer.stream.cap
        assert at_cap or any(
            load[link] * ROUNDING >= capacity[link] and transfer.level * ROUNDING >= top[link]
            for link in transfer.stream.links
        ), f"a transfer on {[links[link] for link in transfer.stream.links]} could be faster"
