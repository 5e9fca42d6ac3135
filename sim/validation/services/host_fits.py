"""What the hosts of measured services cost per step or kernel, fitted to the rows that are marked as fitted.

    sim calibrate hosts

prints every constant as it is written and as the fit gives it with the kernels of now; where the two differ
the kernels were fitted anew after it. The fit is the constant at which the median signed error of the rows
is zero, or zero itself where the simulation is too slow without it. It takes some minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from statistics import median
from typing import NamedTuple

from sim.validation.services import closed_loops, static_batches, trace_replay
from sim.validation.services.request_logs import DATA, read_rows


class HostFit(NamedTuple):
    """A constant: its name, its seconds as written and as fitted now."""

    constant: str
    written_s: float
    fitted_s: float


def unbiased(bias: Callable[[float], float], max_s: float, digit: float) -> float:
    """The constant from zero to `max_s` at which a bias that grows with it is zero, to the nearest `digit`.

    >>> unbiased(lambda x: x - 0.234, 1.0, 0.01), unbiased(lambda x: x + 1.0, 1.0, 0.01)
    (0.23, 0.0)
    """
    from scipy.optimize import brentq

    if bias(0.0) >= 0.0:
        return 0.0
    found = float(brentq(bias, 0.0, max_s, xtol=digit / 20.0))
    return float(f"{round(found / digit) * digit:.6g}")


def launch_s(hardware: str) -> float:
    """Seconds per kernel of the loop of 2023, on one kind of host."""
    rows = [
        row
        for row in read_rows("splitwise_static_batch")
        if row["hardware"] == hardware
        and (row["tensor_parallel"], row["batch_size"]) == static_batches.SPLITWISE_FITTED
        and not static_batches.static_batch_left_out(row)
    ]

    def bias(seconds: float) -> float:
        return median(
            held.error or 0.0
            for row in rows
            for held in static_batches.static_batch_rows(row, {hardware: seconds})
            if held.kind == "fitted"
        )

    return unbiased(bias, 1e-3, 1e-6)


def step_s() -> float:
    """Seconds of vLLM's host per step without asynchronous scheduling, on H100."""
    (row,) = (one for one in read_rows("vllm_h100_means") if one["run"] == "h100_single_dense")

    def bias(seconds: float) -> float:
        numbers = trace_replay.served(row["run"], seconds).summary()
        return float(numbers["mean_tpot_ms"]) / float(row["mean_tpot_ms"]) - 1.0

    return unbiased(bias, 20e-3, 0.1e-3)


def step_gap_s(backend: str) -> float:
    """Seconds between two steps of an engine of closed loops."""
    points = closed_loops.read_points(DATA / "closed_loops.csv")
    own = [point for point in points if point.is_fitted and point.backend == backend]

    @cache
    def bias(seconds: float) -> float:
        return median(closed_loops.run(point, {"step_gap_s": seconds}).tpot_error for point in own)

    return unbiased(bias, 5e-3, 0.01e-3)


def all_fitted() -> Iterator[HostFit]:
    """Every constant, one after another."""
    for hardware, written_s in static_batches.SPLITWISE_LAUNCH_S.items():
        yield HostFit(f"launch_s of {hardware}", written_s, launch_s(hardware))
    yield HostFit("step_s of vLLM on H100", trace_replay.STEP_S, step_s())
    for backend, host in closed_loops.HOSTS.items():
        yield HostFit(f"step_gap_s of {backend}", host["step_gap_s"], step_gap_s(backend))
