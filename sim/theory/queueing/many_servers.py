"""Several servers behind one queue, or each with its own; without a queue; with impatience; with repair."""

from __future__ import annotations

from math import ceil, erfc, exp, inf, pi, sqrt
from typing import NamedTuple

from sim.theory.arguments import MAX_COUNTED, bounded
from sim.theory.queueing.steady import Steady, birth_death, from_wait, mean_of, some_arrive, stable_load


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
    stable_load(arrival_rate, service_rate * servers)
    load = arrival_rate / service_rate
    delayed = erlang_c(load, servers)
    spare = servers - 1.0 - load

    def tail(t: float) -> float:
        served = exp(-service_rate * t)
        if abs(spare) < 1e-9:
            return served * (1.0 + delayed * service_rate * t)
        return served + delayed * (served - exp(-service_rate * t * (1.0 + spare))) / spare

    wait = delayed / (servers * service_rate - arrival_rate)
    return from_wait(arrival_rate, service_rate, wait, servers=servers, delayed=delayed, tail=tail)


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
    some_arrive(arrival_rate)
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
def mmck(arrival_rate: float, service_rate: float, servers: int, places: int) -> Steady:
    """M/M/c with room for `places` in all, those in service included; an arrival at a full one is lost.

    A birth-death chain, stable for any load; W and Wq are of those let in. `erlang_b` where places = servers,
    `mm1k` for one server. (Gross and Harris, 2.5.)

    Example: four servers, room for eight, the load of 0.8 each.
        >>> queue = mmck(3.2, 1.0, 4, 8)
        >>> round(queue.lost, 4), round(queue.Wq, 4)
        (0.0607, 0.2592)
    """
    some_arrive(arrival_rate)
    if places < servers:
        raise ValueError(f"mmck: places = {places}: must be at least servers = {servers}")
    chances = birth_death(lambda n: arrival_rate, lambda n: min(n, servers) * service_rate, places)
    lost, there = chances[-1], mean_of(chances)
    let_in = arrival_rate * (1.0 - lost)
    busy = let_in / service_rate
    delayed = sum(chances[servers:-1]) / (1.0 - lost)
    wait = max(0.0, there - busy) / let_in
    return Steady(busy / servers, wait + 1.0 / service_rate, wait, there, there - busy, lost, delayed)


@bounded
def ggc(arrival_rate: float, service_rate: float, servers: int, ca2: float, cs2: float) -> Steady:
    """`mmc` times (ca2 + cs2)/2: any renewal arrivals and services, several servers.

    Exact for M/M/c; within some percent near M/G/c at high loads, and worse for regular arrivals at low
    ones. (Allen and Cunneen: Allen, Probability, Statistics and Queueing Theory, 1990.)

    Example:
        >>> round(ggc(3.2, 1.0, 4, 1.0, 0.0).Wq, 4)
        0.3728
    """
    alone = mmc(arrival_rate, service_rate, servers)
    return from_wait(arrival_rate, service_rate, alone.Wq * (ca2 + cs2) / 2.0, servers, alone.delayed)


@bounded
def mg_infinity(arrival_rate: float, service_rate: float) -> Steady:
    """A server for each: nothing waits, and the number there is Poisson(lambda/mu), whatever the law.

    Calls in progress, users who read an answer, requests on an engine far from its limits. (Palm 1943.)

    Example:
        >>> mg_infinity(50.0, 2.0).L
        25.0
    """
    return Steady(0.0, 1.0 / service_rate, 0.0, arrival_rate / service_rate, 0.0, delayed=0.0)


@bounded
def poisson_percentile(mean: float, percent: float) -> int:
    """The number that a Poisson law exceeds with less than 1 - percent/100: seats for `mg_infinity`.

    Example: 25 in the mean, 37 in all but one of a hundred moments.
        >>> poisson_percentile(25.0, 99.0)
        37
    """
    if mean > 700.0:
        raise ValueError(f"poisson_percentile: mean = {mean}: must be at most 700")  # exp(-mean) is a number
    term = total = exp(-mean)
    n = 0
    while total < percent / 100.0:
        n += 1
        term *= mean / n
        total += term
    return n


@bounded
def halfin_whitt(beta: float) -> float:
    """The share that waits where beta sqrt(load) servers are spare, of very many: 1/(1 + beta Phi/phi).

    The limit of `erlang_c`. (Halfin and Whitt 1981.)

    Example:
        >>> round(halfin_whitt(1.0), 4)
        0.2234
    """
    below = 0.5 * erfc(-beta / sqrt(2.0))
    density = exp(-beta * beta / 2.0) / sqrt(2.0 * pi)
    return 1.0 / (1.0 + beta * below / density) if density else 0.0


@bounded
def square_root_staffing(load: float, delayed: float) -> int:
    """How many servers a load needs so that a share of at most `delayed` waits: load + beta sqrt(load).

    beta by `halfin_whitt`, rounded up; within one server of `erlang_c` from a load of some ten on. The spare
    grows as the root: large fleets are cheap. (Borst, Mandelbaum and Reiman 2004.)

    Example: a tenth waits.
        >>> [square_root_staffing(load, 0.1) for load in (10, 100, 1000)]
        [15, 115, 1045]
    """
    low, high = 0.0, 40.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if halfin_whitt(middle) > delayed else (low, middle)
    return max(1, ceil(load + high * sqrt(load) - 1e-9))


@bounded
def machine_repair(users: int, think_s: float, service_rate: float, servers: int = 1) -> Steady:
    """`users` who each think for an exponential time of mean `think_s`, ask, and wait for one of the servers.

    The machine-repair model, M/M/c//N: births (N - n)/Z, deaths min(n, c) mu. Also machines that fail and a
    crew that repairs. W and Wq are of those who ask. (Palm 1947; Gross and Harris 2.7.)

    Example: ten users who think nine seconds, one server of a second.
        >>> queue = machine_repair(10, 9.0, 1.0)
        >>> round(queue.rho, 4), round(queue.W, 4)
        (0.832, 3.0187)
    """
    if think_s <= 0.0:
        raise ValueError(f"machine_repair: think_s = {think_s}: must be above 0; `closed_network` takes 0")
    chances = birth_death(lambda n: (users - n) / think_s, lambda n: min(n, servers) * service_rate, users)
    there = mean_of(chances)
    rate = (users - there) / think_s
    busy = rate / service_rate
    wait = max(0.0, there - busy) / rate
    return Steady(busy / servers, wait + 1.0 / service_rate, wait, there, there - busy)


class Repairable(NamedTuple):
    """A set of units that fail and are repaired: the share of time that enough of them are up, the mean time
    from one breakdown of the whole to the next repair of it, and the mean time up.
    """

    availability: float
    up_s: float
    down_s: float


@bounded
def repairable(
    needed: int, units: int, failure_rate: float, repair_rate: float, crews: int = 1
) -> Repairable:
    """`needed` of `units` have to be up; each fails at `failure_rate`, and each crew repairs one at a time.

    A birth-death chain of the units that are down: births (n - i) lambda, deaths min(i, crews) mu. With a
    crew for each it is the binomial of `domain_sizing.at_least_up`. (Trivedi, Probability and Statistics, 8.)

    Example: 72 of 76 GPUs, one failure in 50,000 h each, repair in a day, one crew.
        >>> of = repairable(72, 76, 1 / 50_000, 1 / 24)
        >>> f"{1 - of.availability:.2e}", round(of.up_s)
        ('5.63e-08', 440934603)
    """
    if not 0 < needed <= units:
        raise ValueError(f"repairable: needed = {needed}: must be at least 1 and at most units = {units}")
    chances = birth_death(
        lambda down: (units - down) * failure_rate, lambda down: min(down, crews) * repair_rate, units
    )
    spare = units - needed
    up = sum(chances[: spare + 1])
    breakdowns = chances[spare] * needed * failure_rate
    down = sum(chances[spare + 1 :])
    return Repairable(up, up / breakdowns, down / breakdowns)
