"""From a deployment to replicas on a clock: the assembly of engines, and the way from prefill to decode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import simpy

from sim.cost import kv_transfer, stage_sends
from sim.cost.collectives.demands import Demand
from sim.cost.given import GivenCost
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.cost.step_cost import StepCost
from sim.deployment import Deployment, ReplicaPlan
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.policy.scheduling import ContinuousBatching, PrefillFirst, StaticBatching
from sim.results.records import Records
from sim.runtime.engine.attribution import StepLedger
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.engine_core import EngineCore, EngineSettings, Rule
from sim.runtime.engine.queue import QueueLimits, RequestQueue
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.stage import Stage
from sim.runtime.engine.step_records import StepRecorder
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.build_tiers import SharedTiers, attach, queue_maker
from sim.runtime.kv.transfer import KvTransfers
from sim.scenario.scenario import Scenario

TOKENS_PRICED = 4096  # a hand-over is priced once at this length, long enough for large messages, and scaled


def scheduling_rule(engine: Engine) -> Rule:
    """The rule that an engine's settings name."""
    rules: dict[str, Callable[[], Rule]] = {
        "vllm": lambda: ContinuousBatching(
            chunked_prefill=engine.enable_chunked_prefill,
            long_prefill_token_threshold=engine.long_prefill_token_threshold,
            by_priority=engine.scheduling_policy == "priority",
            even_shares=engine.pipeline_parallel_size if engine.pipeline_split == "even" else 1,
        ),
        "continuous": PrefillFirst,
        "static": StaticBatching,
        "one_at_a_time": PrefillFirst,
    }
    return rules[engine.scheduler]()


@dataclass(frozen=True)
class World:
    """What all replicas of a run share: the clock, the fabric, the rows, and how steps are run."""

    scenario: Scenario
    env: simpy.Environment
    network: Network
    fabric: Fabric
    records: Records
    fold: bool
    seed: int
    tiers: SharedTiers = field(default_factory=dict)

    @property
    def without(self) -> frozenset[str]:
        return frozenset(self.scenario.without)


def replicas_of(deployment: Deployment, world: World) -> tuple[list[Replica], dict[str, list[Replica]]]:
    """All replicas in the order of their pools, and by the name of the model they serve."""
    replicas: list[Replica] = []
    by_model: dict[str, list[Replica]] = {}
    for plan in deployment.replicas:
        replica = _replica(plan, world)
        replicas.append(replica)
        if plan.pool.role != "decode":
            by_model.setdefault(plan.pool.model.name, []).append(replica)
    return replicas, by_model


def _replica(plan: ReplicaPlan, world: World) -> Replica:
    pool, engine, network = plan.pool, plan.pool.engine, world.network
    costs = _costs(plan, world)

    def stage_send(stage: int, n_tokens: int) -> Demand:
        source, target = plan.shards[stage], plan.shards[stage + 1]
        return stage_sends.activations(network, source, target, n_tokens, world.without)

    core = EngineCore(
        world.env,
        world.fabric,
        [Stage(world.env, world.fabric, cost, fold=world.fold) for cost in costs],
        _queues(plan, world, costs),
        stage_send,
        StepRecorder(plan.index, world.records.steps, world.records.gaps, in_flight=len(costs)),
        EngineSettings(
            engine=engine,
            rule=scheduling_rule(engine),
            role=pool.role,
            first_token_from_prefill=world.scenario.hand_over.first_token == "prefill",
            seed=world.seed,
        ),
    )
    hops = hops_between(network, gateway_of(network), plan.gpus[0]) if plan.gpus else 0
    replica = Replica(core, plan, hops=hops)
    attach(replica)
    return replica


def _costs(plan: ReplicaPlan, world: World) -> list[StepCost]:
    """What steps cost, for each pipeline stage."""
    given = plan.pool.engine.service_time
    if given is not None:
        return [GivenCost(given.step_s, given.sequence_s, given.token_s)]
    kernels = world.scenario.kernels
    return [StageCost(shard, world.network, world.without, kernels) for shard in plan.shards]


def _queues(plan: ReplicaPlan, world: World, costs: list[StepCost]) -> list[RequestQueue]:
    """A queue with its KV blocks for each data-parallel rank."""
    ledger = StepLedger() if len(costs) == 1 else None
    pool, engine, limits = plan.pool, plan.pool.engine, plan.limits
    queue_of: Callable[..., RequestQueue] = RequestQueue
    if engine.kv_tiers is not None:
        queue_of = queue_maker(
            world.network,
            world.fabric,
            list(plan.shards),
            costs,
            world.tiers,
            world.scenario.kv_reload,
            limits.max_num_batched_tokens,
        )
    no_evict = engine.capacity_scheduler_policy == "guaranteed_no_evict"
    bounds = QueueLimits(
        token_budget=limits.max_num_batched_tokens,
        max_num_seqs=limits.max_num_seqs,
        by_priority=engine.scheduling_policy == "priority",
        draft_tokens=engine.speculation.num_speculative_tokens if engine.speculation else 0,
        reserve_full_prompt=engine.scheduler_reserve_full_isl,
        guaranteed_no_evict=no_evict and pool.role != "prefill",
        async_scheduling=engine.schedules_async and engine.scheduler == "vllm" and pool.role == "both",
    )

    def block_pool() -> BlockPool:
        return BlockPool(
            limits.kv_blocks,
            engine.block_size,
            enable_prefix_caching=engine.enable_prefix_caching,
            watermark=engine.watermark,
        )

    return [queue_of(world.env, block_pool(), bounds, ledger) for _ in range(engine.data_parallel_size)]


def gateway_of(network: Network) -> str:
    """Where requests come in: the first host, or the first GPU of a topology without hosts."""
    hosts = (name for name, place in network.places.items() if place.get("kind") == "host")
    return next(hosts, network.gpus[0])


def hops_between(network: Network, source: str, target: str) -> int:
    """Links on the way; 0 where there is none, as to a GPU that no host reaches."""
    try:
        return len(network.path(source, target).links)
    except InfeasibleError:
        return 0


def kv_transfer_of(
    scenario: Scenario,
    network: Network,
    fabric: Fabric,
    replicas: list[Replica],
    random: np.random.Generator,
    records: Records,
) -> KvTransfers | None:
    """The way from prefill to decode replicas; None in a service that does not set them apart."""
    senders = [replica for replica in replicas if replica.role == "prefill"]
    receivers: dict[str, list[Replica]] = {}
    for replica in replicas:
        if replica.role == "decode":
            receivers.setdefault(replica.model, []).append(replica)
    for replica in senders:
        if replica.model not in receivers:
            raise InfeasibleError(
                f"{replica.model} is prefilled and no pool decodes it", "add a pool with role: decode"
            )
    if not senders:
        if receivers:
            raise InfeasibleError("a pool decodes and none prefills", "add a pool with role: prefill")
        return None
    without = frozenset(scenario.without)
    per_token: dict[tuple[int, int, tuple[int, int]], Demand] = {}

    def demands(sender: Replica, receiver: Replica, groups: tuple[int, int], tokens: float) -> Demand:
        key = sender.index, receiver.index, groups
        one = per_token.get(key)
        if one is None:
            whole = kv_transfer.kv_cache(
                network, sender.shards, receiver.shards, TOKENS_PRICED, groups, without=without
            )
            per = tuple(amount / TOKENS_PRICED for amount in whole.n_bytes)
            one = per_token[key] = Demand(whole.links, per, whole.latency_s, whole.min_flow_s / TOKENS_PRICED)
        n_bytes = tuple(amount * tokens for amount in one.n_bytes)
        return Demand(one.links, n_bytes, one.latency_s, one.min_flow_s * tokens)

    pending = KvTransfers(
        fabric,
        receivers,
        scenario.hand_over.router,
        random,
        demands,
        records.hand_overs,
        hops=lambda sender, receiver: hops_between(network, sender.gpus[0], receiver.gpus[0]),
        layerwise=scenario.hand_over.kv == "layerwise",
    )
    pending.attach(senders)
    return pending
