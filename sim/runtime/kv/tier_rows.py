"""What a run leaves of its KV tiers: a row per replica and tier, and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from sim.results.columns import Table
from sim.results.records import KV_TIER_COLUMNS
from sim.runtime.engine.replica import Replica
from sim.runtime.kv.offloading_queue import TieredQueue


def kv_tier_rows(replicas: Sequence[Replica]) -> Table:
    """One row per replica and tier, HBM first; none for engines without tiers.

    `asked_tokens` are the known tokens of all admissions, `hit_tokens` those whose KV was found in the tier
    and used; bytes count each KV head once. Capacity and held bytes of a remote tier are those of all
    replicas together.
    """
    rows = Table(KV_TIER_COLUMNS)
    for replica in replicas:
        queues = [queue for queue in replica.queues if isinstance(queue, TieredQueue)]
        if queues:
            _append_rows(rows, replica, queues)
    return rows


def _append_rows(rows: Table, replica: Replica, queues: Sequence[TieredQueue]) -> None:
    asked = sum(queue.asked_tokens for queue in queues)
    hits = sum(queue.hbm_hit_tokens for queue in queues)
    block_bytes = queues[0].block_pool.block_size * queues[0].levels[0].bytes_per_token
    capacity_bytes = sum(queue.block_pool.blocks for queue in queues) * block_bytes
    held_bytes = sum(queue.block_pool.used for queue in queues) * block_bytes
    rows.append(
        replica.index, replica.model, "hbm", capacity_bytes, held_bytes, nan, asked, hits,
        _rate(hits, asked), 0.0, 0.0, 0.0, 0.0,
    )  # fmt: skip
    for same in zip(*(queue.levels for queue in queues), strict=True):  # one tier, of every rank's queue
        tier = same[0].tier
        hits = sum(level.hit_tokens for level in same)
        rows.append(
            replica.index, replica.model, tier.name, tier.capacity_bytes, tier.held_bytes,
            tier.peak_bytes, asked, hits, _rate(hits, asked),
            sum(level.reloaded_bytes for level in same), sum(level.stored_bytes for level in same),
            sum(level.evicted_bytes for level in same), sum(level.lost_bytes for level in same),
        )  # fmt: skip


def _rate(hits: int, asked: int) -> float:
    return hits / asked if asked else nan


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
