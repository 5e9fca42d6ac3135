"""Engines that have failed, on their way back: repaired, restarted, on a spare, or smaller for a while.

What an engine does is `sim.inputs.recovery.Recovery.on_loss`. A fault that stops engines comes here when it
begins and when it ends; a link that was down, when there is a way again. `Service.fail` and
`Service.recover` are called when an engine stops and when it serves again.

An engine that shrinks stops nothing but its steps: the one in progress ends, none begins for the pause, and
then the ranks that are left go on with what they have. Prices are those of an engine with as many ranks, and
with as many copies of experts as those ranks keep.

Where it stops: a spare has the paths of what it takes the place of. A rank that leaves is noticed by all
others within the pause, and experts move within it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sim.cost.shard import Shard
from sim.deployment import Deployment, ReplicaPlan
from sim.inputs.faults import Fault
from sim.inputs.recovery import Recovery
from sim.runtime.build import World, costs_of, stage_send_of
from sim.runtime.clock import COMPLETION, FAILURE, at
from sim.runtime.engine.replica import Replica
from sim.runtime.fabric.transfer import Bytes
from sim.runtime.service import Service

Process = tuple[Replica, float]
"""A new process of an engine, and when it was started."""


@dataclass(slots=True)
class _Smaller:
    """An engine without some of its data-parallel ranks: how many faults each of them has."""

    lost: dict[int, int] = field(default_factory=dict)
    gone: frozenset[int] = frozenset()  # those that have left by now
    changes: int = 0  # pauses that have begun: the last one decides


class Recoveries:
    """What becomes of the engines of a run that fail."""

    def __init__(self, world: World, service: Service, deployment: Deployment, recovery: Recovery) -> None:
        self.env, self.network, self.service = world.env, world.network, service
        self.recovery = recovery
        self._world = world
        self._whole = {plan.index: plan for plan in deployment.replicas}
        self.plans = dict(self._whole)  # as they are now
        self.network_now = world.network  # with the paths that traffic takes now
        self._free = recovery.spares
        self._on_spares: dict[int, int] = {}  # GPUs that stand in, by the fault's number
        self._waiting: list[int] = []  # faults that have no spares yet, first come first served
        self._faults: dict[int, tuple[Fault, list[Replica]]] = {}
        self._smaller: dict[int, _Smaller] = {}
        self._starting: dict[int, Process] = {}  # by replica: until it serves, or fails again
        self._down: dict[tuple[int, int], int] = {}  # faults of each tray
        self._cordoned: dict[str, list[Replica]] = {}

    # ---- faults begin and end

    def begins(self, what: tuple[int, Fault, list[Replica]]) -> None:
        """A fault stops engines; it has this number in the scenario."""
        number, fault, stopped = what
        fails = [replica for replica in stopped if not self._shrinks(replica, fault)]
        self._faults[number] = fault, fails
        for replica in fails:
            self.fail(replica)
        if self.recovery.on_loss == "spare" and fault.replica is None:
            at(self.env, self.env.now + self.recovery.detection_s, self._wants_spares, FAILURE, number)
        elif self.recovery.on_loss != "repair" and fault.replica is not None and fault.until_s is None:
            noticed_s = self.env.now + self.recovery.detection_s
            at(self.env, noticed_s, self._restart_all, COMPLETION, number)
        self._count_trays(fault, 1)

    def ends(self, what: tuple[int, Fault, list[Replica]]) -> None:
        """What failed is repaired."""
        number, fault, stopped = what
        _, fails = self._faults[number]
        for replica in stopped:
            if replica not in fails:
                self._regain(replica, fault)
        if number in self._on_spares:
            self._free += self._on_spares.pop(number)
            self._hand_out()
        else:
            if number in self._waiting:
                self._waiting.remove(number)
            noticed_s = fault.at_s + self.recovery.detection_s
            if noticed_s > self.env.now and self.recovery.on_loss != "repair":
                at(self.env, noticed_s, self._restart_all, COMPLETION, number)
            else:
                self._restart_all(number)
        self._count_trays(fault, -1)

    def _restart_all(self, number: int) -> None:
        for replica in self._faults[number][1]:
            self.back(replica)

    def back(self, replica: Replica) -> None:
        """One failure of an engine is over: it may serve again at once, or when a new process is ready. The
        process starts when nothing else of the engine is broken.
        """
        if self.recovery.on_loss == "repair" or self.service.failures(replica) > 1:
            self._recover(replica)
            return
        process = self._starting[replica.index] = replica, self.env.now
        at(self.env, self.env.now + self.recovery.process_start_s, self._loads, COMPLETION, process)

    def _loads(self, process: Process) -> None:
        """The new process reads its weights, then captures its graphs."""
        replica, _ = process
        if self._starting.get(replica.index) != process:
            return
        plan = self._whole[replica.index]
        by_server: dict[int, float] = {}
        by_gpu: dict[str, float] = {}
        for shard in plan.shards if plan.memory is not None else ():
            for gpu in shard.ranks:
                server = self.network.node_of[gpu]
                by_gpu[gpu] = plan.memory.weight_bytes if plan.memory is not None else 0.0
                by_server[server] = by_server.get(server, 0.0) + by_gpu[gpu]
        load_s = max(by_server.values(), default=0.0) / self.recovery.weights_bytes_per_s
        place = self.recovery.weights_from
        if not place or not by_gpu:
            at(self.env, self.env.now + load_s, self._captures, COMPLETION, process)
            return
        on_links: dict[int, float] = {}
        for gpu, n_bytes in by_gpu.items():
            for link, amount in self.network.path(place, gpu).bytes_on_links(n_bytes):
                on_links[link] = on_links.get(link, 0.0) + amount
        demand = Bytes(tuple(on_links), tuple(on_links.values()), min_flow_s=load_s)
        self._world.fabric.start(demand, on_done=lambda _: self._captures(process))

    def _captures(self, process: Process) -> None:
        at(self.env, self.env.now + self.recovery.graph_capture_s, self._is_ready, COMPLETION, process)

    def _is_ready(self, process: Process) -> None:
        replica, _ = process
        if self._starting.get(replica.index) == process:
            del self._starting[replica.index]
            self._recover(replica)

    def fail(self, replica: Replica) -> None:
        """An engine stops, as large as it is; what comes back is whole. A process that starts ends, too."""
        self.service.fail(replica)
        if self._starting.pop(replica.index, None) is not None:
            self.service.recover(replica)
        smaller = self._smaller.get(replica.index)
        if smaller is not None:
            smaller.changes += 1
            self._resize(replica, frozenset())
            replica.go_on()

    def _recover(self, replica: Replica) -> None:
        """An engine serves again, but for ranks that are still broken."""
        self.service.recover(replica)
        smaller = self._smaller.get(replica.index)
        if smaller is not None and smaller.lost:
            self._pause(replica, 0.0)

    # ---- spares

    def _gpus_of(self, fault: Fault) -> int:
        if fault.gpu:
            return 1
        return sum(f"node{node}" == fault.node for node in self.network.node_of.values())

    def _wants_spares(self, number: int) -> None:
        fault, _ = self._faults[number]
        if self._gpus_of(fault) > self.recovery.spares:
            return  # there will never be enough, and others need fewer
        if fault.until_s is None or fault.until_s > self.env.now:
            self._waiting.append(number)
            self._hand_out()

    def _hand_out(self) -> None:
        """Spares stand in for what failed first, as far as there are enough."""
        while self._waiting:
            needed = self._gpus_of(self._faults[self._waiting[0]][0])
            if needed > self._free:
                return
            number = self._waiting.pop(0)
            self._free -= needed
            self._on_spares[number] = needed
            self._restart_all(number)

    # ---- racks

    def _count_trays(self, fault: Fault, sign: int) -> None:
        """A tray of an NVLink domain is down, or up; of too many all engines of the domain stop."""
        limit, places = self.recovery.cordon_trays, self.network.places
        gpu = fault.gpu or next(
            (gpu for gpu, node in self.network.node_of.items() if fault.node == f"node{node}"), ""
        )
        domain = self.network.domain(gpu) if gpu and limit else None
        if domain is None or limit is None:
            return

        def tray(one: str) -> tuple[int, int]:
            return self.network.node_of[one], places[one].get("tray", 0)

        members = {one for one in self.network.gpus if self.network.domain(one) == domain}
        trays = {tray(one) for one in members}
        for hit in {tray(one) for one in members if one == fault.gpu or fault.node == f"node{tray(one)[0]}"}:
            self._down[hit] = self._down.get(hit, 0) + sign
        down = sum(self._down.get(one, 0) > 0 for one in trays)
        if down >= limit and domain not in self._cordoned:
            here = [one for one in self.service.replicas if members.intersection(one.gpus)]
            self._cordoned[domain] = here
            for replica in here:
                self.fail(replica)
        elif down < limit and domain in self._cordoned:
            for replica in self._cordoned.pop(domain):
                self.back(replica)

    # ---- smaller engines

    def _shrinks(self, replica: Replica, fault: Fault) -> bool:
        """Whether an engine goes on without the ranks that a fault takes; if so, they are about to leave."""
        plan = self._whole[replica.index]
        ranks = self._ranks(plan, fault)
        if self.recovery.on_loss != "shrink" or not ranks or not replica.is_up or replica.role != "both":
            return False
        smaller = self._smaller.setdefault(replica.index, _Smaller())
        left = set(range(plan.pool.engine.data_parallel_size)) - set(smaller.lost) - ranks
        if not left or _shrunk(plan.shards[0], sorted(left)) is None:
            return False
        for rank in ranks:
            smaller.lost[rank] = smaller.lost.get(rank, 0) + 1
        self._pause(replica, self.recovery.shrink_pause_s)
        return True

    def _regain(self, replica: Replica, fault: Fault) -> None:
        """Ranks are repaired: with a pause they join again."""
        smaller = self._smaller[replica.index]
        for rank in self._ranks(self._whole[replica.index], fault):
            smaller.lost[rank] -= 1
            if not smaller.lost[rank]:
                del smaller.lost[rank]
        self._pause(replica, self.recovery.rejoin_pause_s)

    def _ranks(self, plan: ReplicaPlan, fault: Fault) -> set[int]:
        """The data-parallel ranks of an expert-parallel engine that a fault takes."""
        engine = plan.pool.engine
        apart = engine.pipeline_parallel_size > 1 or engine.kv_tiers is not None or fault.replica is not None
        if not plan.shards or apart or not (plan.pool.model.is_moe and engine.enable_expert_parallel):
            return set()
        failed = {
            gpu
            for gpu, node in self.network.node_of.items()
            if fault.gpu == gpu or fault.node == f"node{node}"
        }
        groups = plan.shards[0].groups
        return (
            {rank for rank, group in enumerate(groups) if failed.intersection(group)}
            if len(groups) > 1
            else set()
        )

    def _pause(self, replica: Replica, pause_s: float) -> None:
        smaller = self._smaller[replica.index]
        smaller.changes += 1
        replica.stand_still()
        at(self.env, self.env.now + pause_s, self._pause_over, FAILURE, (replica, smaller.changes))

    def _pause_over(self, what: tuple[Replica, int]) -> None:
        replica, change = what
        smaller = self._smaller[replica.index]
        if change != smaller.changes:
            return
        if replica.is_up and not replica.is_idle:  # a step that takes longer than the pause
            at(self.env, self.env.now + 1e-3, self._pause_over, FAILURE, what)
            return
        if replica.is_up:
            self._resize(replica, frozenset(smaller.lost))
        replica.go_on()

    def _resize(self, replica: Replica, lost: frozenset[int]) -> None:
        """An engine goes on without these data-parallel ranks, at the prices of those that are left."""
        smaller, plan = self._smaller[replica.index], self._whole[replica.index]
        self.service.lost_on_the_way(replica.lose_ranks(lost - smaller.gone))
        replica.regain_ranks(smaller.gone - lost)
        smaller.gone = lost
        left = [rank for rank in range(plan.pool.engine.data_parallel_size) if rank not in lost]
        shard = _shrunk(plan.shards[0], left)
        assert shard is not None, "asked before ranks leave"
        self.plans[replica.index] = of_left = replace(plan, shards=(shard,))
        world = replace(self._world, network=self.network_now)
        replica.reprice(costs_of(of_left, world), stage_send_of(of_left, world), ())


def _shrunk(shard: Shard, left: list[int]) -> Shard | None:
    """The shard on the ranks that are left, with the copies of experts that they keep; None where some expert
    would have none.
    """
    engine, routing = shard.engine, shard.engine.expert_routing
    each = -(-shard.experts_with_copies // len(shard.ranks))
    groups = tuple(shard.groups[rank] for rank in left)
    copies = each * sum(len(group) for group in groups) - shard.model.experts
    if copies < 0:
        return None
    if len(groups) == len(shard.groups):
        return shard
    routing = routing.model_copy(update={"redundant_experts": min(copies, routing.redundant_experts)})
    changes = {"data_parallel_size": len(groups), "expert_routing": routing}
    return replace(shard, groups=groups, engine=engine.model_copy(update=changes))
