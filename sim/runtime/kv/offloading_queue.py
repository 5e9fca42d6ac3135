"""The queue of an engine whose KV cache has tiers below HBM.

Before a sequence is admitted, the longest prefix over HBM and the tiers is looked up and a rule says how much
of it to reload. Blocks for all of its known tokens are reserved first; then its KV comes over the fabric
while the engine goes on with others, and it returns to its place in the line with that much computed. What is
computed here is copied down as the engine's `write` says: prompts after each step, answers when they are
whole. Sequences' own blocks after a preemption have no name that others could ask for and are not copied.

Where it stops: a tier's prefix counts only where it follows on what HBM has; two sequences that want the same
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
    """Consecutive prefixes of a text that lie in one tier: the last name, and the tokens they end at."""

    level: Level
    end: int
    tokens: int


class TieredQueue(RequestQueue):
    """An engine's queue over HBM and the `levels` below it, the nearest first.

    `prefill_s(past, tokens)` is the time to compute from `past` to `tokens` tokens alone. `on_loaded` gets
    every sequence whose KV has come; `on_room` is called when blocks have become free outside of a step.
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
        self.asked_tokens = self.hbm_hit_tokens = 0
        self.loading: dict[Sequence, int] = {}  # transfers that each of them waits for
        self._giving_up: dict[Sequence, list[Callable[[], None]]] = {}  # those transfers
        self._fresh: deque[tuple[int, int, float]] = deque()  # (step, name, bytes) to be copied after it
        self._held: set[int] = set()  # names whose HBM blocks stay for a copy under way
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
        """Where evicted prefixes are copied, a step that evicts one is scheduled by itself."""
        return self.block_pool.free_blocks if self.writes_through else self.block_pool.free_before_evicting

    def _cache_full_blocks(self, sequence: Sequence, computed: int) -> None:
        first = sequence.held
        super()._cache_full_blocks(sequence, computed)
        if self.writes_through and not sequence.generated:
            for unit, n_bytes in self._named(sequence, first):
                self._fresh.append((self.step, unit, n_bytes))

    def _named(self, sequence: Sequence, first: int) -> Iterator[tuple[int, float]]:
        """Names that it holds and others could ask for, from its name number `first` on, with their bytes."""
        for i in range(first, sequence.held):
            if sequence.block_hashes[i] > PRIVATE:
                start = sequence.hash_ends[i - 1] if i else 0
                blocks = (sequence.hash_ends[i] - start) // self.block_pool.block_size
                yield sequence.block_hashes[i], self._bytes_of(blocks)

    def steps_passed(self, step: int) -> None:
        """All steps before this one have ended: what they computed of prompts can be copied."""
        while self._fresh and self._fresh[0][0] < step:
            _, unit, n_bytes = self._fresh.popleft()
            if self.block_pool.has(unit):
                self._write(unit, n_bytes)

    def finish(self, sequence: Sequence) -> None:
        if self.writes_through:
            for unit, n_bytes in self._named(sequence, 0):
                self._write(unit, n_bytes)
        super().finish(sequence)

    def _write(self, unit: int, n_bytes: float) -> None:
        if not self._known_below(unit) and self.levels[0].put(unit, n_bytes):
            self.block_pool.touch((unit,))
            self._held.add(unit)

    def _copied(self, units: list[int]) -> None:
        mine = tuple(unit for unit in units if unit in self._held)
        self._held.difference_update(mine)
        self.block_pool.free(0, mine)
        if self.waiting:
            self.on_room()

    def _evicted(self, unit: int, blocks: int) -> None:
        if unit > PRIVATE and not self._known_below(unit):
            self.levels[0].put(unit, self._bytes_of(blocks))

    # ---- copies up

    def enqueue(self, sequence: Sequence) -> None:
        """A sequence whose KV has come goes back to where it stood: before those that arrived later."""
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
            chosen = self._chosen(head, units)
            if not chosen or not self._load(head, units, chosen):
                return head  # without room for its KV there is hardly any to compute it in

    def _chosen(self, head: Sequence, units: int) -> list[_Part]:
        """The parts of its text that a sequence is to reload, in order; none if it is to compute them."""
        parts = self._below(head, units)
        if not parts:
            return []
        start = self.cached_tokens(head)
        capacity = self.levels[0].fabric.capacity
        loads: dict[int, int] = {}
        past, prefixes = start, []
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
        names, ends = head.block_hashes, head.hash_ends
        most = self._max_cached(head)
        parts: list[_Part] = []
        for i in range(units, len(names)):
            if (ends[i - 1] if i else 0) >= most:
                break
            level = next((level for level in self.levels if level.tier.has(names[i])), None)
            if level is None:
                break
            if not parts or parts[-1].level is not level:
                parts.append(_Part(level, i, 0))
            parts[-1].end, parts[-1].tokens = i + 1, min(ends[i], most)
        return parts

    def _max_cached(self, sequence: Sequence) -> int:
        """The last known token is computed in any case: it gives the next one."""
        size = self.block_pool.block_size
        return (sequence.known_tokens - 1) // size * size

    def _load(self, head: Sequence, units: int, parts: list[_Part]) -> bool:
        """Reserve blocks for a sequence and start its transfers; False when there are not enough."""
        cache, size = self.block_pool, self.block_pool.block_size
        present = head.block_hashes[:units]
        past = self.cached_tokens(head)
        needed = -(-head.known_tokens // size) - (head.hash_ends[units - 1] // size if units else 0)
        room = cache.free_blocks - (cache.reserve if self.running else 0) - cache.evictable(present)
        if needed > room:
            return False
        self._asked(head, past)
        cache.touch(present)
        head.held, head.unhashed_blocks, head.computed = units, needed, parts[-1].tokens
        head.charge_queueing(self.env.now)
        self.waiting.remove(head)
        loads: dict[int, tuple[list[int], int]] = {}
        first = units
        for part in parts:
            which = self.levels.index(part.level)
            names, tokens = loads.get(which, ([], 0))
            loads[which] = names + list(head.block_hashes[first : part.end]), tokens + part.tokens - past
            first, past = part.end, part.tokens
        self.loading[head] = len(loads)
        self._giving_up[head] = [
            self.levels[which].read(names, tokens, partial(self._landed, head))
            for which, (names, tokens) in loads.items()
        ]
        cache.allocate(needed)  # last: what this pushes out of HBM must not push out what is to be read
        return True

    def _landed(self, sequence: Sequence) -> None:
        self.loading[sequence] -= 1
        if self.loading[sequence]:
            return
        del self.loading[sequence], self._giving_up[sequence]
        sequence.received = True
        sequence.wait(REQUEST_HAND_OVER, self.env.now)
        self._cache_full_blocks(sequence, sequence.computed)
        self.on_loaded(sequence, self)

    def leave(self, sequence: Sequence) -> None:
        """Also a sequence whose KV is on its way: its transfers are given up."""
        if sequence not in self.loading:
            super().leave(sequence)
            return
        del self.loading[sequence]
        for give_up in self._giving_up.pop(sequence):
            give_up()
        sequence.wait(REQUEST_HAND_OVER, self.env.now)
        self.release(sequence)

    def fail(self) -> list[Sequence]:
        """With HBM go copies under way, and the tiers that no other engine reads."""
        loading = list(self.loading)
        for sequence in loading:
            self.leave(sequence)
        for level in self.levels:
            level.fail()
        self._fresh.clear()
        self._held.clear()
        return [*super().fail(), *loading]

    def admit(self, sequence: Sequence, cached_tokens: int, tokens: int) -> bool:
        if not super().admit(sequence, cached_tokens, tokens):
            return False
        if not sequence.received:
            self._asked(sequence, cached_tokens)
        return True

    def preempt(self, sequence: Sequence) -> None:
        super().preempt(sequence)
        if not self.running:  # its blocks went to sequences that have been loaded: now it is their turn
            self.on_room()

    def _asked(self, sequence: Sequence, held_tokens: int) -> None:
        self.asked_tokens += sequence.known_tokens
        self.hbm_hit_tokens += held_tokens

    def check(self) -> None:
        """The books of HBM and of every tier are in order, and what is being copied is still in HBM."""
        self.block_pool.check()
        for level in self.levels:
            level.tier.check()
        assert all(self.block_pool.has(unit) for unit in self._held), "a prefix left HBM during its copy"
