"""A queue in its steady state, and what every formula of this package shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log, nan

from sim.theory.arguments import MAX_COUNTED, bounded


@dataclass(frozen=True, slots=True)
class Steady:
    """A queue in its steady state.

    `lost` is the fraction of arrivals turned away, `delayed` the fraction that waits at all (nan where there
    is no such thing, as in processor sharing). `tail(t)` is the probability that the time from arrival to
    departure exceeds t, where a formula is known, and `highest_percent` how far its digits go.
    """

    rho: float
    W: float
    Wq: float
    L: float
    Lq: float
    lost: float = 0.0
    delayed: float = nan
    tail: Callable[[float], float] | None = field(default=None, repr=False, compare=False)
    highest_percent: float = field(default=100.0, repr=False, compare=False)

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
        if percent > self.highest_percent:
            raise ValueError(
                f"percentile {percent}; beyond {self.highest_percent:g} the formula has no digits"
            )
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
def exponential_percentile(mean: float, percent: float) -> float:
    """The value that `percent` of an exponential law with this mean stay below."""
    return -mean * log(1.0 - percent / 100.0)


def some_arrive(arrival_rate: float) -> None:
    if not arrival_rate:
        raise ValueError("arrival_rate = 0: must be above 0; means are over arrivals")


def stable_load(arrival_rate: float, capacity: float) -> float:
    rho = arrival_rate / capacity
    if rho >= 1.0:
        raise ValueError(
            f"load {rho:.3g}: the queue grows without end; {capacity:.6g} arrivals/s is the limit"
        )
    return rho


def from_wait(
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


def birth_death(births: Callable[[int], float], deaths: Callable[[int], float], last: int) -> list[float]:
    """The probabilities of 0 to `last` in a chain that moves by one; the rates are of leaving a state."""
    weights = [1.0]
    for n in range(last):
        weights.append(weights[-1] * births(n) / deaths(n + 1))
        if weights[-1] > 1e200:
            weights = [weight * 1e-200 for weight in weights]
    total = sum(weights)
    return [weight / total for weight in weights]


def mean_of(probabilities: Sequence[float]) -> float:
    """The mean number in a chain."""
    return sum(n * probability for n, probability in enumerate(probabilities))


def endless_chain(
    births: Callable[[int], float], deaths: Callable[[int], float], at_least: int = 0
) -> list[float]:
    """As `birth_death`, of a chain without end: up to where what is left is below 1e-15 of the whole.

    ValueError where it does not come to an end within `MAX_COUNTED` states.
    """
    weights, total, n = [1.0], 1.0, 0
    while True:
        ratio = births(n) / deaths(n + 1)
        weights.append(weights[-1] * ratio)
        total += weights[-1]
        n += 1
        if total > 1e200:
            weights, total = [weight * 1e-200 for weight in weights], total * 1e-200
        if n >= at_least and ratio < 1.0 and weights[-1] * ratio / (1.0 - ratio) < 1e-15 * total:
            return [weight / total for weight in weights]
        if n >= MAX_COUNTED:
            raise ValueError(
                f"load too near to 1: more than {MAX_COUNTED:.0e} customers at once would be counted"
            )
