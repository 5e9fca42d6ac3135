"""One server, first come first served: any arrivals and services, batches, vacations, a full waiting room."""

from __future__ import annotations

from collections.abc import Callable
from math import comb, exp, nan, pi

import numpy as np

from sim.theory.arguments import bounded
from sim.theory.queueing.laws import Complex, Law
from sim.theory.queueing.many_servers import mmc
from sim.theory.queueing.steady import Steady, from_wait, some_arrive, stable_load


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
    rho = stable_load(arrival_rate, service_rate)
    return from_wait(
        arrival_rate, service_rate, rho / (1.0 - rho) * (1.0 + cv2) / 2.0 / service_rate, delayed=rho
    )


@bounded
def mm1k(arrival_rate: float, service_rate: float, places: int) -> Steady:
    """M/M/1 with room for `places` in all, the one in service included; an arrival at a full one is lost.

    P(n) = (1 - r) r^n/(1 - r^(K+1)), r = lambda/mu; lost = P(K). Stable for any load. W and Wq are of those
    let in. (Kleinrock I, 3.6.)

    Example:
        >>> round(mm1k(0.9, 1.0, 5).lost, 4)
        0.126
    """
    some_arrive(arrival_rate)
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
    rho = stable_load(arrival_rate, service_rate)
    return from_wait(arrival_rate, service_rate, rho / (1.0 - rho) * (ca2 + cs2) / 2.0 / service_rate)


@bounded
def kingman_bound(arrival_rate: float, service_rate: float, ca2: float, cs2: float) -> float:
    """The mean wait in G/G/1 that is never exceeded: (ca2/rho + rho cs2)/(2(1 - rho)) services. (Kingman
    1962.)
    """
    some_arrive(arrival_rate)
    rho = stable_load(arrival_rate, service_rate)
    return (ca2 / rho + rho * cs2) / (2.0 * (1.0 - rho)) / service_rate


@bounded
def kraemer_langenbach_belz(arrival_rate: float, service_rate: float, ca2: float, cs2: float) -> Steady:
    """`gg1` times a correction that lowers it where arrivals are regular or wild.

    The factor is exp(-2(1 - rho)(1 - ca2)^2/(3 rho (ca2 + cs2))) for ca2 <= 1, and exp(-(1 - rho)(ca2 - 1)/
    (ca2 + 4 cs2)) above. Exact for Poisson arrivals. (Kraemer and Langenbach-Belz, ITC 8, 1976.)

    Example: D/M/1 at 0.8 waits 1.6927 services (`gim1`), where `gg1` says 2.
        >>> round(kraemer_langenbach_belz(0.8, 1.0, 0.0, 1.0).Wq, 4)
        1.693
    """
    some_arrive(arrival_rate)
    plain = gg1(arrival_rate, service_rate, ca2, cs2)
    spare = 1.0 - plain.rho
    if not ca2 + cs2:
        factor = 1.0  # nothing varies and nothing waits
    elif ca2 <= 1.0:
        factor = exp(-2.0 * spare * (1.0 - ca2) ** 2 / (3.0 * plain.rho * (ca2 + cs2)))
    else:
        factor = exp(-spare * (ca2 - 1.0) / (ca2 + 4.0 * cs2))
    return from_wait(arrival_rate, service_rate, plain.Wq * factor)


@bounded
def gim1(between: Law, service_rate: float) -> Steady:
    """Renewal arrivals with the law `between` of the times from one to the next, exponential service.

    An arrival waits with probability sigma, the root below 1 of sigma = A*(mu(1 - sigma)), and the time there
    is exponential with mean 1/(mu(1 - sigma)). (Kleinrock I, 6.4.)

    Example: constant gaps, a load of 0.8.
        >>> from sim.theory.queueing.laws import constant
        >>> queue = gim1(constant(1.25), 1.0)
        >>> round(queue.delayed, 4), round(queue.Wq, 4)
        (0.6286, 1.6927)
    """
    arrival_rate = 1.0 / between.mean
    stable_load(arrival_rate, service_rate)
    low, high = 0.0, 1.0
    # The map lies above the diagonal below the root, and below it from there to 1, where they meet again.
    while high - low > 1e-15:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if float(np.real(between.transform(service_rate * (1.0 - middle)))) > middle:
            low = middle
        else:
            high = middle
    rate = service_rate * (1.0 - low)
    return from_wait(arrival_rate, service_rate, low / rate, delayed=low, tail=lambda t: exp(-rate * t))


@bounded
def mg1_by_law(arrival_rate: float, service: Law) -> Steady:
    """`mg1` with its percentiles: the wait's transform, (1 - rho) s/(s - lambda + lambda B*(s)), inverted.

    By the Euler sum of Abate and Whitt (ORSA Journal on Computing 7, 1995), right to some seven digits where
    the law is smooth: percentiles up to 99.9999 are answered, and to 99.99 where it has a kink.
    (Pollaczek 1930, Khinchine 1932.)

    Example: M/M/1, whose 99th percentile is 23.0259; and constant service at the same load.
        >>> from sim.theory.queueing.laws import constant, exponential
        >>> [round(mg1_by_law(0.8, law).percentile(99), 3) for law in (exponential(1.0), constant(1.0))]
        [23.026, 11.356]
    """
    known = mg1(arrival_rate, 1.0 / service.mean, service.cv2)
    rho = known.rho
    # A constant service is a step in the whole time, and the sum does not like steps: the wait has none.
    shift_s = service.mean if service.cv2 == 0.0 else 0.0

    def beyond(s: Complex) -> Complex:
        law = service.transform(s)
        stay = (1.0 - rho) * s / (s - arrival_rate * (1.0 - law)) * (1.0 if shift_s else law)
        return np.asarray((1.0 - stay) / s)

    def tail(t: float) -> float:
        if t <= shift_s:
            return 1.0 if t < shift_s or not shift_s else rho
        return min(1.0, max(0.0, _inverted(beyond, t - shift_s)))

    smooth = service.cv2 and service.name != "uniform"
    return Steady(
        rho,
        known.W,
        known.Wq,
        known.L,
        known.Lq,
        delayed=rho,
        tail=tail,
        highest_percent=99.9999 if smooth else 99.99,
    )


EULER_TERMS, EULER_AVERAGED, EULER_A = 200, 11, 18.4
"""Abate and Whitt 1995: terms before the average, terms averaged, and A, with a discretisation error of
exp(-A) = 1e-8. They take 15 to 38 terms; a tail with a kink, as of M/D/1, needs more, for five digits.
"""


def _inverted(transform: Callable[[Complex], Complex], t: float) -> float:
    """f(t) from its Laplace transform: an alternating Fourier sum whose last partial sums are averaged with
    binomial weights.
    """
    k = np.arange(EULER_TERMS + EULER_AVERAGED + 1)
    values = np.real(transform(np.asarray((EULER_A + 2j * pi * k) / (2.0 * t), dtype=np.complex128)))
    terms = np.where(k % 2, -1.0, 1.0) * values
    terms[0] *= 0.5
    sums = np.cumsum(terms)[EULER_TERMS:]
    weights = np.array([comb(EULER_AVERAGED, j) for j in range(EULER_AVERAGED + 1)]) * 2.0**-EULER_AVERAGED
    return float(exp(EULER_A / 2.0) / t * (weights @ sums))


@bounded
def mg1_batches(
    arrival_rate: float, service_rate: float, cv2: float, batch: float, batch_cv2: float = 0.0
) -> Steady:
    """As `mg1`, but customers come in batches of `batch` in the mean, the batches by a Poisson process.

    Wq = mg1 + (E[X^2]/E[X] - 1)/(2(1 - rho)) services: the rest of one's own batch, and the batches before.
    `arrival_rate` is of customers. (Gaver 1959; Gross and Harris, Fundamentals of Queueing Theory, 3.1.)

    Example: pairs into an exponential server at a load of 0.5: M/M/1 waits 1.
        >>> mg1_batches(0.5, 1.0, 1.0, 2).Wq
        2.0
    """
    if batch < 1.0:
        raise ValueError(f"mg1_batches: batch = {batch}: must be at least 1")
    if batch_cv2 * batch**2 < (batch % 1.0) * (1.0 - batch % 1.0) - 1e-12:
        raise ValueError(f"mg1_batches: batch_cv2 = {batch_cv2}: too small for whole batches of mean {batch}")
    alone = mg1(arrival_rate, service_rate, cv2)
    own = (batch * (1.0 + batch_cv2) - 1.0) / (2.0 * (1.0 - alone.rho)) / service_rate
    return from_wait(arrival_rate, service_rate, alone.Wq + own)


@bounded
def mg1_vacations(
    arrival_rate: float, service_rate: float, cv2: float, vacation_s: float, vacation_cv2: float = 0.0
) -> Steady:
    """As `mg1`, but a server that finds no customer goes away, again and again, for `vacation_s` in the mean.

    Wq = mg1 + E[V^2]/(2 E[V]), whatever the load: a host that polls, an engine that looks at its queue at
    fixed instants. (Levy and Yechiali 1975; Fuhrmann and Cooper 1985.)

    Example: an idle server looks once a second; half a second more.
        >>> mg1_vacations(0.5, 1.0, 1.0, 1.0).Wq
        1.5
    """
    alone = mg1(arrival_rate, service_rate, cv2)
    return from_wait(arrival_rate, service_rate, alone.Wq + vacation_s * (1.0 + vacation_cv2) / 2.0)
