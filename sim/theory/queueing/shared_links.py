"""Links that transfers share: processor sharing, its limit by the sender, routes over several links."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from sim.theory.arguments import bounded
from sim.theory.queueing.steady import Steady, endless_chain, from_wait, mean_of, stable_load


@bounded
def mg1_ps(arrival_rate: float, service_rate: float) -> Steady:
    """One server shared equally by all customers present: a link under max-min, a GPU under time slicing.

    A job that takes x alone takes x/(1 - rho) in the mean, whatever the law of the sizes (Kleinrock 1967;
    Yashkov 1987), so the slowdown is 1/(1 - rho) for every size. Wq here is the time lost to sharing.

    Example:
        >>> round(mg1_ps(0.7, 1.0).slowdown, 4)
        3.3333
    """
    rho = stable_load(arrival_rate, service_rate)
    return from_wait(arrival_rate, service_rate, rho / (1.0 - rho) / service_rate)


class Transfers(NamedTuple):
    """Transfers of one route: their mean number, mean time, and mean rate (bytes over time)."""

    L: float
    W: float
    bytes_per_s: float


@bounded
def limited_sharing(
    arrival_rate: float, mean_bytes: float, link_bytes_per_s: float, flow_bytes_per_s: float
) -> Transfers:
    """Transfers that share a link equally, each of them limited to `flow_bytes_per_s` by its own port.

    With n there they get min(n a, C) in all: a birth-death chain whose law holds for any law of sizes, for
    the sharing is balanced. `mg1_ps` where the port is as fast as the link, `mg_infinity` where the link has
    room for all. (Bonald and Proutiere, Queueing Systems 44, 2003.)

    Example: 50 GB/s, ports of 12.5, transfers of 1 GB, 40 a second.
        >>> found = limited_sharing(40.0, 1e9, 50e9, 12.5e9)
        >>> round(found.L, 3), round(found.bytes_per_s / 1e9, 2)
        (5.586, 7.16)
    """
    stable_load(arrival_rate, link_bytes_per_s / mean_bytes)
    if not arrival_rate:
        return Transfers(0.0, mean_bytes / min(link_bytes_per_s, flow_bytes_per_s), flow_bytes_per_s)
    chances = endless_chain(
        lambda n: arrival_rate,
        lambda n: min(n * flow_bytes_per_s, link_bytes_per_s) / mean_bytes,
        ceil(min(link_bytes_per_s / flow_bytes_per_s, 1e6)),
    )
    there = mean_of(chances)
    return Transfers(there, there / arrival_rate, arrival_rate * mean_bytes / there)


@bounded
def line_of_links(through_load: float, loads: Sequence[float]) -> tuple[float, ...]:
    """Equal links in a row: mean numbers of transfers of the route over all of them, and of each one's own.

    L_0 = r0/(1 - r0) (1 + sum of r_l/(1 - r0 - r_l)), L_l = r_l/(1 - r0 - r_l), loads as shares of a link.
    Exact for balanced and for proportional fairness, whatever the sizes (Massoulie and Roberts 2000; Bonald
    and Proutiere 2003); max-min has no such formula, and is near to it.

    Example: a ring's transfer over three links with neighbours of their own.
        >>> [round(number, 3) for number in line_of_links(0.3, [0.4, 0.4, 0.4])]
        [2.143, 1.333, 1.333, 1.333]
    """
    stable_load(through_load + max(loads), 1.0)
    spare = 1.0 - through_load
    own = [load / (spare - load) for load in loads]
    return (through_load / spare * (1.0 + sum(own)), *own)


@bounded
def flow_rate_bounds(
    link_loads_bytes_per_s: Sequence[float], link_capacities_bytes_per_s: Sequence[float]
) -> tuple[float, float]:
    """Least and greatest mean rate of a transfer over these links under balanced fairness, all loads counted.

    At least 1/sum(1/(C - load)), as if each link were stored and forwarded; at most the least C - load.
    (Bonald and Proutiere, On performance bounds for balanced fairness, Performance Evaluation 55, 2004.)

    Example: NIC, leaf and NIC, half, three quarters and half loaded.
        >>> [round(rate / 1e9, 3) for rate in flow_rate_bounds([25e9, 75e9, 25e9], [50e9, 100e9, 50e9])]
        [8.333, 25.0]
    """
    loads, capacities = link_loads_bytes_per_s, link_capacities_bytes_per_s
    if len(loads) != len(capacities):
        raise ValueError(
            f"flow_rate_bounds: {len(loads)} loads and {len(capacities)} capacities: must be as many"
        )
    spare = []
    for load, capacity in zip(loads, capacities, strict=True):
        stable_load(load, capacity)
        spare.append(capacity - load)
    return 1.0 / sum(1.0 / one for one in spare), min(spare)
