"""A queue admits in order what it has room for, and gives blocks back exactly once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sim.cost.block_groups import BlockGroups
from sim.results.blame import CAUSES
from sim.runtime.engine.attribution import StepLedger
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.queue import QueueLimits, RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.workload.request import Request


def queue_of(
    blocks: int = 10,
    *,
    watermark: float = 0.0,
    ledger: StepLedger | None = None,
    groups: BlockGroups | None = None,
    **limits: Any,
) -> RequestQueue:
    """Blocks of four tokens."""
    pool = BlockPool(blocks, 4, enable_prefix_caching=True, watermark=watermark, groups=groups)
    return RequestQueue(
        SimpleNamespace(now=0.0),
        pool,
        QueueLimits(**{"token_budget": 100, "max_num_seqs": 8, **limits}),
        ledger,
    )


def waiting(
    queue: RequestQueue,
    number: int,
    prompt: int,
    output: int = 4,
    *,
    priority: int = 0,
    hashes: tuple[int, ...] = (),
) -> Sequence:
    request = Request(number, float(number), prompt, output, hashes, 4 if hashes else 0, priority=priority)
    sequence = Sequence(request, output, 0.0, 0)
    sequence.queue = queue
    queue.hash_blocks(sequence, request)
    queue.enqueue(sequence)
    return sequence


def admitted(queue: RequestQueue, sequence: Sequence, tokens: int | None = None) -> bool:
    """Admitted, its `tokens` or all tokens that are not cached computed."""
    cached = queue.cached_tokens(sequence)
    new = sequence.known_tokens - cached if tokens is None else tokens
    done = queue.admit(sequence, cached, new)
    if done:
        sequence.computed += new
    queue.block_pool.check()
    return done


def test_a_sequence_is_admitted_with_blocks_for_its_tokens_and_charged_for_its_wait() -> None:
    queue = queue_of(ledger=StepLedger())
    one = waiting(queue, 0, 9)
    queue.env.now = 2.5
    assert admitted(queue, one)
    assert (list(queue.running), list(queue.waiting), queue.block_pool.used) == ([one], [], 3)
    assert (one.admitted_s, one.blame[CAUSES.index("admission")]) == (2.5, 2.5)
    assert one.mark == tuple(queue.ledger.seconds)


@pytest.mark.parametrize(("whole", "fits"), [(True, False), (False, True)])
def test_room_for_the_whole_prompt_is_asked_for_where_the_limits_say_so(whole: bool, fits: bool) -> None:
    queue = queue_of(2, reserve_full_prompt=whole)
    one = waiting(queue, 0, 12)
    assert admitted(queue, one, tokens=8) is fits
    assert queue.block_pool.used == (2 if fits else 0)


def test_the_watermark_is_kept_free_of_admissions_while_others_run() -> None:
    queue = queue_of(10, watermark=0.3)
    first, second, third = (waiting(queue, number, tokens) for number, tokens in enumerate((16, 16, 12)))
    assert admitted(queue, first)
    assert not admitted(queue, second)  # 4 of 6 free blocks, 3 of them reserved
    assert admitted(queue, third)
    empty = queue_of(10, watermark=0.3)
    assert admitted(empty, waiting(empty, 0, 40))


def test_a_prefix_that_is_cached_and_free_takes_its_blocks_from_the_room() -> None:
    queue = queue_of(4)
    first = waiting(queue, 0, 13, hashes=(1, 2, 3))
    assert admitted(queue, first)
    queue.finish(first)
    assert queue.block_pool.free_blocks == 4
    same = waiting(queue, 1, 17, hashes=(1, 2, 3))
    assert queue.cached_tokens(same) == 12
    assert not admitted(queue, same)  # three of the four free blocks are its own prefix
    shorter = waiting(queue, 2, 16, hashes=(1, 2, 3))
    assert admitted(queue, shorter)
    assert (shorter.held, shorter.unhashed_blocks, shorter.cached_tokens) == (3, 1, 12)


def test_guaranteed_no_evict_admits_only_what_can_run_to_its_end() -> None:
    queue = queue_of(10, guaranteed_no_evict=True)
    assert admitted(queue, waiting(queue, 0, 8, 12))  # 5 blocks at its end
    assert not admitted(queue, waiting(queue, 1, 4, 20))  # 6
    assert admitted(queue, waiting(queue, 2, 4, 16))  # 5


def test_sequences_wait_in_order_of_arrival_or_of_priority() -> None:
    first_come, urgent_first = queue_of(), queue_of(by_priority=True)
    for queue in (first_come, urgent_first):
        for number, priority in enumerate((2, 0, 1, 0)):
            waiting(queue, number, 4, priority=priority)
    orders = [[one.request.request_id for one in queue.waiting] for queue in (first_come, urgent_first)]
    assert orders == [[0, 1, 2, 3], [1, 3, 2, 0]]


def test_a_sequence_is_not_seen_before_its_step() -> None:
    queue = queue_of()
    one = waiting(queue, 0, 4)
    one.eligible_step = 3
    queue.step = 2
    assert queue.next_waiting() is None
    assert queue.next_unseen_step(2) == 3
    queue.step = 3
    assert queue.next_waiting() is one


def test_a_preempted_sequence_loses_its_blocks_and_waits_in_front() -> None:
    queue = queue_of()
    one = waiting(queue, 0, 8)
    assert admitted(queue, one)
    one.generated = 1
    waiting(queue, 1, 4)
    queue.preempt(one)
    assert queue.waiting[0] is one
    assert (queue.block_pool.used, one.computed, one.recomputing, one.preemptions) == (0, 0, True, 1)
    assert queue.cached_tokens(one) == 8  # its full blocks are found again until they are evicted


@pytest.mark.parametrize("ahead", [False, True])
def test_a_sequence_that_ends_keeps_its_place_and_blocks_until_the_next_choice_is_made(ahead: bool) -> None:
    queue = queue_of(max_num_seqs=2, async_scheduling=ahead)
    one = waiting(queue, 0, 8)
    assert admitted(queue, one)
    queue.finish(one)
    assert (queue.max_running, queue.block_pool.used) == ((1, 2) if ahead else (2, 0))
    queue.step = 7
    queue.release_ended()
    assert (queue.max_running, queue.block_pool.used) == (2, 0)
    assert queue.roomier_after_step == (7 if ahead else -1)
    queue.block_pool.check()


def test_blocks_for_a_cache_from_elsewhere_are_reserved_unless_a_preempted_sequence_waits_for_them() -> None:
    queue = queue_of(4)
    assert queue.reserve(20) is None
    assert queue.reserve(13) == 4
    assert queue.block_pool.free_blocks == 0
    queue = queue_of(4)
    waiting(queue, 0, 4)
    assert queue.reserve(4) is None


def test_with_nothing_running_a_sequence_that_holds_blocks_goes_first() -> None:
    queue = queue_of()
    first, second = waiting(queue, 0, 4), waiting(queue, 1, 4)
    second.received = True
    assert queue.next_waiting() is second
    assert list(queue.waiting) == [second, first]


def test_hashes_count_only_for_blocks_that_the_text_fills() -> None:
    queue = queue_of()
    one = waiting(queue, 0, 9, 2, hashes=(1, 2, 3))
    assert (one.block_hashes, one.hash_ends) == ((1, 2), (4, 8))


def test_a_failed_engine_returns_all_its_sequences_charged_up_to_now() -> None:
    queue = queue_of()
    running, left = waiting(queue, 0, 8), waiting(queue, 1, 8)
    assert admitted(queue, running)
    queue.env.now = 3.0
    assert queue.fail() == [running, left]
    assert running.blame[CAUSES.index("recompute")] == 3.0
    assert left.blame[CAUSES.index("admission")] == 3.0
    assert (queue.requests, queue.block_pool.used) == (0, 0)


ONE_IN_TWO = BlockGroups(4, whole=1, windowed=1, window=8)
ALL = BlockGroups(4, whole=0, windowed=1, window=8)


@pytest.mark.parametrize(("groups", "blocks"), [(ONE_IN_TWO, 10 + 3), (ALL, 3)])
def test_layers_with_a_window_give_back_what_has_left_it(groups: BlockGroups, blocks: int) -> None:
    queue = queue_of(20, groups=groups, token_budget=12)
    sequence = waiting(queue, 0, 40)
    assert admitted(queue, sequence, 12)
    assert queue.block_pool.used == 3 * groups.groups
    while sequence.computed < 40:
        assert queue.allocate(sequence, 4)
        sequence.computed += 4
    assert queue.block_pool.used == blocks
    queue.block_pool.check()
    queue.leave(sequence)
    assert queue.block_pool.used == 0


def test_a_prompt_is_admitted_by_what_its_windows_ever_hold() -> None:
    queue = queue_of(14 + 4, groups=ONE_IN_TWO, token_budget=8)  # 14 of the whole text, 8 - 1 + 8 tokens
    assert not admitted(queue, waiting(queue, 0, 57), 8)
    queue = queue_of(14 + 5, groups=ONE_IN_TWO, token_budget=8)
    assert admitted(queue, waiting(queue, 0, 56), 8)
    queue = queue_of(4, groups=ALL, token_budget=8)
    assert not admitted(queue, waiting(queue, 0, 1000), 8)
    queue = queue_of(5, groups=ALL, token_budget=8)
    assert admitted(queue, waiting(queue, 0, 1000), 8)


def test_a_cached_prefix_has_its_windows_again_in_blocks_of_its_own() -> None:
    queue = queue_of(30, groups=ONE_IN_TWO)
    first = waiting(queue, 0, 17, hashes=(1, 2, 3, 4))
    assert admitted(queue, first)
    alone = queue.block_pool.used
    second = waiting(queue, 1, 17, hashes=(1, 2, 3, 4))
    assert queue.cached_tokens(second) == 16
    assert admitted(queue, second)
    assert queue.block_pool.used - alone == 1 + (5 - (16 - 7) // 4)  # its last block, and the window's
    queue.leave(first)
    queue.leave(second)
    assert queue.block_pool.used == 0
    queue.block_pool.check()


def test_prefixes_are_not_found_where_no_layer_keeps_a_whole_text() -> None:
    queue = queue_of(30, groups=ALL)
    assert waiting(queue, 0, 17, hashes=(1, 2, 3, 4)).block_hashes == ()
