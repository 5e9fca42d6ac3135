import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.runtime.engine.block_pool import BlockPool


def pool(blocks=10):
    return BlockPool(blocks, 16, enable_prefix_caching=True)


def filled(kv, *units):
    """Blocks of one sequence with these hashes, one block each."""
    kv.allocate(len(units))
    for unit in units:
        assert kv.cache(unit, 1)
    kv.check()
    return units


def test_freed_blocks_keep_their_hashes_until_they_are_taken():
    kv = pool(4)
    kv.free(0, filled(kv, 1, 2))
    assert kv.cached_units((1, 2, 3), 3) == 2
    kv.allocate(4)
    assert kv.cached_units((1, 2, 3), 3) == 0
    kv.check()


def test_the_end_of_a_text_is_forgotten_before_its_beginning():
    kv = pool(4)
    kv.free(0, filled(kv, 1, 2, 3))
    kv.allocate(2)  # the unhashed block, then the block freed first: the last of the text
    assert kv.cached_units((1, 2, 3), 3) == 2


def test_the_least_recently_used_text_goes_first():
    kv = pool(4)
    old, new = filled(kv, 1, 2), filled(kv, 11, 12)
    kv.free(0, old)
    kv.free(0, new)
    kv.touch((1, 2))  # used again
    kv.free(0, (1, 2))
    kv.allocate(2)
    assert kv.cached_units((1, 2), 2) == 2
    assert kv.cached_units((11, 12), 2) == 0


def test_blocks_without_hashes_that_are_freed_one_after_the_other_are_one_run():
    kv = pool(8)
    for _ in range(3):
        kv.allocate(2)
        kv.free(2)
    assert list(kv._free_queue.values()) == [8]
    kv.free(0, filled(kv, 1))
    kv.allocate(2)
    kv.free(2)
    assert list(kv._free_queue.values()) == [5, 1, 2]  # a hash between two runs keeps them apart
    kv.allocate(5)
    assert kv.cached_units((1,), 1) == 1


def test_a_prefix_with_a_gap_ends_at_the_gap():
    kv = pool()
    filled(kv, 1, 3)
    assert kv.cached_units((1, 2, 3), 3) == 1


def test_a_prefix_that_two_hold_is_free_when_both_have_gone():
    kv = pool(4)
    filled(kv, 1)
    kv.touch((1,))
    kv.free(0, (1,))
    assert kv.free_blocks == 3
    kv.free(0, (1,))
    assert kv.free_blocks == 4
    kv.check()


def test_the_second_copy_of_a_block_stays_unhashed():
    kv = pool(4)
    filled(kv, 1)
    kv.allocate(1)
    assert not kv.cache(1, 1)


def test_without_prefix_caching_nothing_is_found():
    kv = BlockPool(4, 16, enable_prefix_caching=False)
    kv.allocate(1)
    kv.cache(1, 1)
    assert kv.cached_units((1,), 1) == 0


def test_the_check_finds_lost_blocks():
    kv = pool(4)
    kv.free_blocks -= 1
    with pytest.raises(AssertionError):
        kv.check()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)), max_size=60))
def test_blocks_are_conserved_whatever_comes_and_goes(acts):
    kv, holders = pool(12), []
    texts = [tuple(text * 100 + i for i in range(text + 1)) for text in range(6)]
    for act, text, unhashed in acts:
        hashes = texts[text]
        if act < 3:
            units = kv.cached_units(hashes, len(hashes))
            assert units == next((i for i, unit in enumerate(hashes) if not kv.has(unit)), len(hashes))
            held = hashes[:units]
            assert kv.evictable(held) == sum(not any(unit in one for _, one in holders) for unit in held)
            needed = len(hashes) - units + unhashed
            if needed + kv.evictable(held) > kv.free_blocks:
                continue
            kv.touch(held)
            kv.allocate(needed)
            hashed = []
            for unit in hashes[units:]:  # as a sequence does: up to the first that another copy has
                if not kv.cache(unit, 1):
                    break
                hashed.append(unit)
            unhashed += len(hashes) - units - len(hashed)
            holders.append((unhashed, (*held, *hashed)))
        elif holders:
            kv.free(*holders.pop(0))
        kv.check()
    for one in holders:
        kv.free(*one)
    kv.check()
    assert kv.free_blocks == 12


def test_what_is_evicted_or_freed_is_reported():
    kv, evicted, changes = pool(4), [], []
    kv.on_evicted = lambda unit, blocks: evicted.append((unit, blocks))
    kv.on_changed = lambda before, after: changes.append((before, after))
    kv.free(0, filled(kv, 1, 2))
    kv.allocate(3)
    assert evicted == [(2, 1)]
    kv.free(3)
    kv.free(0)
    assert changes == [(2, 0), (3, 0)]


def test_holders_are_compared_with_the_books():
    kv = pool(10)
    filled(kv, 1, 2)
    kv.allocate(3)
    assert list(kv.differences([(3, (1, 2))])) == []
    assert list(kv.differences([(2, (1, 2))])) == ["5 KV blocks are in use, and their holders have 4"]
    assert list(kv.differences([(3, (1, 2)), (0, (1,))])) == [
        "the holders of cached prefixes are not those in the books"
    ]
