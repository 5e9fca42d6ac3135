"""Watts, joules and dollars of a run that has ended, as a summary and a script read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.inputs.prices import SOURCE, Prices
from sim.results.power_of_places import (
    PlaceWatts,
    Served,
    lines_of_places,
    summary_of_places,
    watts_of_places,
)

if TYPE_CHECKING:
    import polars

Floats = NDArray[np.float64]
OF_GPUS = ("idle", "step", "hbm", "tensor", "activations", "nvlink")
AROUND = ("host", "nics", "switches", "server", "fans", "conversion")
TERMS = (*OF_GPUS, *AROUND)
CAUSES = ("compute", "hbm", "links", "idle")
FLAT = (
    "mean_gpu_w",
    "peak_w",
    "gpu_j_per_output_token",
    "j_per_output_token",
    "output_tokens_per_s_per_mw",
    "output_tokens_per_s_per_drawn_mw",
    "usd_per_million_output_tokens",
)
"""What a summary has beside its other numbers, for objectives and charts; None where it is not known."""
BETTER_WITH_LOAD = FLAT[2:]
"""Joules, dollars and tokens per megawatt: idle GPUs cost watts and dollars, so that these get worse where
there is less to do.
"""


@dataclass(frozen=True)
class NoEnergy:
    """Why a run has no watts."""

    why: str

    def as_dict(self, output_throughput: float | None = None) -> dict[str, Any]:
        """What stands in a summary instead of numbers."""
        return {"unavailable": self.why}


@dataclass(frozen=True)
class Energy:
    """Joules of the GPUs that served, by row of steps, by term, by cause, by place, and by request.

    `row_j` are the joules of all GPUs of a row's stage, `row_w` the watts of one; `prefill_share` of a row
    went into prompts. `terms_j` add up to `total_j`: of GPUs, and of what stands around them. `causes_j`
    splits those of GPUs by what they were for (prompts, answers, nothing) and by what drew them.
    `provisioned_w` is what is set aside for all of them.
    """

    row_j: Floats
    row_w: Floats
    row_idle_w: Floats
    row_gpus: NDArray[np.int64]
    row_stage: NDArray[np.int64]
    prefill_share: Floats
    start_s: Floats
    end_s: Floats
    busy_s: Floats
    terms_j: dict[str, float]
    causes_j: dict[tuple[str, str], float]
    run_s: float
    gpus: int
    idle_w: float
    provisioned_w: float | None
    basis: str
    served: tuple[Served, ...]
    no_servers: str
    no_racks: str
    request_s: Floats
    computed_tokens: Floats
    generated_tokens: Floats
    request_ids: NDArray[np.int64]
    finished: int

    @property
    def total_j(self) -> float:
        """All joules, those of the servers around the GPUs included."""
        return fsum(self.terms_j.values())

    @property
    def gpu_j(self) -> float:
        """Joules of the GPUs alone."""
        return fsum(value for name, value in self.terms_j.items() if name in OF_GPUS)

    @property
    def has_servers(self) -> bool:
        """Whether it is known what stands around the GPUs."""
        return not self.no_servers

    @property
    def mean_gpu_w(self) -> float:
        """Watts of one GPU, over all that served and the whole run."""
        return self.gpu_j / (self.gpus * self.run_s) if self.gpus and self.run_s else 0.0

    @cached_property
    def _above_idle_w(self) -> Floats:
        """What a row adds to its idle GPUs from begin to end, its pauses (of a pipeline's stage) spread."""
        return np.asarray(self.above_idle_w_of_one * self.row_gpus, dtype=float)

    @cached_property
    def above_idle_w_of_one(self) -> Floats:
        """The same of one GPU of the row's stage."""
        span_s = self.end_s - self.start_s
        busy = np.divide(self.busy_s, span_s, out=np.ones_like(span_s), where=span_s > 0.0)
        return np.asarray((self.row_w - self.row_idle_w) * busy, dtype=float)

    @cached_property
    def over_time(self) -> tuple[Floats, Floats]:
        """Instants, and the watts of all GPUs together from each on; the last is the end."""
        order = np.concatenate([self.start_s, self.end_s])
        more = self._above_idle_w
        at = np.argsort(order, kind="stable")
        watts = self.gpus * self.idle_w + np.cumsum(np.concatenate([more, -more])[at])
        return order[at], watts

    def joules_between(self, begin_s: float, end_s: float) -> float:
        """Joules of all GPUs from one instant to another, each step at its own mean watts."""
        lasted = np.maximum(np.minimum(self.end_s, end_s) - np.maximum(self.start_s, begin_s), 0.0)
        idle = self.gpus * self.idle_w * (end_s - begin_s)
        return idle + float(np.dot(lasted, self._above_idle_w))

    @property
    def peak_w(self) -> float:
        """Most watts of all GPUs together at one instant, each step at its own mean."""
        times, watts = self.over_time
        if not len(times):
            return self.gpus * self.idle_w
        last = np.append(times[1:] > times[:-1], True)  # of several changes at one instant, the last
        return float(watts[last].max())

    def by_request(self) -> polars.DataFrame:
        """Joules by request: of its prompt and of its answer by their tokens, of idle GPUs and servers by how
        long it was there. They add up to the run's.
        """
        import polars

        prefill, decode = self.parts_j
        rest = self.total_j - prefill - decode
        return polars.DataFrame(
            {
                "request_id": self.request_ids,
                "prefill_j": _shared(prefill, self.computed_tokens),
                "decode_j": _shared(decode, self.generated_tokens),
                "rest_j": _shared(rest, self.request_s),
            }
        )

    @property
    def parts_j(self) -> tuple[float, float]:
        """Joules of GPUs that went into prompts, and into answers: their steps and what crossed links."""
        prefill, decode = (
            fsum(value for (phase, _), value in self.causes_j.items() if phase == one)
            for one in ("prefill", "decode")
        )
        return prefill, decode

    def by_cause(self) -> polars.DataFrame:
        """Joules by phase and cause, as they are and per output token and finished request. GPUs `between`
        steps are idle; `around` them stands what servers draw. They add up to the run's.
        """
        import polars

        around = {("around", name): self.terms_j[name] for name in AROUND if name in self.terms_j}
        joules = {**self.causes_j, **around}
        tokens = float(self.generated_tokens.sum())
        return polars.DataFrame(
            {
                "phase": [phase for phase, _ in joules],
                "cause": [cause for _, cause in joules],
                "j": list(joules.values()),
                "j_per_output_token": [value / tokens if tokens else None for value in joules.values()],
                "j_per_finished_request": [
                    value / self.finished if self.finished else None for value in joules.values()
                ],
            },
            schema_overrides={"j_per_output_token": polars.Float64, "j_per_finished_request": polars.Float64},
        )

    @cached_property
    def places(self) -> tuple[PlaceWatts, ...]:
        """Watts of every GPU, server, rack and pool."""
        return watts_of_places(self)

    def by_place(self) -> polars.DataFrame:
        """Watts in the mean and at most of every GPU, server, rack and pool, of the GPUs that served there
        and, where it is known, with what stands around them. No rows of racks where none are known.
        """
        import polars

        return polars.DataFrame([one._asdict() for one in self.places], infer_schema_length=None)

    def as_dict(self, output_throughput: float | None = None) -> dict[str, Any]:
        """The numbers of a summary. Joules a token and a request count GPUs and servers."""
        tokens, total, rate = float(self.generated_tokens.sum()), self.total_j, output_throughput
        prefill, decode = self.parts_j
        whole = self.has_servers
        found: dict[str, Any] = {
            "basis": self.basis,
            "mean_gpu_w": self.mean_gpu_w,
            "peak_gpu_w": float(self.row_w.max()) if len(self.row_w) else self.idle_w,
            "mean_w": self.gpu_j / self.run_s if self.run_s else 0.0,
            "peak_w": self.peak_w,
            "total_j": total,
            "gpu_j_per_output_token": self.gpu_j / tokens if tokens else None,
            "j_per_output_token": total / tokens if tokens and whole else None,
            "gpu_j_per_finished_request": self.gpu_j / self.finished if self.finished else None,
            "j_per_finished_request": total / self.finished if self.finished and whole else None,
            "prefill_j": prefill,
            "decode_j": decode,
            **{f"{name}_j": value for name, value in self.terms_j.items()},
            "by_cause": {
                phase: {
                    cause: self.causes_j[phase, cause] for cause in CAUSES if (phase, cause) in self.causes_j
                }
                for phase in ("prefill", "decode", "between")
            },
            **summary_of_places(self.places, self.no_racks),
        }
        if not whole:
            found["servers"] = {"unavailable": self.no_servers}
        elif rate is not None and total:
            found["output_tokens_per_s_per_drawn_mw"] = rate * self.run_s / total * 1e6
        if self.provisioned_w is not None:
            found["provisioned_w"] = self.provisioned_w
            found["output_tokens_per_s_per_mw"] = None if rate is None else rate / self.provisioned_w * 1e6
        return found


def _shared(amount: float, weights: Floats) -> Floats:
    """An amount by weights; evenly where all are zero."""
    total = float(weights.sum())
    if not total:
        return np.full(len(weights), amount / len(weights)) if len(weights) else weights
    return weights * (amount / total)


def dollars(
    prices: Prices | None, kinds: Sequence[str], energy: Energy | NoEnergy, rate: float | None
) -> dict[str, Any]:
    """Dollars a million output tokens at `rate` tokens a second, for GPUs of these `kinds`, one name each;
    nothing without prices, and why where there is no price.
    """
    if prices is None:
        return {}
    if not kinds:
        return {"unavailable": "service times are given, on no GPU"}
    by_kind = {kind: prices.gpu_hour_of(kind) for kind in kinds}
    lacking = [kind for kind, price in by_kind.items() if price is None]
    if lacking:
        return {"unavailable": f"prices.published has no {', '.join(lacking)}; give prices.gpu_hour"}
    hourly = fsum(by_kind[kind] or 0.0 for kind in kinds)
    found: dict[str, Any] = {"usd_per_hour": hourly}
    if prices.published is not None:
        found["source"] = SOURCE
    if prices.kwh is not None:
        if isinstance(energy, NoEnergy):
            return {"unavailable": f"prices.kwh needs watts: {energy.why}"}
        kilowatts = energy.total_j / energy.run_s / 1e3 if energy.run_s else 0.0
        found["usd_per_hour"] = hourly + prices.kwh * kilowatts
        found["electricity_of"] = "GPUs and servers" if energy.has_servers else "GPUs alone"
    if rate:
        found["usd_per_million_output_tokens"] = found["usd_per_hour"] / 3600.0 / rate * 1e6
    return found


def energy_lines(energy: dict[str, Any], cost: dict[str, Any]) -> Iterator[str]:
    """What a run prints of it."""
    if "unavailable" in cost:
        yield f"cost: unavailable, because {cost['unavailable']}"
    elif "usd_per_million_output_tokens" in cost:
        source = f" ({cost['source']})" if "source" in cost else ""
        yield (
            f"cost: {cost['usd_per_million_output_tokens']:.3g} dollars a million output tokens, "
            f"{cost['usd_per_hour']:.4g} an hour{source}"
        )
    if "unavailable" in energy:
        yield f"power: unavailable, because {energy['unavailable']}"
        return
    mean_w, hottest_w, peak_w = (energy[name] for name in ("mean_gpu_w", "peak_gpu_w", "peak_w"))
    yield (
        f"power: {mean_w:.0f} W a GPU in the mean, {hottest_w:.0f} in its hottest step; "
        f"{peak_w / 1e3:.3g} kW all GPUs together at most ({energy['basis']})"
    )
    if energy["gpu_j_per_output_token"] is not None:
        whole = energy["j_per_output_token"]
        lacking = energy.get("servers", {}).get("unavailable")
        around = (
            f"servers unavailable, because {lacking}" if whole is None else f"{whole:.3g} with their servers"
        )
        yield f"energy: {energy['gpu_j_per_output_token']:.3g} J of GPUs an output token; {around}"
    yield from lines_of_places(energy)
