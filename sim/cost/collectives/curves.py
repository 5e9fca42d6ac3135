"""The time of one way of doing a collective, as a function of its size alone.

A curve holds everything about (op, algorithm, protocol, ranks) that does not depend on the size, so that
pricing a call is a handful of multiplications:

    latency(S) = alpha + ramp S/(S + ramp_bytes) + fill S/(S + fill_bytes)
    flow(S)    = max(S x busiest link, S x the kernel's own pace)

The ramp is small slices growing to full ones, step by step; the fill is the pipeline of a large message.
Both saturate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log2

from sim.cost.collectives.demands import Demand


@dataclass(frozen=True, slots=True)
class Curve:
    """One algorithm and protocol on given ranks; see the module for the formula.

    `pace_s` is seconds per byte of message that the kernel needs by itself, `wire_s` what the busiest link
    needs. `corrections` divides the pace by powers of two of the size from 64 bytes on (NCCL's tree
    corrections); `plateau` multiplies `alpha_s` past `plateau_bytes`. `rated_s` is the part of the pace that
    is a share of the links' rates, and goes up where they lose capacity; `aside_s` the part without links.
    """

    algorithm: str
    protocol: str
    links: tuple[int, ...]
    bytes_per_byte: tuple[float, ...]
    wire_s: float
    alpha_s: float
    pace_s: float = 0.0
    ramp_s: float = 0.0
    ramp_bytes: float = 1.0
    fill_s: float = 0.0
    fill_bytes: float = 1.0
    corrections: tuple[float, ...] = ()
    plateau: float = 1.0
    plateau_bytes: float = float("inf")
    rated_s: float = 0.0
    aside_s: float = 0.0

    def latency_s(self, n_bytes: float) -> float:
        """Seconds before bytes flow at the full rate."""
        alpha_s = self.alpha_s * self.plateau if n_bytes >= self.plateau_bytes else self.alpha_s
        if self.ramp_s:
            alpha_s += self.ramp_s * n_bytes / (n_bytes + self.ramp_bytes)
        if self.fill_s:
            alpha_s += self.fill_s * n_bytes / (n_bytes + self.fill_bytes)
        return alpha_s

    def min_flow_s(self, n_bytes: float) -> float:
        """The shortest that the flow can take, whatever the links allow."""
        if self.corrections:
            return n_bytes * self.pace_s / self._correction(n_bytes)
        return n_bytes * self.pace_s

    def _correction(self, n_bytes: float) -> float:
        place = int(log2(max(n_bytes, 64.0) / 64.0))
        return self.corrections[place] if place < len(self.corrections) else 1.0

    def efficiency(self, n_bytes: float) -> float:
        """The share of the links' rates that the flow reaches, where it is bound by one."""
        return self.wire_s / self.rated_s * self._correction(n_bytes) if self.rated_s else inf

    def total_s(self, n_bytes: float) -> float:
        """The `isolated_s` of its demand, without making one."""
        return self.latency_s(n_bytes) + max(n_bytes * self.wire_s, self.min_flow_s(n_bytes))

    def demand(self, n_bytes: float) -> Demand:
        """The transfer that this collective is for the fabric."""
        amounts = tuple([share * n_bytes for share in self.bytes_per_byte])
        return Demand(
            self.links,
            amounts,
            self.latency_s(n_bytes),
            self.min_flow_s(n_bytes),
            self.efficiency(n_bytes),
            n_bytes * self.aside_s,
        )


def quickest(curves: Sequence[Curve], n_bytes: float) -> Curve:
    """The curve with the least time at this size; the first of equals."""
    return min(curves, key=lambda curve: curve.total_s(n_bytes))
