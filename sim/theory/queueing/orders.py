"""One server that does not take customers as they come: priorities, and the orders that look at sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from sim.theory.arguments import bounded
from sim.theory.queueing.laws import Floats, Law
from sim.theory.queueing.steady import Steady, from_wait, stable_load

FINEST, POINTS = 1e-9, 40_000
"""The grid of sizes: from this share of the mean, on so many points, evenly on a logarithmic scale. The
trapezoid over it is right to six digits.
"""


class Priority(NamedTuple):
    """One class: its wait before service, and its whole time."""

    Wq: float
    W: float


@bounded
def priorities(
    arrival_rates: Sequence[float],
    service_rates: Sequence[float],
    cv2s: Sequence[float],
    preemptive: bool = False,
) -> tuple[Priority, ...]:
    """Classes of customers, the first of them before all others; Poisson arrivals, any services, one server.

    Wq_k = R/((1 - s_(k-1))(1 - s_k)), s_k the load of the classes up to k, R half the sum of lambda E[S^2]
    (Cobham 1954). Preemptive: service goes on where it was left, W_k = S_k/(1 - s_(k-1)) + R_k/((1 -
    s_(k-1))(1 - s_k)), R_k of the classes up to k (Harchol-Balter, Performance Modeling, 32). Wq is then W
    without the service.

    Example: a chat class of a fifth of the load, and batch work behind it.
        >>> [round(one.Wq, 3) for one in priorities([0.2, 0.6], [1.0, 1.0], [1.0, 1.0])]
        [1.0, 5.0]
    """
    if not len(arrival_rates) == len(service_rates) == len(cv2s):
        raise ValueError(
            f"priorities: arrival_rates has {len(arrival_rates)} classes, service_rates "
            f"{len(service_rates)}, cv2s {len(cv2s)}: must be as many"
        )
    classes = list(zip(arrival_rates, service_rates, cv2s, strict=True))
    stable_load(sum(rate / served for rate, served, _ in classes), 1.0)
    second = [rate * (1.0 + cv2) / served**2 / 2.0 for rate, served, cv2 in classes]
    found, above, residual = [], 0.0, 0.0
    for (rate, served, _), own in zip(classes, second, strict=True):
        with_own = above + rate / served
        residual += own
        met = residual if preemptive else sum(second)
        wait = met / ((1.0 - above) * (1.0 - with_own))
        whole = wait + 1.0 / served / (1.0 - above) if preemptive else wait + 1.0 / served
        found.append(Priority(whole - 1.0 / served, whole))
        above = with_own
    return tuple(found)


Order = Literal["srpt", "psjf", "fb"]


def _grid(service: Law) -> Floats:
    high = service.mean
    while float(service.tail(np.array([high]))[0]) > 1e-13:
        high *= 2.0
    return np.concatenate(([0.0], np.geomspace(FINEST * service.mean, high, POINTS)))


def _cumulated(x: Floats, y: Floats) -> Floats:
    return np.concatenate(([0.0], np.cumsum(0.5 * (y[1:] + y[:-1]) * np.diff(x))))


def _by_size(order: Order, arrival_rate: float, service: Law) -> tuple[Floats, Floats]:
    """Sizes, and the mean time from arrival to departure of a customer of each."""
    x = _grid(service)
    above = service.tail(x)
    capped = _cumulated(x, above)  # E[min(S, x)]
    capped_square = _cumulated(x, 2.0 * x * above)
    if order == "fb":
        load = arrival_rate * capped
        return x, arrival_rate * capped_square / (2.0 * (1.0 - load) ** 2) + x / (1.0 - load)
    load = arrival_rate * (capped - x * above)  # of the customers up to x
    square = arrival_rate * (capped_square - x * x * above)
    if order == "psjf":
        return x, square / (2.0 * (1.0 - load) ** 2) + x / (1.0 - load)
    met = (square + arrival_rate * x * x * above) / (2.0 * (1.0 - load) ** 2)
    return x, met + _cumulated(x, 1.0 / (1.0 - load))


@bounded
def by_size(order: Order, arrival_rate: float, service: Law) -> Steady:
    """One server that knows or learns the sizes: the mean time of all customers. Poisson arrivals.

    `srpt`: the shortest remaining time first, the best there is (Schrage and Miller 1966); `psjf`: the
    shortest original size, preemptive; `fb`: the least attained service, which needs no sizes
    (foreground-background). Formulas as in Harchol-Balter, Performance Modeling, 33; integrals by the
    trapezoid on a grid of sizes. Sizes that are all the same are refused, for there is nothing to choose by.

    Example: exponential services at a load of 0.8, where first come first served takes 5.
        >>> from sim.theory.queueing.laws import exponential
        >>> [round(by_size(order, 0.8, exponential(1.0)).W, 3) for order in ("srpt", "psjf", "fb")]
        [2.353, 2.659, 5.0]
    """
    rho = stable_load(arrival_rate, 1.0 / service.mean)
    if order not in ("srpt", "psjf", "fb"):
        raise ValueError(f"by_size: order = {order!r}: must be one of srpt, psjf, fb")
    if not service.cv2:
        raise ValueError("by_size: the sizes are all the same; `md1` is what any of these orders gives")
    x, seconds = _by_size(order, arrival_rate, service)
    above = service.tail(x)
    # The mean over sizes: the tail times the growth of the time with the size.
    whole = float(np.sum(0.5 * (above[1:] + above[:-1]) * np.diff(seconds)))
    found = from_wait(arrival_rate, 1.0 / service.mean, whole - service.mean)
    return Steady(rho, whole, found.Wq, found.L, found.Lq)


@bounded
def time_of_size(order: Order, arrival_rate: float, service: Law, size_s: float) -> float:
    """As `by_size`, for the customers of one size: what the large ones pay for the small.

    Example: a job of ten mean services, by processor sharing 50.
        >>> from sim.theory.queueing.laws import exponential
        >>> [round(time_of_size(order, 0.8, exponential(1.0), 10.0), 1) for order in ("srpt", "fb")]
        [56.3, 70.0]
    """
    by_size(order, arrival_rate, service)  # refuses what has no answer
    x, seconds = _by_size(order, arrival_rate, service)
    if size_s > x[-1]:
        raise ValueError(
            f"time_of_size: size_s = {size_s}: must be at most {x[-1]:.6g}, the largest there is"
        )
    return float(np.interp(size_s, x, seconds))
