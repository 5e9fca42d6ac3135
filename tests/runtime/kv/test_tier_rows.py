"""Rows of KV tiers: one per replica and tier, summed over data-parallel ranks, and their summary."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from sim.runtime.kv.offloading_queue import TieredQueue
from sim.runtime.kv.tier_rows import kv_tier_rows, kv_tier_summary
from sim.runtime.kv.tiers import Level, Tier


def queue(tier: Tier, **counts: Any) -> TieredQueue:
    """A rank's queue after a run, as far as rows read it."""
    made = TieredQueue.__new__(TieredQueue)
    made.block_pool = SimpleNamespace(block_size=16, blocks=100, used=10)  # type: ignore[assignment]
    made.asked_tokens, made.hbm_hit_tokens = 1000, 100
    level = Level(None, tier, None, None, bytes_per_token=2.0, staging_bytes=1.0)  # type: ignore[arg-type]
    for name, value in counts.items():
        setattr(level, name, value)
    made.levels = [level]
    return made


def replica(index: int, *queues: Any) -> Any:
    return SimpleNamespace(index=index, model="llama", queues=list(queues))


def test_ranks_add_up_and_a_tier_that_they_share_is_counted_once() -> None:
    tier = Tier("host", 5000.0)
    tier.expect(1, 300.0)
    ranks = [queue(tier, hit_tokens=200, stored_bytes=7.0), queue(tier, hit_tokens=300, stored_bytes=5.0)]
    hbm, host = kv_tier_rows([replica(0, *ranks)]).frame().iter_rows(named=True)
    assert (hbm["tier"], hbm["capacity_bytes"], hbm["held_bytes"]) == ("hbm", 2 * 100 * 32.0, 2 * 10 * 32.0)
    assert (hbm["asked_tokens"], hbm["hit_tokens"], hbm["hit_rate"]) == (2000, 200, 0.1)
    assert list(hbm.values())[-4:] == [0.0] * 4  # nothing is copied to or from HBM's own row
    assert (host["tier"], host["capacity_bytes"], host["held_bytes"], host["peak_bytes"]) == (
        "host", 5000.0, 300.0, 300.0,
    )  # fmt: skip
    assert (host["hit_tokens"], host["hit_rate"], host["stored_bytes"]) == (500, 0.25, 12.0)


def test_an_engine_without_tiers_has_no_rows() -> None:
    assert len(kv_tier_rows([replica(0, SimpleNamespace())])) == 0
    assert kv_tier_summary(kv_tier_rows([])) == {}


def test_without_an_admission_a_rate_is_unknown_in_the_rows_and_nothing_in_the_summary() -> None:
    idle = queue(Tier("host", 1.0))
    idle.asked_tokens = idle.hbm_hit_tokens = 0
    rows = kv_tier_rows([replica(0, idle)])
    assert all(math.isnan(rate) for rate in rows["hit_rate"])
    assert kv_tier_summary(rows)["kv_hit_rate_host"] == 0.0


def test_the_summary_has_hits_of_all_replicas_over_what_all_of_them_asked() -> None:
    one = queue(Tier("host", 1.0), hit_tokens=500, reloaded_bytes=10.0, lost_bytes=1.0)
    other = queue(Tier("host", 1.0), hit_tokens=100, reloaded_bytes=5.0)
    assert kv_tier_summary(kv_tier_rows([replica(0, one), replica(1, other)])) == pytest.approx(
        {
            "kv_hit_rate_hbm": 0.1, "kv_hit_rate_host": 0.3,
            "kv_reloaded_bytes": 15.0, "kv_stored_bytes": 0.0, "kv_lost_bytes": 1.0,
        }
    )  # fmt: skip
