"""The fluid computed the slow way: at every event all rates anew, and all bytes advanced."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import NamedTuple

from sim.cost.fairshare import max_min


class Arrival(NamedTuple):
    time: float
    links: tuple[int, ...]
    n_bytes: tuple[float, ...]
    latency_s: float = 0.0
    min_flow_s: float = 0.0
    weight: float = 1.0


class Change(NamedTuple):
    time: float
    link: int
    bytes_per_s: float


def ends(
    capacity: Sequence[float], arrivals: Sequence[Arrival], changes: Sequence[Change] = ()
) -> dict[int, float]:
    """When each arrival is done, for those that ever are."""
    capacity = list(capacity)
    begins = sorted((a.time + a.latency_s, number) for number, a in enumerate(arrivals))
    changing = sorted(changes, key=lambda change: change.time)  # of one instant the last one counts
    left: dict[int, float] = {}
    rate: dict[int, float] = {}
    done: dict[int, float] = {}
    now = 0.0
    while begins or changing or left:
        ending = min((now + left[k] / rate[k] if rate[k] > 0.0 else inf for k in left), default=inf)
        coming = min(begins[0][0] if begins else inf, changing[0].time if changing else inf)
        later = min(ending, coming)
        if later == inf:
            break
        for k in left:
            left[k] -= rate[k] * (later - now)
        now = later
        for k in [k for k in left if left[k] <= 1e-12]:
            del left[k]
            done[k] = now
        while begins and begins[0][0] <= now:
            left[begins.pop(0)[1]] = 1.0
        while changing and changing[0].time <= now:
            change = changing.pop(0)
            capacity[change.link] = change.bytes_per_s
        flowing = [arrivals[k] for k in left]
        rate = dict(
            zip(
                left,
                max_min([(a.links, a.n_bytes, a.weight, a.min_flow_s) for a in flowing], capacity),
                strict=True,
            )
        )
    return done


def in_use_s(link: int, arrivals: Sequence[Arrival], done: dict[int, float], at_once: int = 1) -> float:
    """Seconds in which at least so many arrivals have bytes flowing on a link."""
    users = [(number, a.time + a.latency_s) for number, a in enumerate(arrivals) if link in a.links]
    changes = sorted([(begins, 1) for _, begins in users] + [(done[number], -1) for number, _ in users])
    seconds, flowing = 0.0, 0
    for (now, more), (then, _) in pairwise(changes):
        flowing += more
        if flowing >= at_once:
            seconds += then - now
    return seconds
