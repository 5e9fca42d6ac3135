"""A sequence has the hashes of whole blocks, each with the token that it covers up to."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.queue import RequestQueue


@settings(max_examples=40)
@given(
    size=st.integers(1, 5),
    tokens=st.integers(1, 12),
    hashes=st.integers(1, 9),
    length=st.integers(1, 60),
    hashed=st.one_of(st.integers(0, 60), st.just(inf)),
)
def test_the_last_hash_may_be_of_fewer_blocks(
    size: int, tokens: int, hashes: int, length: int, hashed: float
) -> None:
    queue: Any = SimpleNamespace(block_pool=BlockPool(10, size, enable_prefix_caching=True))
    request: Any = SimpleNamespace(
        block_hashes=tuple(range(hashes)),
        hash_block_tokens=tokens,
        prompt_tokens=length,
        hashed_tokens=hashed,
    )
    sequence: Any = SimpleNamespace(output_tokens=0)
    RequestQueue.hash_blocks(queue, sequence, request)
    longest, wanted = min(length, hashed), {}
    for number in range(hashes):
        end = int(min((number + 1) * tokens, longest)) // size * size
        if end and end not in wanted.values():
            wanted[number] = end
    assert sequence.block_hashes == tuple(wanted)
    assert sequence.hash_ends == tuple(wanted.values())


@pytest.mark.parametrize("spans", [(2, 1, 3), (2, 2, 2)])
def test_a_prefix_that_one_sequence_holds_is_taken_and_freed_as_if_block_by_block(
    spans: tuple[int, ...],
) -> None:
    pools = [BlockPool(20, 1, enable_prefix_caching=True) for _ in range(2)]
    for pool in pools:
        pool.allocate(6)
        for unit, blocks in zip((1, 2, 3), spans, strict=True):
            assert pool.cache(unit, blocks)
    together, apart = pools
    for _ in range(2):
        together.free(0, (1, 2, 3))
        for unit in (3, 2, 1):
            apart.free(0, (unit,))
        assert list(together._free_queue.items()) == list(apart._free_queue.items())
        assert together.evictable((1, 2, 3)) == 6
        assert together.touch((1, 2, 3)) == sum(apart.touch((unit,)) for unit in (1, 2, 3)) == 6
        assert together.touch((2,)) == apart.touch((2,))  # a second holder
        assert together.touch((1, 2)) == apart.touch((1,)) + apart.touch((2,))
        for pool in pools:
            pool.free(0, (1, 2))
            pool.free(0, (2,))
            pool.check()
        assert together._holders == apart._holders
        assert together.free_blocks == apart.free_blocks == 14


@pytest.mark.parametrize("spans", [(2, 1, 3), (2, 2, 2)])
def test_a_prefix_of_which_a_part_is_held_is_taken_block_by_block(spans: tuple[int, ...]) -> None:
    pool = BlockPool(20, 1, enable_prefix_caching=True)
    pool.allocate(6)
    for unit, blocks in zip((1, 2, 3), spans, strict=True):
        assert pool.cache(unit, blocks)
    assert pool.evictable((1, 2, 3)) == 0
    pool.free(0, (2, 3))
    assert pool.evictable((1, 2, 3)) == spans[1] + spans[2]
    assert pool.touch((1, 2)) == spans[0] + spans[1]
    assert pool.used == spans[0] + spans[1]
    pool.check()
    text = (1, 2, 3)
    assert pool.cached_units(text, 3) == 3
    pool.allocate(pool.free_blocks)  # evicts the last
    assert pool.cached_units(text, 3) == 2
    pool.clear()
    assert pool.cached_units(text, 3) == pool.cached_units((), 0) == 0
    assert not pool.has(1)
