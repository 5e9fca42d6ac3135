"""Stations one after the other, in circles, and with users who come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sim.theory.arguments import bounded
from sim.theory.queueing.laws import Floats
from sim.theory.queueing.many_servers import mmc
from sim.theory.queueing.steady import Steady


@bounded
def tandem(arrival_rate: float, service_rates: Sequence[float]) -> Steady:
    """Stations one after the other, Poisson arrivals, exponential service at each: sum of 1/(mu_i - lambda).

    What leaves M/M/1 is Poisson again (Burke 1956; Jackson 1957), so the stations are as if independent. rho
    is the highest of theirs.

    Example:
        >>> round(tandem(0.5, [1.0, 0.8]).W, 3)
        5.333
    """
    stations = [mmc(arrival_rate, service_rate, 1) for service_rate in service_rates]
    return Steady(
        max(station.rho for station in stations),
        sum(station.W for station in stations),
        sum(station.Wq for station in stations),
        sum(station.L for station in stations),
        sum(station.Lq for station in stations),
    )


@bounded
def feedback_rate(arrival_rate: float, again: float) -> float:
    """The rate that a station sees when each one served comes back with probability `again`: lambda/(1 - p).

    An agent that calls a model again and again is such a loop. (Jackson 1957.)

    Example:
        >>> feedback_rate(2.0, 0.5)
        4.0
    """
    return arrival_rate / (1.0 - again)


@bounded
def closed_loop_rate(users: int, response_s: float, think_s: float = 0.0) -> float:
    """Requests per second of `users` that each send, wait `response_s` for the answer and think: N/(Z + R).
    Exact.

    Little's law for the whole loop (Denning and Buzen 1978). With decode steps of t(N) for N users it is
    N/t(N) tokens/s.

    Example:
        >>> closed_loop_rate(16, 0.02)
        800.0
    """
    if not think_s + response_s:
        raise ValueError("closed_loop_rate: response_s = 0: must be above 0 where think_s is 0")
    return users / (think_s + response_s)


class Closed(NamedTuple):
    """A closed network: requests per second, the mean time of one, and at each station the mean number and
    the share of time in which it is busy.
    """

    rate_per_s: float
    response_s: float
    numbers: tuple[float, ...]
    busy: tuple[float, ...]


@bounded
def closed_network(users: int, demands_s: Sequence[float], think_s: float = 0.0) -> Closed:
    """`users` go round stations that need `demands_s` each (visits times service), and think in between.

    Mean value analysis: R_k(N) = D_k (1 + L_k(N - 1)), X = N/(Z + sum R). Exact for exponential services in
    order of arrival, and for processor sharing of any law. (Reiser and Lavenberg 1980.)

    Example: 20 users think 5 s; CPU 0.1 s, disk 0.2 s.
        >>> network = closed_network(20, [0.1, 0.2], 5.0)
        >>> round(network.rate_per_s, 3), round(network.response_s, 3)
        (3.518, 0.685)
    """
    if not sum(demands_s) + think_s:
        raise ValueError("closed_network: demands_s are all 0: one must be above 0 where think_s is 0")
    numbers = [0.0] * len(demands_s)
    rate, stays = 0.0, list(demands_s)
    for n in range(1, users + 1):
        stays = [demand * (1.0 + number) for demand, number in zip(demands_s, numbers, strict=True)]
        rate = n / (think_s + sum(stays))
        numbers = [rate * stay for stay in stays]
    return Closed(rate, sum(stays), tuple(numbers), tuple(rate * demand for demand in demands_s))


Speed = Callable[[int], float]


@bounded
def load_dependent_network(
    users: int, demands_s: Sequence[float], speeds: Sequence[Speed | None], think_s: float = 0.0
) -> Closed:
    """As `closed_network`, where station k with n there works `speeds[k](n)` times as fast as with one.

    min(n, c) is a station of c servers, n/(a + b n) a batch that decodes together. What load-dependent MVA
    computes, by Buzen's convolution (1973), whose terms are all positive: MVA's own recursion loses its
    digits here.

    Example: 20 users, three servers of a second, no thinking but 2 s.
        >>> from sim.theory.queueing.many_servers import machine_repair
        >>> network = load_dependent_network(20, [1.0], [lambda n: min(n, 3)], 2.0)
        >>> round(network.rate_per_s, 4), round(machine_repair(20, 2.0, 1.0, 3).rho * 3, 4)
        (2.9999, 2.9999)
    """
    if users > MOST_CONVOLVED:
        raise ValueError(f"load_dependent_network: users = {users}: must be at most {MOST_CONVOLVED}")
    if len(speeds) != len(demands_s):
        raise ValueError(
            f"load_dependent_network: {len(demands_s)} demands_s and {len(speeds)} speeds: must be as many"
        )
    if not sum(demands_s) + think_s:
        raise ValueError(
            "load_dependent_network: demands_s are all 0: one must be above 0 where think_s is 0"
        )
    counts = np.arange(1, users + 1)
    factors = []  # logarithms of the weights of 0 .. users customers at each station
    for place, (demand, speed) in enumerate(zip(demands_s, speeds, strict=True)):
        faster = np.array([float(speed(int(n))) if speed else 1.0 for n in counts])
        if not (np.isfinite(faster).all() and (faster > 0.0).all()):
            raise ValueError(f"load_dependent_network: speeds[{place}] must be above 0 for every number")
        with np.errstate(divide="ignore"):
            factors.append(np.concatenate(([0.0], np.cumsum(np.log(demand) - np.log(faster)))))
    with np.errstate(divide="ignore"):
        thinking = np.concatenate(([0.0], np.cumsum(np.log(think_s) - np.log(counts))))
    whole = thinking
    for factor in factors:
        whole = _convolved(whole, factor)
    rate = float(np.exp(whole[-2] - whole[-1]))
    numbers, busy = [], []
    for place, factor in enumerate(factors):
        others = thinking
        for elsewhere, other in enumerate(factors):
            if elsewhere != place:
                others = _convolved(others, other)
        chances = np.exp(factor + others[::-1] - whole[-1])
        numbers.append(float(np.arange(users + 1) @ chances))
        busy.append(float(1.0 - chances[0]))
    return Closed(rate, users / rate - think_s, tuple(numbers), tuple(busy))


MOST_CONVOLVED = 3000


def _convolved(one: Floats, other: Floats) -> Floats:
    """The logarithms of the convolution of what these are the logarithms of."""
    found = np.empty(len(one))
    for n in range(len(one)):
        terms = one[: n + 1] + other[n::-1]
        top = terms.max()
        found[n] = top + np.log(np.exp(terms - top).sum()) if np.isfinite(top) else top
    return found


class ClosedBounds(NamedTuple):
    """What no closed network exceeds, and the number of users at which the two upper bounds meet."""

    rate_at_most_per_s: float
    response_at_least_s: float
    rate_at_least_per_s: float
    knee_users: float


@bounded
def closed_bounds(users: int, demands_s: Sequence[float], think_s: float = 0.0) -> ClosedBounds:
    """X <= min(N/(D + Z), 1/D_max), R >= max(D, N D_max - Z), X >= N/(N D + Z), N* = (D + Z)/D_max.

    Asymptotic bounds, for any laws of service. (Denning and Buzen 1978; Lazowska et al., Quantitative System
    Performance, 5.)

    Example: the disk of 0.2 s holds 5 requests a second, from 26.5 users on.
        >>> bounds = closed_bounds(20, [0.1, 0.2], 5.0)
        >>> round(bounds.rate_at_most_per_s, 3), round(bounds.knee_users, 1)
        (3.774, 26.5)
    """
    whole, most = sum(demands_s), max(demands_s)
    if not most:
        raise ValueError("closed_bounds: demands_s are all 0: one must be above 0")
    return ClosedBounds(
        min(users / (whole + think_s), 1.0 / most),
        max(whole, users * most - think_s),
        users / (users * whole + think_s),
        (whole + think_s) / most,
    )
