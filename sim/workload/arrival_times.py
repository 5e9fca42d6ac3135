"""Arrival times of an open process, in blocks; endless unless the process ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from sim.inputs.arrivals import (
    Burst,
    Constant,
    Gamma,
    MarkovModulated,
    OnOff,
    OpenProcess,
    Poisson,
    RateState,
    TimeVarying,
    Weibull,
)
from sim.workload.random_streams import Floats, random_stream

BLOCK = 8192
"""Times per block: a vector drawn costs little more than a single number, and the rest of a block that a
short run leaves unused costs next to nothing.
"""


def arrival_times(process: OpenProcess, seed: int, client: str = "") -> Iterator[Floats]:
    """Arrival times in ascending blocks. A rate that stays zero ends them; all others go on for ever.

    Homogeneous processes are sums of drawn gaps. Rates that change, by the clock or by chance, run one unit
    Poisson process through the inverse of the cumulated rate (Cinlar, Introduction to Stochastic Processes,
    1975). Each `client` has random streams of its own.
    """
    stream = random_stream(seed, f"arrivals{client and '.of.'}{client}")
    if isinstance(process, Poisson):
        return _renewals(lambda: stream.exponential(1.0 / process.rate_per_s, size=BLOCK))
    if isinstance(process, Gamma):
        scale_s = 1.0 / (process.rate_per_s * process.shape)
        return _renewals(lambda: stream.gamma(process.shape, scale_s, size=BLOCK))
    if isinstance(process, Weibull):
        scale_s = 1.0 / (process.rate_per_s * math.gamma(1.0 + 1.0 / process.shape))
        return _renewals(lambda: scale_s * stream.weibull(process.shape, size=BLOCK))
    if isinstance(process, Constant):
        return (np.arange(k, k + BLOCK) / process.rate_per_s for k in itertools.count(0, BLOCK))
    if isinstance(process, Burst):
        return itertools.repeat(np.full(BLOCK, process.at_s))
    units = _renewals(lambda: stream.exponential(1.0, size=BLOCK))
    if isinstance(process, TimeVarying):
        return _at_rates(units, _pieces(process))
    assert isinstance(process, OnOff | MarkovModulated)
    return _at_rates(
        units, _stays(process.states, random_stream(seed, f"arrivals.states{client and '.of.'}{client}"))
    )


def _renewals(gaps: Callable[[], Floats]) -> Iterator[Floats]:
    now = 0.0
    while True:
        block = np.cumsum(gaps())
        block += now
        now = float(block[-1])
        yield block


def _at_rates(units: Iterator[Floats], pieces: Iterable[tuple[float, float]]) -> Iterator[Floats]:
    """A unit Poisson process run through the inverse of the cumulated rate: exact for a piecewise constant
    rate.

    `pieces` are (seconds, rate); the rate of the last one stays after its end.
    """
    ends_s, risen = [0.0], [0.0]  # the cumulated rate, as the corners of a line
    rate = 0.0
    source = iter(pieces)
    for block in units:
        # Pieces are taken only as far as this block needs: a process whose states change by chance has no end
        # of them.
        while risen[-1] < block[-1]:
            piece = next(source, None)
            if piece is None:
                break
            duration_s, rate = piece
            ends_s.append(ends_s[-1] + duration_s)
            risen.append(risen[-1] + duration_s * rate)
        within = block[block <= risen[-1]]
        beyond = block[len(within) :]
        times_s = _inverse(within, ends_s, risen)
        if len(beyond):  # the pieces have run out
            if rate == 0.0:
                yield times_s
                return
            times_s = np.concatenate((times_s, ends_s[-1] + (beyond - risen[-1]) / rate))
        yield times_s
        # Later blocks lie beyond this one: corners left of it are never looked up again.
        passed = max(0, int(np.searchsorted(risen, block[-1])) - 1)
        del ends_s[:passed], risen[:passed]


def _inverse(heights: Floats, ends_s: list[float], risen: list[float]) -> Floats:
    corners, times_s = np.array(risen), np.array(ends_s)
    piece = np.clip(np.searchsorted(corners, heights, side="left") - 1, 0, len(corners) - 2)
    # A piece of rate 0 is flat: it has no inverse, and no height falls inside it. Its width is divided by 1.
    risen_by = corners[piece + 1] - corners[piece]
    share = np.where(risen_by > 0, (heights - corners[piece]) / np.where(risen_by > 0, risen_by, 1.0), 0.0)
    times: Floats = times_s[piece] + share * (times_s[piece + 1] - times_s[piece])
    return times


def _pieces(process: TimeVarying) -> Iterator[tuple[float, float]]:
    once = [(piece.duration_s, piece.rate_per_s) for piece in process.pieces]
    return itertools.cycle(once) if process.repeat else iter(once)


def _stays(states: tuple[RateState, ...], stream: np.random.Generator) -> Iterator[tuple[float, float]]:
    # The first state is drawn as time shares have it, so that the process is stationary from the start; each
    # next one is any of the others with equal chance.
    weights = np.cumsum([state.mean_stay_s for state in states])
    state = min(int(np.searchsorted(weights, stream.random() * weights[-1], side="right")), len(states) - 1)
    while True:
        yield float(stream.exponential(states[state].mean_stay_s)), states[state].rate_per_s
        other = int(stream.integers(len(states) - 1))
        state = other + (other >= state)
