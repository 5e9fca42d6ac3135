"""Waiting for the last of several: barriers, forks that join, stragglers, hedged requests, scaling laws."""

from __future__ import annotations

from math import erfc, log, sqrt
from typing import NamedTuple

import numpy as np

from sim.theory.arguments import MAX_COUNTED, bounded
from sim.theory.queueing.laws import Law
from sim.theory.queueing.steady import Steady, from_wait, stable_load

EULER_GAMMA = 0.5772156649015329


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
def last_of_normals(ranks: int, mean: float = 0.0, deviation: float = 1.0) -> float:
    """The mean of the largest of `ranks` independent normal times: the jitter of a barrier.

    mean + deviation * integral over x > 0 of 1 - Phi(x)^n - (1 - Phi(x))^n (David and Nagaraja, Order
    Statistics, 3.1). The usual mean + deviation sqrt(2 ln n) is a bound, 43 % above at 8.

    Example: 0.5642 and 1.4236 are in every table of order statistics.
        >>> [round(last_of_normals(ranks), 4) for ranks in (2, 8, 72)]
        [0.5642, 1.4236, 2.3879]
    """
    x = np.linspace(0.0, 14.0, 2801)
    above = np.array([0.5 * erfc(one / sqrt(2.0)) for one in x.tolist()])
    integrand = -np.expm1(ranks * np.log1p(-above)) - above**ranks
    simpson = np.ones(len(x))
    simpson[1:-1:2], simpson[2:-1:2] = 4.0, 2.0
    return mean + deviation * float(simpson @ integrand) * float(x[1]) / 3.0


@bounded
def last_of(ranks: int, each: Law) -> float:
    """The mean of the largest of `ranks` independent times of a law: integral of 1 - (1 - tail)^n.

    Example: `barrier(8)` = 2.718 for exponential times; a steadier law waits less.
        >>> from sim.theory.queueing.laws import erlang, exponential
        >>> [round(last_of(8, law), 3) for law in (exponential(1.0), erlang(1.0, 4))]
        [2.718, 1.808]
    """
    high = each.mean
    while float(each.tail(np.array([high]))[0]) * ranks > 1e-12:
        high *= 2.0
    x = np.linspace(0.0, high, 200_001)
    with np.errstate(divide="ignore"):
        integrand = -np.expm1(ranks * np.log1p(-each.tail(x)))
    return float(np.trapezoid(integrand, x))


@bounded
def fork_join(arrival_rate: float, service_rate: float, ranks: int) -> Steady:
    """Every customer is one task at each of `ranks` M/M/1 queues, and leaves with the last of them.

    Two queues: (12 - rho)/8 times M/M/1, exact (Flatto and Hahn 1984). More: [H_K/H_2 + (4/11)(1 - H_K/H_2)
    rho] times that, within 5 % of simulation up to 32 (Nelson and Tantawi 1988), and refused beyond. Waiting
    for others counts as Wq.

    Example: eight queues at half load; one alone takes 2.
        >>> [round(fork_join(0.5, 1.0, ranks).W, 3) for ranks in (1, 2, 8)]
        [2.0, 2.875, 4.785]
    """
    rho = stable_load(arrival_rate, service_rate)
    if ranks > 32:
        raise ValueError(f"fork_join: ranks = {ranks}: must be at most 32; beyond, the formula was not tried")
    alone = 1.0 / (service_rate - arrival_rate)
    whole = alone
    if ranks > 1:
        ratio = barrier(ranks) / 1.5
        whole = (12.0 - rho) / 8.0 * alone * (ratio + 4.0 / 11.0 * (1.0 - ratio) * rho)
    return from_wait(arrival_rate, service_rate, whole - 1.0 / service_rate)


class Hedged(NamedTuple):
    """A hedged request: its mean time, its tail, and the copies sent in the mean."""

    mean_s: float
    p99_s: float
    copies: float


@bounded
def hedged(each: Law, after_s: float) -> Hedged:
    """A second copy is sent where the first has no answer after `after_s`; the earlier answer counts.

    P(T > t) = tail(t) up to then, and tail(t) tail(t - after) beyond; the copies are independent, and their
    own load is not counted. (Dean and Barroso, The tail at scale, 2013.)

    Example: answers with cv2 = 4; those that take more than 2.6 means are asked for again then.
        >>> from sim.theory.queueing.laws import hyperexponential
        >>> law = hyperexponential(1.0, 4.0)
        >>> plain, early = hedged(law, 1e9), hedged(law, 2.6)
        >>> round(plain.p99_s, 1), round(early.p99_s, 1), round(early.copies, 2)
        (10.7, 3.8, 1.07)
    """
    high = max(each.mean, min(after_s, 1e6 * each.mean))
    while float(each.tail(np.array([high]))[0]) > 1e-12:
        high *= 2.0
    x = np.concatenate(([0.0], np.geomspace(1e-7 * each.mean, high, 200_000)))
    tail = each.tail(x)
    again = np.where(x > after_s, each.tail(np.maximum(x - after_s, 0.0)), 1.0)
    both = tail * again
    return Hedged(
        float(np.trapezoid(both, x)),
        float(x[int(np.argmax(both <= 0.01))]),
        1.0 + float(each.tail(np.array([after_s]))[0]),
    )
