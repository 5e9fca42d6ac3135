"""The queue of an engine whose KV cache has tiers below HBM.

Up: when a sequence stands at the head, the queue looks up its longest prefix over HBM and the tiers, and a
reload rule says how much of it to load. Blocks for all of its known tokens are reserved first; then its KV
comes over the fabric while the engine serves others, and the sequence returns to its place in the line with
that much computed.

Down: with `write: through`, prompts are copied after the step that computed them, and answers when they are
finished; with `write: on_eviction`, a prefix is copied when HBM evicts it. Blocks with a private hash (what a
preempted sequence has generated) serve no other sequence and are not copied.

Where it stops: a tier's prefix counts only where it continues what HBM has; two sequences that want the same
prefix at the same time each load it; the rule sees transfers and prefills as if alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from simpy import Environment

from sim.policy.reloading import Prefix, ReloadRule
from sim.runtime.engine.attribution import REQUEST_HAND_OVER, StepLedger
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.queue import PRIVATE, QueueLimits, RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.runtime.kv.tiers import Level


@dataclass(slots=True)
class _Part:
    """Consecutive units of a text that lie in one tier: up to unit `end`, which is token `tokens`."""

    level: Level
    end: int
    tokens: int


class TieredQueue(RequestQueue):
    """An engine's queue over HBM and the `levels` below it, nearest first.

    `prefill_s(past, tokens)` is the time to compute from `past` to `tokens` tokens alone. `on_loaded` gets
    every sequence whose KV has arrived; `on_room` is called when blocks have become free outside of a step,
    `on_copied` when the copies of a transfer have ended and their blocks may be free.
    """

    def __init__(
        self,
        env: Environment,
        block_pool: BlockPool,
        limits: QueueLimits,
        ledger: StepLedger | None,
        *,
        levels: list[Level],
        writes_through: bool,
        reload: ReloadRule,
        prefill_s: Callable[[int, int], float],
    ) -> None:
        super().__init__(env, block_pool, limits, ledger)
        self.levels = levels
        self.reload = reload
        self.prefill_s = prefill_s
        self.on_loaded: Callable[[Sequence, RequestQueue], None] = lambda sequence, queue: None
        self.on_room: Callable[[], None] = lambda: None
        self.on_copied: Callable[[], None] = lambda: None
        self.asked_tokens = self.hbm_hit_tokens = 0
        self.loading: dict[Sequence, int] = {}  # with the transfers that each waits for
        self._cancels: dict[Sequence, list[Callable[[], None]]] = {}  # what cancels those transfers
        self._fresh: deque[tuple[int, int, float]] = deque()  # (step, unit, bytes) to be copied after it
        self._copying: set[int] = set()  # units whose HBM blocks stay until their copy has ended
        self.writes_through = writes_through
        if writes_through:
            levels[0].on_landed = self._copied
        else:
            self.block_pool.on_evicted = self._evicted

    @property
    def requests(self) -> int:
        return super().requests + len(self.loading)

    @property
    def tokens(self) -> int:
        return super().tokens + sum(sequence.known_tokens for sequence in self.loading)

    @property
    def copying(self) -> int:
        """Prefixes whose blocks stay until their copy has ended."""
        return len(self._copying)

    # ---- copies down

    def _bytes_of(self, blocks: int) -> float:
        return blocks * self.block_pool.block_size * self.levels[0].bytes_per_token

    def _known_below(self, unit: int) -> bool:
        for level in self.levels:
            if level.tier.knows(unit):
                level.tier.use(unit)
                return True
        return False

    @property
    def free_to_grow(self) -> int:
        """Blocks that folded steps may take. Where evicted prefixes are copied, none of these steps may evict
        one: its copy starts at the instant of a step, which has to be scheduled by itself.
        """
        return self.block_pool.free_blocks if self.writes_through else self.block_pool.free_before_evicting

    def _cache_full_blocks(self, sequence: Sequence, computed: int) -> None:
        first = sequence.held
        super()._cache_full_blocks(sequence, computed)
        if self.writes_through and not sequence.generated:
            # Scheduled now, computed when the step ends: a copy that started at once would read blocks that
            # are still empty.
            for unit, n_bytes in self._shareable(sequence, first):
                self._fresh.append((self.step, unit, n_bytes))

    def _shareable(self, sequence: Sequence, first: int) -> Iterator[tuple[int, float]]:
        """Units that it holds and others could ask for, from its unit number `first` on, with their bytes."""
        for i in range(first, sequence.held):
            if sequence.block_hashes[i] > PRIVATE:
                start = sequence.hash_ends[i - 1] if i else 0
                blocks = (sequence.hash_ends[i] - start) // self.block_pool.block_size
                yield sequence.block_hashes[i], self._bytes_of(blocks)

    def steps_passed(self, step: int) -> None:
        """All steps before this one have ended: what they computed of prompts can be copied."""
        while self._fresh and self._fresh[0][0] < step:
            _, unit, n_bytes = self._fresh.popleft()
            if self.block_pool.has(unit):  # HBM may have evicted it since
                self._write(unit, n_bytes)

    def finish(self, sequence: Sequence) -> None:
        if self.writes_through:
            for unit, n_bytes in self._shareable(sequence, 0):
                self._write(unit, n_bytes)
        super().finish(sequence)

    def _write(self, unit: int, n_bytes: float) -> None:
        if not self._known_below(unit) and self.levels[0].put(unit, n_bytes):
            self.block_pool.touch((unit,))  # the copy reads these blocks: no other sequence may get them
            self._copying.add(unit)

    def _copied(self, units: list[int]) -> None:
        mine = tuple(unit for unit in units if unit in self._copying)
        self._copying.difference_update(mine)
        self.block_pool.free(0, mine)
        # Also where nothing waits here: a KV cache may wait elsewhere for blocks that come free now.
        self.on_copied()

    def _evicted(self, unit: int, blocks: int) -> None:
        if unit > PRIVATE and not self._known_below(unit):
            self.levels[0].put(unit, self._bytes_of(blocks))

    # ---- copies up

    def enqueue(self, sequence: Sequence) -> None:
        """A sequence whose KV has arrived returns to its place: before those that arrived later."""
        if not sequence.received or self.by_priority:
            super().enqueue(sequence)
            return
        later = (i for i, other in enumerate(self.waiting) if other.arrival_s > sequence.arrival_s)
        self.waiting.insert(next(later, len(self.waiting)), sequence)

    def next_waiting(self) -> Sequence | None:
        while True:
            head = super().next_waiting()
            if head is None or head.received:
                return head
            units = self.block_pool.cached_units(head.block_hashes, len(head.block_hashes))
            parts = self._to_reload(head, units)
            # Without room to load its KV there is hardly any to compute it in: admission decides. A head that
            # starts to load leaves the line, and the next one is looked at.
            if not parts or not self._load(head, units, parts):
                return head

    def _to_reload(self, head: Sequence, units: int) -> list[_Part]:
        """The parts of its text that a sequence reloads by the rule, in order; none if it computes them."""
        parts = self._below(head, units)
        if not parts:
            return []
        start = self.cached_tokens(head)
        capacity = self.levels[0].fabric.capacity
        loads: dict[int, int] = {}
        past, prefixes = start, []
        # One prefix per part, each with all parts before it. All that one tier has of it is one transfer, and
        # tiers load at the same time: a prefix takes as long as its slowest tier.
        for part in parts:
            key = self.levels.index(part.level)
            loads[key] = loads.get(key, 0) + part.tokens - past
            past = part.tokens
            reload_s = max(
                self.levels[which].reading.isolated_s(tokens, capacity) for which, tokens in loads.items()
            )
            n_bytes = (past - start) * part.level.bytes_per_token
            compute_s = self.prefill_s(start, head.known_tokens) - self.prefill_s(past, head.known_tokens)
            prefixes.append(Prefix(part.level.tier.name, past, start, n_bytes, reload_s, compute_s))
        return parts[: self.reload(prefixes)]

    def _below(self, head: Sequence, units: int) -> list[_Part]:
        """What tiers have of a text beyond the `units` that HBM has, up to the first unit that none has."""
        names, ends = head.block_hashes, head.hash_ends
        limit = self._max_cached(head)
        parts: list[_Part] = []
        for i in range(units, len(names)):
            if (ends[i - 1] if i else 0) >= limit:
                break
            level = next((level for level in self.levels if level.tier.has(names[i])), None)
            if level is None:
                break
            # The nearest tier that has it; consecutive units of one tier are one part.
            if not parts or parts[-1].level is not level:
                parts.append(_Part(level, i, 0))
            parts[-1].end, parts[-1].tokens = i + 1, min(ends[i], limit)
        return parts

    def _max_cached(self, sequence: Sequence) -> int:
        """Tokens in whole blocks, without the last known one: it is always computed, since the next token is
        sampled after it.
        """
        size = self.block_pool.block_size
        return (sequence.known_tokens - 1) // size * size

    def _load(self, head: Sequence, units: int, parts: list[_Part]) -> bool:
        """Reserve blocks for a sequence and start its transfers; False when there are not enough."""
        cache, size = self.block_pool, self.block_pool.block_size
        present = head.block_hashes[:units]
        past = self.cached_tokens(head)
        # As admission does: all known tokens, less the blocks that HBM shares with it. Those that are
        # evictable now count as free until they are touched, and must not be counted twice.
        needed = -(-head.known_tokens // size) - (head.hash_ends[units - 1] // size if units else 0)
        room = cache.free_blocks - (cache.reserve if self.running else 0) - cache.evictable(present)
        if needed > room:
            return False
        self._count_lookup(head, past)
        before = cache.used
        cache.touch(present)
        head.held, head.unhashed_blocks, head.computed = units, needed, parts[-1].tokens
        head.charge_queueing(self.env.now)
        self._leave_line(head)
        loads: dict[int, tuple[list[int], int]] = {}  # units and tokens, by level: one transfer each
        first = units
        for part in parts:
            which = self.levels.index(part.level)
            names, tokens = loads.get(which, ([], 0))
            loads[which] = names + list(head.block_hashes[first : part.end]), tokens + part.tokens - past
            first, past = part.end, part.tokens
        self.loading[head] = len(loads)
        self._cancels[head] = [
            self.levels[which].read(names, tokens, partial(self._landed, head))
            for which, (names, tokens) in loads.items()
        ]
        cache.allocate(needed)  # last: what this pushes out of HBM must not push out what is to be read
        cache.changed(before)
        return True

    def _landed(self, sequence: Sequence) -> None:
        self.loading[sequence] -= 1
        if self.loading[sequence]:
            return  # other tiers' transfers are under way
        del self.loading[sequence], self._cancels[sequence]
        sequence.received = True
        sequence.wait(REQUEST_HAND_OVER, self.env.now)
        self._cache_full_blocks(sequence, sequence.computed)
        self.on_loaded(sequence, self)

    def leave(self, sequence: Sequence) -> None:
        """Also a sequence whose KV is being loaded: its transfers are cancelled."""
        if sequence not in self.loading:
            super().leave(sequence)
            return
        del self.loading[sequence]
        for cancel in self._cancels.pop(sequence):
            cancel()
        sequence.wait(REQUEST_HAND_OVER, self.env.now)
        self.release(sequence)

    def fail(self) -> list[Sequence]:
        """With HBM, copies under way are lost, and the tiers that no other engine reads."""
        loading = list(self.loading)
        for sequence in loading:
            self.leave(sequence)
        for level in self.levels:
            level.fail()
        self._fresh.clear()
        self._copying.clear()
        return [*super().fail(), *loading]

    def admit(self, sequence: Sequence, cached_tokens: int, tokens: int) -> bool:
        if not super().admit(sequence, cached_tokens, tokens):
            return False
        if not sequence.received:
            self._count_lookup(sequence, cached_tokens)
        return True

    def preempt(self, sequence: Sequence) -> None:
        super().preempt(sequence)
        if not self.running:  # no step in flight will look for the loaded sequences that need its blocks
            self.on_room()

    def _count_lookup(self, sequence: Sequence, held_tokens: int) -> None:
        self.asked_tokens += sequence.known_tokens
        self.hbm_hit_tokens += held_tokens

    def holders(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Also sequences whose KV is being loaded, and copies, which keep what they read."""
        yield from super().holders()
        for sequence in self.loading:
            yield sequence.unhashed_blocks, sequence.block_hashes[: sequence.held]
        yield 0, tuple(self._copying)

    def check(self) -> None:
        """The books of HBM and of every tier are in order, and HBM still has what is being copied."""
        self.block_pool.check()
        for level in self.levels:
            level.tier.check()
        assert all(self.block_pool.has(unit) for unit in self._copying), "a prefix left HBM during its copy"
