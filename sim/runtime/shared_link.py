"""A link alone with its transfers: processor sharing to look at, without a service around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from simpy import Environment

from sim.runtime.clock import at
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.transfer import Bytes

Floats = npt.NDArray[np.float64]


def link(
    bytes_per_s: float, arrival_s: Sequence[float] | Floats, n_bytes: Sequence[float] | Floats
) -> Floats:
    """Seconds that each transfer takes on one link, which all transfers under way share equally.

    Transfers begin at `arrival_s` and have `n_bytes`; the times come in their order. With Poisson arrivals it
    is `sim.theory.queueing.mg1_ps`. ValueError for a rate, a time or an amount that cannot be.

    Example: two of 1 GB at 1 GB/s, the second half a second later.
        >>> link(1e9, [0.0, 0.5], [1e9, 1e9]).tolist()
        [1.5, 1.5]
    """
    times, amounts = np.asarray(arrival_s, dtype=np.float64), np.asarray(n_bytes, dtype=np.float64)
    if not (np.isfinite(bytes_per_s) and bytes_per_s > 0.0):
        raise ValueError(f"link: bytes_per_s = {bytes_per_s}: must be a number, above 0")
    if times.ndim != 1 or times.shape != amounts.shape:
        raise ValueError(f"link: {times.size} arrival_s and {amounts.size} n_bytes: must be as many")
    for name, values, least in (("arrival_s", times, "at least 0"), ("n_bytes", amounts, "above 0")):
        good = np.isfinite(values) & ((values > 0.0) if name == "n_bytes" else (values >= 0.0))
        if not good.all():
            place = int(np.argmin(good))
            raise ValueError(f"link: {name}[{place}] = {values[place]}: must be a number, {least}")
    env = Environment()
    fabric = Fabric(env, {"link": float(bytes_per_s)})
    took = np.empty(len(times))

    def arrive(number: int) -> None:
        def done(_: object) -> None:
            took[number] = env.now - times[number]

        fabric.start(Bytes((0,), (float(amounts[number]),)), on_done=done)

    for number in np.argsort(times, kind="stable").tolist():
        at(env, float(times[number]), arrive, argument=number)
    env.run()
    return took
