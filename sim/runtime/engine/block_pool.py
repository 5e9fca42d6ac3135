"""Paged KV blocks of one scheduler, with prefix caching by chained hashes and eviction of the least recently
used.

Follows vLLM V1's block pool: a block is free, held by one or more sequences, or free but still carrying a
prefix that a later request may take up again. Free blocks stand in one queue; new blocks are taken at its
head, freed blocks join its tail (a sequence's last block first, so that the beginnings of prompts live
longest). Blocks without a hash need no identity and are kept as runs of a count, so cost is per sequence and
not per block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import count, filterfalse, islice, repeat, takewhile
from typing import TypeAlias

from sim.cost.block_groups import BlockGroups

RunName: TypeAlias = tuple[str, int]


class BlockPool:
    """Block accounting. Sizes are blocks of `block_size` tokens; one hashed unit may span several blocks.

    `watermark` is the share of all blocks that admissions leave free. `groups` are there where some layers
    keep a window only: then every group takes its blocks here. Prefixes are found again by the blocks of
    whole texts, and those of windows are of one sequence alone: where it stops, a prefix that is found has
    its windows again at once, in blocks that are not shared.
    """

    def __init__(
        self,
        blocks: int,
        block_size: int,
        *,
        enable_prefix_caching: bool,
        watermark: float = 0.0,
        groups: BlockGroups | None = None,
    ) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.groups = groups
        self.whole = 1 if groups is None else groups.whole
        self.caches = enable_prefix_caching and self.whole > 0
        self.reserve = int(watermark * blocks)
        self.free_blocks = blocks
        self._run = count()
        # A prefix stands in it by its hash, a run of blocks without one by the name of the run.
        self._free_queue: OrderedDict[int | RunName, int] = OrderedDict()
        if blocks:
            self._free_queue["run", next(self._run)] = blocks
        self._unit_blocks: dict[int, int] = {}  # hash -> blocks it spans, while its KV is present
        self._holders: dict[int, int] = {}  # hash -> sequences that hold it
        self._span: int | None = None  # blocks of every hash that is present; 0 where they differ
        self._counted: tuple[tuple[int, ...], int, int] = ((), 0, 0)  # the last answer of `cached_units`
        self.on_changed: Callable[[int, int], None] | None = None  # (blocks in use before, and now)
        self.on_evicted: Callable[[int, int], None] | None = None  # (hash, blocks)

    # ---- prefixes

    def has(self, unit: int) -> bool:
        return unit in self._unit_blocks

    def cached_units(self, hashes: tuple[int, ...], most: int) -> int:
        """How many of the first `most` hashes are present, up to the first that is not."""
        if not self.caches:
            return 0
        last, asked, units = self._counted  # asked at every step of a wait, and again at its end
        if last is not hashes or asked != most:
            units = len(tuple(takewhile(self._unit_blocks.__contains__, islice(hashes, most))))
            self._counted = hashes, most, units
        return units

    # What a long text does with its blocks at every turn goes through them in C: it is as long as the text.

    def evictable(self, hashes: tuple[int, ...]) -> int:
        """How many free blocks these present prefixes span: `touch` takes them out of the free queue."""
        if self._span and not any(map(self._holders.get, hashes)):
            return self._span * len(hashes)
        return sum(map(self._unit_blocks.__getitem__, filterfalse(self._holders.get, hashes)))

    def touch(self, hashes: tuple[int, ...]) -> int:
        """Hold present prefixes, which keeps them from eviction; the blocks they span."""
        one_each = dict.fromkeys(hashes, 1)
        if len(one_each) == len(hashes) and not any(map(self._holders.get, hashes)):
            spanned = sum(map(self._free_queue.pop, hashes))
            self.free_blocks -= spanned
            self._holders.update(one_each)
            return spanned
        spanned = 0
        for unit in hashes:
            blocks = self._unit_blocks[unit]
            spanned += blocks
            holders = self._holders.get(unit, 0)
            if not holders:
                del self._free_queue[unit]
                self.free_blocks -= blocks
            self._holders[unit] = holders + 1
        return spanned

    def cache(self, unit: int, blocks: int) -> bool:
        """Give a hash to `blocks` blocks that the caller holds; False when another copy has it already."""
        if unit in self._unit_blocks:
            return False
        self._unit_blocks[unit] = blocks
        self._holders[unit] = 1
        self._span = blocks if self._span in (None, blocks) else 0
        self._counted = (), 0, 0
        return True

    # ---- blocks

    def allocate(self, blocks: int) -> None:
        """Take unhashed blocks from the head of the free queue; prefixes standing there are evicted."""
        assert blocks <= self.free_blocks, "callers check `free_blocks` first"
        self.free_blocks -= blocks
        queue = self._free_queue
        while blocks > 0:
            key, size = queue.popitem(last=False)
            if not isinstance(key, tuple):
                del self._unit_blocks[key]
                self._holders.pop(key, None)
                self._counted = (), 0, 0
                if self.on_evicted is not None:
                    self.on_evicted(key, size)
            left = size - blocks
            if left > 0:  # the rest of a run, or of an evicted prefix, stays at the head without a hash
                run = ("run", next(self._run))
                queue[run] = left
                queue.move_to_end(run, last=False)
            blocks -= size

    def turn_over(self, taken: int, given: int) -> None:
        """Take unhashed blocks and give others back, as sequences do in turn over one step or many: what is
        given back is taken again only when all that was free before is.
        """
        first = min(taken, self.free_blocks)
        self.allocate(first)
        if given:
            self._give_back(given)
        self.allocate(taken - first)

    def blocks_of(self, tokens: int) -> int:
        """Blocks that a text of so many tokens takes."""
        if self.groups is None:
            return -(-tokens // self.block_size)
        return self.groups.decoding(tokens)

    def free(self, unhashed: int, units: tuple[int, ...] = ()) -> None:
        """Free a sequence's blocks: the unhashed ones, then its units from the last to the first, so that the
        beginning of a prefix is evicted last.
        """
        queue, before = self._free_queue, self.used
        if unhashed:
            self._give_back(unhashed)
        none_each = dict.fromkeys(units, 0)
        if len(none_each) == len(units) and all(map((1).__eq__, map(self._holders.__getitem__, units))):
            self._holders.update(none_each)
            if self._span:
                queue.update(zip(reversed(units), repeat(self._span), strict=False))
                self.free_blocks += self._span * len(units)
            else:
                blocks_of_units = tuple(map(self._unit_blocks.__getitem__, reversed(units)))
                queue.update(zip(reversed(units), blocks_of_units, strict=True))
                self.free_blocks += sum(blocks_of_units)
            units = ()
        for unit in reversed(units):
            self._holders[unit] -= 1
            if not self._holders[unit]:
                blocks = self._unit_blocks[unit]
                queue[unit] = blocks
                self.free_blocks += blocks
        if self.used != before:
            self.changed(before)

    def _give_back(self, blocks: int) -> None:
        """Blocks without a hash join the tail: those of the run that stands there, if it is one."""
        queue = self._free_queue
        last = next(reversed(queue), None)
        if isinstance(last, tuple):
            queue[last] += blocks
        else:
            queue["run", next(self._run)] = blocks
        self.free_blocks += blocks

    def clear(self) -> None:
        """All blocks are free and no prefix is cached, as when the engine has just started."""
        before = self.used
        self.free_blocks = self.blocks
        self._free_queue.clear()
        self._unit_blocks.clear()
        self._holders.clear()
        self._span, self._counted = None, ((), 0, 0)
        if self.blocks:
            self._free_queue["run", next(self._run)] = self.blocks
        self.changed(before)

    def changed(self, before: int) -> None:
        """Report a change that is not the even growth of sequences that decode: that goes from one such
        change to the next, and costs nothing per step.
        """
        if self.on_changed is not None:
            self.on_changed(before, self.used)

    @property
    def free_before_evicting(self) -> int:
        """Free blocks that can be allocated before the first prefix is evicted."""
        blocks = 0
        for key, size in self._free_queue.items():
            if not isinstance(key, tuple):
                break
            blocks += size
        return blocks

    @property
    def used(self) -> int:
        return self.blocks - self.free_blocks

    def differences(self, holders: Iterable[tuple[int, tuple[int, ...]]]) -> Iterator[str]:
        """Where the books differ from what all holders together hold, each its unhashed blocks and hashes."""
        unhashed = 0
        held: dict[int, int] = {}
        for blocks, units in holders:
            unhashed += blocks
            for unit in units:
                held[unit] = held.get(unit, 0) + 1
        hashed = sum(self._unit_blocks.get(unit, 0) for unit in held)
        if unhashed + hashed != self.used:
            yield f"{self.used} KV blocks are in use, and their holders have {unhashed + hashed}"
        elif held != {unit: holders for unit, holders in self._holders.items() if holders}:
            yield "the holders of cached prefixes are not those in the books"

    def check(self) -> None:
        """Blocks are conserved, and every free unit has no holder."""
        assert sum(self._free_queue.values()) == self.free_blocks, "free queue and counter differ"
        assert 0 <= self.free_blocks <= self.blocks, "more blocks free than there are"
        for key in self._free_queue:
            assert isinstance(key, tuple) or not self._holders.get(key), "a free block has a holder"
        held = sum(size for unit, size in self._unit_blocks.items() if self._holders.get(unit))
        assert held <= self.used, "hashed blocks exceed used blocks"
