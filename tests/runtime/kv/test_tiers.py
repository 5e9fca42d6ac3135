"""A tier keeps what was used last, never more than fits, and forgets nothing that is being read; copies go
one after another as transfers.
"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import simpy

from sim.cost.kv_tiers import Way
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.tiers import Level, Tier

MB = 1e6


def filled(tier: Tier, *units: int, n_bytes: float = MB) -> Tier:
    for unit in units:
        assert tier.make_room(n_bytes) is not None
        tier.expect(unit, n_bytes)
        tier.arrived(unit)
    return tier


def test_the_prefix_that_was_not_used_for_longest_goes_first() -> None:
    tier = filled(Tier("host", 3 * MB), 1, 2, 3)
    tier.use(1)
    assert tier.make_room(MB) == [(2, MB)]
    assert [unit for unit in (1, 2, 3) if tier.has(unit)] == [1, 3]
    tier.check()


def test_what_is_being_read_stays_and_where_nothing_can_go_nothing_goes() -> None:
    tier = filled(Tier("host", 2 * MB), 1, 2)
    tier.read(1)
    assert tier.make_room(2 * MB) is None
    assert tier.has(2)
    assert tier.make_room(MB) == [(2, MB)]
    tier.release(1)
    assert tier.make_room(2 * MB) == [(1, MB)]
    tier.check()


def test_a_prefix_on_its_way_takes_room_and_cannot_be_read_yet() -> None:
    tier = Tier("host", 2 * MB)
    tier.expect(1, MB)
    assert tier.knows(1)
    assert not tier.has(1)
    assert tier.make_room(2 * MB) is None
    tier.arrived(1)
    assert tier.has(1)
    assert tier.peak_bytes == MB


def test_a_prefix_larger_than_its_tier_is_not_kept() -> None:
    assert filled(Tier("host", 2 * MB), 1).make_room(3 * MB) is None


def levels(
    env: simpy.Environment, capacities: tuple[float, ...], staging_bytes: float = 1e12
) -> tuple[Fabric, list[Level]]:
    """Tiers one below the other, each reached over a link of its own with 1 MB/s; a token is a byte."""
    fabric = Fabric(env, {f"to{i}": MB for i in range(len(capacities))})
    found = [
        Level(
            fabric,
            Tier(f"tier{i}", capacity),
            reading=Way((i,), (1.0,), 0.5),
            writing=Way((i,), (1.0,), 0.0),
            bytes_per_token=1.0,
            staging_bytes=staging_bytes,
        )
        for i, capacity in enumerate(capacities)
    ]
    for above, below in pairwise(found):
        above.below = below
    return fabric, found


def test_copies_of_one_instant_are_one_transfer_and_the_next_waits_for_it() -> None:
    env = simpy.Environment()
    _, (level,) = levels(env, (10 * MB,))
    assert level.put(1, MB)
    assert level.put(2, MB)
    env.run(until=1.0)
    assert level.put(3, MB)
    assert not level.tier.has(1)
    env.run(until=2.0 + 1e-9)
    assert level.tier.has(1)
    assert level.tier.has(2)
    assert not level.tier.has(3)
    env.run()
    assert env.now == pytest.approx(3.0)
    assert level.stored_bytes == 3 * MB


def test_what_is_there_or_on_its_way_is_not_copied_again() -> None:
    env = simpy.Environment()
    _, (level,) = levels(env, (10 * MB,))
    assert level.put(1, MB)
    assert not level.put(1, MB)
    env.run()
    assert not level.put(1, MB)
    assert level.stored_bytes == MB


def test_what_comes_while_the_staging_buffer_is_full_is_lost() -> None:
    env = simpy.Environment()
    _, (level,) = levels(env, (10 * MB,), staging_bytes=2 * MB)
    assert [level.put(unit, MB) for unit in range(4)] == [True, True, False, False]
    assert level.lost_bytes == 2 * MB
    env.run()
    assert level.put(4, MB)


def test_what_a_tier_evicts_goes_to_the_one_below() -> None:
    env = simpy.Environment()
    _, (upper, lower) = levels(env, (2 * MB, 10 * MB))
    for unit in range(5):
        upper.put(unit, MB)
        env.run()
    assert [unit for unit in range(5) if upper.tier.has(unit)] == [3, 4]
    assert [unit for unit in range(5) if lower.tier.has(unit)] == [0, 1, 2]
    assert upper.evicted_bytes == lower.stored_bytes == 3 * MB


def test_a_read_takes_its_latency_and_its_bytes_and_keeps_its_prefix() -> None:
    env = simpy.Environment()
    _, (level,) = levels(env, (2 * MB,))
    level.put(1, MB)
    env.run()
    ended: list[float] = []
    level.read([1], 1_000_000, lambda: ended.append(env.now))
    assert level.tier.make_room(2 * MB) is None
    env.run()
    assert ended == pytest.approx([1.0 + 0.5 + 1.0])
    assert level.tier.make_room(2 * MB) == [(1, MB)]
    assert (level.hit_tokens, level.reloaded_bytes) == (1_000_000, MB)


@pytest.mark.parametrize("seed", range(20))
def test_under_random_traffic_the_books_are_in_order_after_every_event(seed: int) -> None:
    rng = random.Random(seed)
    env = simpy.Environment()
    fabric, found = levels(env, (3 * MB, 5 * MB, 8 * MB), staging_bytes=4 * MB)
    for _ in range(200):
        unit = rng.randrange(30)
        holder = next((level for level in found if level.tier.has(unit)), None)
        if holder is not None and rng.random() < 0.5:
            holder.read([unit], 100_000, lambda: None)
        elif not any(level.tier.knows(unit) for level in found):
            found[0].put(unit, MB * (1 + unit % 3) / 2)
        env.run(until=env.now + rng.choice((0.0, 0.1, 1.0)) + 1e-6)
        for level in found:
            level.tier.check()
    env.run()
    fabric.check()
    for level in found:
        level.tier.check()
        assert level.tier.peak_bytes <= level.tier.capacity_bytes
