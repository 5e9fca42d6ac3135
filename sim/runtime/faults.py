"""Faults on the clock: capacities go down and come back, engines stop and start again.

What a transfer was granted before is its own; from the instant of a fault on it shares what is left, and a
folded step that uses the link is played from there. Algorithms do not change: a ring goes on through the link
that is slow, as a communicator does that was set up before. Transfers on a link that is down wait for it to
come back.

An engine stops before anything else of its instant (`FAILURE`): a step or a transfer that would end just then
does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import simpy

from sim.cost.network import Network
from sim.inputs.errors import InputError, Problem
from sim.inputs.faults import Fault
from sim.runtime.clock import COMPLETION, FAILURE, at
from sim.runtime.fabric import Fabric
from sim.runtime.replica import Replica
from sim.runtime.service import Service


def schedule_faults(
    env: simpy.Environment, network: Network, fabric: Fabric, service: Service, faults: Sequence[Fault]
) -> None:
    """Put all faults on the clock. InputError names what does not exist, and what is nearest."""
    lost = [0.0] * len(network.links)
    for number, fault in enumerate(faults):
        if fault.stops_engines:
            for replica in _stopped(network, service.replicas, fault, f"faults.{number}"):
                at(env, fault.at_s, service.fail, FAILURE, replica)
                if fault.until_s is not None:
                    at(env, fault.until_s, service.recover, COMPLETION, replica)
            continue
        shares = _shares(network, fault, f"faults.{number}")
        at(env, fault.at_s, _Change(network, fabric, lost, shares, 1.0), COMPLETION)
        if fault.until_s is not None:
            at(env, fault.until_s, _Change(network, fabric, lost, shares, -1.0), COMPLETION)


class _Change:
    """Links lose shares of their capacity, or get them back; faults of one link add up, to nothing left at
    most.
    """

    def __init__(
        self, network: Network, fabric: Fabric, lost: list[float], shares: dict[int, float], sign: float
    ) -> None:
        self.network, self.fabric, self.lost, self.shares, self.sign = network, fabric, lost, shares, sign

    def __call__(self, _: None) -> None:
        for link, share in self.shares.items():
            self.lost[link] += self.sign * share
            left = max(0.0, 1.0 - self.lost[link])
            if abs(self.lost[link]) < 1e-12:  # as it was built, to the last bit
                self.lost[link], left = 0.0, 1.0
            self.fabric.set_capacity(self.network.links[link], self.network.capacity[link] * left)


def _stopped(network: Network, replicas: Sequence[Replica], fault: Fault, key: str) -> list[Replica]:
    """The replicas that run on what fails."""
    if fault.replica is not None:
        if fault.replica >= len(replicas):
            what = f"there is no replica {fault.replica} among {len(replicas)}, which are counted from 0"
            raise InputError(Problem(what, key=f"{key}.replica"))
        return [replicas[fault.replica]]
    if fault.gpu:
        if fault.gpu not in network.gpus:
            raise InputError(_unknown("gpu", fault.gpu, network.gpus, key))
        return [replica for replica in replicas if fault.gpu in replica.gpus]
    nodes = {gpu: f"node{number}" for gpu, number in network.node_of.items()}
    if fault.node not in nodes.values():
        raise InputError(_unknown("node", fault.node, list(dict.fromkeys(nodes.values())), key))
    return [replica for replica in replicas if any(nodes[gpu] == fault.node for gpu in replica.gpus)]


def _shares(network: Network, fault: Fault, key: str) -> dict[int, float]:
    """The share of its capacity that each link loses."""
    loss = 1.0 - (fault.capacity or 0.0)
    if fault.link:
        if fault.link not in network.link_id:
            raise InputError(_unknown("link", fault.link, network.links, key))
        return {network.link_id[fault.link]: loss}
    ends = {link: name.split("->") for link, name in enumerate(network.links)}
    for crossbar, chips in network.stripes.items():
        if fault.place in chips:
            return {link: loss * chips[fault.place] for link, names in ends.items() if crossbar in names}
    shares = {link: loss for link, names in ends.items() if fault.place in names}
    if not shares:
        places = {place for names in ends.values() for place in names}
        places.update(chip for chips in network.stripes.values() for chip in chips)
        raise InputError(_unknown("place", fault.place, sorted(places), key))
    return shares


def _unknown(kind: str, name: str, known: Sequence[str], key: str) -> Problem:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return Problem(f"there is no {kind} {name!r}; `sim topology show` lists them{hint}", key=f"{key}.{kind}")
