"""What the machine's own latencies add to a fitted start-up, or take away from it.

A start-up that was fitted (a hop of a ring, the start of a kernel) contains the latency of the paths of the
machine on which it was measured. `latencies` in `topologies/collectives/across.yaml` has what each kind of
link and place takes on those machines, so that a path says by itself how much of it is contained. What a
scenario's path has more is added. What it has less is taken away, and never more than the path's part of the
start-up: a start-up of h seconds that contains a path of R has max(0, h - R) of software, which stays, and
min(h, R) that goes down in proportion to the path's latency.

A latency that a topology does not state is that of the measured machines.

Where it stops: the start-ups were measured on a few machines each, whose paths differ by some 2 us, and one
number stands for all of them. A longer way of the same parts costs no more, up to `covered_s` of its medium.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sim.cost.collectives.parameters import Parameters
from sim.cost.network import Network
from sim.cost.paths import Path

SAME_S = 1e-12
"""Seconds; a smaller difference is the rounding of sums."""


class Crossing(NamedTuple):
    """One path: its latency, and how much of it a fitted start-up contains. Of a latency within the range
    that was measured both count the least.
    """

    latency_s: float
    contained_s: float

    @property
    def beyond_s(self) -> float:
        """Seconds above what is contained; below 0 where the path is quicker than on the measured machine."""
        difference_s = self.latency_s - self.contained_s
        return difference_s if abs(difference_s) > SAME_S else 0.0


def crossing(path: Path, parameters: Parameters) -> Crossing:
    """A path against the machines of the fits, which had no longer ones than `covered_s` of its medium."""
    one = by_parts(path, parameters)
    return Crossing(one.latency_s, min(one.contained_s, parameters.media[path.medium]["covered_s"]))


def by_parts(path: Path, parameters: Parameters) -> Crossing:
    """A path against one of the same parts as the machines of the fits have them."""
    latency_s = contained_s = 0.0
    for kind, stated_s in path.crossed:
        if kind == "switch" and path.medium == "tcp":
            kind = "ethernet_switch"
        least_s, most_s = parameters.latencies.get(kind, (0.0, 0.0))
        seconds = least_s if stated_s is None else stated_s
        # Within the range the start-up contains it, whatever it is; so what is contained is one number, and
        # the difference goes up and down with the latency alone.
        latency_s += seconds - min(max(seconds - least_s, 0.0), most_s - least_s)
        contained_s += least_s
    return Crossing(latency_s, contained_s)


def ring_crossings(network: Network, order: Sequence[str], parameters: Parameters) -> list[Crossing]:
    """Every hop of a ring."""
    pairs = zip(order, (*order[1:], order[0]), strict=True)
    return [crossing(network.path(here, there), parameters) for here, there in pairs]


def with_path(start_s: float, crossings: Sequence[Crossing]) -> float:
    """A fitted start-up of `start_s` on these paths, which take turns: their mean."""
    if not crossings:
        return start_s
    return start_s + sum(_added_s(start_s, one) for one in crossings) / len(crossings)


def at_once(start_s: float, crossings: Iterable[Crossing], times: int = 1) -> float:
    """A fitted start-up of `start_s` that goes over all these paths at once, `times` one after the other: the
    longest counts.
    """
    longest = longest_of(crossings)
    return start_s + _added_s(start_s, Crossing(times * longest.latency_s, times * longest.contained_s))


def longest_of(crossings: Iterable[Crossing]) -> Crossing:
    """The longest latency, against the longest that is contained."""
    return Crossing(*(max(values) for values in zip(*crossings, strict=True)))


def _added_s(start_s: float, one: Crossing) -> float:
    if one.beyond_s >= 0.0:
        return one.beyond_s
    return one.beyond_s * min(1.0, start_s / one.contained_s)
