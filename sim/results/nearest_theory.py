"""Theory beside a run: for each station the closed form that comes nearest, its prediction, and the gap.

Moments of arrivals and services are those that the run had, so that the gap is of the model and not of its
inputs. A theory is no verdict on a run: the reason says what the formula leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf, isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.records import Records
from sim.theory import queueing

Floats = NDArray[np.float64]

FEWEST = 100
"""Requests of a station below which nothing is predicted: their mean says little (assumed)."""
POISSON = 0.2  # how far from 1 the cv2 of gaps may be and still be called Poisson (assumed)
FULL = 0.95  # of its seats: a batch that was as large had a queue for a reason (assumed)


@dataclass(frozen=True, slots=True)
class Station:
    """Replicas that share one queue, or one replica with its own; `users` of a closed loop, and their mean
    time between an answer and the next question.
    """

    name: str
    replicas: tuple[int, ...]
    is_one_at_a_time: bool
    seats: int
    users: int = 0
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Nearest:
    """One station: the model, what it predicts and what was simulated, in seconds, and why they differ.

    `rate_per_s`, `arrival_cv2` are of the arrivals, `load` is the model's; a prediction is infinite where
    the model has no steady state, and nan where no model was asked.
    """

    station: str
    model: str
    quantity: str
    predicted_s: float
    simulated_s: float
    reason: str
    rate_per_s: float = nan
    arrival_cv2: float = nan
    service_cv2: float = nan
    load: float = nan

    def as_dict(self) -> dict[str, float | str]:
        """For JSON, which has no infinity: that is a word."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {
            name: str(value) if isinstance(value, float) and not isfinite(value) else value
            for name, value in values
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Nearest:
        """What `as_dict` has written. KeyError, TypeError, ValueError for anything else."""
        values: dict[str, Any] = {
            one.name: (float if one.type == "float" else str)(saved[one.name]) for one in fields(cls)
        }
        return cls(**values)

    @property
    def gap(self) -> float:
        """(simulated - predicted)/predicted."""
        return self.simulated_s / self.predicted_s - 1.0 if self.predicted_s else nan


def nearest_theory(records: Records, stations: tuple[Station, ...]) -> tuple[Nearest, ...]:
    """The theory of each station that finished at least `FEWEST` requests, or why it has none."""
    return tuple(_nearest(records, station) for station in stations)


def _nearest(records: Records, station: Station) -> Nearest:
    rows = records.requests
    here = np.isin(rows["replica"], station.replicas) & (rows["status"] == "finished")
    arrival_s = np.sort(rows["arrival_s"][here])
    if len(arrival_s) < FEWEST or arrival_s[-1] <= arrival_s[0]:
        few = f"{len(arrival_s)} requests finished here; {FEWEST} that do not come at once are needed"
        return Nearest(station.name, "none", "", nan, nan, few)
    gaps = np.diff(arrival_s)
    rate = 1.0 / float(gaps.mean())
    ca2 = _cv2(gaps)
    if station.is_one_at_a_time:
        wait_s = (rows["admitted_s"] - rows["arrival_s"])[here]
        service_s = (rows["finished_s"] - rows["admitted_s"])[here]
        return _waiting_line(station, rate, ca2, wait_s, service_s)
    return _decode_batch(records, station, rate, ca2, here)


def _cv2(values: Floats) -> float:
    mean = float(values.mean())
    return float(values.var()) / mean**2 if mean else 0.0


def _waiting_line(station: Station, rate: float, ca2: float, wait_s: Floats, service_s: Floats) -> Nearest:
    servers, mean_s, cs2 = len(station.replicas), float(service_s.mean()), _cv2(service_s)
    load = rate * mean_s / servers
    arrivals = "M" if abs(ca2 - 1.0) <= POISSON else "G"
    services = "D" if cs2 < 1e-6 else "M" if abs(cs2 - 1.0) <= POISSON else "G"
    measured = (rate, ca2, cs2, load)
    model = f"{arrivals}/{services}/{servers}"
    simulated = float(wait_s.mean())
    if station.users:
        loop = queueing.load_dependent_network(
            min(station.users, queueing.MOST_CONVOLVED),
            [mean_s],
            [lambda n: min(n, servers)],
            station.think_s,
        )
        why = "exact for exponential services, and for any law at one user"
        predicted = loop.response_s - mean_s
        return Nearest(station.name, "closed network", "mean wait", predicted, simulated, why, *measured)
    if load >= 1.0:
        why = "more comes than is served: the queue grows for as long as the run lasts"
        return Nearest(station.name, model, "mean wait", inf, simulated, why, *measured)
    if arrivals == "M":
        predicted = queueing.ggc(rate, 1.0 / mean_s, servers, 1.0, cs2).Wq
        exact = servers == 1 or services == "M"
        why = "exact in the long run: the gap is the chance of one run" if exact else "Allen and Cunneen"
    elif servers == 1:
        predicted = queueing.kraemer_langenbach_belz(rate, 1.0 / mean_s, ca2, cs2).Wq
        why = "two moments only (Kraemer and Langenbach-Belz); arrivals that depend on each other wait longer"
    else:
        predicted = queueing.ggc(rate, 1.0 / mean_s, servers, ca2, cs2).Wq
        why = "two moments only (Allen and Cunneen); arrivals that depend on each other wait longer"
    return Nearest(station.name, model, "mean wait", predicted, simulated, why, *measured)


def _decode_batch(
    records: Records, station: Station, rate: float, ca2: float, here: NDArray[np.bool_]
) -> Nearest:
    rows, steps = records.requests, records.steps
    simulated = float((rows["finished_s"] - rows["arrival_s"])[here].mean())
    answers = np.asarray(rows["generated_tokens"][here], dtype=np.float64)
    tokens = float(answers.mean())
    of = np.isin(steps["replica"], station.replicas) & (steps["decode_tokens"] > 0) & (steps["stage"] == 0)
    if not of.any():
        return Nearest(station.name, "none", "mean time", nan, simulated, "no step decoded", rate, ca2)
    batch = np.asarray(steps["decode_tokens"][of], dtype=np.float64)
    counts = np.asarray(steps["steps"][of], dtype=np.float64)
    seconds = 0.5 * (steps["first_step_s"][of] + steps["last_step_s"][of])
    each_s, fixed_s = _line(batch, seconds, counts)
    per = rate / len(station.replicas)
    load = per * tokens * each_s
    measured = (rate, ca2, _cv2(answers), load)
    prompts = float(np.sum(steps["prefill_tokens"][of] * counts > 0) / max(1, len(batch)))
    reasons = [f"steps of {1e3 * fixed_s:.3g} ms + {1e3 * each_s:.3g} ms a sequence"]
    if prompts:
        reasons.append(
            f"prompts were in {prompts:.0%} of the kinds of steps, and are in these times only in the mean"
        )
    if abs(ca2 - 1.0) > POISSON and not station.users:
        reasons.append(f"arrivals are no Poisson process (cv2 {ca2:.2g})")
    if tokens < 50.0:
        reasons.append("answers are short, and the formula is the limit of long ones")
    model = "decode batch"
    if station.users:
        model = "decode batch in a closed loop"
        users = max(1, min(queueing.MOST_CONVOLVED, round(station.users / len(station.replicas))))
        predicted = queueing.decode_loop(
            users, tokens, fixed_s, each_s, station.think_s, min(station.seats, 10**7)
        ).response_s
    elif batch.max() >= FULL * station.seats:
        model = f"decode batch with {station.seats} seats"
        most = station.seats / (tokens * (fixed_s + each_s * station.seats))
        measured = (*measured[:3], per / most)
        predicted = inf
        if per < most:
            predicted = queueing.decode_batch_with_seats(per, tokens, fixed_s, each_s, station.seats).W
    elif load < 1.0:
        predicted = queueing.decode_batch(per, tokens, fixed_s, each_s).W
    else:
        predicted = inf
    if predicted == inf:
        reasons.append("more comes than is served: the queue grows for as long as the run lasts")
    return Nearest(station.name, model, "mean time", predicted, simulated, "; ".join(reasons), *measured)


def _line(batch: Floats, seconds: Floats, counts: Floats) -> tuple[float, float]:
    """Seconds a sequence, and seconds a step, by least squares over steps; neither is negative."""
    mean_batch, mean_s = np.average(batch, weights=counts), np.average(seconds, weights=counts)
    spread = float(np.average((batch - mean_batch) ** 2, weights=counts))
    each_s = 0.0
    if spread > 0.0:
        each_s = float(np.average((batch - mean_batch) * (seconds - mean_s), weights=counts)) / spread
    each_s = min(max(each_s, 1e-9 * float(mean_s)), float(mean_s / mean_batch))
    return each_s, float(mean_s) - each_s * float(mean_batch)
