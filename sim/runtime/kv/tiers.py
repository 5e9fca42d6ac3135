"""Tiers of KV cache below HBM: what each holds, and the copies that fill it.

A tier holds hashed prefixes up to its capacity and evicts the least recently used first. One engine's copies
into a tier go one after another, each with everything that waits, as one transfer on the fabric: they cost
bandwidth and no GPU time. A prefix takes room from the start of its copy and can be read from its end. What a
tier evicts goes on to the tier below.

Where it stops: a prefix that leaves a tier (or HBM, when written on eviction) stands in a staging buffer
until it has been copied; the copy into that buffer costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sim.cost.kv_tiers import Way
from sim.runtime.clock import SCHEDULE, at
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.transfer import State, Transfer


class Tier:
    """Prefixes within a capacity, in bytes. Several engines may share one.

    A `unit` is a block hash of a text, and stands for the text's blocks since the hash before it.
    """

    def __init__(self, name: str, capacity_bytes: float) -> None:
        self.name = name
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0.0
        self.peak_bytes = 0.0
        self._present: OrderedDict[int, float] = OrderedDict()  # the least recently used first
        self._inbound: dict[int, float] = {}
        self._readers: dict[int, int] = {}

    def has(self, unit: int) -> bool:
        return unit in self._present

    def knows(self, unit: int) -> bool:
        """It is present or inbound."""
        return unit in self._present or unit in self._inbound

    def use(self, unit: int) -> None:
        if unit in self._present:
            self._present.move_to_end(unit)

    def make_room(self, n_bytes: float) -> list[tuple[int, float]] | None:
        """Evict the least recently used until `n_bytes` fit; None, and nothing evicted, if they cannot."""
        # Victims are chosen before any is evicted: a prefix that does not fit anyway must cost no other its
        # place. Neither what is being read nor what is inbound can go: a transfer is under way for it.
        missing = self.held_bytes + n_bytes - self.capacity_bytes
        victims: list[tuple[int, float]] = []
        if missing > 0.0:
            for unit, size in self._present.items():
                if unit not in self._readers:
                    victims.append((unit, size))
                    missing -= size
                    if missing <= 0.0:
                        break
            else:
                return None
        for unit, size in victims:
            del self._present[unit]
            self.held_bytes -= size
        return victims

    def expect(self, unit: int, n_bytes: float) -> None:
        """Keep room for a prefix that is about to be copied."""
        self._inbound[unit] = n_bytes
        self.held_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    def arrived(self, unit: int) -> None:
        self._present[unit] = self._inbound.pop(unit)

    def cancel(self, unit: int) -> None:
        """The copy of an inbound prefix was cancelled."""
        self.held_bytes -= self._inbound.pop(unit)

    def clear(self) -> None:
        """All present prefixes are lost; none may have a reader."""
        self.held_bytes -= sum(self._present.values())
        self._present.clear()

    def read(self, unit: int) -> None:
        """A transfer begins to read it: it stays until `release`."""
        self._readers[unit] = self._readers.get(unit, 0) + 1
        self.use(unit)

    def release(self, unit: int) -> None:
        self._readers[unit] -= 1
        if not self._readers[unit]:
            del self._readers[unit]

    def check(self) -> None:
        """Never more than fits, nothing twice, and what is read is present."""
        held = sum(self._present.values()) + sum(self._inbound.values())
        assert abs(held - self.held_bytes) < 1.0, f"{self.name}: {self.held_bytes} bytes, units have {held}"
        assert held <= self.capacity_bytes, f"{self.name} holds {held} of {self.capacity_bytes} bytes"
        assert not self._present.keys() & self._inbound.keys(), "a prefix is present and inbound"
        assert all(unit in self._present for unit in self._readers), "a prefix that is read is gone"


@dataclass(slots=True)
class Level:
    """A tier as one engine sees it: the ways there and back, the copies that wait, and what went over them.

    `put` copies a prefix down, `read` brings prefixes up. Byte counts are those of the model's KV, each head
    once.
    """

    fabric: Fabric
    tier: Tier
    reading: Way
    writing: Way
    bytes_per_token: float
    staging_bytes: float
    below: Level | None = None
    on_landed: Callable[[list[int]], None] | None = None
    hit_tokens: int = 0
    reloaded_bytes: float = 0.0
    stored_bytes: float = 0.0
    evicted_bytes: float = 0.0
    lost_bytes: float = 0.0
    is_shared: bool = False  # other engines use the tier too
    _waiting: dict[int, float] = field(default_factory=dict)
    _under_way: tuple[list[int], Transfer] | None = None
    _waiting_bytes: float = 0.0
    _is_busy: bool = False
    _is_due: bool = False

    def put(self, unit: int, n_bytes: float) -> bool:
        """Copy a prefix into this tier, with the next transfer; False if there is no need or no room."""
        if self.tier.knows(unit):
            self.tier.use(unit)
            return False
        victims = None
        # Bytes wait in the staging buffer until their copy has ended, so those under way count too.
        if self._waiting_bytes + n_bytes <= self.staging_bytes:
            victims = self.tier.make_room(n_bytes)
        if victims is None:
            self.lost_bytes += n_bytes
            return False
        self.tier.expect(unit, n_bytes)
        self._waiting[unit] = n_bytes
        self._waiting_bytes += n_bytes
        self._soon()
        for victim, size in victims:
            self.evicted_bytes += size
            if self.below is not None:
                self.below.put(victim, size)
        return True

    def _soon(self) -> None:
        """Copy after everything else of this instant: one transfer takes all that it evicts or computes."""
        if not (self._is_busy or self._is_due):
            self._is_due = True
            at(self.fabric.env, self.fabric.env.now, self._copy, SCHEDULE)

    def _copy(self, _: Any = None) -> None:
        self._is_due = False
        if not self._waiting:
            return  # the engine has failed since
        self._is_busy = True
        copied, n_bytes = list(self._waiting), self._waiting_bytes
        self._waiting = {}  # what comes during this copy goes with the next one

        def done(transfer: Transfer) -> None:
            self._is_busy = False
            self._under_way = None
            self._waiting_bytes -= n_bytes
            self.stored_bytes += n_bytes
            for unit in copied:
                self.tier.arrived(unit)
            if self._waiting:
                self._soon()
            if self.on_landed is not None:
                self.on_landed(copied)

        demand = self.writing.demand(n_bytes / self.bytes_per_token)
        self._under_way = copied, self.fabric.start(demand, on_done=done)

    def fail(self) -> None:
        """The engine is lost, and with it its copies under way and what no other engine reads."""
        if self._under_way is not None:
            copied, transfer = self._under_way
            self.fabric.abort(transfer)
            for unit in copied:
                self.tier.cancel(unit)
        for unit in self._waiting:
            self.tier.cancel(unit)
        self._waiting = {}
        self._waiting_bytes = 0.0
        self._is_busy = False
        self._under_way = None
        if not self.is_shared:
            self.tier.clear()

    def read(self, units: list[int], tokens: int, done: Callable[[], None]) -> Callable[[], None]:
        """Bring `tokens` tokens of prefixes up to HBM; they cannot be evicted meanwhile. Returns what cancels
        the transfer.
        """
        for unit in units:
            self.tier.read(unit)
        self.hit_tokens += tokens
        self.reloaded_bytes += tokens * self.bytes_per_token

        def landed(transfer: Transfer) -> None:
            done()  # first: HBM holds the prefixes before the tier may evict them
            for unit in units:
                self.tier.release(unit)

        transfer = self.fabric.start(self.reading.demand(tokens), on_done=landed)

        def cancel() -> None:
            if transfer.state < State.DONE:  # of a sequence's several transfers, some may have ended
                part = self.fabric.abort(transfer)
                self.reloaded_bytes -= (1.0 - part) * tokens * self.bytes_per_token
                for unit in units:
                    self.tier.release(unit)

        return cancel
