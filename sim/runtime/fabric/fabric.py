"""The fabric: links whose bytes/s are shared max-min fair among the transfers on them, as time passes.

A transfer puts given bytes on given links. After its latency the bytes flow, on all its links in step, at the
max-min fair rate of `sim.cost.fairshare`. Rates change only where a transfer begins or ends or a link's
capacity changes, and only within the connected component of that place: the transfers that are reached from
it over shared links.

What keeps it cheap, without changing a result:

* An uncontended transfer is one event from start to end. It is turned into a flowing one at the instant at
  which other traffic comes to its links, with the floats that it would have had anyway.
* All changes of one instant are settled once, after everything else of that instant (priority `FLUSH`), and
  without an event of their own where nothing else is left to happen in it.
* A walk over neighbouring link sets finds the connected component; a small one is solved in plain Python and
  remembered, a large one in numpy. Only transfers whose rate has changed are touched. One alarm is armed, for
  the earliest end.
* What is left of a transfer is computed from the start of its current rate, never summed up along the way.

Programs that a stage has folded into one event are not on the fabric at all. The stage watches the links, is
called before other traffic begins to flow there, and then starts the transfer that it is in the middle of:
`start` with a `began_at` in the past.

Where it stops: a fluid. No packets, no incast, no flow control; a collective slows down as a whole; rates
settle at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from heapq import heapify, heappop, heappush
from math import inf, isfinite
from typing import Protocol

from simpy import Environment

from sim.cost.fairshare import SAME
from sim.cost.program import Traffic
from sim.runtime.clock import COMPLETION, FLUSH, at
from sim.runtime.fabric.compiled_demands import CompiledDemands
from sim.runtime.fabric.fair_rates import FairRates
from sim.runtime.fabric.link_counters import LinkCounters, LinkRow
from sim.runtime.fabric.occupancy import LinkOccupancy
from sim.runtime.fabric.readings import check_rates, link_rows, load_by_link, mean_capacity, stalled_transfers
from sim.runtime.fabric.transfer import Bytes, CompiledDemand, DemandLike, LinkSet, State, Transfer, Watcher

__all__ = ["Fabric", "Transfer", "Watcher"]


MANY_ENDS = 1024
"""Entries in the heap of ends, outdated ones among them, above which the outdated ones are swept out."""


class CompiledLinks(Protocol):
    """The links of a compiled network: their names, and bytes/s of each."""

    @property
    def links(self) -> Sequence[Hashable]: ...
    @property
    def capacity(self) -> Sequence[float]: ...


class Fabric:
    """The links of a network and the transfers on them.

    Args:
        env: the clock.
        capacities: bytes/s by link, or a compiled network. A link is named by its key, or by its number.

    Example: 100 bytes and, from half way on, another 100 over a link of 10 bytes/s.
        >>> env = Environment()
        >>> fabric = Fabric(env, {"a->b": 10.0})
        >>> first = fabric.transfer({"a->b": 100.0})
        >>> env.run(until=5.0)
        >>> second = fabric.transfer({"a->b": 100.0})
        >>> env.run()
        >>> first.end_s, second.end_s, second.excess_flow_s
        (15.0, 20.0, 5.0)
    """

    def __init__(self, env: Environment, capacities: Mapping[Hashable, float] | CompiledLinks) -> None:
        self.env = env
        if isinstance(capacities, Mapping):
            names, capacity = list(capacities), list(capacities.values())
        else:
            names, capacity = list(capacities.links), list(capacities.capacity)
        self.links: tuple[Hashable, ...] = tuple(names)
        self.capacity = [_checked_capacity(name, value) for name, value in zip(names, capacity, strict=True)]
        self._built = tuple(self.capacity)
        self._link_id = {name: link for link, name in enumerate(names)}
        self._occupancy = LinkOccupancy(len(names))
        self._on = self._occupancy.on
        self._counters = LinkCounters(len(names))
        self._compiled = CompiledDemands(self.links, self._built, self._occupancy, self._counters)

        # Changes of this instant, not settled yet. Dicts stand in for sets, whose order is not reproducible.
        self._began: list[Transfer] = []
        self._new_capacity: dict[int, float] = {}
        # of links whose capacity has changed: until when it was what
        self._capacity_until: dict[int, list[tuple[float, float]]] = {}
        self._unsettled: dict[LinkSet, None] = {}
        self._flush_due = False  # something is to be settled at this instant
        self._flush_scheduled = False  # and an event will do it
        self._in_callback = False  # and the fabric's own running callback will see to it when it is done

        # Ends to come: (end_s, order, version, transfer). A rate that changes leaves its entry in the heap;
        # the entry is outdated once the transfer's version is another.
        self._ends: list[tuple[float, tuple[float, tuple[int, ...], int], int, Transfer]] = []
        self._many_ends = MANY_ENDS
        self._armed_s: list[float] = []  # alarms to come, each earlier than the one before it
        self._rates = FairRates(self.capacity, self._flow_s_now)
        self._number = 0

    # ---- traffic

    def transfer(
        self,
        n_bytes: Mapping[Hashable, float] | DemandLike,
        latency_s: float = 0.0,
        min_flow_s: float = 0.0,
        weight: float = 1.0,
    ) -> Transfer:
        """Begin a transfer of bytes by link now; it is the SimPy event of its end. The bytes flow for
        `min_flow_s` at least.
        """
        if not isinstance(n_bytes, Mapping):
            return self.start(n_bytes, weight=weight)
        links = tuple([self._id(link) for link in n_bytes])
        compiled = self._compiled.of_equal(Bytes(links, tuple(n_bytes.values()), latency_s, min_flow_s))
        return self._start(compiled, weight, None, None, None, None)

    def start(
        self,
        demand: DemandLike,
        *,
        weight: float = 1.0,
        began_at: float | None = None,
        planned_end: float | None = None,
        on_done: Callable[[Transfer], None] | None = None,
        owner: Watcher | None = None,
    ) -> Transfer:
        """Begin a transfer.

        Args:
            demand: links and bytes. Passing the same object again is cheaper than passing an equal one.
            began_at: when its latency began, now if None. May be in the past, where the caller vouches that
                nothing else has been on the links since.
            planned_end: the exact instant at which it ends if its rate never differs from the uncontended one
                on the links as built; computed here if None.
            on_done: called as the last byte arrives.
            owner: a watcher that this transfer does not disturb.
        """
        compiled = self._compiled.of(demand)
        return self._start(compiled, weight, began_at, planned_end, on_done, owner)

    def abort(self, transfer: Transfer) -> float:
        """Stop a transfer; the part of its bytes that has flowed, from 0 to 1. Its event never happens."""
        state, now = transfer.state, self.env.now
        if state >= State.DONE:
            return transfer.done_part(now)
        part = transfer.done_part(now)
        compiled, link_set = transfer.demand, transfer.demand.link_set
        transfer.state = State.ABORTED
        if state is State.FLOWING:
            self._remove(transfer, now)
            self._counters.carry(compiled.links, compiled.n_bytes, part)
        elif state is State.UNCONTENDED:
            link_set.users -= 1
            link_set.uncontended = None
            self._counters.carry(compiled.links, compiled.n_bytes, part, max(0.0, now - transfer.flows_s))
        return part

    def divert(self, transfer: Transfer, demand: DemandLike) -> None:
        """Send the bytes of a transfer that have not flowed yet another way, at once; `demand` is of all of
        them. What has flowed stays where it went. Ignored where it has ended.
        """
        state, now = transfer.state, self.env.now
        if state >= State.DONE:
            return
        left = 1.0 - transfer.done_part(now)
        compiled, version = transfer.demand, 0
        if state is State.UNCONTENDED:
            self._start_sharing((compiled.link_set,))
            state = transfer.state
        if state is State.FLOWING:
            self._remove(transfer, now)
            self._counters.carry(compiled.links, compiled.n_bytes, 1.0 - left)
            version = transfer.version
        rest = Bytes(
            tuple(demand.links),
            tuple(left * n_bytes for n_bytes in demand.n_bytes),
            0.0,
            left * demand.min_flow_s,
            demand.efficiency,
            left * demand.aside_s,
        )
        transfer.demand, transfer.planned_end = self._compiled.compile(rest), None
        if state is State.FLOWING:
            lasted_s = now - transfer.flows_s
            transfer.excess_flow_s += max(0.0, lasted_s - (1.0 - left) * compiled.flow_s)
            transfer.flows_s = now
            self._begin_flowing(transfer)
            # Ends that were worked out for the old way may still be in the heap.
            transfer.version = version + 1
            if transfer.end_s < inf:
                heappush(self._ends, (transfer.end_s, transfer.order, transfer.version, transfer))

    def set_capacity(self, link: Hashable, bytes_per_s: float) -> None:
        """Change a link's capacity from this instant on. At 0 it is down: transfers on it wait until it is up
        again.
        """
        self._new_capacity[self._id(link)] = _checked_capacity(link, bytes_per_s)
        self._request_flush()

    def capacity_from_now_on(self, link: int) -> float:
        """Bytes/s of a link when the changes of this instant are settled."""
        return self._new_capacity.get(link, self.capacity[link])

    # ---- watching

    def watch(self, links: Iterable[int], watcher: Watcher) -> None:
        """Call `watcher.disturbed` before other traffic begins to flow on one of the links or a capacity
        changes there, and `watcher.left_alone` when the last of the other traffic has ended.
        """
        self._occupancy.watch(links, watcher)

    def unwatch(self, links: Iterable[int], watcher: Watcher) -> None:
        self._occupancy.unwatch(links, watcher)

    def rest(self, links: tuple[int, ...], watcher: Watcher) -> None:
        """Suspend a watch: the links are quiet to others from now on, and it is cheap to `watch` them
        again.
        """
        self._occupancy.rest(links, watcher)

    def is_quiet(self, links: tuple[int, ...], watcher: Watcher | None = None) -> bool:
        """True if no transfer and no watcher but `watcher` is on the links, all of which have the capacity as
        built.
        """
        return self._occupancy.is_quiet(self._occupancy.link_set(links), watcher)

    def flow_s(self, demand: DemandLike) -> float:
        """Seconds in which the bytes of an uncontended demand flow, on the links as built."""
        return self._compiled.of(demand).flow_s

    def carried(self, demand: DemandLike, times: int, seconds: float) -> None:
        """Count uncontended transfers of one demand that were folded away; their bytes flowed for `seconds`
        in all.
        """
        compiled = self._compiled.of(demand)
        compiled.uncounted += times
        compiled.uncounted_busy_s += seconds

    def carried_steps(self, traffic: Traffic, steps: int) -> None:
        """As `carried`, for all transfers of a step that was folded away `steps` times."""
        self._compiled.carried_steps(traffic, steps)

    # ---- readings

    def rows(self, until_s: float | None = None) -> list[LinkRow]:
        """Every link's traffic so far, with transfers under way counted up to now, and its capacity, the mean
        up to now or to an earlier instant.
        """
        self._compiled.settle()
        now, capacity = self.env.now, list(self.capacity)
        end_s = now if until_s is None else until_s
        for link, pieces in self._capacity_until.items():
            if end_s > 0.0:
                capacity[link] = mean_capacity([*pieces, (inf, capacity[link])], end_s)
        return link_rows(self.links, capacity, self._counters, self._link_sets(), now)

    def load(self) -> list[float]:
        """Bytes/s on every link at this moment."""
        return load_by_link(len(self.links), self._link_sets(), self.env.now)

    def stalled(self) -> list[tuple[Transfer, tuple[Hashable, ...]]]:
        """Transfers whose bytes cannot flow, each with the links that are down."""
        return stalled_transfers(self.links, self.capacity, self._link_sets())

    def check(self) -> None:
        """Raise AssertionError unless all invariants hold; between two events, with nothing left to
        settle.
        """
        assert not self._flush_due
        assert not self._unsettled
        self._occupancy.check()
        check_rates(self.links, self.capacity, self._counters, self._link_sets())

    def _link_sets(self) -> Collection[LinkSet]:
        return self._occupancy.link_sets.values()

    # ---- a transfer's life

    def _start(
        self,
        compiled: CompiledDemand,
        weight: float,
        began_at: float | None,
        planned_end: float | None,
        on_done: Callable[[Transfer], None] | None,
        owner: Watcher | None,
    ) -> Transfer:
        if not 0.0 < weight < inf:
            raise ValueError(f"weight = {weight}: must be finite and above 0")
        env = self.env
        flows_s = (env.now if began_at is None else began_at) + compiled.latency_s
        transfer = Transfer(env, compiled, weight, flows_s, planned_end, on_done, owner)
        link_set = compiled.link_set
        if not link_set.links or self._occupancy.is_quiet(link_set, owner):
            link_set.users += 1
            if link_set.links:
                link_set.uncontended = transfer
            transfer.state = State.UNCONTENDED
            transfer.end_s = flows_s + compiled.flow_s if planned_end is None else planned_end
            at(env, transfer.end_s, self._ended_uncontended, COMPLETION, transfer)
        else:
            self._wait(transfer)
        return transfer

    def _ended_uncontended(self, transfer: Transfer) -> None:
        if transfer.state is not State.UNCONTENDED:
            return  # it has been contended or aborted since
        compiled = transfer.demand
        compiled.link_set.users -= 1
        compiled.link_set.uncontended = None
        if compiled.kept:
            compiled.uncounted += 1
            # flow_s and not a difference of clock readings, whose rounding would add up over a million
            # transfers
            compiled.uncounted_busy_s += compiled.flow_s
        else:
            self._counters.carry(compiled.links, compiled.n_bytes, 1.0, compiled.flow_s)
        self._succeed(transfer)

    def _wait(self, transfer: Transfer) -> None:
        """Let the latency pass, then flow beside other traffic."""
        if transfer.flows_s > self.env.now:
            transfer.state = State.WAITING
            at(self.env, transfer.flows_s, self._waited, COMPLETION, transfer)
        else:
            self._begin_flowing(transfer)

    def _waited(self, transfer: Transfer) -> None:
        self._in_callback = True
        self._begin_flowing(transfer)
        self._leave_callback()

    def _begin_flowing(self, transfer: Transfer) -> None:
        if transfer.state is State.ABORTED:
            return
        compiled = transfer.demand
        link_set = compiled.link_set
        now = self.env.now
        self._number += 1
        if not link_set.registered:
            self._occupancy.register(link_set)
        transfer.begin_flowing(self._flow_s_now(compiled), self._number)
        stream = transfer.stream
        if self._occupancy.changed or stream.cap != stream.built_cap:
            self._recap(transfer)
        if transfer.end_s < now:
            flows = f"a transfer that flows from {transfer.flows_s} s would end at {transfer.end_s} s"
            raise ValueError(f"{flows}: must be {now} s, which is now, or later")
        self._rates.recount(transfer.stream)
        self._counters.begin(link_set, transfer.flows_s, now)
        if transfer.end_s < inf:
            heappush(self._ends, (transfer.end_s, transfer.order, 0, transfer))
        self._began.append(transfer)
        self._request_flush()

    def _wake(self, _alarm: None) -> None:
        """End all transfers whose time has come, then settle what that changes."""
        self._armed_s.pop()  # alarms ring in the order opposite to arming: the last one armed is the earliest
        now = self.env.now
        ends = self._ends
        self._in_callback = True
        while ends and ends[0][0] <= now:
            _, _, version, transfer = heappop(ends)
            if version == transfer.version and transfer.state is State.FLOWING:
                transfer.end_s = now
                if transfer.rate_changed:  # else it is exactly 0, whatever the clock's rounding says
                    transfer.excess_flow_s += max(0.0, now - transfer.flows_s - transfer.demand.flow_s)
                self._remove(transfer, now)
                if transfer.demand.kept:
                    transfer.demand.uncounted += 1
                else:
                    self._counters.carry(transfer.demand.links, transfer.demand.n_bytes)
                self._succeed(transfer)
        if not self._leave_callback():
            self._arm()

    def _remove(self, transfer: Transfer, now: float) -> None:
        """Take a flowing transfer off its links, and mark what may now flow faster as unsettled."""
        link_set = transfer.demand.link_set
        transfer.stop_flowing()
        self._rates.recount(transfer.stream)
        self._counters.end(link_set, now)
        # What is left on the same links is connected to all neighbours, so one start suffices. Without it the
        # component may have fallen apart, and each busy neighbour starts a walk of its own.
        connected = (link_set,) if link_set.users else [other for other in link_set.neighbours if other.users]
        if connected:
            self._unsettled.update(dict.fromkeys(connected))
            self._request_flush()
        else:
            for watcher in self._occupancy.watchers_of(link_set):
                if watcher is not transfer.owner:
                    watcher.left_alone()

    def _succeed(self, transfer: Transfer) -> None:
        transfer.state = State.DONE
        transfer._value = None
        if transfer.callbacks:
            self.env.schedule(transfer, COMPLETION, 0)
        else:
            # SimPy's mark of a processed event: without waiting processes it need not go through the queue
            transfer.callbacks = None  # type: ignore[assignment]
        if transfer.on_done is not None:
            transfer.on_done(transfer)

    # ---- settling the changes of one instant

    def _request_flush(self) -> None:
        self._flush_due = True
        if not (self._in_callback or self._flush_scheduled):
            self._flush_scheduled = True
            at(self.env, self.env.now, self._flush, FLUSH)

    def _leave_callback(self) -> bool:
        """End one of the fabric's own callbacks. True if it has changed anything.

        Where nothing else is left to happen at this instant, the changes are settled at once, which saves an
        event.
        """
        self._in_callback = False
        if not self._flush_due:
            return False
        if not self._flush_scheduled:
            if self.env.peek() > self.env.now:
                self._flush(None)
            else:
                self._request_flush()
        return True

    def _flush(self, _: None) -> None:
        """Settle this instant: announce what begins, find the transfers that it reaches, solve their
        rates.
        """
        self._in_callback = True
        now = self.env.now
        unsettled = self._unsettled
        checked = 0
        # Watchers that are disturbed unfold, which begins transfers of their own at this instant; those
        # disturb other watchers in turn. So both lists are read until nothing is added to them.
        while checked < len(self._began) or self._new_capacity:
            while checked < len(self._began):
                transfer = self._began[checked]
                checked += 1
                if transfer.state is State.FLOWING:
                    link_set = transfer.demand.link_set
                    self._notify(self._occupancy.watchers_of(link_set), transfer.owner, now)
                    if link_set.uncontended is not None or link_set.neighbours:
                        self._start_sharing((link_set, *link_set.neighbours))
                    unsettled[link_set] = None
            if self._new_capacity:
                self._change_capacities(now)
        began, self._began = self._began, []
        self._unsettled = {}
        self._flush_due = self._flush_scheduled = self._in_callback = False
        for transfer, level in self._rates.of(unsettled, began):
            self._set_level(transfer, level, now)
        self._arm()

    def _notify(self, watchers: Iterable[Watcher], owner: Watcher | None, now: float) -> None:
        for watcher in watchers:
            if watcher is not owner:
                watcher.disturbed(now)

    def _start_sharing(self, link_sets: Iterable[LinkSet]) -> None:
        """Make the uncontended transfers there flow. Comes after the watchers, which may have begun one just
        now.
        """
        for link_set in link_sets:
            transfer = link_set.uncontended
            if transfer is not None:
                link_set.users -= 1
                link_set.uncontended = None
                self._wait(transfer)

    def _change_capacities(self, now: float) -> None:
        changes = self._new_capacity
        self._new_capacity = {}
        changes = {link: value for link, value in changes.items() if value != self.capacity[link]}
        if changes:
            # Watchers and uncontended transfers have planned with the old capacity: both are put into flowing
            # form before it changes.
            self._notify(self._occupancy.watchers(changes), None, now)
            there = dict.fromkeys([link_set for link in changes for link_set in self._on[link]])
            self._start_sharing(there)
            self._unsettled.update(there)
            self._rates.forget()
            for link, value in changes.items():
                self._capacity_until.setdefault(link, []).append((now, self.capacity[link]))
                self.capacity[link] = value
                self._occupancy.change(link, as_built=value == self._built[link])
            transfers = [transfer for link_set in there for transfer in link_set.transfers()]
            for transfer in transfers:
                self._recap(transfer)
            if any(transfer.stream.row >= 0 for transfer in transfers):
                self._rates.dissolve()

    def _recap(self, transfer: Transfer) -> None:
        """Give the stream of a transfer the cap that it has on the links as they are now."""
        compiled, stream = transfer.demand, transfer.stream
        built = self._occupancy.as_built(compiled.links)
        stream.cap = stream.built_cap if built else compiled.cap_at(self.capacity) / transfer.weight

    def _set_level(self, transfer: Transfer, level: float, now: float) -> None:
        # A level that differs by rounding only is the old one: its end stays the same float, and a transfer
        # that loses nothing to a neighbour ends at its planned instant.
        old = transfer.level
        if level <= old * SAME and old <= level * SAME:
            return
        transfer.set_level(level, now)
        if level > 0.0:
            heappush(self._ends, (transfer.end_s, transfer.order, transfer.version, transfer))

    def _flow_s_now(self, compiled: CompiledDemand) -> float:
        """`flow_s` on the links as they are now."""
        return (
            compiled.flow_s if self._occupancy.as_built(compiled.links) else compiled.flow_s_at(self.capacity)
        )

    def _arm(self) -> None:
        """See to it that an alarm rings at the earliest end."""
        ends = self._ends
        while ends and ends[0][2] != ends[0][3].version:
            heappop(ends)
        # SimPy cannot unschedule an alarm. One that is too early finds nothing to end and arms the next; so a
        # new one is needed only where it would be earlier than all that are armed.
        if ends and (not self._armed_s or ends[0][0] < self._armed_s[-1]):
            self._armed_s.append(ends[0][0])
            at(self.env, ends[0][0], self._wake, COMPLETION)
        if len(ends) > self._many_ends:
            # The next sweep comes at twice the size that remains: constant time per push, amortised.
            ends[:] = [end for end in ends if end[2] == end[3].version]
            heapify(ends)
            self._many_ends = max(MANY_ENDS, 2 * len(ends))

    def _id(self, link: Hashable) -> int:
        number = self._link_id.get(link)
        if number is None:
            if isinstance(link, int) and 0 <= link < len(self.links):
                return link
            nearest = get_close_matches(str(link), map(str, self.links), n=1, cutoff=0.0)
            raise KeyError(
                f"no link {link!r}; the fabric has {len(self.links)}, numbered from 0; the nearest name is "
                f"{', '.join(nearest)}"
            )
        return number


def _checked_capacity(link: Hashable, bytes_per_s: float) -> float:
    if not (bytes_per_s >= 0.0 and isfinite(bytes_per_s)):
        raise ValueError(
            f"link {link!r}: bytes_per_s = {bytes_per_s}: must be finite and at least 0 (0: the link is down)"
        )
    return float(bytes_per_s)
