"""Watts and joules of a run, from its rows: what each GPU draws in each stretch of steps, summed. No clock.

A GPU asks for idle power, for more in a step, and for more the more bytes it moves and FLOPs it computes per
second (`sim.inputs.power`). Near the limit of the board less flows than is asked for: the clock falls. The
work of a row of steps is that of its middle step (`sim.cost.step_work`), so that a row of a thousand folded
steps is one expression, and a folded run has the joules of a played one. How long a step takes is not changed
by the board's limit: kernels were measured on GPUs that have it. A limit that is set below it made the steps
longer, and none draws more (`sim.cost.capped_cost`).
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
from sim.results.power_of_places import Served
from sim.results.records import Records
from sim.scenario.scenario import Scenario

Floats = NDArray[np.float64]
NO_RACKS = "the topology does not say how many servers stand in a rack (power.servers_per_rack)"
MOST_STAGES = 1 << 20  # of a replica: more than any model has layers
WORKED = ("hbm", "tensor", "activations")
ASKED = ("idle", "step", *WORKED)
J_PER_PJ_A_BYTE = 8.0 * 1e-12  # bits of a byte, and joules of a picojoule


def energy_of(
    scenario: Scenario, deployment: Deployment, records: Records, link_rows: Table, end_s: float
) -> Energy | NoEnergy:
    """Joules of a run, or why there are none."""
    plans = [plan for plan in deployment.replicas if plan.shards]
    if not plans:
        return NoEnergy("service times are given, on no GPU")
    kinds = {shard.gpu.name: shard.gpu for plan in plans for shard in plan.shards}
    lacking = sorted(name for name, gpu in kinds.items() if gpu.power is None)
    if lacking:
        return NoEnergy(f"{', '.join(lacking)} has no power constants (gpus.*.power)")
    crossed = nvlink_bytes_of_gpus(scenario.wired.graph, link_rows)
    return _Sum(plans, records, end_s).energy(_served(scenario, plans, crossed))


def nvlink_bytes(graph: nx.DiGraph[str], link_rows: Table) -> dict[str, float]:
    """Bytes that left GPUs over NVLink or came in, by kind of GPU."""
    found: dict[str, float] = {}
    for gpu, n_bytes in nvlink_bytes_of_gpus(graph, link_rows).items():
        model = str(graph.nodes[gpu]["model"])
        found[model] = found.get(model, 0.0) + n_bytes
    return found


def nvlink_bytes_of_gpus(graph: nx.DiGraph[str], link_rows: Table) -> dict[str, float]:
    """Bytes that left each GPU over NVLink or came in. A GPU's link to what is no place of the graph leads to
    the NVSwitch chips that are one crossbar; between two GPUs it counts for the sender.
    """
    found: dict[str, float] = {}
    names = link_rows.columns["link"]
    for row, n_bytes in enumerate(link_rows["n_bytes"]):
        ends = str(names[row]).split("->")
        kinds = [graph.nodes[end]["kind"] if end in graph else "nvswitch" for end in ends]
        if n_bytes and len(ends) == 2 and "gpu" in kinds and set(kinds) <= {"gpu", "nvswitch"}:
            gpu = ends[kinds.index("gpu")]
            found[gpu] = found.get(gpu, 0.0) + float(n_bytes)
    return found


def _served(scenario: Scenario, plans: list[ReplicaPlan], crossed: dict[str, float]) -> tuple[Served, ...]:
    """Every GPU of every stage, in the order of replicas."""
    graph, per_rack = scenario.wired.graph, scenario.power.servers_per_rack if scenario.power else None
    pools = [
        name for name, pool in scenario.all_pools.items() for _ in range(pool.replicas * pool.ranks_apart)
    ]
    found = []
    for plan in plans:
        for stage, shard in enumerate(plan.shards):
            power = shard.gpu.power
            assert power is not None
            around = sum(power.around_w.values()) if power.around_w else None
            for gpu in shard.ranks:
                place = graph.nodes[gpu]
                server = place.get("node", 0)
                node, rack = f"node{server}", None if per_rack is None else f"rack{server // per_rack}"
                if "tray" in place:  # the server is a rack, and its trays are what others call servers
                    node, rack = f"{node}.tray{place['tray']}", node
                links_j = power.nvlink_pj_per_bit * crossed.get(gpu, 0.0) * J_PER_PJ_A_BYTE
                number = stage_number(plan.index, stage)
                found.append(
                    Served(
                        gpu, shard.gpu.name, number, pools[plan.index], node, rack, power.idle_w, links_j,
                        around, power.around_factor,
                    )
                )  # fmt: skip
    return tuple(found)


def stage_number(replica: int, stage: int) -> int:
    """One number for a stage of a replica."""
    return replica * MOST_STAGES + stage


class _Sum:
    """The sums over the rows of a run."""

    def __init__(self, plans: list[ReplicaPlan], records: Records, end_s: float) -> None:
        self.plans = plans
        self.records = records
        self.run_s = end_s
        steps = {name: records.steps[name] for name in records.steps.kinds}
        # Stages that step at the same time write their rows in another order when they fold, and sums of
        # floats know their order.
        order = np.lexsort((steps["stage"], steps["replica"], steps["start_s"]))
        self.steps = {name: column[order] for name, column in steps.items()}
        rows = len(records.steps)
        self.asked = {name: np.zeros(rows) for name in ASKED}
        self.row_w, self.share = np.zeros(rows), np.zeros(rows)
        self.shares = {name: np.zeros(rows) for name in WORKED}
        self.row_idle_w, self.row_gpus = np.zeros(rows), np.zeros(rows, dtype=np.int64)
        self.busy_s = self.steps["end_s"] - self.steps["start_s"] - self.steps["idle_s"]
        self.context = _mean_context(records)

    def energy(self, served: tuple[Served, ...]) -> Energy:
        stages: dict[tuple[int, int, str, float | None], list[int]] = {}
        works: dict[tuple[int, int, str, float | None], StepWork] = {}
        for plan in self.plans:
            for stage, shard in enumerate(plan.shards):
                # Replicas of a pool have equal shards but for their GPUs, which may be of several kinds, and
                # their limits, which are those of their racks.
                key = stage, id(plan.pool), shard.gpu.name, shard.power_cap_w
                stages.setdefault(key, []).append(plan.index)
                if key not in works:
                    works[key] = StepWork(shard)
        for key, replicas in stages.items():
            self._stage(works[key], np.array(replicas), key[0])
        powers = [(shard.gpu.power, len(shard.ranks)) for plan in self.plans for shard in plan.shards]
        idle_w = sum(power.idle_w * count for power, count in powers if power) / len(served)
        row_j = self.row_w * self.busy_s * self.row_gpus
        terms = {name: float(np.dot(part, self.busy_s * self.row_gpus)) for name, part in self.asked.items()}
        in_steps_j = float(np.dot(self.busy_s * self.row_gpus, self.row_idle_w))
        between_j = max(idle_w * len(served) * self.run_s - in_steps_j, 0.0)
        terms["idle"] += between_j
        terms["nvlink"] = fsum(one.nvlink_j for one in served)
        no_servers = _no_servers(served)
        row_stage = stage_number(1, 0) * self.steps["replica"] + self.steps["stage"]
        if not no_servers:
            terms |= self._around(served, row_stage, row_j)
        requests = self.records.requests
        left = np.fmax(np.nan_to_num(requests["finished_s"]), np.nan_to_num(requests["aborted_s"]))
        left = np.where(left > 0.0, left, self.run_s)
        computed = np.maximum(requests["prompt_tokens"] - requests["cached_tokens"], 0).astype(float)
        generated = requests["generated_tokens"].astype(float)
        return Energy(
            row_j=row_j,
            row_w=self.row_w,
            row_idle_w=self.row_idle_w,
            row_gpus=self.row_gpus,
            row_stage=row_stage,
            prefill_share=self.share,
            start_s=self.steps["start_s"],
            end_s=self.steps["end_s"],
            busy_s=self.busy_s,
            terms_j={name: terms[name] for name in TERMS if name in terms},
            causes_j=self._causes(terms["nvlink"], between_j, float(computed.sum()), float(generated.sum())),
            run_s=self.run_s,
            gpus=len(served),
            idle_w=idle_w,
            provisioned_w=_all_or_none(
                [power.provisioned_w for power, _ in powers if power], [n for _, n in powers]
            ),
            basis="; ".join(dict.fromkeys(_basis(shard.gpu) for plan in self.plans for shard in plan.shards)),
            served=served,
            no_servers=no_servers,
            no_racks=NO_RACKS,
            request_s=np.maximum(left - requests["arrival_s"], 0.0),
            computed_tokens=computed,
            generated_tokens=generated,
            request_ids=requests["request_id"],
            finished=int(np.isfinite(requests["finished_s"]).sum()),
        )

    def _causes(
        self, links_j: float, between_j: float, computed: float, generated: float
    ) -> dict[tuple[str, str], float]:
        """Joules of GPUs by what they were for and what drew them. Clocks that are up in a step count to its
        arithmetic, and they and idle power go to prompts and answers as the rest of the step does. Links
        carry the same for a token of a prompt and of an answer.
        """
        gpu_s = self.busy_s * self.row_gpus
        found: dict[tuple[str, str], float] = {}
        of_prompts = computed / (computed + generated) if computed + generated else 0.0
        for phase, share in (("prefill", of_prompts), ("decode", 1.0 - of_prompts)):
            shares = {"idle": self.share, "step": self.share, **self.shares}
            joules = {
                name: float(np.dot(self.asked[name], gpu_s * (part if phase == "prefill" else 1.0 - part)))
                for name, part in shares.items()
            }
            found[phase, "compute"] = joules["step"] + joules["tensor"] + joules["activations"]
            found[phase, "hbm"] = joules["hbm"]
            found[phase, "links"] = links_j * share
            found[phase, "idle"] = joules["idle"]
        found["between", "idle"] = between_j
        return found

    def _around(
        self, served: tuple[Served, ...], row_stage: NDArray[np.int64], row_j: Floats
    ) -> dict[str, float]:
        """Joules of what stands around GPUs, kind by kind: of parts that draw the same at all times, of fans
        in proportion to what they cool, and what conversion loses of all that.
        """
        found = {"fans": 0.0, "conversion": 0.0}
        powers = {shard.gpu.name: shard.gpu.power for plan in self.plans for shard in plan.shards}
        for kind, power in powers.items():
            assert power is not None
            gpus = [one for one in served if one.kind == kind]
            rows = np.isin(row_stage, np.array(sorted({one.stage for one in gpus})))
            busy_s = float(np.dot(self.busy_s[rows], self.row_gpus[rows]))
            inside_j = float(row_j[rows].sum()) + power.idle_w * max(len(gpus) * self.run_s - busy_s, 0.0)
            inside_j += fsum(one.nvlink_j for one in gpus)
            for name, watts in power.around_w.items():
                joules = watts * len(gpus) * self.run_s
                found[name] = found.get(name, 0.0) + joules
                inside_j += joules
            fans_j = power.fans * inside_j
            found["fans"] += fans_j
            found["conversion"] += (inside_j + fans_j) * power.conversion / (1.0 - power.conversion)
        return found

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
        if work.shard.power_cap_w is not None:  # `sim.cost.capped_cost` made the steps as long as it takes
            flowing = np.minimum(flowing, work.shard.power_cap_w)
        share = flowing / sum(asked.values(), np.zeros(len(rows)))
        for name, part in asked.items():
            self.asked[name][rows] = part * share
        self.row_w[rows], self.row_idle_w[rows] = flowing, power.idle_w
        self.row_gpus[rows] = len(work.shard.ranks)
        of_answers = asked_w(power, work.shard.gpu, answers, step_s)
        of_terms = [((name,), share_of_rows) for name, share_of_rows in self.shares.items()]
        for names, share_of_rows in (*of_terms, (WORKED, self.share)):
            all_w, answers_w = (
                sum((of[name] for name in names), np.zeros(len(rows))) for of in (asked, of_answers)
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                prompts = np.where(all_w > 0.0, 1.0 - answers_w / all_w, 0.0)
            share_of_rows[rows] = np.where(decodes > 0, np.clip(prompts, 0.0, 1.0), 1.0)


def _no_servers(served: tuple[Served, ...]) -> str:
    """Why it is not known what stands around the GPUs; empty where it is."""
    lacking = sorted({one.kind for one in served if one.around_w is None})
    return f"{', '.join(lacking)} has no host_w or server_w (gpus.*.power)" if lacking else ""


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
