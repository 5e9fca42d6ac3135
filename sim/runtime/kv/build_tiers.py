"""From a description of KV tiers to the levels below one engine's HBM, and the rows that a run leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from sim.cost.kv_tiers import Ends, Way, ends_of, kv_bytes_by_rank, prefill_seconds, way
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.cost.step_cost import StepCost
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.inputs.kv_tiers import KvTier
from sim.policy.reloading import ReloadRule
from sim.results.columns import Table
from sim.runtime.engine.engine_core import EngineListener
from sim.runtime.engine.replica import Replica
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.offloading_queue import TieredQueue
from sim.runtime.kv.tiers import Level, Tier

SharedTiers = dict[tuple[str, str], Tier]
"""Remote tiers of a run, by model and format of its KV cache."""


def queue_maker(
    network: Network,
    fabric: Fabric,
    shards: list[Shard],
    costs: Sequence[StepCost],
    shared: SharedTiers,
    reload: ReloadRule,
    token_budget: int,
) -> Callable[..., TieredQueue]:
    """Makes the queue of each data-parallel rank of one replica, in order; the tiers are all ranks'."""
    engine = shards[0].engine
    described = engine.kv_tiers
    assert described is not None
    tiers = {name: _tier(name, about, shards[0], shared) for name, about in described.present.items()}
    groups = iter(range(engine.data_parallel_size))

    @lru_cache(maxsize=4096)
    def prefill_s(past: int, tokens: int) -> float:
        budget = _chunk(engine, token_budget, tokens)
        return prefill_seconds(costs, past, tokens, budget=budget, ranks=engine.data_parallel_size)

    def make(*queue: Any) -> TieredQueue:
        levels = _levels(network, fabric, shards, next(groups), tiers)
        through = described.write == "through"
        return TieredQueue(*queue, levels=levels, writes_through=through, reload=reload, prefill_s=prefill_s)

    return make


def attach(replica: Replica) -> None:
    """Let an engine's tiered queues hear of its steps, and give it their loaded sequences."""
    queues = [queue for queue in replica.queues if isinstance(queue, TieredQueue)]
    if not queues:
        return
    for queue in queues:
        queue.on_loaded = replica.enqueue
        queue.on_room = replica.look_again

    def steps_passed(step: int) -> None:
        for queue in queues:
            queue.steps_passed(step)

    replica.listen(EngineListener(steps_passed=steps_passed))


def _tier(name: str, about: KvTier, shard: Shard, shared: SharedTiers) -> Tier:
    if name != "remote":
        return Tier(name, about.capacity_bytes)
    key = shard.model.name, shard.precision.kv_cache
    tier = shared.setdefault(key, Tier(name, about.capacity_bytes))
    if tier.capacity_bytes != about.capacity_bytes:
        raise InfeasibleError(
            f"kv_tiers.remote: pools of {shard.model.name} share one store and write two capacities "
            f"({tier.capacity_bytes:g} and {about.capacity_bytes:g} bytes)",
            "write the same in all of them",
        )
    return tier


def _chunk(engine: Engine, token_budget: int, tokens: int) -> int:
    """Tokens of a prompt that one step computes, at most."""
    if engine.scheduler != "vllm" or not engine.enable_chunked_prefill:
        return tokens
    return min(token_budget, engine.long_prefill_token_threshold or token_budget)


def _levels(
    network: Network, fabric: Fabric, shards: list[Shard], group: int, tiers: dict[str, Tier]
) -> list[Level]:
    described = shards[0].engine.kv_tiers
    assert described is not None
    read: dict[str, float] = {}
    written: dict[str, float] = {}
    for shard in shards:
        reads, writes = kv_bytes_by_rank(shard, shard.groups[group])
        read.update(reads)
        written.update(writes)
    per_token = sum(written.values())
    levels: list[Level] = []
    above: Ends | None = None
    above_rate: float | None = None
    for name, about in described.present.items():
        ends = ends_of(network, name, about, tuple(read))

        def priced(
            amounts: dict[str, float], here: Ends | None, there: Ends | None, rate: float | None,
            latency_s: float = about.latency_s,
        ) -> Way:  # fmt: skip
            return way(
                network, amounts, here, there,
                latency_s=latency_s, kv_bytes_per_token=per_token, bytes_per_s=rate,
            )  # fmt: skip

        rates = [rate for rate in (about.write_bytes_per_s, above_rate) if rate is not None]
        level = Level(
            fabric,
            tiers[name],
            reading=priced(read, ends, None, about.read_bytes_per_s),
            writing=priced(written, above, ends, min(rates, default=None)),
            bytes_per_token=per_token,
            staging_bytes=about.staging_bytes,
            is_shared=name == "remote",
        )
        if levels:
            levels[-1].below = level
        levels.append(level)
        above, above_rate = ends, about.read_bytes_per_s
    return levels


def kv_tier_rows(replicas: Sequence[Replica]) -> Table:
    """One row per replica and tier, HBM first; none for engines without tiers.

    `asked_tokens` are the known tokens of all admissions, `hit_tokens` those whose KV was found in the tier
    and taken up; bytes count each KV head once. Capacity and what is held of a remote tier are of all
    replicas together.
    """
    rows = Table(
        {
            "replica": "count",
            "model": "text",
            "tier": "text",
            "capacity_bytes": "number",
            "held_bytes": "number",
            "peak_bytes": "number",
            "asked_tokens": "count",
            "hit_tokens": "count",
            "hit_rate": "number",
            "reloaded_bytes": "number",
            "stored_bytes": "number",
            "evicted_bytes": "number",
            "lost_bytes": "number",
        }
    )
    for replica in replicas:
        queues = [queue for queue in replica.queues if isinstance(queue, TieredQueue)]
        if not queues:
            continue
        asked = sum(queue.asked_tokens for queue in queues)
        hits = sum(queue.hbm_hit_tokens for queue in queues)
        block_bytes = queues[0].block_pool.block_size * queues[0].levels[0].bytes_per_token
        hbm = [
            sum(getattr(queue.block_pool, part) for queue in queues) * block_bytes
            for part in ("blocks", "used")
        ]
        nan = float("nan")
        rows.append(
            replica.index, replica.model, "hbm", hbm[0], hbm[1], nan, asked, hits, _rate(hits, asked),
            0.0, 0.0, 0.0, 0.0,
        )  # fmt: skip
        for same in zip(*(queue.levels for queue in queues), strict=True):
            tier = same[0].tier
            hits = sum(level.hit_tokens for level in same)
            rows.append(
                replica.index, replica.model, tier.name, tier.capacity_bytes, tier.held_bytes,
                tier.peak_bytes, asked, hits, _rate(hits, asked),
                sum(level.reloaded_bytes for level in same), sum(level.stored_bytes for level in same),
                sum(level.evicted_bytes for level in same), sum(level.lost_bytes for level in same),
            )  # fmt: skip
    return rows


def _rate(hits: int, asked: int) -> float:
    return hits / asked if asked else float("nan")


def kv_tier_summary(rows: Table) -> dict[str, float]:
    """Hit rates by tier over all replicas, and bytes moved: `kv_hit_rate_host`, `kv_reloaded_bytes`, ..."""
    if not len(rows):
        return {}
    names = [rows.columns["tier"][row] for row in range(len(rows))]
    asked = sum(int(n) for name, n in zip(names, rows["asked_tokens"], strict=True) if name == "hbm")
    found: dict[str, float] = {}
    for tier in dict.fromkeys(names):
        hits = sum(int(n) for name, n in zip(names, rows["hit_tokens"], strict=True) if name == tier)
        found[f"kv_hit_rate_{tier}"] = hits / asked if asked else 0.0
    for column in ("reloaded_bytes", "stored_bytes", "lost_bytes"):
        found[f"kv_{column}"] = float(sum(rows[column]))
    return found
