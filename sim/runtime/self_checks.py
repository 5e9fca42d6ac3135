"""What must hold of every run, looked at after every instant of the clock: `sim run --check`.

The checks read the state and change nothing, so a checked run has the rows of an unchecked one. The first
invariant that breaks ends the run with its name, the instant, and what was found:

* *causality*: no row of a request has times out of order, or one that the clock has not reached;
* *capacity*: no link carries more than its capacity, and no transfer could be faster;
* *bytes*: each demand puts as many bytes into a switch, NIC or PCIe switch as come out of it (a switch that
  adds or multicasts may have an integer multiple on one side), and the counted bytes of every link are those
  of the demands;
* *KV blocks*: every block is free or held, and every holder is known;
* *causes*: those of a request add up to its latency;
* *work conservation*: nothing waits while what it waits for is free;
* *Little*: at every station, the mean number there is the rate of arrivals times the mean time there;
* *busy*: nothing is busy for longer than the run.

It costs a multiple of the run's time: every instant looks at everything that is open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import isnan
from typing import TYPE_CHECKING, Any

from simpy import Environment

from sim.cost.network import Network
from sim.policy.routing import ROUTERS
from sim.results.blame import CAUSES
from sim.results.laws import violations
from sim.runtime.engine.attribution import REQUEST_ADMISSION, REQUEST_PREEMPTED, REQUEST_ROUTING
from sim.runtime.fabric.transfer import DemandLike, State, Transfer

if TYPE_CHECKING:
    from sim.results.blame import BlameRecords
    from sim.results.columns import Table
    from sim.results.records import Records
    from sim.runtime.engine.queue import RequestQueue
    from sim.runtime.fabric.fabric import Fabric
    from sim.runtime.service import Service

ROUNDING = 1e-9
"""Relative difference that is put down to rounding."""
FORWARDING = ("crossbar", "nic", "nvswitch", "pcie_switch", "switch")
"""Kinds of places where no byte begins or ends."""
TIMES = ("arrival_s", "routed_s", "admitted_s", "first_token_s", "finished_s")


class BrokenInvariantError(AssertionError):
    """The simulator is wrong: an invariant of every run does not hold. `invariant` is its name."""

    def __init__(self, invariant: str, at_s: float, what: str) -> None:
        self.invariant = invariant
        self.at_s = at_s
        super().__init__(f"self-check: {invariant} broken at {at_s:g} s: {what}")


class WatchedClock(Environment):
    """A clock that calls `after_instant` when nothing is left to happen at an instant."""

    def __init__(self) -> None:
        super().__init__()
        self.after_instant: Callable[[], None] = lambda: None

    def step(self) -> None:
        super().step()
        if self.peek() > self.now:
            self.after_instant()


class SelfChecks:
    """All invariants of one run. `finish` looks at what can be said only when it is over."""

    def __init__(
        self,
        env: WatchedClock,
        network: Network,
        fabric: Fabric,
        service: Service,
        records: Records,
        blame: BlameRecords,
        *,
        beside: bool = False,
    ) -> None:
        """`beside`: a script's own transfers are on the links, which may begin and end anywhere, and last
        longer than the service.
        """
        self.beside = beside
        self.env, self.service, self.records, self.blame = env, service, records, blame
        self.fabric = fabric
        self._bytes = _Bytes(network, fabric, balanced=not beside)
        self._stations = _Stations(service)
        self._rows = self._blamed = 0
        self._seen: dict[RequestQueue, tuple[object, ...]] = {}
        env.after_instant = self.after_instant

    def after_instant(self) -> None:
        """Nothing is left to happen at this instant."""
        self._stations.note(self.env.now)
        self._look("causality", self._causality)
        self._look("capacity", self._capacity)
        self._look("bytes", self._bytes.check)
        self._look("KV blocks", self._kv_blocks)
        self._look("causes", self._causes)
        self._look("work conservation", self._work_conservation)

    def finish(self, links: Table, gpus: Table, end_s: float, *, shares: bool) -> None:
        """The run is over. `shares` False: transfers had their links to themselves, and may add up to more
        than the time that passed.
        """
        speculates = any(replica.engine.speculation is not None for replica in self.service.replicas)
        longest = min(replica.max_model_len for replica in self.service.replicas)
        for what in violations(self.records, one_token_a_step=not speculates, longest_text=longest):
            raise BrokenInvariantError("causality", end_s, what)
        self._look("causes", self._causes)
        self._look("bytes", lambda: self._bytes.check_counted(links))
        if shares:
            over_s = self.env.now if self.beside else end_s
            self._look("busy", lambda: _busy(links, gpus, over_s))
        self._look("Little", lambda: self._stations.check(self.records, self.blame, end_s))

    def _look(self, invariant: str, check: Callable[[], Iterator[str] | None]) -> None:
        try:
            for what in check() or ():
                raise BrokenInvariantError(invariant, self.env.now, what)
        except BrokenInvariantError:
            raise
        except AssertionError as broken:
            raise BrokenInvariantError(invariant, self.env.now, str(broken) or "an assertion") from broken

    # ---- as the run goes

    def _new_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        columns = self.records.requests.columns
        names = ("request_id", "status", "aborted_s", *TIMES)
        for row in range(self._rows, len(self.records.requests)):
            yield row, {name: columns[name][row] for name in names}

    def _causality(self) -> Iterator[str]:
        now = self.env.now
        for _, row in self._new_rows():
            latest_s = -1.0
            for name in (*TIMES, "aborted_s"):
                time_s = row[name]
                if time_s < latest_s or time_s > now:
                    yield f"request {row['request_id']} has {name} = {time_s}, after {latest_s} and at {now}"
                if not isnan(time_s):
                    latest_s = time_s

    def _causes(self) -> Iterator[str]:
        charged: dict[int, float] = {}
        columns = [self.blame.columns[name] for name in ("request_id", *CAUSES)]
        for charge in range(self._blamed, len(self.blame)):
            number, *seconds = (column[charge] for column in columns)
            charged[number] = sum(seconds)
            if min(seconds) < -ROUNDING * max(1.0, self.env.now):
                yield f"request {number} is charged {min(seconds)} s to a cause"
        self._blamed = len(self.blame)
        for _, row in self._new_rows():
            number, status = row["request_id"], row["status"]
            if status in ("finished", "aborted"):
                end_s = row["finished_s"] if status == "finished" else row["aborted_s"]
                latency_s, sum_s = end_s - row["arrival_s"], charged.get(number)
                if sum_s is None:
                    yield f"request {number} has no causes"
                elif abs(sum_s - latency_s) > ROUNDING * max(1.0, end_s):
                    yield f"the causes of request {number} add up to {sum_s} s, its latency is {latency_s} s"
        self._rows = len(self.records.requests)

    def _capacity(self) -> None:
        if self._bytes.any_flows:  # what is alone on its links has the rate of its slowest one
            self.fabric.check()

    def _kv_blocks(self) -> Iterator[str]:
        transfers = self.service.kv_transfers
        for replica in self.service.replicas:
            for number, queue in enumerate(replica.queues):
                elsewhere = tuple(transfers.holders(queue)) if transfers is not None else ()
                counts = (queue.step, queue.requests, len(queue.running), len(queue.waiting))
                state = (queue.block_pool.free_blocks, *counts, elsewhere)
                if self._seen.get(queue) == state:
                    continue  # the instant was another's
                self._seen[queue] = state
                queue.check()
                for what in queue.block_pool.differences((*queue.holders(), *elsewhere)):
                    rank = f", rank {number}" if len(replica.queues) > 1 else ""
                    yield f"replica {replica.index}{rank}: {what}"

    def _work_conservation(self) -> Iterator[str]:
        service = self.service
        for replica in service.replicas:
            if replica.is_up and replica.is_idle and not replica.stands_still:
                for queue in replica.queues:
                    if any(sequence.pending_tokens for sequence in queue.running):
                        yield f"replica {replica.index} is idle, and {len(queue.running)} could run in it"
                    head = queue.could_admit()
                    if head is not None:
                        yield (
                            f"replica {replica.index} is idle and has room for request "
                            f"{head.request.request_id}, which waits"
                        )
        if service.kv_transfers is not None:
            yield from service.kv_transfers.could_send()
        yield from self._at_the_router()

    def _at_the_router(self) -> Iterator[str]:
        routing = self.service.routing
        if routing.staleness_s or type(routing.router) not in ROUTERS.values():
            return  # what the router sees, or waits for, is its own
        for number, replica in self.service.could_send():
            yield f"request {number} waits at the router, and replica {replica.index} has a free seat"


class _Bytes:
    """The bytes of all demands that were put on the fabric, counted apart from the fabric's own books."""

    def __init__(self, network: Network, fabric: Fabric, *, balanced: bool) -> None:
        self.network, self.fabric, self.balanced = network, fabric, balanced
        self._times: dict[int, tuple[DemandLike, float]] = {}  # by identity, which the demand itself keeps
        self._under_way: dict[Transfer, None] = {}
        self._broken: list[str] = []
        start, abort, divert = fabric._start, fabric.abort, fabric.divert
        carried, carried_steps = fabric.carried, fabric.carried_steps

        def starting(*how: Any) -> Transfer:
            transfer = start(*how)
            self._under_way[transfer] = None
            self._count(transfer.demand.source, 0.0)
            return transfer

        def aborting(transfer: Transfer) -> float:
            part = abort(transfer)
            if self._under_way.pop(transfer, 0) is None:
                self._count(transfer.demand.source, part)
            return part

        def diverting(transfer: Transfer, demand: DemandLike) -> None:
            if transfer.state < State.DONE:
                self._count(transfer.demand.source, transfer.done_part(fabric.env.now))
            divert(transfer, demand)

        def carrying(demand: DemandLike, times: int, seconds: float) -> None:
            self._count(demand, times)
            carried(demand, times, seconds)

        def carrying_steps(traffic: Any, steps: int) -> None:
            for demand, times, _ in traffic.demands:
                self._count(demand, times * steps)
            carried_steps(traffic, steps)

        observed = {
            "_start": starting,
            "abort": aborting,
            "divert": diverting,
            "carried": carrying,
            "carried_steps": carrying_steps,
        }
        for name, method in observed.items():
            setattr(fabric, name, method)

    @property
    def any_flows(self) -> bool:
        """True where a transfer shares its links, or has."""
        return any(transfer.state is State.FLOWING for transfer in self._under_way)

    def _count(self, demand: DemandLike, times: float) -> None:
        known = self._times.get(id(demand))
        if known is None and self.balanced:
            self._broken += self._unbalanced(demand)
        self._times[id(demand)] = demand, times + (known[1] if known else 0.0)

    def _unbalanced(self, demand: DemandLike) -> Iterator[str]:
        """Places that only forward, and where other bytes leave than come in."""
        into: Counter[str] = Counter()
        out: Counter[str] = Counter()
        for link, n_bytes in zip(demand.links, demand.n_bytes, strict=True):
            source, *onward = self.network.ends[link]
            for target in onward:
                out[source] += n_bytes  # type: ignore[assignment]
                into[target] += n_bytes  # type: ignore[assignment]
        for place in dict.fromkeys((*into, *out)):
            kind = self.network.kind(place)
            if kind in FORWARDING and not _balanced(into[place], out[place], kind):
                yield f"{into[place]} bytes of one demand go into {place}, and {out[place]} come out"

    def check(self) -> Iterator[str]:
        """Every demand so far is balanced where it is forwarded."""
        for transfer in [one for one in self._under_way if one.state >= State.DONE]:
            del self._under_way[transfer]
            self._count(transfer.demand.source, transfer.done_part(self.fabric.env.now))
        yield from self._broken

    def check_counted(self, links: Table) -> Iterator[str]:
        """The rows of all links have the bytes of all demands."""
        yield from self.check()
        expected = [0.0] * len(self.fabric.links)
        for demand, times in self._times.values():
            for link, n_bytes in zip(demand.links, demand.n_bytes, strict=True):
                expected[link] += times * n_bytes
        for transfer in self._under_way:
            part = transfer.done_part(self.fabric.env.now)
            for link, n_bytes in zip(
                transfer.demand.source.links, transfer.demand.source.n_bytes, strict=True
            ):
                expected[link] += part * n_bytes
        for name, asked, counted in zip(links["link"], expected, links["n_bytes"], strict=True):
            if abs(asked - counted) > ROUNDING * max(asked, counted):
                yield f"{name} has carried {counted} bytes, the demands put {asked} on it"


def _balanced(into: float, out: float, kind: str) -> bool:
    """Equal, or an integer multiple where a switch may add up or multicast."""
    less, more = sorted((into, out))
    if more - less <= ROUNDING * more:
        return True
    ratio = more / less if less else 0.0
    return kind in ("crossbar", "nvswitch") and ratio > 1.5 and abs(ratio - round(ratio)) <= ROUNDING * ratio


class _Stations:
    """How many requests stand at each station, integrated over time, and the seconds that rows have of it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._since_s: float | None = None
        self._here: Mapping[str, int] = {}
        self._area = dict.fromkeys(("system", "router", "queues", "engines and transfers"), 0.0)

    def note(self, now: float) -> None:
        """From this instant on so many stand at each station."""
        if self._since_s is not None:
            for station, number in self._here.items():
                self._area[station] += number * (now - self._since_s)
        self._since_s = now
        service = self.service
        in_line = sum(len(numbers) for _, numbers in service.in_line()) + service.never_answered
        waiting = sum(replica.waiting for replica in service.replicas)
        self._here = {
            "system": len(service.open),
            "router": in_line,
            "queues": waiting,
            "engines and transfers": len(service.open) - in_line - waiting,
        }

    def check(self, records: Records, blame: BlameRecords, end_s: float) -> Iterator[str]:
        """At each station, L = X W: both sides times the length of the run."""
        self.note(max(end_s, self._since_s or 0.0))
        expected = dict.fromkeys(self._area, 0.0)
        columns = records.requests.columns
        unfinished = False
        for row in range(len(records.requests)):
            status = columns["status"][row]
            left_s = {
                "finished": columns["finished_s"][row],
                "aborted": columns["aborted_s"][row],
                "rejected": columns["routed_s"][row],
            }.get(status, end_s)
            unfinished = unfinished or status == "unfinished"
            expected["system"] += left_s - columns["arrival_s"][row]
            if status == "rejected":
                expected["router"] += left_s - columns["arrival_s"][row]
        sums = [sum(blame.columns[cause]) for cause in CAUSES]
        expected["router"] += sums[REQUEST_ROUTING]
        expected["queues"] = sums[REQUEST_ADMISSION] + sums[REQUEST_PREEMPTED]
        queueing = sums[REQUEST_ROUTING] + expected["queues"]
        expected["engines and transfers"] = sum(sums) - queueing
        for station, area in self._area.items():
            if station != "system" and (unfinished or self.service.hedging is not None):
                continue  # seconds of what has not left are charged when it leaves; a copy's are not charged
            seconds = expected[station]
            if abs(area - seconds) > 1e3 * ROUNDING * max(1.0, area, seconds):
                yield f"{station}: its number integrates to {area} s, requests were there {seconds} s"


def _busy(links: Table, gpus: Table, end_s: float) -> Iterator[str]:
    most_s = end_s * (1.0 + ROUNDING)
    for kind, table in (("link", links), ("gpu", gpus)):
        for name, busy_s in zip(table[kind], table["busy_s"], strict=True):
            if busy_s > most_s:
                yield f"{name} was busy for {busy_s} s of a run of {end_s} s"
