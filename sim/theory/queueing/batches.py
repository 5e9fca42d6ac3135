"""Servers that take all waiting customers as one batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from sim.theory.arguments import bounded
from sim.theory.queueing.steady import stable_load


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
    load = stable_load(arrival_rate, 1.0 / each_s if each_s else inf)
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
