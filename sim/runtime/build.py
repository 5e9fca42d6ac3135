"""From a deployment to replicas on a clock: the assembly of engines, and of KV transfers between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import simpy

from sim.cost import stage_sends
from sim.cost.capped_cost import CappedCost
from sim.cost.collectives.demands import Demand
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.cost.stage_cost import StageCost
from sim.cost.step_cost import GivenCost, StepCost
from sim.deployment import Deployment, ReplicaPlan, hops_between
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.inputs.outages import Slowed
from sim.policy.scheduling import ContinuousBatching, PrefillFirst, StaticBatching
from sim.results.records import Records
from sim.runtime.engine.attribution import StepLedger
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.checked_rule import CheckedRule
from sim.runtime.engine.engine_core import EngineCore, EngineSettings, Rule
from sim.runtime.engine.pace import Pace
from sim.runtime.engine.queue import QueueLimits, RequestQueue
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.stage import Stage
from sim.runtime.engine.step_records import StepRecorder
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.build_tiers import SharedTiers, attach, queue_maker
from sim.runtime.kv.transfer import KvTransfers
from sim.runtime.kv.transfer_demands import TransferDemands
from sim.runtime.recording import RecordedCore, RecordedKvTransfers, RecordedReplica, RecordedStage
from sim.scenario.scenario import Scenario
from sim.workload.random_streams import random_stream


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
    if callable(engine.scheduler):
        return CheckedRule(engine.scheduler)
    return rules[engine.scheduler]()


@dataclass(frozen=True)
class World:
    """What all replicas of a run share: the clock, the fabric, the rows, and how steps are run; and whether
    they note what they do for a recording.
    """

    scenario: Scenario
    env: simpy.Environment
    network: Network
    fabric: Fabric
    records: Records
    fold: bool
    seed: int
    tiers: SharedTiers = field(default_factory=dict)
    stage_costs: list[StageCost] = field(default_factory=list)  # one of each shape
    is_recorded: bool = False
    slowed: Mapping[str, tuple[Slowed, ...]] = field(default_factory=dict)

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
    pool, engine = plan.pool, plan.pool.engine
    costs = costs_of(plan, world)
    stage_of, core_of, replica_of = (
        (RecordedStage, RecordedCore, RecordedReplica) if world.is_recorded else (Stage, EngineCore, Replica)
    )
    core = core_of(
        world.env,
        world.fabric,
        [
            stage_of(world.env, world.fabric, cost, fold=world.fold, pace=_pace(plan, stage, world))
            for stage, cost in enumerate(costs)
        ],
        _queues(plan, world, costs),
        stage_send_of(plan, world),
        StepRecorder(plan.index, world.records.steps, world.records.gaps, in_flight=len(costs)),
        EngineSettings(
            engine=engine,
            rule=scheduling_rule(engine),
            role=pool.role,
            first_token_from_prefill=world.scenario.hand_over.first_token == "prefill",
            seed=world.seed,
        ),
    )
    replica = replica_of(core, plan)
    attach(replica)
    return replica


def costs_of(plan: ReplicaPlan, world: World) -> list[StepCost]:
    """What steps cost, for each pipeline stage."""
    given = plan.pool.engine.service_time
    if given is not None:
        return [GivenCost(given.step_s, given.sequence_s, given.token_s)]
    costs = [_stage_cost(shard, world) for shard in plan.shards]
    return [
        cost if shard.power_cap_w is None else CappedCost(cost, shard)
        for cost, shard in zip(costs, plan.shards, strict=True)
    ]


def _stage_cost(shard: Shard, world: World) -> StageCost:
    like = next((cost for cost in world.stage_costs if cost.has_shape_of(shard)), None)
    cost = StageCost(shard, world.network, world.without, world.scenario.kernels, like)
    if like is None:
        world.stage_costs.append(cost)
    return cost


def stage_send_of(plan: ReplicaPlan, world: World) -> Callable[[int, int], Demand]:
    """The transfer of so many tokens from a stage to the next."""

    def stage_send(stage: int, n_tokens: int) -> Demand:
        source, target = plan.shards[stage], plan.shards[stage + 1]
        return stage_sends.activations(world.network, source, target, n_tokens, world.without)

    return stage_send


def _pace(plan: ReplicaPlan, stage: int, world: World) -> Pace | None:
    """The pace of a stage's ranks; None where all are alike in every step."""
    engine = plan.pool.engine
    slowed = [world.slowed.get(gpu, ()) for gpu in plan.gpus] if plan.shards else []
    if engine.jitter is None and not engine.stragglers and not any(slowed):
        return None
    slow = {straggler.rank: straggler.factor for straggler in engine.stragglers}
    ranks = list(range(engine.world_size))
    if plan.shards:
        here = set(plan.shards[stage].ranks)
        ranks = [rank for rank, gpu in enumerate(plan.gpus) if gpu in here]
    stream = random_stream(world.seed, f"jitter of replica {plan.index}, stage {stage}")
    at_times = [
        [(one.at_s, one.until_s, one.factor) for one in slowed[rank]] for rank in (ranks if slowed else ())
    ]
    factors = [slow.get(rank, 1.0) for rank in ranks]
    return Pace(factors, engine.jitter, stream, at_times if any(at_times) else ())


def _queues(plan: ReplicaPlan, world: World, costs: list[StepCost]) -> list[RequestQueue]:
    """A queue with its KV blocks for each data-parallel rank."""
    ledger = StepLedger() if len(costs) == 1 else None
    pool, engine, limits = plan.pool, plan.pool.engine, plan.limits
    queue_of: Callable[..., RequestQueue] = RequestQueue
    if engine.kv_tiers is not None:
        queue_of = queue_maker(
            plan, costs, world.network, world.fabric, shared=world.tiers, reload=world.scenario.kv_reload
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

    def block_pool(rank: int) -> BlockPool:
        groups = None if plan.memory is None or plan.memory.groups.is_plain else plan.memory.groups
        pool = BlockPool(
            limits.kv_blocks,
            engine.block_size,
            enable_prefix_caching=engine.enable_prefix_caching,
            watermark=engine.watermark,
            groups=groups,
        )
        rows = world.records.kv_blocks
        rows.open(plan.index, rank, limits.kv_blocks, engine.block_size, groups.groups if groups else 1)
        pool.on_changed = lambda before, now: rows.add(plan.index, rank, world.env.now, before, now)
        return pool

    ranks = range(engine.data_parallel_size)
    return [queue_of(world.env, block_pool(rank), bounds, ledger) for rank in ranks]


def kv_transfers_of(
    replicas: Sequence[Replica], world: World, random: np.random.Generator
) -> KvTransfers | None:
    """The way from prefill to decode replicas; None in a service that does not set them apart."""
    senders, receivers = _senders_and_receivers(replicas)
    if not senders:
        return None
    network, hand_over = world.network, world.scenario.hand_over
    kv_transfers = (RecordedKvTransfers if world.is_recorded else KvTransfers)(
        world.fabric,
        receivers,
        hand_over.router,
        random,
        TransferDemands(network, world.without),
        world.records.hand_overs,
        hops=lambda sender, receiver: hops_between(network, sender.gpus[0], receiver.gpus[0]),
        layerwise=hand_over.kv == "layerwise",
    )
    kv_transfers.attach(senders)
    return kv_transfers


def _senders_and_receivers(replicas: Sequence[Replica]) -> tuple[list[Replica], dict[str, list[Replica]]]:
    """Prefill replicas, and decode replicas by model. InfeasibleError where one side is missing."""
    senders = [replica for replica in replicas if replica.role == "prefill"]
    receivers: dict[str, list[Replica]] = {}
    for replica in replicas:
        if replica.role == "decode":
            receivers.setdefault(replica.model, []).append(replica)
    for replica in replicas if senders or receivers else ():
        if replica.role != "both" and not replica.gpus:
            raise InfeasibleError(
                f"pools: the engine of the {replica.role} pool has a service_time and so no GPUs, between "
                "which a KV cache could go",
                "leave out service_time, or give the pool role: both",
            )
    for replica in senders:
        if replica.model not in receivers:
            raise InfeasibleError(
                f"pools: {replica.model} has prefill replicas and none with role decode",
                "add a pool with role: decode",
            )
    if receivers and not senders:
        raise InfeasibleError(
            "pools: there are decode replicas and none with role prefill", "add a pool with role: prefill"
        )
    return senders, receivers
