"""One link under Poisson transfers, and what has to be true of it if it is shared equally."""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt
from simpy import Environment

from sim.runtime.clock import at
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.transfer import Bytes
from sim.theory import queueing

Floats = npt.NDArray[np.float64]

BYTES_PER_S = 50e9
MEAN_BYTES = 1e9
WARM_UP = 2000
SD_ALLOWED = 4.0


def sizes(law: str, count: int, rng: np.random.Generator) -> Floats:
    """Sizes with mean `MEAN_BYTES`: exponential (cv2 1), deterministic (0), hyperexponential with cv2 4."""
    if law == "deterministic":
        return np.full(count, MEAN_BYTES)
    drawn = rng.exponential(MEAN_BYTES, count)
    if law == "exponential":
        return drawn
    often = 0.5 * (1.0 + sqrt(3.0 / 5.0))  # balanced means: each branch brings half the bytes
    share = np.where(rng.random(count) < often, often, 1.0 - often)
    return drawn / (2.0 * share)


def arrivals(rho: float, count: int, rng: np.random.Generator) -> Floats:
    return np.cumsum(rng.exponential(MEAN_BYTES / BYTES_PER_S / rho, count))


def seconds_on_fabric(arrival_s: Floats, n_bytes: Floats) -> Floats:
    """The time that each transfer takes on one link of a fabric."""
    env = Environment()
    fabric = Fabric(env, {"link": BYTES_PER_S})
    times, amounts = arrival_s.tolist(), n_bytes.tolist()
    took = np.empty(len(times))

    def arrive(number: int) -> None:
        def done(_: object) -> None:
            took[number] = env.now - times[number]

        fabric.start(Bytes((0,), (amounts[number],)), on_done=done)
        if number + 1 < len(times):
            at(env, times[number + 1], arrive, argument=number + 1)

    at(env, times[0], arrive, argument=0)
    env.run()
    fabric.check()
    return took


def seconds_first_come_first_served(arrival_s: Floats, n_bytes: Floats) -> Floats:
    """The same traffic on a link that is a lock: the mistake that this law is to find."""
    free = 0.0
    took = np.empty(len(arrival_s))
    for number, (arrives, amount) in enumerate(zip(arrival_s.tolist(), n_bytes.tolist(), strict=True)):
        free = max(arrives, free) + amount / BYTES_PER_S
        took[number] = free - arrives
    return took


def mean_and_error(values: Floats, batches: int = 25) -> tuple[float, float]:
    """A mean and its standard error, from the means of consecutive batches (they hardly depend on each
    other).
    """
    means = np.array([batch.mean() for batch in np.array_split(values, batches)])
    return float(values.mean()), float(means.std(ddof=1) / sqrt(batches))


def broken_laws_of_sharing(rho: float, n_bytes: Floats, took: Floats) -> list[str]:
    """What speaks against M/G/1-PS: the mean time, and that small and large are slowed down alike."""
    n_bytes, took = n_bytes[WARM_UP:], took[WARM_UP:]
    theory = queueing.mg1_ps(rho * BYTES_PER_S / MEAN_BYTES, BYTES_PER_S / MEAN_BYTES)
    broken = []
    mean, error = mean_and_error(took)
    if abs(mean - theory.W) > SD_ALLOWED * error:
        broken.append(f"mean time {mean:.4g} s +- {error:.2g}, {theory.W:.4g} expected")
    if error > 0.05 * mean:
        broken.append("too few transfers to tell")
    slowdown = took * BYTES_PER_S / n_bytes
    middle = np.median(n_bytes)
    for name, group in (("small", n_bytes <= middle), ("large", n_bytes > middle)):
        if group.any():
            # bytes-weighted, because a mean of ratios is ruled by the smallest sizes
            weighted, error = mean_and_error(slowdown[group] * n_bytes[group])
            expected = theory.slowdown * float(n_bytes[group].mean())
            if abs(weighted - expected) > SD_ALLOWED * error:
                ratio = weighted / float(n_bytes[group].mean())
                broken.append(f"{name} ones slowed down {ratio:.3f} times, {theory.slowdown:.3f} expected")
    return broken
