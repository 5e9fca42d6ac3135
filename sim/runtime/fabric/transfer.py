"""A transfer on the fabric, and what it shares with others: its compiled demand, link set and stream."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from enum import IntEnum
from math import inf
from typing import Any, NamedTuple, Protocol

from simpy import Environment
from simpy.events import PENDING, Event

from sim.cost.fairshare import loads_of

REMEMBERED_STREAMS = 64
"""Streams of one link set that are kept while nothing flows in them."""


class DemandLike(Protocol):
    """Bytes on each link over a transfer's life, the latency before they flow, the least time that flowing
    takes, and what of it goes by the links' rates (`sim.cost.collectives.demands.Demand`).
    """

    @property
    def links(self) -> tuple[int, ...]: ...
    @property
    def n_bytes(self) -> tuple[float, ...]: ...
    @property
    def latency_s(self) -> float: ...
    @property
    def min_flow_s(self) -> float: ...
    @property
    def efficiency(self) -> float: ...
    @property
    def aside_s(self) -> float: ...


class Bytes(NamedTuple):
    """A demand made on the spot."""

    links: tuple[int, ...]
    n_bytes: tuple[float, ...]
    latency_s: float = 0.0
    min_flow_s: float = 0.0
    efficiency: float = inf
    aside_s: float = 0.0


class Watcher(Protocol):
    """The owner of a folded program, which is exact only while its links are quiet."""

    def disturbed(self, now: float) -> None:
        """Other traffic begins to flow on a watched link, or its capacity changes, at this instant."""

    def left_alone(self) -> None:
        """Other traffic on a watched link has ended at this instant, and nothing flows beside it."""


class State(IntEnum):
    """How far a transfer is.

    `UNCONTENDED`: nothing else is on its links; one event stands for all of it. `WAITING`: for its latency to
    pass, beside other traffic. `FLOWING`: its rate is solved again whenever it may have changed.
    """

    UNCONTENDED = 0
    WAITING = 1
    FLOWING = 2
    DONE = 3
    ABORTED = 4


class Stream:
    """Transfers that flow over the same links in the same proportions: the fair share gives all of them one
    level.

    Reads as a `sim.cost.fairshare.Flow`. `cap` is on the links as they are, `built_cap` on the links as
    built. `row` is its row in the bulk solver, -1 outside; `order` does not depend on which transfer came
    first; `kept` is False once its link set has dropped it.
    """

    __slots__ = ("built_cap", "cap", "kept", "links", "loads", "order", "recurs", "row", "transfers")

    def __init__(self, links: tuple[int, ...], loads: tuple[float, ...], cap: float) -> None:
        self.links = links
        self.loads = loads
        self.cap = self.built_cap = cap
        self.order = links, loads, cap
        self.kept = True
        self.recurs = False  # a second transfer of the same demand has flowed in it
        self.transfers: dict[Transfer, None] = {}
        self.row = -1

    @property
    def copies(self) -> int:
        return len(self.transfers)


class LinkGroup:
    """Links that have been in use at the same times, and the seconds of that use; see `link_counters.py`."""

    __slots__ = ("busy_s", "busy_since", "links", "shared_s", "shared_since", "users")

    def __init__(self, links: int) -> None:
        self.links = links  # how many
        self.users = 0
        self.busy_s = self.shared_s = 0.0
        self.busy_since = self.shared_since = 0.0

    def split(self, links: int) -> LinkGroup:
        """Move so many of the links to a group of their own, with all that was counted until now."""
        part = LinkGroup(links)
        self.links -= links
        part.users = self.users
        part.busy_s, part.busy_since = self.busy_s, self.busy_since
        part.shared_s, part.shared_since = self.shared_s, self.shared_since
        return part


class LinkSet:
    """A set of links that transfers use together, with what is on them; see `occupancy.py`."""

    __slots__ = (
        "flowing", "groups", "groups_as_of", "links", "neighbours", "registered", "streams", "uncontended",
        "unwatched_but_by", "unwatched_in", "users", "watched_in", "watchers",
    )  # fmt: skip

    def __init__(self, links: tuple[int, ...]) -> None:
        self.links = links
        self.users = 0  # transfers here, uncontended or flowing
        self.uncontended: Transfer | None = None
        self.flowing: dict[Stream, None] = {}
        self.streams: dict[tuple[tuple[float, ...], float], Stream] = {}  # remembered, by loads and cap
        self.registered = False
        self.neighbours: dict[LinkSet, None] = {}  # others that are registered on one of the links
        self.unwatched_in = -1  # the epoch in which `unwatched_but_by` alone watched the links
        self.unwatched_but_by: Watcher | None = None
        self.groups: list[LinkGroup] = []  # that cover the links, as of so many splits
        self.groups_as_of = -1
        self.watched_in = -1  # the epoch in which `watchers` watched them
        self.watchers: list[Watcher] = []

    def stream(self, loads: tuple[float, ...], cap: float) -> Stream:
        stream = self.streams.get((loads, cap))
        if stream is None:
            if len(self.streams) > REMEMBERED_STREAMS:
                for idle in [known for known in self.streams.values() if not known.transfers]:
                    idle.kept = False
                    del self.streams[idle.loads, idle.built_cap]
            stream = self.streams[loads, cap] = Stream(self.links, loads, cap)
        return stream

    def transfers(self) -> list[Transfer]:
        """The flowing transfers."""
        return [transfer for stream in self.flowing for transfer in stream.transfers]


class CompiledDemand:
    """A demand compiled for the fabric, shared by all transfers of that demand.

    `busiest` is the bytes on its busiest link, which a level counts (see `sim.cost.fairshare`); `cap` is the
    level at which they flow in `min_flow_s`; `flow_s` is on the links as built.
    """

    __slots__ = (
        "_stream", "aside_s", "busiest", "cap", "efficiency", "flow_s", "kept", "latency_s", "link_set",
        "links", "min_flow_s", "n_bytes", "source", "uncounted", "uncounted_busy_s",
    )  # fmt: skip

    def __init__(
        self, demand: DemandLike, link_set: LinkSet, n_bytes: tuple[float, ...], built: Sequence[float]
    ) -> None:
        self.source = demand
        self.link_set = link_set
        self.links = link_set.links
        self.n_bytes = n_bytes
        self.latency_s = demand.latency_s
        self.min_flow_s = demand.min_flow_s
        self.efficiency = demand.efficiency
        self.aside_s = demand.aside_s
        self.busiest = max(n_bytes, default=0.0)
        self.cap = self.busiest / self.min_flow_s if self.min_flow_s > 0.0 else inf
        self.flow_s = max(self.min_flow_s, self._busiest_s(built))
        self.kept = False
        self.uncounted = 0  # transfers that are not in the link counters yet
        self.uncounted_busy_s = 0.0  # flow seconds of the uncontended ones among them
        self._stream: Stream | None = None

    def stream(self, weight: float) -> Stream:
        """The stream of its transfers of this weight."""
        stream = self._stream
        if weight == 1.0 and stream is not None and stream.kept:
            stream.recurs = True
            return stream
        stream = self.link_set.stream(loads_of(self.n_bytes, weight), self.cap / weight)
        if weight == 1.0:
            self._stream = stream
        return stream

    def min_flow_s_at(self, capacity: Sequence[float]) -> float:
        """`min_flow_s` where links have other capacities than as built: what goes by their rates takes
        longer.
        """
        return max(self.min_flow_s, self._busiest_s(capacity) / self.efficiency + self.aside_s)

    def cap_at(self, capacity: Sequence[float]) -> float:
        """`cap` where links have other capacities than as built. A link that is down caps by itself."""
        seconds = self.min_flow_s_at(capacity)
        return self.cap if seconds == self.min_flow_s or seconds == inf else self.busiest / seconds

    def flow_s_at(self, capacity: Sequence[float]) -> float:
        """`flow_s` on links of these capacities, not all of them as built."""
        return max(self.min_flow_s_at(capacity), self._busiest_s(capacity))

    def _busiest_s(self, capacity: Sequence[float]) -> float:
        longest = 0.0
        for link, n_bytes in zip(self.links, self.n_bytes, strict=True):
            bytes_per_s = capacity[link]
            seconds = n_bytes / bytes_per_s if bytes_per_s else inf
            if seconds > longest:
                longest = seconds
        return longest


class Transfer(Event):
    """Bytes on their way; a SimPy event that happens when the last byte has arrived, so a process may wait
    for it.

    `flows_s` is when its first byte flows, `end_s` when its last one does, as far as that is known now. Once
    it is done, `excess_flow_s` is by how much the flowing exceeded `flow_s`, its time without contention on
    the links as built: lost to other traffic, and to lost capacity.
    """

    __slots__ = (
        "_ok", "_value", "callbacks", "demand", "end_s", "env", "excess_flow_s", "flows_s", "left", "level",
        "on_done", "order", "owner", "planned_end", "rate_changed", "since_s", "state", "stream",
        "version", "weight", "whole",
    )  # fmt: skip

    def __init__(
        self,
        env: Environment,
        compiled: CompiledDemand,
        weight: float,
        flows_s: float,
        planned_end: float | None,
        on_done: Callable[[Transfer], None] | None,
        owner: Watcher | None,
    ) -> None:
        self.env = env
        self.callbacks = []
        self._ok = True
        self._value: Any = PENDING
        self.demand = compiled
        self.weight = weight
        self.flows_s = flows_s
        self.planned_end = planned_end
        self.on_done = on_done
        self.owner = owner
        self.excess_flow_s = 0.0
        self.state = State.WAITING

    def begin_flowing(self, seconds: float, number: int) -> None:
        """Flow from `flows_s` on at the uncontended rate, `seconds` for all bytes, until a rate is solved."""
        compiled = self.demand
        link_set = compiled.link_set
        self.state = State.FLOWING
        self.stream = stream = compiled.stream(self.weight)
        stream.transfers[self] = None  # an ordered set
        link_set.flowing[stream] = None
        link_set.users += 1
        self.whole = self.left = compiled.busiest / self.weight
        self.level = self.whole / seconds
        self.since_s = self.flows_s
        self.end_s = self.flows_s + seconds
        self.rate_changed = seconds != compiled.flow_s
        if not self.rate_changed and self.planned_end is not None:
            self.end_s = self.planned_end  # the uncontended end, as the caller's own float
        self.order = (self.flows_s, compiled.links, number)
        self.version = 0

    def stop_flowing(self) -> None:
        """Leave the links: all bytes have arrived, or it is aborted."""
        stream, link_set = self.stream, self.demand.link_set
        del stream.transfers[self]
        if not stream.transfers:
            del link_set.flowing[stream]
        link_set.users -= 1
        self.version += 1

    def set_level(self, level: float, now: float) -> None:
        """Flow at another level from now on."""
        # From the start of the current rate, in one expression: what is left is never a running sum of steps.
        self.left = max(0.0, self.left - self.level * (now - self.since_s))
        self.since_s = now
        self.level = level
        self.end_s = now + self.left / level if level > 0.0 else inf
        self.rate_changed = True
        self.version += 1

    def crosses(self, links: Container[int]) -> bool:
        """True where it is under way, or about to be, over one of these links."""
        return self.state < State.DONE and any(link in links for link in self.demand.links)

    def done_part(self, now: float) -> float:
        """The part of the bytes that has flowed by now, from 0 to 1."""
        if self.state is State.FLOWING:
            return 1.0 - max(0.0, self.left - self.level * (now - self.since_s)) / self.whole
        if self.state is State.UNCONTENDED and now > self.flows_s and self.end_s > self.flows_s:
            return (now - self.flows_s) / (self.end_s - self.flows_s)
        return 1.0 if self.state is State.DONE else 0.0
