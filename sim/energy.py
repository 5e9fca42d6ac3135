"""Watts and joules of a run, from its rows: what each GPU draws in each stretch of steps, summed. No clock.

A GPU asks for idle power, for more in a step, and for more the more bytes it moves and FLOPs it computes per
second (`sim.inputs.power`). Near the limit of the board less flows than is asked for: the clock falls. The
work of a row of steps is that of its middle step (`sim.cost.step_work`), so that a row of a thousand folded
steps is one expression, and a folded run has the joules of a played one. How long a step takes is not changed
by the limit: kernels were measured on GPUs that have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import fsum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.cost.power import asked_w, drawn_w
from sim.cost.step_work import StepWork
from sim.deployment import Deployment, ReplicaPlan
from sim.inputs.hardware import Gpu
from sim.inputs.power import GpuPower
from sim.inputs.prices import SOURCE, Prices
from sim.results.columns import Table
from sim.results.records import Records

if TYPE_CHECKING:
    import polars

Floats = NDArray[np.float64]
TERMS = ("idle", "step", "hbm", "tensor", "nvlink", "server")
BITS = 8.0
PICO = 1e-12


@dataclass(frozen=True)
class NoEnergy:
    """Why a run has no watts."""

    why: str

    def as_dict(self, output_throughput: float | None = None) -> dict[str, Any]:
        """What stands in a summary instead of numbers."""
        return {"unavailable": self.why}


@dataclass(frozen=True)
class Energy:
    """Joules of the GPUs that served, by row of steps, by term, and by request.

    `row_j` are the joules of all GPUs of a row's stage, `row_w` the watts of one; `prefill_share` of a row
    went into prompts. `terms_j` add up to `total_j`, of which `server` is what stands around the GPUs,
    at its datasheet's most, and `provisioned_w` what is set aside for all of them.
    """

    row_j: Floats
    row_w: Floats
    row_idle_w: Floats
    row_gpus: NDArray[np.int64]
    prefill_share: Floats
    start_s: Floats
    end_s: Floats
    busy_s: Floats
    terms_j: dict[str, float]
    run_s: float
    gpus: int
    idle_w: float
    provisioned_w: float | None
    basis: str
    lasting: Floats
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
        return fsum(value for name, value in self.terms_j.items() if name != "server")

    @property
    def has_servers(self) -> bool:
        """Whether it is known what stands around the GPUs."""
        return "server" in self.terms_j

    @property
    def mean_gpu_w(self) -> float:
        """Watts of one GPU, over all that served and the whole run."""
        return self.gpu_j / (self.gpus * self.run_s) if self.gpus and self.run_s else 0.0

    @cached_property
    def _above_idle_w(self) -> Floats:
        """What a row adds to its idle GPUs from begin to end, its pauses (of a pipeline's stage) spread."""
        span_s = self.end_s - self.start_s
        busy = np.divide(self.busy_s, span_s, out=np.ones_like(span_s), where=span_s > 0.0)
        return np.asarray((self.row_w - self.row_idle_w) * self.row_gpus * busy, dtype=float)

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
                "rest_j": _shared(rest, self.lasting),
            }
        )

    @property
    def parts_j(self) -> tuple[float, float]:
        """Joules of steps that went into prompts, and into answers."""
        prefill = float(np.dot(self.row_j, self.prefill_share))
        return prefill, float(self.row_j.sum()) - prefill

    def as_dict(self, output_throughput: float | None = None) -> dict[str, Any]:
        """The numbers of a summary. Joules a token and a request count GPUs and servers."""
        tokens, total = float(self.generated_tokens.sum()), self.total_j
        prefill, decode = self.parts_j
        found: dict[str, Any] = {
            "basis": self.basis,
            "mean_gpu_w": self.mean_gpu_w,
            "peak_gpu_w": float(self.row_w.max()) if len(self.row_w) else self.idle_w,
            "mean_w": self.gpu_j / self.run_s if self.run_s else 0.0,
            "peak_w": self.peak_w,
            "total_j": total,
            "gpu_j_per_output_token": self.gpu_j / tokens if tokens else None,
            "j_per_output_token": total / tokens if tokens and self.has_servers else None,
            "gpu_j_per_finished_request": self.gpu_j / self.finished if self.finished else None,
            "prefill_j": prefill,
            "decode_j": decode,
            **{f"{name}_j": value for name, value in self.terms_j.items()},
        }
        if self.provisioned_w is not None:
            found["provisioned_w"] = self.provisioned_w
            rate = output_throughput
            found["output_tokens_per_s_per_mw"] = None if rate is None else rate / self.provisioned_w * 1e6
        return found


def _shared(amount: float, weights: Floats) -> Floats:
    """An amount by weights; evenly where all are zero."""
    total = float(weights.sum())
    if not total:
        return np.full(len(weights), amount / len(weights)) if len(weights) else weights
    return weights * (amount / total)


def energy_of(deployment: Deployment, records: Records, link_rows: Table, end_s: float) -> Energy | NoEnergy:
    """Joules of a run, or why there are none."""
    plans = [plan for plan in deployment.replicas if plan.shards]
    if not plans:
        return NoEnergy("service times are given, on no GPU")
    kinds = {shard.gpu.name: shard.gpu for plan in plans for shard in plan.shards}
    lacking = sorted(name for name, gpu in kinds.items() if gpu.power is None)
    if lacking:
        return NoEnergy(f"{', '.join(lacking)} has no power constants (gpus.*.power)")
    return _Sum(plans, records, link_rows, end_s).energy()


class _Sum:
    """The sums over the rows of a run."""

    def __init__(self, plans: list[ReplicaPlan], records: Records, link_rows: Table, end_s: float) -> None:
        self.plans = plans
        self.records = records
        self.links = link_rows
        self.run_s = end_s
        self.steps = {name: records.steps[name] for name in records.steps.kinds}
        rows = len(records.steps)
        self.asked = {name: np.zeros(rows) for name in ("idle", "step", "hbm", "tensor")}
        self.row_w, self.share = np.zeros(rows), np.zeros(rows)
        self.row_idle_w, self.row_gpus = np.zeros(rows), np.zeros(rows, dtype=np.int64)
        self.busy_s = self.steps["end_s"] - self.steps["start_s"] - self.steps["idle_s"]
        self.context = _mean_context(records)

    def energy(self) -> Energy:
        stages: dict[tuple[int, int], list[int]] = {}
        works: dict[tuple[int, int], StepWork] = {}
        for plan in self.plans:
            for stage, shard in enumerate(plan.shards):
                key = id(plan.pool), stage  # equal replicas have equal shards but for their GPUs
                stages.setdefault(key, []).append(plan.index)
                works.setdefault(key, StepWork(shard))
        for key, replicas in stages.items():
            self._stage(works[key], np.array(replicas), key[1])
        gpus = sum(len(plan.gpus) for plan in self.plans)
        powers = [(shard.gpu.power, len(shard.ranks)) for plan in self.plans for shard in plan.shards]
        idle_w = sum(power.idle_w * count for power, count in powers if power) / gpus
        row_j = self.row_w * self.busy_s * self.row_gpus
        terms = {name: float(np.dot(part, self.busy_s * self.row_gpus)) for name, part in self.asked.items()}
        in_steps_j = float(np.dot(self.busy_s * self.row_gpus, self.row_idle_w))
        terms["idle"] += max(idle_w * gpus * self.run_s - in_steps_j, 0.0)
        terms["nvlink"] = self._nvlink_j([power for power, _ in powers if power])
        server_w = _all_or_none([power.server_w for power, _ in powers if power], [n for _, n in powers])
        if server_w is not None:
            terms["server"] = self.run_s * server_w
        requests = self.records.requests
        left = np.fmax(np.nan_to_num(requests["finished_s"]), np.nan_to_num(requests["aborted_s"]))
        left = np.where(left > 0.0, left, self.run_s)
        return Energy(
            row_j,
            self.row_w,
            self.row_idle_w,
            self.row_gpus,
            self.share,
            self.steps["start_s"],
            self.steps["end_s"],
            self.busy_s,
            {name: terms[name] for name in TERMS if name in terms},
            self.run_s,
            gpus,
            idle_w,
            _all_or_none([power.provisioned_w for power, _ in powers if power], [n for _, n in powers]),
            "; ".join(dict.fromkeys(_basis(shard.gpu) for plan in self.plans for shard in plan.shards)),
            np.maximum(left - requests["arrival_s"], 0.0),
            np.maximum(requests["prompt_tokens"] - requests["cached_tokens"], 0).astype(float),
            requests["generated_tokens"].astype(float),
            requests["request_id"],
            int(np.isfinite(requests["finished_s"]).sum()),
        )

    def _stage(self, work: StepWork, replicas: NDArray[np.int64], stage: int) -> None:
        """Fill in the rows of one stage of equal replicas."""
        rows = np.flatnonzero(np.isin(self.steps["replica"], replicas) & (self.steps["stage"] == stage))
        power = work.shard.gpu.power
        if not len(rows) or power is None:
            return
        drafts = work.shard.engine.speculation
        per_decode = 1.0 if drafts is None else 1.0 + drafts.num_speculative_tokens
        steps, decodes = self.steps["steps"][rows], self.steps["decode_tokens"][rows].astype(float)
        kv = self.steps["kv_tokens"][rows] + decodes * (steps - 1) / 2.0
        prefill = self.steps["prefill_tokens"][rows].astype(float)
        sequences = self.steps["sequences"][rows].astype(float)
        whole = work.of(prefill, decodes * per_decode, sequences, kv, self.context)
        answers = work.of(np.zeros_like(prefill), decodes * per_decode, decodes, kv)
        step_s = np.maximum(self.busy_s[rows] / steps, 1e-12)
        asked = asked_w(power, work.shard.gpu, whole, step_s)
        flowing = drawn_w(sum(asked.values(), np.zeros(len(rows))), power.max_w)
        share = flowing / sum(asked.values(), np.zeros(len(rows)))
        for name, part in asked.items():
            self.asked[name][rows] = part * share
        self.row_w[rows], self.row_idle_w[rows] = flowing, power.idle_w
        self.row_gpus[rows] = len(work.shard.ranks)
        of_all, of_answers = (
            power.hbm_w * one.hbm_bytes / work.shard.gpu.hbm_bytes_per_s + power.tensor_w * one.peak_s
            for one in (whole, answers)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            prompts = np.where(of_all > 0.0, 1.0 - of_answers / of_all, 0.0)
        self.share[rows] = np.where(decodes > 0, np.clip(prompts, 0.0, 1.0), 1.0)

    def _nvlink_j(self, powers: list[GpuPower]) -> float:
        """Joules of bytes that left GPUs over NVLink, or came in."""
        if not powers:
            return 0.0
        pj = max(power.nvlink_pj_per_bit for power in powers)
        names = self.links.columns["link"]
        n_bytes = fsum(
            float(n) for row, n in enumerate(self.links["n_bytes"]) if n and _is_nvlink(str(names[row]))
        )
        return n_bytes * BITS * pj * PICO


def _is_nvlink(link: str) -> bool:
    """A direction of a link between a GPU and an NVSwitch, or between two GPUs."""
    ends = link.split("->")
    kinds = [end.rpartition(".")[2].rstrip("0123456789") for end in ends]
    return len(kinds) == 2 and "gpu" in kinds and set(kinds) <= {"gpu", "nvswitch", "nvlink"}


def _basis(gpu: Gpu) -> str:
    """Where the watts of a GPU come from, in words."""
    source = gpu.provenance.get("power.step_w")
    if source is None:
        return f"{gpu.name}: the scenario's numbers"
    return f"{gpu.name}: {source.tag}, {source.source.partition(';')[0]}"


FLAT = (
    "mean_gpu_w",
    "peak_w",
    "gpu_j_per_output_token",
    "j_per_output_token",
    "output_tokens_per_s_per_mw",
    "usd_per_million_output_tokens",
)
"""What a summary has beside its other numbers, for objectives and charts; None where it is not known."""


def money_of(
    prices: Prices | None, deployment: Deployment, energy: Energy | NoEnergy, rate: float | None
) -> dict[str, Any]:
    """Dollars a million output tokens at `rate` tokens a second, all GPUs of all pools counted; nothing
    without prices, and why where there is no price.
    """
    if prices is None:
        return {}
    kinds = [shard.gpu.name for plan in deployment.replicas for shard in plan.shards for _ in shard.ranks]
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


def _mean_context(records: Records) -> float:
    """Tokens before a token of a prompt, in the mean over all that were computed."""
    prompts = records.requests["prompt_tokens"].astype(float)
    cached = np.minimum(records.requests["cached_tokens"].astype(float), prompts)
    computed = float((prompts - cached).sum())
    return float((prompts**2 - cached**2).sum()) / 2.0 / computed if computed else 0.0


def _all_or_none(values: Iterable[float | None], counts: Iterable[int]) -> float | None:
    total = 0.0
    for value, count in zip(values, counts, strict=True):
        if value is None:
            return None
        total += value * count
    return total


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
        around = "servers are not known" if whole is None else f"{whole:.3g} with their servers"
        yield f"energy: {energy['gpu_j_per_output_token']:.3g} J of GPUs an output token; {around}"
