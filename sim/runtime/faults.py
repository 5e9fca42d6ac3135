"""Faults on the clock: capacities go down and come back, engines stop and start again.

From the instant of a fault on, transfers share what is left of a link, and a folded step that uses the link
is played. Algorithms do not change: a ring goes on through the slow link, as a communicator does that was set
up before the fault. Transfers on a link that is down wait until it is repaired.

An engine stops before anything else of its instant (`FAILURE`): a step or a transfer that would end at that
instant does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import networkx as nx
import simpy

from sim.cost.network import Network
from sim.inputs.faults import Fault
from sim.runtime.clock import COMPLETION, FAILURE, at
from sim.runtime.engine.replica import Replica
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.service import Service
from sim.scenario.references import Found, faultable_places


def schedule_faults(
    env: simpy.Environment, network: Network, fabric: Fabric, service: Service, faults: Sequence[Fault]
) -> None:
    """Put all faults on the clock. What they name exists (`sim.scenario.references` has checked it)."""
    lost = [0.0] * len(network.links)
    for fault in faults:
        if fault.stops_engines:
            for replica in _stopped(network, service.replicas, fault):
                at(env, fault.at_s, service.fail, FAILURE, replica)
                if fault.until_s is not None:
                    at(env, fault.until_s, service.recover, COMPLETION, replica)
            continue
        shares = _shares(network, fault)
        at(env, fault.at_s, _Change(network, fabric, lost, shares, 1.0), COMPLETION)
        if fault.until_s is not None:
            at(env, fault.until_s, _Change(network, fabric, lost, shares, -1.0), COMPLETION)


class _Change:
    """Links lose shares of their capacity, or get them back; faults of one link add up, to a capacity of at
    least 0.
    """

    def __init__(
        self, network: Network, fabric: Fabric, lost: list[float], shares: dict[int, float], sign: float
    ) -> None:
        self.network, self.fabric, self.lost, self.shares, self.sign = network, fabric, lost, shares, sign

    def __call__(self, _: None) -> None:
        for link, share in self.shares.items():
            # The sum is kept unbounded, so that a repair gives back what its own fault took and no more.
            self.lost[link] += self.sign * share
            left = max(0.0, 1.0 - self.lost[link])
            if abs(self.lost[link]) < 1e-12:  # repaired: as it was built, to the last bit
                self.lost[link], left = 0.0, 1.0
            self.fabric.set_capacity(self.network.links[link], self.network.capacity[link] * left)


def _stopped(network: Network, replicas: Sequence[Replica], fault: Fault) -> list[Replica]:
    """The replicas that run on what fails."""
    if fault.replica is not None:
        return [replicas[fault.replica]]
    if fault.gpu:
        return [replica for replica in replicas if fault.gpu in replica.gpus]
    failed = {gpu for gpu, number in network.node_of.items() if fault.node == f"node{number}"}
    return [replica for replica in replicas if failed.intersection(replica.gpus)]


def _shares(network: Network, fault: Fault) -> dict[int, float]:
    """The share of its capacity that each link loses."""
    loss = 1.0 - (fault.capacity or 0.0)
    if fault.link:
        return {network.link_id[fault.link]: loss}
    ends = {link: name.split("->") for link, name in enumerate(network.links)}
    for crossbar, chips in network.stripes.items():
        if fault.place in chips:
            return {link: loss * chips[fault.place] for link, names in ends.items() if crossbar in names}
    return {link: loss for link, names in ends.items() if fault.place in names}


def faults_without_effect(
    graph: nx.DiGraph[str],
    faults: Sequence[Fault],
    serving: Collection[str],
    bytes_by_link: Mapping[str, float],
    end_s: float,
    *,
    aborted_at_end: bool = False,
    down: Collection[str] = (),
) -> Iterator[Found]:
    """Every fault that no request can have felt: it began when all was over, or no engine ran on what
    stopped, or no byte crossed what was lost. `serving` are the GPUs that engines ran on. `aborted_at_end`:
    requests ended without their answer at `end_s`, as those of an engine that failed then do. `down` are the
    links that transfers waited for to the end.
    """
    network = Network(graph)
    for number, fault in enumerate(faults):
        key: tuple[str | int, ...] = ("faults", number)
        kind = next(
            kind for kind in ("replica", *faultable_places(network)) if getattr(fault, kind) not in ("", None)
        )
        name = getattr(fault, kind)
        ended_it = fault.stops_engines and fault.at_s == end_s and aborted_at_end
        if fault.at_s >= end_s and not ended_it:
            when = f"before {fault.at_s:g} s" if fault.at_s > end_s else "at the instant of the fault"
            yield (*key, "at_s"), f"nothing fails: the run ended at {end_s:g} s, {when}"
        elif kind in ("gpu", "node"):
            fail = {gpu for gpu in network.gpus if name in (gpu, f"node{network.node_of[gpu]}")}
            if not fail.intersection(serving):
                yield (*key, kind), f"nothing fails: no engine runs on {name}"
        elif kind in ("link", "place"):
            links = _links(network, name)
            if not sum(bytes_by_link[link] for link in links) and not set(links).intersection(down):
                yield (*key, kind), f"nothing is slower: no byte crossed {name} in this run"


def _links(network: Network, name: str) -> list[str]:
    """The links that are `name`, or end at it, or that it is a chip of."""
    crossbars = [crossbar for crossbar, chips in network.stripes.items() if name in chips]
    return [
        link for link in network.links if name == link or {name, *crossbars}.intersection(link.split("->"))
    ]
