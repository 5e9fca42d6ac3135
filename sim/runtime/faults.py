"""Faults on the clock: capacities go down and come back, engines stop and start again.

From the instant of a fault on, transfers share what is left of a link, and a folded step that uses the link
is played. Algorithms do not change: a ring goes on through the slow link, as a communicator does that was set
up before the fault. Transfers on a link that is down wait until it is repaired.

A loss that is there from the start and never ends is how the machine is: the network has the smaller capacity
from then on, for the prices of steps and for folding.

An engine stops before anything else of its instant (`FAILURE`): a step or a transfer that would end at that
instant does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import simpy

from sim.cost.network import Network
from sim.inputs.faults import Fault
from sim.runtime.clock import COMPLETION, FAILURE, at
from sim.runtime.engine.replica import Replica
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.recoveries import Recoveries
from sim.runtime.rerouting import Rerouting
from sim.runtime.service import Service


class Losses:
    """The shares of its capacity that each link of a network has lost, now and for good.

    Making it takes from the network what is lost for good: from the start and without an end. A link that is
    down for good has its capacity to prices, for an algorithm that goes through it was chosen before; its
    transfers wait.
    """

    def __init__(self, network: Network, faults: Sequence[Fault]) -> None:
        self.built = tuple(network.capacity)
        self.for_good = [0.0] * len(network.links)
        for fault in faults:
            if is_for_good(fault):
                for link, share in _shares(network, fault).items():
                    self.for_good[link] += share
        self.now = list(self.for_good)
        self.down = [
            link for link, share in enumerate(self.for_good) if share > 0.0 and not self.capacity(link)
        ]
        for link, share in enumerate(self.for_good):
            if share > 0.0 and self.capacity(link):
                network.capacity[link] = self.capacity(link)

    def lose(self, link: int, share: float) -> None:
        """Lose a share of a link, or get one back where it is below 0."""
        # The sum is kept unbounded, so that a repair gives back what its own fault took and no more.
        self.now[link] += share
        if abs(self.now[link] - self.for_good[link]) < 1e-12:  # repaired: as at the start, to the last bit
            self.now[link] = self.for_good[link]

    def capacity(self, link: int) -> float:
        """What is left of a link, in bytes/s."""
        left = 1.0 - self.now[link]
        return self.built[link] * left if left > 1e-12 else 0.0  # shares of all chips add up to nearly 1


def is_for_good(fault: Fault) -> bool:
    """True for a loss of capacity that is there from the start and never ends."""
    return not fault.stops_engines and fault.at_s == 0.0 and fault.until_s is None


def schedule_faults(
    env: simpy.Environment,
    network: Network,
    fabric: Fabric,
    service: Service,
    faults: Sequence[Fault],
    losses: Losses,
    recoveries: Recoveries,
    rerouting: Rerouting | None = None,
) -> None:
    """Put all faults on the clock, but for those that `losses` has taken from the network. What they name
    exists (`sim.scenario.references` has checked it).
    """
    if losses.down:
        at(env, 0.0, _Change(network, fabric, losses, dict.fromkeys(losses.down, 0.0), 1.0), COMPLETION)
        if rerouting is not None:
            rerouting.begin(losses.down)
    for number, fault in enumerate(faults):
        if is_for_good(fault):
            continue
        if fault.stops_engines:
            stopped = number, fault, _stopped(network, service.replicas, fault)
            at(env, fault.at_s, recoveries.begins, FAILURE, stopped)
            if fault.until_s is not None:
                at(env, fault.until_s, recoveries.ends, COMPLETION, stopped)
            continue
        shares = _shares(network, fault)
        at(env, fault.at_s, _Change(network, fabric, losses, shares, 1.0, rerouting), COMPLETION)
        if fault.until_s is not None:
            at(env, fault.until_s, _Change(network, fabric, losses, shares, -1.0, rerouting), COMPLETION)


class _Change:
    """Links lose shares of their capacity, or get them back; faults of one link add up, to a capacity of at
    least 0.
    """

    def __init__(
        self,
        network: Network,
        fabric: Fabric,
        losses: Losses,
        shares: dict[int, float],
        sign: float,
        rerouting: Rerouting | None = None,
    ) -> None:
        self.network, self.fabric, self.losses, self.shares, self.sign = network, fabric, losses, shares, sign
        self.rerouting = rerouting

    def __call__(self, _: None) -> None:
        for link, share in self.shares.items():
            self.losses.lose(link, self.sign * share)
            self.fabric.set_capacity(self.network.links[link], self.losses.capacity(link))
        if self.rerouting is not None:
            self.rerouting.changed(self.shares)


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
    if fault.link in network.bundled:
        return {link: loss * share for link, share in network.bundled[fault.link].items()}
    if fault.link:
        return {network.link_id[fault.link]: loss}
    ends = dict(enumerate(network.ends))
    for crossbar, chips in network.stripes.items():
        if fault.place in chips:
            return {link: loss * chips[fault.place] for link, names in ends.items() if crossbar in names}
    return {link: loss for link, names in ends.items() if fault.place in names}
