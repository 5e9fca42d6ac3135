"""Demands compiled for the fabric and remembered."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import inf, isfinite

from sim.cost.program import Traffic
from sim.runtime.fabric.link_counters import LinkCounters
from sim.runtime.fabric.occupancy import LinkOccupancy
from sim.runtime.fabric.transfer import Bytes, CompiledDemand, DemandLike

REMEMBERED = 4096
"""CompiledDemands kept at a time."""


class CompiledDemands:
    """The compiled of each demand.

    Remembered by the demand's identity, which costs a third of hashing it. What transfers have carried is
    counted in their compiled, and given to the links when somebody asks or the compiled is forgotten.
    """

    def __init__(
        self, names: Sequence[Hashable], built: Sequence[float], occupancy: LinkOccupancy, use: LinkCounters
    ) -> None:
        self._names = names
        self._built = built
        self._occupancy = occupancy
        self._counters = use
        self._kept: dict[int, CompiledDemand] = {}
        self._equal: dict[Bytes, Bytes] = {}  # demands that were made on the spot
        self._folded: dict[int, tuple[Traffic, int]] = {}  # how often all of a step's traffic, by identity

    def of(self, demand: DemandLike) -> CompiledDemand:
        return self._kept.get(id(demand)) or self._keep(demand)

    def of_equal(self, demand: Bytes) -> CompiledDemand:
        """The compiled of an equal demand, where there is one."""
        if len(self._equal) >= REMEMBERED:
            self._equal.clear()
        return self.of(self._equal.setdefault(demand, demand))

    def compile(self, demand: DemandLike) -> CompiledDemand:
        """A compiled that is not remembered. Raises ValueError for a demand that cannot be."""
        links, n_bytes = tuple(demand.links), tuple(demand.n_bytes)
        if len(links) != len(n_bytes):
            raise ValueError(f"{len(links)} links but bytes for {len(n_bytes)}; each link needs one figure")
        if links and not (min(links) >= 0 and max(links) < len(self._names)):
            wrong = [link for link in links if not 0 <= link < len(self._names)]
            raise ValueError(f"no link number {wrong[0]}; the fabric has {len(self._names)}, counted from 0")
        if not (min(n_bytes, default=0.0) >= 0.0 and isfinite(sum(n_bytes))):
            raise ValueError(
                f"bytes {n_bytes} on {[self._names[link] for link in links]}; 0 or more are possible"
            )
        if len(set(links)) < len(links):
            raise ValueError(f"a link is named twice in {links}; add its bytes up")
        if not (0.0 <= demand.latency_s < inf and 0.0 <= demand.min_flow_s < inf):
            raise ValueError(
                f"latency {demand.latency_s} s and least time {demand.min_flow_s} s; 0 or more are possible"
            )
        links, n_bytes = _used(links, n_bytes)
        return CompiledDemand(demand, self._occupancy.link_set(links), n_bytes, self._built)

    def carried_steps(self, traffic: Traffic, steps: int) -> None:
        """The transfers of so many equal steps have been alone on their links."""
        _, before = self._folded.get(id(traffic), (traffic, 0))
        self._folded[id(traffic)] = traffic, before + steps

    def settle(self) -> None:
        """Give the links what has been carried alone."""
        for traffic, steps in self._folded.values():
            for demand, times, seconds in traffic.demands:
                self._counters.carry(*_used(demand.links, demand.n_bytes), steps * times, steps * seconds)
        self._folded.clear()
        for compiled in self._kept.values():
            if compiled.uncounted:
                self._counters.carry(
                    compiled.links, compiled.n_bytes, compiled.uncounted, compiled.uncounted_busy_s
                )
                compiled.uncounted, compiled.uncounted_busy_s = 0, 0.0

    def _keep(self, demand: DemandLike) -> CompiledDemand:
        if len(self._kept) >= REMEMBERED:
            self.settle()
            for compiled in self._kept.values():
                compiled.kept = False
            self._kept.clear()
        compiled = self._kept[id(demand)] = self.compile(demand)
        compiled.kept = True  # and with it the demand, so that its identity stays its own
        return compiled


def _used(links: tuple[int, ...], n_bytes: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Without the links that carry nothing."""
    if 0.0 not in n_bytes:
        return links, n_bytes
    used = [(link, amount) for link, amount in zip(links, n_bytes, strict=True) if amount]
    return tuple(link for link, _ in used), tuple(amount for _, amount in used)
