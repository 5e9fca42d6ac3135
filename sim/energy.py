"""Watts and joules of a run, from its rows: what each GPU draws in each stretch of steps, summed. No clock.

A GPU asks for idle power, for more in a step, and for more the more bytes it moves and FLOPs it computes per
second (`sim.inputs.power`). Near the limit of the board less flows than is asked for: the clock falls. The
work of a row of steps is that of its middle step (`sim.cost.step_work`), so that a row of a thousand folded
steps is one expression, and a folded run has the joules of a played one. How long a step takes is not changed
by the limit: kernels were measured on GPUs that have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from sim.cost.power import asked_w, drawn_w
from sim.cost.step_work import StepWork
from sim.deployment import Deployment, ReplicaPlan
from sim.inputs.hardware import Gpu
from sim.results.columns import Table
from sim.results.energy import TERMS, Energy, NoEnergy
from sim.results.records import Records

Floats = NDArray[np.float64]
J_PER_PJ_A_BYTE = 8.0 * 1e-12  # bits of a byte, and joules of a picojoule


def energy_of(
    deployment: Deployment, graph: nx.DiGraph[str], records: Records, link_rows: Table, end_s: float
) -> Energy | NoEnergy:
    """Joules of a run, or why there are none."""
    plans = [plan for plan in deployment.replicas if plan.shards]
    if not plans:
        return NoEnergy("service times are given, on no GPU")
    kinds = {shard.gpu.name: shard.gpu for plan in plans for shard in plan.shards}
    lacking = sorted(name for name, gpu in kinds.items() if gpu.power is None)
    if lacking:
        return NoEnergy(f"{', '.join(lacking)} has no power constants (gpus.*.power)")
    powers = {name: gpu.power for name, gpu in kinds.items() if gpu.power is not None}
    nvlink_j = fsum(
        powers[kind].nvlink_pj_per_bit * n_bytes * J_PER_PJ_A_BYTE
        for kind, n_bytes in nvlink_bytes(graph, link_rows).items()
        if kind in powers
    )
    return _Sum(plans, records, end_s).energy(nvlink_j)


def nvlink_bytes(graph: nx.DiGraph[str], link_rows: Table) -> dict[str, float]:
    """Bytes that left GPUs over NVLink or came in, by kind of GPU. A GPU's link to what is no place of the
    graph leads to the NVSwitch chips that are one crossbar; between two GPUs it counts for the sender.
    """
    found: dict[str, float] = {}
    names = link_rows.columns["link"]
    for row, n_bytes in enumerate(link_rows["n_bytes"]):
        ends = str(names[row]).split("->")
        kinds = [graph.nodes[end]["kind"] if end in graph else "nvswitch" for end in ends]
        if n_bytes and len(ends) == 2 and "gpu" in kinds and set(kinds) <= {"gpu", "nvswitch"}:
            model = str(graph.nodes[ends[kinds.index("gpu")]]["model"])
            found[model] = found.get(model, 0.0) + float(n_bytes)
    return found


class _Sum:
    """The sums over the rows of a run."""

    def __init__(self, plans: list[ReplicaPlan], records: Records, end_s: float) -> None:
        self.plans = plans
        self.records = records
        self.run_s = end_s
        self.steps = {name: records.steps[name] for name in records.steps.kinds}
        rows = len(records.steps)
        self.asked = {name: np.zeros(rows) for name in ("idle", "step", "hbm", "tensor")}
        self.row_w, self.share = np.zeros(rows), np.zeros(rows)
        self.row_idle_w, self.row_gpus = np.zeros(rows), np.zeros(rows, dtype=np.int64)
        self.busy_s = self.steps["end_s"] - self.steps["start_s"] - self.steps["idle_s"]
        self.context = _mean_context(records)

    def energy(self, nvlink_j: float) -> Energy:
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
        terms["nvlink"] = nvlink_j
        server_w = _all_or_none([power.server_w for power, _ in powers if power], [n for _, n in powers])
        if server_w is not None:
            terms["server"] = self.run_s * server_w
        requests = self.records.requests
        left = np.fmax(np.nan_to_num(requests["finished_s"]), np.nan_to_num(requests["aborted_s"]))
        left = np.where(left > 0.0, left, self.run_s)
        return Energy(
            row_j=row_j,
            row_w=self.row_w,
            row_idle_w=self.row_idle_w,
            row_gpus=self.row_gpus,
            prefill_share=self.share,
            start_s=self.steps["start_s"],
            end_s=self.steps["end_s"],
            busy_s=self.busy_s,
            terms_j={name: terms[name] for name in TERMS if name in terms},
            run_s=self.run_s,
            gpus=gpus,
            idle_w=idle_w,
            provisioned_w=_all_or_none(
                [power.provisioned_w for power, _ in powers if power], [n for _, n in powers]
            ),
            basis="; ".join(dict.fromkeys(_basis(shard.gpu) for plan in self.plans for shard in plan.shards)),
            request_s=np.maximum(left - requests["arrival_s"], 0.0),
            computed_tokens=np.maximum(requests["prompt_tokens"] - requests["cached_tokens"], 0).astype(
                float
            ),
            generated_tokens=requests["generated_tokens"].astype(float),
            request_ids=requests["request_id"],
            finished=int(np.isfinite(requests["finished_s"]).sum()),
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


def _basis(gpu: Gpu) -> str:
    """Where the watts of a GPU come from, in words."""
    source = gpu.provenance.get("power.step_w")
    if source is None:
        return f"{gpu.name}: the scenario's numbers"
    return f"{gpu.name}: {source.tag}, {source.source.partition(';')[0]}"


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
