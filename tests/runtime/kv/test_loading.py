"""A queue and the levels below it alone: what is read from which tier, what is reserved, what goes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import simpy

from sim.cost.kv_tiers import Way
from sim.policy.reloading import Prefix
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.queue import QueueLimits
from sim.runtime.engine.sequence import Sequence
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.offloading_queue import TieredQueue
from sim.runtime.kv.tiers import Level, Tier
from sim.workload.request import Request

BLOCK, TOKEN_BYTES = 4, 8.0
TEXT = (101, 102, 103, 104, 105, 106)


def levels(fabric: Fabric, capacity_bytes: float = 1e6, staging_bytes: float = 1e6) -> list[Level]:
    """Two tiers over a link of 100 bytes/s each; a token has eight bytes."""
    return [
        Level(
            fabric,
            Tier(f"tier{i}", capacity_bytes),
            reading=Way((i,), (TOKEN_BYTES,), 0.5),
            writing=Way((i,), (TOKEN_BYTES,), 0.0),
            bytes_per_token=TOKEN_BYTES,
            staging_bytes=staging_bytes,
        )
        for i in range(2)
    ]


def queue_of(
    blocks: int = 20, block: int = BLOCK, *, through: bool = True, reload: Callable[[Any], int] = len
) -> TieredQueue:
    env = simpy.Environment()
    fabric = Fabric(env, {"to0": 100.0, "to1": 100.0})
    pool = BlockPool(blocks, block, enable_prefix_caching=True, watermark=0.1)
    return TieredQueue(
        env, pool, QueueLimits(100, 8), None,
        levels=levels(fabric), writes_through=through, reload=reload,
        prefill_s=lambda past, tokens: float(tokens - past),
    )  # fmt: skip


def waiting(queue: TieredQueue, tokens: int = 25, hashes: tuple[int, ...] = TEXT) -> Sequence:
    block = queue.block_pool.block_size
    request = Request(0, 0.0, tokens, 4, hashes, block)
    sequence = Sequence(request, 4, 0.0, 0)
    sequence.queue = queue
    queue.hash_blocks(sequence, request)
    queue.enqueue(sequence)
    return sequence


def present(level: Level, *units: int) -> None:
    for unit in units:
        level.tier.expect(unit, BLOCK * TOKEN_BYTES)
        level.tier.arrived(unit)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int], int]]:
    """Every transfer up: from which tier, which units, how many tokens."""
    found: list[tuple[str, list[int], int]] = []
    read = Level.read

    def noted(level: Level, units: list[int], tokens: int, done: Callable[[], None]) -> Callable[[], None]:
        found.append((level.tier.name, list(units), tokens))
        return read(level, units, tokens, done)

    monkeypatch.setattr(Level, "read", noted)
    return found


def test_each_tier_is_read_for_its_part_and_a_prefix_takes_as_long_as_its_slowest_tier(
    reads: list[tuple[str, list[int], int]],
) -> None:
    asked: list[Prefix] = []

    def all_of_them(prefixes: list[Prefix]) -> int:
        asked.extend(prefixes)
        return len(prefixes)

    queue = queue_of(blocks=7, reload=all_of_them)
    near, far = queue.levels
    present(near, *TEXT[:2], *TEXT[4:])
    present(far, *TEXT[2:4])
    changes: list[tuple[int, int]] = []
    queue.block_pool.on_changed = lambda *change: changes.append(change)
    head = waiting(queue)
    assert queue.next_waiting() is None  # it loads, and the line is empty
    at = [near.reading.isolated_s(tokens, near.fabric.capacity) for tokens in (8, 16)]
    assert at == [pytest.approx(0.5 + tokens * TOKEN_BYTES / 100.0) for tokens in (8, 16)]
    assert [(one.tier, one.tokens, one.n_bytes, one.reload_s, one.compute_s) for one in asked] == [
        ("tier0", 8, 64.0, at[0], 8.0),
        ("tier1", 16, 128.0, at[0], 16.0),
        ("tier0", 24, 192.0, at[1], 24.0),
    ]
    assert reads == [("tier0", [101, 102, 105, 106], 16), ("tier1", [103, 104], 8)]
    assert (head.computed, head.unhashed_blocks, changes) == (24, 7, [(0, 7)])
    queue.env.run()
    assert head.received
    assert head.held == 6  # its blocks have their hashes, but for the last one
    assert (near.hit_tokens, far.hit_tokens) == (16, 8)


def test_what_hbm_has_is_neither_read_nor_given_other_blocks(
    reads: list[tuple[str, list[int], int]],
) -> None:
    queue = queue_of(blocks=7, through=False)
    pool = queue.block_pool
    pool.allocate(2)
    for unit in TEXT[:2]:
        pool.cache(unit, 1)
    pool.free(0, TEXT[:2])
    present(queue.levels[0], *TEXT)
    head = waiting(queue)
    assert queue.next_waiting() is None
    assert reads == [("tier0", list(TEXT[2:]), 16)]
    assert (head.held, head.unhashed_blocks, pool.used) == (2, 5, 7)
    assert (queue.asked_tokens, queue.hbm_hit_tokens) == (25, 8)


@pytest.mark.parametrize(("blocks", "loads"), [(6, False), (7, True)])
def test_a_text_loads_where_all_of_its_blocks_are_free(
    blocks: int, loads: bool, reads: list[tuple[str, list[int], int]]
) -> None:
    queue = queue_of(blocks=blocks)
    present(queue.levels[0], *TEXT)
    head = waiting(queue)
    assert queue.next_waiting() is (None if loads else head)
    assert len(reads) == loads


def test_one_that_waits_leaves_the_line_and_one_that_loads_gives_its_blocks_back() -> None:
    queue = queue_of()
    first, second = waiting(queue), waiting(queue, hashes=())
    queue.leave(second)
    assert list(queue.waiting) == [first]
    present(queue.levels[0], *TEXT)
    assert queue.next_waiting() is None
    assert queue.block_pool.used == 7
    queue.leave(first)
    assert queue.block_pool.used == 0
    assert queue.levels[0].reloaded_bytes == 0.0
    assert queue.levels[0].tier.make_room(1e6) is not None  # nothing is read any more


def test_blocks_that_are_copied_are_free_when_the_nearest_tier_has_them() -> None:
    queue = queue_of()
    pool = queue.block_pool
    pool.allocate(1)
    pool.cache(101, 1)
    queue._write(101, BLOCK * TOKEN_BYTES)
    pool.free(0, (101,))
    assert (queue.copying, pool.used) == (1, 1)
    queue.env.run()
    assert (queue.copying, pool.used) == (0, 0)
    assert [level.tier.has(101) for level in queue.levels] == [True, False]


def test_what_hbm_evicts_goes_to_the_nearest_tier() -> None:
    queue = queue_of(blocks=2, through=False)
    pool = queue.block_pool
    pool.allocate(2)
    pool.cache(101, 2)
    pool.free(0, (101,))
    pool.allocate(2)
    queue.env.run()
    assert [level.tier.has(101) for level in queue.levels] == [True, False]
    assert queue.levels[0].stored_bytes == 2 * BLOCK * TOKEN_BYTES


def test_the_first_block_of_a_text_counts_its_tokens_also_where_blocks_have_one() -> None:
    queue = queue_of(block=1)
    sequence = waiting(queue, 3, (101, 102, 103))
    sequence.held = 2
    assert list(queue._shareable(sequence, 0)) == [(101, TOKEN_BYTES), (102, TOKEN_BYTES)]


def test_a_prefix_that_is_asked_for_again_is_not_the_next_to_go() -> None:
    env = simpy.Environment()
    near, _ = levels(Fabric(env, {"to0": 100.0, "to1": 100.0}), capacity_bytes=20.0)
    for unit in (1, 2, 1, 3):
        near.put(unit, 10.0)
        env.run()
    assert [unit for unit in (1, 2, 3) if near.tier.has(unit)] == [1, 3]


def test_a_level_that_fails_between_two_copies_forgets_what_it_had_and_begins_anew() -> None:
    env = simpy.Environment()
    near, far = levels(Fabric(env, {"to0": 100.0, "to1": 100.0}), staging_bytes=10.0)
    far.is_shared = True
    for level in (near, far):
        level.put(1, 10.0)
    env.run()
    near.put(2, 10.0)
    env.run(until=env.now + 0.01)  # the copy is under way
    for level in (near, far):
        level.fail()
        assert not level.tier.knows(2)
        assert level.put(3, 10.0)
    env.run()
    assert [[unit for unit in (1, 2, 3) if level.tier.has(unit)] for level in (near, far)] == [[3], [1, 3]]


def test_a_read_that_is_cancelled_half_way_counts_half_of_its_bytes_and_lets_its_prefix_go() -> None:
    env = simpy.Environment()
    near, _ = levels(Fabric(env, {"to0": 100.0, "to1": 100.0}), capacity_bytes=100.0)
    present(near, 1)
    cancel = near.read([1], 10, lambda: pytest.fail("it was cancelled"))
    env.run(until=0.5 + 0.4)  # the latency, and half of 80 bytes at 100 bytes/s
    cancel()
    assert near.reloaded_bytes == pytest.approx(40.0)
    assert near.tier.make_room(100.0) == [(1, BLOCK * TOKEN_BYTES)]
