"""Queues with known answers: waiting lines, shared links, batches, barriers.

Rates are per second, times in seconds, and everything is the steady state of an endless run. W is the mean
time from arrival to departure, Wq the part of it spent waiting, L and Lq the mean numbers there, rho the load
per server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log, nan, sqrt

from sim.theory.arguments import MAX_COUNTED, bounded

EULER_GAMMA = 0.5772156649015329


@dataclass(frozen=True, slots=True)
class Steady:
    """A queue in its steady state.

    `lost` is the fraction of arrivals turned away, `delayed` the fraction that waits at all (nan where there
    is no such thing, as in processor sharing). `tail(t)` is the probability that the time from arrival to
    departure exceeds t, where a formula is known.
    """

    rho: float
    W: float
    Wq: float
    L: float
    Lq: float
    lost: float = 0.0
    delayed: float = nan
    tail: Callable[[float], float] | None = field(default=None, repr=False, compare=False)

    @property
    def slowdown(self) -> float:
        """Time there over time alone."""
        return self.W / (self.W - self.Wq)

    def percentile(self, percent: float) -> float:
        """The time from arrival to departure that `percent` of all stay below. ValueError where no formula is
        known.
        """
        if self.tail is None:
            raise ValueError("no formula for the whole distribution of this queue, only for its means")
        if not 0.0 <= percent < 100.0:
            raise ValueError(f"percentile {percent}; 0 to below 100 are possible")
        above = 1.0 - percent / 100.0
        low, high = 0.0, self.W
        while self.tail(high) > above:
            low, high = high, 2.0 * high
        while high - low > 1e-13 * high:
            middle = 0.5 * (low + high)
            if not low < middle < high:
                break
            if self.tail(middle) > above:
                low = middle
            else:
                high = middle
        return high


@bounded
def little(arrival_rate: float, W: float) -> float:
    """Little's law: L = arrival_rate * W, for any stable system, any order, any law. (Little 1961.)

    Example:
        >>> little(0.8, 5.0)
        4.0
    """
    return arrival_rate * W


@bounded
def mm1(arrival_rate: float, service_rate: float) -> Steady:
    """Poisson arrivals, exponential service, one server: W = 1/(mu - lambda). (Kleinrock, Queueing Systems I,
    3.2.)

    The time there is exponential, so every percentile is known.

    Example:
        >>> queue = mm1(0.8, 1.0)
        >>> round(queue.W, 9), round(queue.Wq, 9), [round(queue.percentile(p), 3) for p in (50, 95, 99)]
        (5.0, 4.0, [3.466, 14.979, 23.026])
    """
    return mmc(arrival_rate, service_rate, 1)


@bounded
def md1(arrival_rate: float, service_rate: float) -> Steady:
    """Poisson arrivals, constant service, one server: Wq = rho/(2(1 - rho)) services. `mg1` with cv2 = 0.

    Example:
        >>> round(md1(0.8, 1.0).Wq, 9)
        2.0
    """
    return mg1(arrival_rate, service_rate, 0.0)


@bounded
def mg1(arrival_rate: float, service_rate: float, cv2: float) -> Steady:
    """Poisson arrivals, any service law with squared coefficient of variation `cv2`, one server, first come
    first served.

    Wq = rho/(1 - rho) * (1 + cv2)/2 services (Pollaczek 1930, Khinchine 1932). Any order that does not look
    at the sizes has the same mean. Stops where arrivals are not Poisson: see `gg1`.

    Example:
        >>> round(mg1(0.8, 1.0, 4.0).Wq, 9)
        10.0
    """
    rho = _load(arrival_rate, service_rate)
    return _from_wait(
        arrival_rate, service_rate, rho / (1.0 - rho) * (1.0 + cv2) / 2.0 / service_rate, delayed=rho
    )


@bounded
def mg1_ps(arrival_rate: float, service_rate: float) -> Steady:
    """One server shared equally by all customers present: a link under max-min, a GPU under time slicing.

    A job that takes x alone takes x/(1 - rho) in the mean, whatever the law of the sizes (Kleinrock 1967;
    Yashkov 1987), so the slowdown is 1/(1 - rho) for every size. Wq here is the time lost to sharing.

    Example:
        >>> round(mg1_ps(0.7, 1.0).slowdown, 4)
        3.3333
    """
    rho = _load(arrival_rate, service_rate)
    return _from_wait(arrival_rate, service_rate, rho / (1.0 - rho) / service_rate)


@bounded
def erlang_b(load: float, servers: int) -> float:
    """The fraction lost by `servers` with no waiting room, offered `load` = lambda/mu: B_k = load B/(k + load
    B).

    Any service law (Erlang 1917, Sevastyanov 1957).

    Example:
        >>> round(erlang_b(3.2, 4), 4)
        0.2281
    """
    lost = 1.0
    for k in range(1, servers + 1):
        lost = load * lost / (k + load * lost)
    return lost


@bounded
def erlang_c(load: float, servers: int) -> float:
    """The fraction that has to wait in M/M/c, offered `load` = lambda/mu: B/(1 - rho(1 - B)). (Erlang 1917.)

    Example:
        >>> [round(erlang_c(servers * rho, servers), 4) for servers, rho in ((4, 0.8), (8, 0.9), (12, 0.9))]
        [0.5964, 0.7015, 0.64]
    """
    if load >= servers:
        raise ValueError(f"erlang_c: load = {load}: must be below servers = {servers}, or the queue grows")
    lost = erlang_b(load, servers)
    return lost / (1.0 - load / servers * (1.0 - lost))


@bounded
def mmc(arrival_rate: float, service_rate: float, servers: int) -> Steady:
    """Poisson arrivals, exponential service, `servers` behind one queue: Wq = C/(c mu - lambda), C by
    `erlang_c`.

    Example:
        >>> [round(mmc(c * rho, 1.0, c).Wq, 4) for c, rho in ((4, 0.8), (8, 0.9), (12, 0.9))]
        [0.7455, 0.8769, 0.5334]
    """
    _load(arrival_rate, service_rate * servers)
    load = arrival_rate / service_rate
    delayed = erlang_c(load, servers)
    spare = servers - 1.0 - load

    def tail(t: float) -> float:
        served = exp(-service_rate * t)
        if abs(spare) < 1e-9:
            return served * (1.0 + delayed * service_rate * t)
        return served + delayed * (served - exp(-service_rate * t * (1.0 + spare))) / spare

    wait = delayed / (servers * service_rate - arrival_rate)
    return _from_wait(arrival_rate, service_rate, wait, servers=servers, delayed=delayed, tail=tail)


@bounded
def erlang_a(arrival_rate: float, service_rate: float, servers: int, patience_s: float) -> Steady:
    """M/M/c+M: as `mmc`, but waiting customers give up after an exponential time of mean `patience_s` (Palm
    1946).

    A birth-death chain with deaths min(n, c) mu + max(n - c, 0)/patience; stable for any load. W and Wq are
    of all arrivals, whether served or not; `lost` is the fraction that gives up, Lq/(lambda patience).

    Example: one server as fast as its arrivals and as patience: n is Poisson(1), busy with 1 - 1/e.
        >>> queue = erlang_a(1.0, 1.0, 1, 1.0)
        >>> [round(value, 4) for value in (queue.lost, queue.rho, queue.Lq, queue.delayed)]
        [0.3679, 0.6321, 0.3679, 0.6321]
    """
    _some_arrive(arrival_rate)
    # Beyond the servers the chain climbs until as many give up as come, and a little further.
    longest = servers + max(0.0, arrival_rate - servers * service_rate) * patience_s
    if longest > MAX_COUNTED:
        raise ValueError(
            f"patience_s = {patience_s}: some {longest:.3g} customers would wait; "
            f"{MAX_COUNTED:.0e} at most are counted"
        )
    weights = [1.0]
    n, highest = 0, 1.0
    while n <= servers or weights[-1] > 1e-18 * highest:
        n += 1
        deaths = min(n, servers) * service_rate + max(n - servers, 0) / patience_s
        weights.append(weights[-1] * arrival_rate / deaths)
        if weights[-1] > 1e200:
            weights = [weight * 1e-200 for weight in weights]
            highest *= 1e-200
        highest = max(highest, weights[-1])
    total = sum(weights)
    there = sum(n * weight for n, weight in enumerate(weights)) / total
    waiting = sum((n - servers) * weight for n, weight in enumerate(weights) if n > servers) / total
    lost = waiting / (arrival_rate * patience_s)
    rho = arrival_rate * (1.0 - lost) / (servers * service_rate)
    delayed = sum(weights[servers:]) / total
    return Steady(rho, there / arrival_rate, waiting / arrival_rate, there, waiting, lost, delayed)


@bounded
def mm1k(arrival_rate: float, service_rate: float, places: int) -> Steady:
    """M/M/1 with room for `places` in all, the one in service included; an arrival at a full one is lost.

    P(n) = (1 - r) r^n/(1 - r^(K+1)), r = lambda/mu; lost = P(K). Stable for any load. W and Wq are of those
    let in. (Kleinrock I, 3.6.)

    Example:
        >>> round(mm1k(0.9, 1.0, 5).lost, 4)
        0.126
    """
    _some_arrive(arrival_rate)
    r = arrival_rate / service_rate
    # From the likelier end, whose weight is 1: the others only get smaller.
    weights = [r ** (n - places if r > 1.0 else n) for n in range(places + 1)]
    total = sum(weights)
    lost = weights[-1] / total
    there = sum(n * weight for n, weight in enumerate(weights)) / total
    let_in = arrival_rate * (1.0 - lost)
    busy = let_in / service_rate
    wait = (there - busy) / let_in
    return Steady(busy, wait + 1.0 / service_rate, wait, there, there - busy, lost, delayed=nan)


@bounded
def gg1(arrival_rate: float, service_rate: float, ca2: float, cs2: float) -> Steady:
    """Any renewal arrivals and services: Wq = rho/(1 - rho) * (ca2 + cs2)/2 services, the VUT approximation.

    `ca2`, `cs2` are the squared coefficients of variation of the times between arrivals and of service. Exact
    for ca2 = 1, an approximation otherwise (Kingman 1961; Hopp and Spearman, Factory Physics, 8.6);
    `kingman_bound` is never exceeded.

    Example:
        >>> round(gg1(0.8, 1.0, 0.25, 4.0).Wq, 9), round(kingman_bound(0.8, 1.0, 0.25, 4.0), 2)
        (8.5, 8.78)
    """
    rho = _load(arrival_rate, service_rate)
    return _from_wait(arrival_rate, service_rate, rho / (1.0 - rho) * (ca2 + cs2) / 2.0 / service_rate)


@bounded
def kingman_bound(arrival_rate: float, service_rate: float, ca2: float, cs2: float) -> float:
    """The mean wait in G/G/1 that is never exceeded: (ca2/rho + rho cs2)/(2(1 - rho)) services. (Kingman
    1962.)
    """
    _some_arrive(arrival_rate)
    rho = _load(arrival_rate, service_rate)
    return (ca2 / rho + rho * cs2) / (2.0 * (1.0 - rho)) / service_rate


@bounded
def tandem(arrival_rate: float, service_rates: Sequence[float]) -> Steady:
    """Stations one after the other, Poisson arrivals, exponential service at each: sum of 1/(mu_i - lambda).

    What leaves M/M/1 is Poisson again (Burke 1956; Jackson 1957), so the stations are as if independent. rho
    is the highest of theirs.

    Example:
        >>> round(tandem(0.5, [1.0, 0.8]).W, 3)
        5.333
    """
    stations = [mm1(arrival_rate, service_rate) for service_rate in service_rates]
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


@dataclass(frozen=True, slots=True)
class Batching:
    """A server that takes all waiting customers as one batch: its load, an upper bound of W, and the mean
    batch under load.
    """

    rho: float
    W_at_most: float
    by_light_load: float
    by_heavy_load: float
    batch: float


@bounded
def dynamic_batching(arrival_rate: float, each_s: float, fixed_s: float) -> Batching:
    """Poisson arrivals, batch of b takes `each_s * b + fixed_s`, no cap on b: W is at most the smaller of two
    bounds.

    Inoue, "Queueing analysis of GPU-based inference servers with dynamic batching" (Performance Evaluation
    2021), bounds phi0 and phi1; the second is within 1 % from loads of a quarter on. `batch` = lambda t0/(1 -
    lambda a) is the mean batch of a server that is never idle, too low at light load (1.1 where simulation
    has 1.47, at a load of a tenth).

    Example: simulated means are 0.8205, 1.0554, 1.5831, 3.155.
        >>> [round(dynamic_batching(rate, 0.05, 0.5).W_at_most, 3) for rate in (2, 5, 10, 15)]
        [0.886, 1.06, 1.583, 3.157]
    """
    load = _load(arrival_rate, 1.0 / each_s if each_s else inf)
    light = (each_s + fixed_s) / (2.0 * (1.0 - load))
    light *= 1.0 + 2.0 * arrival_rate * fixed_s + (1.0 - arrival_rate * fixed_s) / (1.0 + load)
    heavy = 1.5 * fixed_s / (1.0 - load) + each_s / 2.0 * (load + 2.0) / (1.0 - load**2)
    return Batching(load, min(light, heavy), light, heavy, arrival_rate * fixed_s / (1.0 - load))


@bounded
def capped_batch_rate(batch: int, each_s: float, fixed_s: float) -> float:
    """The highest rate of a server whose batches hold at most `batch`: b/(a b + t0).

    Example:
        >>> round(capped_batch_rate(16, 0.05, 0.5), 1)
        12.3
    """
    if not each_s + fixed_s:
        raise ValueError("capped_batch_rate: fixed_s = 0: must be above 0 where each_s is 0")
    return batch / (each_s * batch + fixed_s)


@bounded
def power_of_choices(rho: float, choices: int) -> float:
    """Mean time, in services, where each arrival joins the shortest of `choices` random queues out of very
    many.

    T = sum over i of rho^((d^i - d)/(d - 1)) (Mitzenmacher 1996; Vvedenskaya, Dobrushin and Karpelevich
    1996); one choice is M/M/1. Stops at few servers: with 10 of them the gain is smaller.

    Example:
        >>> [round(power_of_choices(0.9, choices), 3) for choices in (1, 2, 3)]
        [10.0, 2.614, 2.028]
    """
    if choices == 1:
        return 1.0 / (1.0 - rho)
    total, term, exponent = 0.0, inf, 0.0
    while term > 1e-17:
        term = rho**exponent
        total += term
        exponent = choices * exponent + choices  # (d^i - d)/(d - 1) for i = 1, 2, ...
    return total


@bounded
def barrier(ranks: int, rate: float = 1.0) -> float:
    """Mean time until the last of `ranks` independent exponential times of this rate is over: H_n/mu.

    Example:
        >>> [round(barrier(ranks), 3) for ranks in (4, 8, 16)]
        [2.083, 2.718, 3.381]
    """
    if ranks > MAX_COUNTED:  # Euler's expansion, there to the last bit
        return (log(ranks) + EULER_GAMMA + 0.5 / ranks) / rate
    return sum(1.0 / k for k in range(1, ranks + 1)) / rate


@bounded
def usl(n: float, contention: float, coherence: float) -> float:
    """Speed-up of `n` workers by the Universal Scalability Law: n/(1 + s(n-1) + k n(n-1)). (Gunther 1993.)

    Amdahl's law where `coherence` is 0. A curve to fit, not a mechanism.
    """
    return n / (1.0 + contention * (n - 1.0) + coherence * n * (n - 1.0))


@bounded
def usl_peak(contention: float, coherence: float) -> float:
    """The number of workers beyond which more of them are slower: sqrt((1 - s)/k).

    Example:
        >>> round(usl_peak(0.05, 0.001), 1)
        30.8
    """
    if not coherence:
        raise ValueError("usl_peak: coherence = 0: must be above 0; without it more workers are never slower")
    return sqrt((1.0 - contention) / coherence)


@bounded
def exponential_percentile(mean: float, percent: float) -> float:
    """The value that `percent` of an exponential law with this mean stay below."""
    return -mean * log(1.0 - percent / 100.0)


def _some_arrive(arrival_rate: float) -> None:
    if not arrival_rate:
        raise ValueError("arrival_rate = 0: must be above 0; means are over arrivals")


def _load(arrival_rate: float, capacity: float) -> float:
    rho = arrival_rate / capacity
    if rho >= 1.0:
        raise ValueError(
            f"load {rho:.3g}: the queue grows without end; {capacity:.6g} arrivals/s is the limit"
        )
    return rho


def _from_wait(
    arrival_rate: float,
    service_rate: float,
    wait: float,
    servers: int = 1,
    delayed: float = nan,
    tail: Callable[[float], float] | None = None,
) -> Steady:
    there = wait + 1.0 / service_rate
    return Steady(
        arrival_rate / (servers * service_rate),
        there,
        wait,
        little(arrival_rate, there),
        little(arrival_rate, wait),
        delayed=delayed,
        tail=tail,
    )
