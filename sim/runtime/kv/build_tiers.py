"""From a description of KV tiers to the levels below one engine's HBM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from sim.cost.kv_tiers import Ends, ends_of, kv_bytes_by_rank, prefill_seconds, way
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.cost.step_cost import StepCost
from sim.deployment import ReplicaPlan
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.inputs.kv_tiers import KvTier
from sim.policy.reloading import ReloadRule
from sim.runtime.engine.engine_core import EngineListener
from sim.runtime.engine.replica import Replica
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.offloading_queue import TieredQueue
from sim.runtime.kv.tiers import Level, Tier

SharedTiers = dict[tuple[str, str], Tier]
"""Remote tiers of a run, by model and format of its KV cache."""


def queue_maker(
    plan: ReplicaPlan,
    costs: Sequence[StepCost],
    network: Network,
    fabric: Fabric,
    *,
    shared: SharedTiers,
    reload: ReloadRule,
) -> Callable[..., TieredQueue]:
    """Makes the queue of each data-parallel rank of one replica, in order; the tiers belong to all ranks."""
    engine, shards = plan.pool.engine, plan.shards
    described = engine.kv_tiers
    assert described is not None
    tiers = {name: _tier(name, about, shards[0], shared) for name, about in described.present.items()}
    groups = iter(range(engine.data_parallel_size))

    @lru_cache(maxsize=4096)
    def prefill_s(past: int, tokens: int) -> float:
        budget = _chunk(engine, plan.limits.max_num_batched_tokens, tokens)
        return prefill_seconds(costs, past, tokens, budget=budget, ranks=engine.data_parallel_size)

    def make(*queue: Any) -> TieredQueue:
        levels = _levels(network, fabric, shards, next(groups), tiers)
        through = described.write == "through"
        return TieredQueue(*queue, levels=levels, writes_through=through, reload=reload, prefill_s=prefill_s)

    return make


def attach(replica: Replica) -> None:
    """Connect an engine with its tiered queues: they get its steps, it gets their loaded sequences."""
    queues = [queue for queue in replica.queues if isinstance(queue, TieredQueue)]
    if not queues:
        return
    for queue in queues:
        queue.on_loaded = replica.enqueue
        queue.on_room = replica.look_again
        queue.on_copied = replica.copies_freed_blocks

    def steps_passed(step: int) -> None:
        for queue in queues:
            queue.steps_passed(step)

    replica.listen(EngineListener(steps_passed=steps_passed))


def _tier(name: str, about: KvTier, shard: Shard, shared: SharedTiers) -> Tier:
    """A replica's own tier, or the remote one of all replicas with this model and KV format: other KV would
    be of no use to them.
    """
    if name != "remote":
        return Tier(name, about.capacity_bytes)
    key = shard.model.name, shard.precision.kv_cache
    tier = shared.setdefault(key, Tier(name, about.capacity_bytes))
    if tier.capacity_bytes != about.capacity_bytes:
        raise InfeasibleError(
            f"kv_tiers.remote.capacity_bytes = {about.capacity_bytes:g}: must be {tier.capacity_bytes:g}, as "
            f"in the other pools of {shard.model.name}, which share the store",
            "write the same capacity in all of them",
        )
    return tier


def _chunk(engine: Engine, token_budget: int, tokens: int) -> int:
    """Tokens of a prompt that one step computes, at most."""
    if engine.scheduler != "vllm" or not engine.enable_chunked_prefill:
        return tokens
    return min(token_budget, engine.long_prefill_token_threshold or token_budget)


def _levels(
    network: Network, fabric: Fabric, shards: Sequence[Shard], group: int, tiers: dict[str, Tier]
) -> list[Level]:
    """One data-parallel rank's view of the tiers, from the nearest to HBM down."""
    described = shards[0].engine.kv_tiers
    assert described is not None
    read: dict[str, float] = {}
    written: dict[str, float] = {}
    for shard in shards:
        reads, writes = kv_bytes_by_rank(shard, shard.groups[group])
        read.update(reads)
        written.update(writes)
    per_token = sum(written.values())  # what is written, as each head is written once and may be read often
    levels: list[Level] = []
    above: Ends | None = None
    above_rate: float | None = None
    for name, about in described.present.items():
        ends = ends_of(network, name, about, tuple(read))
        way_of = partial(way, network, latency_s=about.latency_s, kv_bytes_per_token=per_token)
        # A copy down from another tier is no faster than that tier is read.
        rates = [rate for rate in (about.write_bytes_per_s, above_rate) if rate is not None]
        level = Level(
            fabric,
            tiers[name],
            reading=way_of(read, ends, None, bytes_per_s=about.read_bytes_per_s),
            writing=way_of(written, above, ends, bytes_per_s=min(rates, default=None)),
            bytes_per_token=per_token,
            staging_bytes=about.staging_bytes,
            is_shared=name == "remote",
        )
        if levels:
            levels[-1].below = level
        levels.append(level)
        above, above_rate = ends, about.read_bytes_per_s
    return levels
