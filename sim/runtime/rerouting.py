"""Traffic around links that are down: transfers stall, time out, and go another way or fail.

What decides when, and whether, is `sim.inputs.recovery.Recovery`; where the other way leads, the paths of
the network without what is down (`Network.without`). From the end of the timeout on, steps, sends between
stages and KV caches are priced on that network. What is under way over a dead link sends the rest of its
bytes the new way (`Fabric.divert`); what went is not sent again. When the link is repaired, what begins from
then on takes the old way. An engine that has no other way fails, and starts again when it has one.

Within a server there is no other way: a step that stands still on NVLink or PCIe is given up by its engine.

Where it stops: copies between KV tiers and transfers of a script wait until the link is back. Every engine
learns of a dead link at the same instant, one timeout after the fault, whether it had bytes there or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sim.cost.batch import Batch
from sim.cost.collectives.demands import Demand
from sim.cost.network import Network
from sim.cost.step_cost import StepCost
from sim.deployment import Deployment, ReplicaPlan
from sim.inputs.errors import InfeasibleError
from sim.runtime.build import World, costs_of, stage_send_of
from sim.runtime.clock import FAILURE, at
from sim.runtime.engine.replica import Replica
from sim.runtime.kv.transfer_demands import TransferDemands
from sim.runtime.recoveries import Recoveries
from sim.runtime.service import Service

OUTSIDE = ("nic", "switch")
"""Kinds of places whose links join servers."""
Groups = tuple[tuple[str, ...], ...]
SMALLEST = (Batch(((1, 0),), sampled=1), Batch((), 1, 1, 1))
"""Steps that go over every link that a larger one goes over: a prompt, and a decode."""


@dataclass(frozen=True)
class Ways:
    """What an engine's traffic costs: its stages' steps, and the sends between them."""

    costs: list[StepCost]
    stage_send: Callable[[int, int], Demand]
    links: frozenset[int]  # that it goes over


class Rerouting:
    """The links of a run that are down, and the ways that traffic takes around them."""

    def __init__(
        self, world: World, service: Service, deployment: Deployment, recoveries: Recoveries
    ) -> None:
        self.env, self.network, self.fabric = world.env, world.network, world.fabric
        self.service, self.recoveries, self.recovery = service, recoveries, recoveries.recovery
        self.crossed: set[int] = set()  # links that were down and that an engine's traffic went over
        self._world = world
        self._built = {
            plan.index: (plan, [stage.cost for stage in service.replicas[plan.index].stages])
            for plan in deployment.replicas
            if plan.shards
        }
        self._down: dict[int, float] = {}  # since when
        self._around: frozenset[int] = frozenset()  # that traffic goes round
        self._given_up: frozenset[int] = frozenset()  # within servers, over which steps stood still too long
        self._known: dict[tuple[int, tuple[Groups, ...], frozenset[int]], Ways | None] = {}
        self._networks: dict[frozenset[int], Network] = {frozenset(): world.network}
        self._without_way: set[int] = set()  # engines that are down for it

    def begin(self, down: Iterable[int]) -> None:
        """Links are down from the start and for good: an engine that starts takes another way at once."""
        links = frozenset(down)
        self._down = dict.fromkeys(links, 0.0)
        if self.recovery.reroute:
            self._around = frozenset(link for link in links if self._joins_servers(link))
        stands_still = links - self._around
        if self._around:
            at(self.env, 0.0, lambda _: self._settle(), FAILURE)
        self._await(stands_still)

    def changed(self, links: Iterable[int]) -> None:
        """The capacity of links has changed: they may be down, or up again."""
        now, fallen, is_back = self.env.now, set(), False
        for link in links:
            if self.fabric.capacity_from_now_on(link) > 0.0:
                is_back = self._down.pop(link, None) is not None or is_back
            elif link not in self._down:
                self._down[link] = now
                fallen.add(link)
        if is_back:
            down = frozenset(self._down)
            if not (self._around <= down and self._given_up <= down):
                self._around, self._given_up = self._around & down, self._given_up & down
                self._settle()
        self._await(fallen)

    def _await(self, links: Iterable[int]) -> None:
        """Look again when transfers over these links have stood still for too long."""
        by_wait: dict[float, set[int]] = {}
        for link in links:
            wait_s = self.recovery.executor_timeout_s
            if self._joins_servers(link):
                wait_s = self.recovery.stalls_s(self.network.inter_node)
            by_wait.setdefault(wait_s, set()).add(link)
        for wait_s, of_wait in by_wait.items():
            at(self.env, self.env.now + wait_s, self._timed_out, FAILURE, (self.env.now, of_wait))

    def _timed_out(self, what: tuple[float, set[int]]) -> None:
        since_s, links = what
        still = frozenset(link for link in links if self._down.get(link) == since_s)
        if not still:
            return
        around = frozenset(link for link in still if self.recovery.reroute and self._joins_servers(link))
        self._around |= around
        self._given_up |= still - around
        self._settle()

    def _settle(self) -> None:
        """Every engine takes the way that there is; one without any fails, or starts again."""
        dead = self._around | self._given_up
        self.recoveries.network_now = self._network()
        for index in self._built:
            plan, replica = self.recoveries.plans[index], self.service.replicas[index]
            before = self._ways(plan, frozenset())
            if before is not None:
                self.crossed |= before.links & dead
            ways = self._ways(plan, self._around)
            if ways is None or ways.links & self._given_up or not self._hands_over(replica):
                if plan.index not in self._without_way:
                    self._without_way.add(plan.index)
                    self.recoveries.fail(replica)
                own = before.links & dead if before else None
                named = [self.network.links[link] for link in sorted(own or dead)]
                more = len(named) - 1
                are = (
                    f" and {more} more link{'s' if more > 1 else ''}, which are down"
                    if more
                    else ", which is down"
                )
                self.service.why_down[index] = (
                    f": its traffic has no way around {named[0]}{are}" if named else ""
                )
                continue
            replica.reprice(ways.costs, ways.stage_send, dead)
            if plan.index in self._without_way:
                self._without_way.remove(plan.index)
                self.service.why_down.pop(plan.index, None)
                self.recoveries.back(replica)
        if self.service.kv_transfers is not None:
            self.service.lost_on_the_way(self.service.kv_transfers.reprice(self._demands(), dead))

    # ---- ways

    def _joins_servers(self, link: int) -> bool:
        return any(self.network.kind(end) in OUTSIDE for end in self.network.ends[link])

    def _network(self) -> Network:
        network = self._networks.get(self._around)
        if network is None:
            network = self._networks[self._around] = self.network.without(self._around)
        return network

    def _ways(self, plan: ReplicaPlan, around: frozenset[int]) -> Ways | None:
        """The ways of an engine around links that are down; None where there are none."""
        key = plan.index, tuple(shard.groups for shard in plan.shards), around
        if key not in self._known:
            network = self._network() if around else self.network
            world = replace(self._world, network=network)
            built, costs = self._built[plan.index]
            if around or plan is not built:
                costs = costs_of(plan, world)
            send = stage_send_of(plan, world)
            try:
                self._known[key] = Ways(costs, send, _links(plan, costs, send))
            except InfeasibleError:
                self._known[key] = None
        return self._known[key]

    def _demands(self) -> TransferDemands:
        return TransferDemands(self._network(), self._world.without)

    def _hands_over(self, replica: Replica) -> bool:
        """Whether KV caches have a way from a prefill engine to a decode engine, or to a decode engine from
        all prefill engines that have one.
        """
        transfers = self.service.kv_transfers
        if transfers is None or replica.role == "both":
            return True
        demands = self._demands()

        def joined(sender: Replica, receiver: Replica) -> bool:
            try:
                return not set(demands(sender, receiver, (0, 0), 1.0).links) & self._given_up
            except InfeasibleError:
                return False

        receivers = transfers.receivers[replica.model]
        if replica.role == "prefill":
            return any(joined(replica, receiver) for receiver in receivers)
        senders = [
            one for one in self.service.replicas if one.role == "prefill" and one.model == replica.model
        ]
        sending = [one for one in senders if any(joined(one, receiver) for receiver in receivers)]
        return all(joined(sender, replica) for sender in sending)


def _links(plan: ReplicaPlan, costs: list[StepCost], send: Callable[[int, int], Demand]) -> frozenset[int]:
    """The links that an engine's traffic goes over."""
    links: set[int] = set()
    ranks = len(plan.shards[0].groups)
    for cost in costs:
        for smallest in SMALLEST:
            batch = smallest if ranks == 1 else Batch.of_ranks([smallest] * ranks)
            links.update(cost.traffic(batch).links)
    for stage in range(len(costs) - 1):
        links.update(send(stage, 1).links)
    return frozenset(links)
