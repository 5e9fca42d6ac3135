"""The machine of the study, in any domains, and the price of a decode step of a replica on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import sim
from sim.cost.batch import Batch, Causes
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.deployment import ReplicaPlan, deployment_of
from sim.inputs.errors import InfeasibleError
from sim.inputs.topology import Topology

RACK, RACKS = 72, 8
EVEN = "uniform"  # as a balancer and copies of popular experts keep the loads of large groups
SYSTEM = RACK * RACKS


@dataclass(frozen=True)
class Machine:
    """GB200 in NVLink domains of one size. Beyond a rack all GPUs hang on the same chips (`tiers` 1: as if
    these had the ports) or on two tiers of them.
    """

    gpus: int
    domain: int
    tiers: int = 1

    @property
    def racks(self) -> int:
        return -(-self.gpus // RACK)

    @property
    def changes(self) -> dict[str, Any]:
        found: dict[str, Any] = {"topology.nodes": self.racks, "topology.domain": self.domain}
        if self.domain > RACK:
            found["topology.domain_tiers"] = self.tiers
        return found


@cache
def network_of(topology: _Same) -> Network:
    return Network(topology.described.graph)


class _Same:
    """A topology as a key: two that are described alike are one network."""

    def __init__(self, described: Topology) -> None:
        self.described = described
        self._text = described.model_dump_json(exclude={"description"})

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._text == other._text


@dataclass(frozen=True)
class Priced:
    """A decode step of one replica, and what its GPUs send in it, in the mean, inside and outside domains."""

    seconds: float
    causes: Causes
    inside_bytes: float
    outside_bytes: float


class Refused(Exception):
    """Why a replica cannot be or cannot hold its sequences."""


class Replica:
    """The first replica of a scenario, whose decode steps are priced. Refused where it does not fit."""

    def __init__(self, scenario: sim.Scenario) -> None:
        self._network = network_of(_Same(scenario.topology))
        try:
            self.plan = deployment_of(scenario, self._network).replicas[0]
        except InfeasibleError as error:
            raise Refused(str(error)) from error
        self._cost = StageCost(self.plan.shards[0], self._network)

    def step(self, sequences: int, context: int) -> Priced:
        """A decode step with so many sequences in all, as even over its ranks as they go. Refused where they
        do not fit.
        """
        batch = spread(self.plan, sequences, context)
        seconds, causes = self._cost.step(batch)
        inside, outside = sent(self._network, self._cost, batch, len(self.plan.gpus))
        return Priced(seconds, causes, inside, outside)


def spread(replica: ReplicaPlan, sequences: int, context: int) -> Batch:
    """A batch of decodes over the data-parallel ranks of a replica."""
    ranks = replica.pool.engine.data_parallel_size
    most = -(-sequences // ranks)
    assert replica.memory is not None
    if most * context > replica.memory.kv_tokens:
        raise Refused(f"KV tokens = {most * context}: must be at most {replica.memory.kv_tokens:.0f} a rank")
    each = [sequences // ranks + (rank < sequences % ranks) for rank in range(ranks)]
    batches = [Batch((), one, one * context, one) for one in each]
    return Batch.of_ranks(batches) if ranks > 1 else batches[0]


def sent(network: Network, cost: StageCost, batch: Batch, gpus: int) -> tuple[float, float]:
    """Bytes that a GPU sends in a step, in the mean: into its NVLink domain, and over NICs."""
    inside = outside = 0.0
    for demand, times, _ in cost.traffic(batch).demands:
        for link, n_bytes in zip(demand.links, demand.n_bytes, strict=True):
            source, target, *_ = network.ends[link]
            kinds = network.kind(source), network.kind(target)
            if kinds[0] == "gpu" and kinds[1] in ("crossbar", "nvswitch"):
                inside += times * n_bytes / gpus
            elif kinds == ("nic", "switch"):
                outside += times * n_bytes / gpus
    return inside, outside


def changed(base: sim.Scenario, machine: Machine, more: Mapping[str, Any]) -> sim.Scenario:
    return sim.with_changes(base, {**machine.changes, **more})
