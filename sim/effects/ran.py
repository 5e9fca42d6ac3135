"""A run that has ended, as the table of keys asks about it: what carried bytes, what was served, how far
limits were from what came near them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from sim.cost.memory import default_limits
from sim.cost.network import Network
from sim.deployment import Deployment, ReplicaPlan
from sim.inputs.arrivals import Sessions, Trace
from sim.inputs.engine import Engine
from sim.inputs.errors import InputError
from sim.inputs.model import Model
from sim.inputs.workload import RequestClass, Workload
from sim.results.columns import Table
from sim.results.key_words import Key
from sim.results.records import Records
from sim.scenario.scenario import Pool, Scenario
from sim.workload.request_sampler import played_part

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ran:
    """A run: what was described, how it was deployed, and its rows."""

    scenario: Scenario
    deployment: Deployment
    records: Records
    link_rows: Table
    gpu_rows: Table
    kv_tier_rows: Table
    end_s: float
    ended: str
    faults_without_effect: dict[Key, str]
    outages_without_effect: dict[Key, str] = field(default_factory=dict)

    # ---- requests

    @cached_property
    def requests(self) -> dict[str, NDArray[Any]]:
        """Columns of the request rows."""
        rows = self.records.requests
        return {name: rows[name] for name in rows.kinds}

    @property
    def workload(self) -> Workload:
        return self.scenario.workload

    @cached_property
    def classes(self) -> dict[str, RequestClass]:
        """The classes by name; without any, one of all requests under the empty name."""
        return self.workload.classes or {"": RequestClass()}

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether any two prompts may begin alike: what prefix caching lives on."""
        workload = self.workload
        if workload.prefix is not None or any(kind.prefix is not None for kind in self.classes.values()):
            return True
        arrivals = workload.arrivals
        if isinstance(arrivals, Sessions):
            return True
        if not isinstance(arrivals, Trace):
            return False
        try:
            return played_part(arrivals).block_hashes is not None
        except InputError:  # the file has gone since the run, and may have named blocks
            return True

    @cached_property
    def longest_tokens(self) -> int:
        """The longest text that was asked for, prompt and answer."""
        rows = self.requests
        return int((rows["prompt_tokens"] + rows["output_tokens"]).max(initial=0))

    @property
    def caches_prefixes(self) -> bool:
        """Whether any engine keeps the prefixes of its prompts."""
        return any(pool.engine.enable_prefix_caching for pool in self.scenario.all_pools.values())

    # ---- links

    @cached_property
    def network(self) -> Network:
        return Network(self.graph)

    @property
    def graph(self) -> nx.DiGraph[str]:
        return self.scenario.wired.graph

    @cached_property
    def bytes_by_link(self) -> dict[str, float]:
        links = self.link_rows.columns["link"]
        return {links[row]: float(n) for row, n in enumerate(self.link_rows["n_bytes"])}

    @cached_property
    def crossbars(self) -> dict[str, str]:
        """The NVLink crossbar that a chip is a part of."""
        stripes = self.network.stripes
        return {chip: crossbar for crossbar, chips in stripes.items() for chip in chips}

    @cached_property
    def bytes_by_type(self) -> dict[str, float]:
        """Bytes that crossed the links of each type."""
        found: dict[str, float] = {}
        for one, other, attributes in self.graph.edges(data=True):
            name = str(attributes.get("link", ""))
            found[name] = found.get(name, 0.0) + self.bytes_on(one, other)
        return found

    def bytes_on(self, one: str, other: str) -> float:
        """Bytes from one place to another over what joins them."""
        ends = f"{self.crossbars.get(one, one)}->{self.crossbars.get(other, other)}"
        return self.bytes_by_link.get(ends, 0.0)

    @cached_property
    def bytes_by_place(self) -> dict[str, float]:
        """Bytes on the links of each place."""
        found: dict[str, float] = {}
        for one, other in self.graph.edges():
            crossed = self.bytes_on(one, other)
            for place in (one, other):
                found[place] = found.get(place, 0.0) + crossed
        return found

    @cached_property
    def bytes_between_servers(self) -> float:
        """Bytes on the links of NICs to what stands outside of servers, or in another one."""
        nodes = {place: attributes.get("node", -1) for place, attributes in self.graph.nodes(data=True)}
        return sum(
            self.bytes_on(one, other) for one, other in self.graph.edges() if nodes[one] != nodes[other]
        )

    @cached_property
    def bytes_in_all(self) -> float:
        return sum(self.bytes_by_link.values())

    # ---- engines

    @cached_property
    def groups(self) -> dict[str, Group]:
        """The engines of each pool."""
        found, first = {}, 0
        for name, pool in self.scenario.all_pools.items():
            engines = pool.replicas * pool.ranks_apart
            found[name] = Group(self, name, pool, self.deployment.replicas[first : first + engines])
            first += engines
        return found

    @cached_property
    def steps(self) -> dict[str, NDArray[Any]]:
        """Columns of the step rows."""
        rows = self.records.steps
        return {name: rows[name] for name in rows.kinds}

    @cached_property
    def entries(self) -> dict[str, list[ReplicaPlan]]:
        """The replicas that requests enter by, by model."""
        return self._by_model("decode", leaves_out=True)

    @cached_property
    def receivers(self) -> dict[str, list[ReplicaPlan]]:
        """The replicas that KV caches are handed to, by model."""
        return self._by_model("decode", leaves_out=False)

    def _by_model(self, role: str, *, leaves_out: bool) -> dict[str, list[ReplicaPlan]]:
        found: dict[str, list[ReplicaPlan]] = {}
        for plan in self.deployment.replicas:
            if (plan.pool.role == role) != leaves_out:
                found.setdefault(plan.pool.model.name, []).append(plan)
        return found

    def tier_sum(self, column: str, tiers: Iterator[str] | tuple[str, ...]) -> float:
        """The sum of a column over the KV tiers of these names."""
        wanted, names = set(tiers), self.kv_tier_rows.columns["tier"]
        return float(
            sum(value for row, value in enumerate(self.kv_tier_rows[column]) if names[row] in wanted)
        )


@dataclass(frozen=True)
class Group:
    """The engines of one pool, and what they did."""

    ran: Ran
    name: str
    pool: Pool
    plans: tuple[ReplicaPlan, ...]

    @property
    def engine(self) -> Engine:
        return self.pool.engine

    @property
    def model(self) -> Model:
        return self.pool.model

    @property
    def given(self) -> bool:
        """Whether service times are given, so that no GPU is at work."""
        return self.engine.service_time is not None

    @cached_property
    def ranks(self) -> int:
        """GPUs of one pipeline stage."""
        return len(self.plans[0].shards[0].ranks) if self.plans[0].shards else 1

    @cached_property
    def groups_in_step(self) -> int:
        """Data-parallel ranks that go through every step together."""
        return len(self.plans[0].shards[0].groups) if self.plans[0].shards else self.engine.data_parallel_size

    @cached_property
    def _in_steps(self) -> NDArray[np.bool_]:
        return self._mine(self.ran.steps["replica"])

    def _mine(self, replicas: Ints) -> NDArray[np.bool_]:
        first, last = self.plans[0].index, self.plans[-1].index
        mine: NDArray[np.bool_] = (replicas >= first) & (replicas <= last)
        return mine

    @property
    def worked(self) -> bool:
        """Whether any of its engines took a step."""
        return bool(self._in_steps.any())

    def peak(self, of: Callable[[dict[str, NDArray[Any]]], NDArray[Any]]) -> int:
        """The largest value of a row of steps."""
        steps = {name: column[self._in_steps] for name, column in self.ran.steps.items()}
        return int(of(steps).max(initial=0))

    @cached_property
    def peak_tokens(self) -> int:
        """The most tokens of one step, drafts beside them."""
        drafts = self.engine.speculation.num_speculative_tokens if self.engine.speculation else 0
        return self.peak(
            lambda steps: steps["prefill_tokens"] + steps["decode_tokens"] + drafts * steps["sequences"]
        )

    @cached_property
    def peak_prefill(self) -> int:
        return self.peak(lambda steps: steps["prefill_tokens"])

    @cached_property
    def decodes_alone(self) -> set[int]:
        """The least and the most sequences of a step without prompts."""
        steps = self.ran.steps
        decodes = steps["sequences"][
            self._in_steps & (steps["prefill_tokens"] == 0) & (steps["sequences"] > 0)
        ]
        return {int(decodes.min()), int(decodes.max())} if len(decodes) else set()

    @cached_property
    def _visits(self) -> list[tuple[int, float, float]]:
        """(replica, admitted, left) of every request that was in these engines; of those of a pool of
        decodes, from their reservation on.
        """
        ran, rows = self.ran, self.ran.requests
        left_s = np.fmin(np.fmin(rows["finished_s"], rows["aborted_s"]), ran.end_s)
        left_s = np.where(np.isnan(left_s), ran.end_s, left_s)
        if self.pool.role == "both":
            here = self._mine(rows["replica"]) & ~np.isnan(rows["admitted_s"])
            return list(
                zip(rows["replica"][here].tolist(), rows["admitted_s"][here].tolist(), left_s[here].tolist(),
                strict=True)
            )  # fmt: skip
        hand_overs, left_of = (
            ran.records.hand_overs,
            dict(zip(rows["request_id"].tolist(), left_s, strict=True)),
        )
        ids = hand_overs["request_id"].tolist()
        if self.pool.role == "decode":
            reserved_s = np.fmin(hand_overs["reserved_s"], ran.end_s)
            of = zip(hand_overs["receiver"].tolist(), reserved_s.tolist(), ids, strict=True)
            visits = [(replica, start_s, left_of[one]) for replica, start_s, one in of]
        else:
            admitted = dict(zip(rows["request_id"].tolist(), rows["admitted_s"].tolist(), strict=True))
            prefilled_s = np.fmin(hand_overs["prefilled_s"], ran.end_s)
            of = zip(hand_overs["sender"].tolist(), prefilled_s.tolist(), ids, strict=True)
            visits = [(replica, admitted.get(one, 0.0), end_s) for replica, end_s, one in of]
        first, last = self.plans[0].index, self.plans[-1].index
        return [visit for visit in visits if first <= visit[0] <= last]

    @cached_property
    def peak_running(self) -> int:
        """At most so many requests were in one engine at a time."""
        most = 0
        by_replica: dict[int, list[tuple[float, float]]] = {}
        for replica, start_s, end_s in self._visits:
            by_replica.setdefault(replica, []).append((start_s, end_s))
        for visits in by_replica.values():
            starts = np.sort([start_s for start_s, _ in visits])
            ends = np.sort([end_s for _, end_s in visits])
            inside = np.arange(1, len(starts) + 1) - np.searchsorted(ends, starts, side="right")
            most = max(most, int(inside.max()))
        return most

    @cached_property
    def longest_tokens(self) -> int:
        return self.ran.longest_tokens

    @cached_property
    def preemptions(self) -> int:
        return int(self.ran.requests["preemptions"].sum())

    # ---- KV blocks

    @cached_property
    def blocks(self) -> int:
        """KV blocks of one scheduler: the fewest of these engines."""
        return min(plan.limits.kv_blocks for plan in self.plans)

    @cached_property
    def peak_blocks(self) -> int:
        """The most KV blocks that sequences of one scheduler held."""
        rows = self.ran.records.kv_blocks
        mine = self._mine(rows["replica"])
        return int(np.maximum(rows["before"], rows["blocks"])[mine].max(initial=0))

    @cached_property
    def blocks_bind(self) -> bool:
        """Whether more or fewer KV blocks can have changed a choice: where sequences were preempted, came
        near all there are, or prefixes that are kept may have filled them.
        """
        size = self.engine.block_size
        longest = -(-self.longest_tokens // size) + 1
        reserve = int(self.engine.watermark * self.blocks)
        seats = self.peak_running if self.engine.capacity_scheduler_policy == "guaranteed_no_evict" else 1
        if self.preemptions or self.peak_blocks + longest * max(seats, 1) + reserve >= self.blocks:
            return True
        if self.ran.shares_prefixes and self.engine.enable_prefix_caching:
            rows = self.ran.requests
            texts = int((rows["prompt_tokens"] + rows["output_tokens"]).sum())
            return bool(texts // size + longest >= self.blocks)
        return False

    @property
    def default_limits(self) -> tuple[int, int]:
        """(max_num_seqs, max_num_batched_tokens) as written, or as the engine has them by default."""
        if self.plans[0].shards:
            return default_limits(self.engine, self.plans[0].shards[0].gpu)
        return self.plans[0].limits.max_num_seqs, self.plans[0].limits.max_num_batched_tokens
