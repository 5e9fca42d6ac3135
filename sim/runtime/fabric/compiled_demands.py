"""Demands compiled for the fabric: checked once, and remembered by identity."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import inf, isfinite

from sim.cost.program import Traffic
from sim.runtime.fabric.link_counters import LinkCounters
from sim.runtime.fabric.occupancy import LinkOccupancy
from sim.runtime.fabric.transfer import Bytes, CompiledDemand, DemandLike

REMEMBERED = 4096
"""Compiled demands kept at a time."""


class CompiledDemands:
    """The compiled form of each demand, remembered by the demand's identity, which costs a third of hashing
    it.

    What finished transfers have carried is counted in their compiled demand first (`uncounted`), which costs
    one addition per transfer instead of one per link. `settle` moves it to the link counters, before these
    are read and before a compiled demand is dropped.
    """

    def __init__(
        self,
        names: Sequence[Hashable],
        built: Sequence[float],
        occupancy: LinkOccupancy,
        counters: LinkCounters,
    ) -> None:
        self._names = names
        self._built = built
        self._occupancy = occupancy
        self._counters = counters
        self._kept: dict[int, CompiledDemand] = {}
        self._equal: dict[Bytes, Bytes] = {}  # of equal demands the one that is compiled
        self._folded: dict[int, tuple[Traffic, int]] = {}  # a step's traffic and how many steps, by identity

    def of(self, demand: DemandLike) -> CompiledDemand:
        return self._kept.get(id(demand)) or self._keep(demand)

    def of_equal(self, demand: Bytes) -> CompiledDemand:
        """As `of`, for a demand made for a single transfer: equal ones share one compiled demand."""
        if len(self._equal) >= REMEMBERED:
            self._equal.clear()
        return self.of(self._equal.setdefault(demand, demand))

    def compile(self, demand: DemandLike) -> CompiledDemand:
        """Compile without remembering. Raises ValueError for an impossible demand."""
        links, n_bytes = tuple(demand.links), tuple(demand.n_bytes)
        if len(links) != len(n_bytes):
            raise ValueError(
                f"n_bytes has {len(n_bytes)} entries for {len(links)} links: must be one per link"
            )
        if links and not (min(links) >= 0 and max(links) < len(self._names)):
            wrong = next(link for link in links if not 0 <= link < len(self._names))
            raise ValueError(f"link = {wrong}: must be from 0 to {len(self._names) - 1}")
        if not (min(n_bytes, default=0.0) >= 0.0 and isfinite(sum(n_bytes))):
            on = [self._names[link] for link in links]
            raise ValueError(f"n_bytes = {n_bytes} on {on}: must be finite and at least 0")
        if len(set(links)) < len(links):
            raise ValueError(f"links = {links}: each must appear once; add the bytes of a repeated one up")
        if not (0.0 <= demand.latency_s < inf and 0.0 <= demand.min_flow_s < inf):
            seconds = f"latency_s = {demand.latency_s}, min_flow_s = {demand.min_flow_s}"
            raise ValueError(f"{seconds}: must be finite and at least 0")
        links, n_bytes = _used(links, n_bytes)
        return CompiledDemand(demand, self._occupancy.link_set(links), n_bytes, self._built)

    def carried_steps(self, traffic: Traffic, steps: int) -> None:
        """Count the transfers of so many equal steps, all of them uncontended."""
        _, before = self._folded.get(id(traffic), (traffic, 0))
        self._folded[id(traffic)] = traffic, before + steps

    def settle(self) -> None:
        """Move everything uncounted to the link counters."""
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
            # All are dropped at once: eviction by age would cost more per look-up than compiling anew.
            # Transfers under way keep theirs, and count into the links directly when they see that it is not
            # kept.
            self.settle()
            for compiled in self._kept.values():
                compiled.kept = False
            self._kept.clear()
        compiled = self._kept[id(demand)] = self.compile(demand)
        compiled.kept = True  # it holds the demand itself, so that no other object can take over the identity
        return compiled


def _used(links: tuple[int, ...], n_bytes: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Without the links that carry no bytes: these share nothing with other transfers."""
    if 0.0 not in n_bytes:
        return links, n_bytes
    used = [(link, amount) for link, amount in zip(links, n_bytes, strict=True) if amount]
    return tuple(link for link, _ in used), tuple(amount for _, amount in used)
