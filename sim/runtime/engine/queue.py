"""The sequences and KV blocks of one scheduler: what a scheduling rule may ask, and what its choices change.

An engine has one of these; with data-parallel attention, one for each data-parallel rank. Sequences wait,
run, may be preempted and wait again, and leave: finished, aborted, or lost with the engine. Admission follows
vLLM V1's `Scheduler.schedule` and `KVCacheManager.allocate_slots`.
"""

from __future__ import annotations

from bisect import insort_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice

from simpy import Environment

from sim.cost.block_groups import BlockGroups
from sim.policy.scheduling import Grants
from sim.runtime.engine.attribution import REQUEST_PIPELINE, REQUEST_RECOMPUTE, StepLedger
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.cohort import Cohort
from sim.runtime.engine.sequence import Sequence
from sim.workload.request import Request

PRIVATE = -(1 << 80)  # hashes from here down are of one sequence alone; those of shared prefixes are larger


def _rank(sequence: Sequence) -> tuple[int, float]:
    """The order by priority: the lowest number first, then the first to arrive."""
    return sequence.priority, sequence.arrival_s


@dataclass(slots=True)
class HeldBlocks:
    """Blocks of a sequence that has left its queue, until `free` is called."""

    block_pool: BlockPool
    unhashed: int
    hashes: tuple[int, ...]

    def free(self) -> None:
        self.block_pool.free(self.unhashed, self.hashes)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What bounds the steps and the admissions of one scheduler.

    `token_budget`: tokens of a step. `max_num_seqs`: sequences that run at a time. `by_priority`: waiting
    ones stand in order of priority, then arrival. `draft_tokens` are computed with every decode.

    `reserve_full_prompt`: no sequence is admitted before there is room for all of its known tokens, instead
    of only for its first chunk (vLLM's `scheduler_reserve_full_isl`). `guaranteed_no_evict`: none before
    there is room for all that it and the running ones may still generate (TensorRT-LLM's
    GUARANTEED_NO_EVICT; a prefix that several share counts once for each of them). `async_scheduling`: a step
    is chosen while the one before it runs, so that a sequence that ends with that one still has its place and
    its blocks.
    """

    token_budget: int
    max_num_seqs: int
    by_priority: bool = False
    draft_tokens: int = 0
    reserve_full_prompt: bool = True
    guaranteed_no_evict: bool = False
    async_scheduling: bool = False


class RequestQueue:
    """Waiting and running sequences over one KV cache. `step` counts the engine's steps begun so far."""

    def __init__(
        self, env: Environment, block_pool: BlockPool, limits: QueueLimits, ledger: StepLedger | None
    ) -> None:
        """`ledger` is None where several batches are in flight; sequences are then charged step by step."""
        self.env = env
        self.block_pool = block_pool
        self.limits = limits
        self.token_budget = limits.token_budget
        self.draft_tokens = limits.draft_tokens
        self.by_priority = limits.by_priority
        self.ledger = ledger
        self.step = 0
        self.cohort = Cohort(block_pool.block_size, block_pool.groups)
        self.running: list[Sequence] = []
        # By priority a list, kept sorted: a binary search finds a place in it, and moving what is behind is
        # one copy of memory. Where `_out_of_order`, its first one was brought forward.
        self.waiting: deque[Sequence] | list[Sequence] = [] if self.by_priority else deque()
        self._out_of_order: Sequence | None = None
        self._unseen: list[tuple[int, int, Sequence]] = []  # by priority, a heap: (eligible_step, number, it)
        self._enqueued = 0
        self.preemptions = 0
        self.roomier_after_step = -1  # the last step that was chosen with less room than the next one has
        self.turned_away = False  # a KV cache from elsewhere got no blocks, since a preempted sequence waits
        self._leaving: list[HeldBlocks] = []

    # ---- from outside

    @property
    def max_running(self) -> int:
        """Sequences that may run in the next step: `max_num_seqs`, less those that have ended and keep their
        place until that step is chosen.
        """
        return self.limits.max_num_seqs - len(self._leaving)

    @property
    def may_get_room(self) -> bool:
        """Whether a waiting sequence may have room although nothing comes or goes: sequences give back what
        leaves their windows.
        """
        return self.block_pool.groups is not None and len(self.running) < self.max_running

    @property
    def free_to_grow(self) -> int:
        """Blocks that a run of folded steps may take."""
        return self.block_pool.free_blocks

    @property
    def requests(self) -> int:
        return len(self.running) + len(self.waiting)

    @property
    def tokens(self) -> int:
        """Tokens in KV blocks, and tokens still to be computed of prompts."""
        apart = islice(self.running, len(self.cohort.members), None)
        held = sum(sequence.computed + max(0, sequence.pending_tokens - 1) for sequence in apart)
        return held + self.cohort.kv_tokens + sum(sequence.known_tokens for sequence in self.waiting)

    def enqueue(self, sequence: Sequence) -> None:
        """Behind all that wait, or by priority and then arrival.

        A sequence whose KV cache has come from elsewhere stands before those that hold none: vLLM skips it
        while the cache is on its way, and puts it back in front (`skipped_waiting_requests`).
        """
        if not self.by_priority:
            without = (i for i, other in enumerate(self.waiting) if not other.received)
            place = next(without, None) if sequence.received else None
            self.waiting.insert(len(self.waiting) if place is None else place, sequence)
            return
        if self._out_of_order is not None:  # for a moment: it is the next to be admitted
            key = _rank(sequence)
            places = (i for i, other in enumerate(self.waiting) if _rank(other) > key)
            self.waiting.insert(next(places, len(self.waiting)), sequence)
        else:
            insort_right(self.waiting, sequence, key=_rank)
        if sequence.eligible_step > self.step:
            self._enqueued += 1
            heappush(self._unseen, (sequence.eligible_step, self._enqueued, sequence))

    def hash_blocks(self, sequence: Sequence, request: Request) -> None:
        """The prefixes a sequence could share, and how many of its tokens each covers (whole blocks only)."""
        hashes, tokens_per_hash = request.block_hashes, request.hash_block_tokens
        if not self.block_pool.caches or not hashes or not tokens_per_hash:
            sequence.block_hashes = ()
            return
        size = self.block_pool.block_size
        longest = int(min(request.prompt_tokens + sequence.output_tokens, request.hashed_tokens))
        if tokens_per_hash % size == 0:  # a hash is of whole blocks, but the last: in C, as texts are long
            whole = min(len(hashes), longest // tokens_per_hash)
            rest = longest // size * size if whole < len(hashes) else 0
            last = (rest,) if rest > whole * tokens_per_hash else ()
            sequence.block_hashes = hashes[: whole + len(last)]
            sequence.hash_ends = (*range(tokens_per_hash, longest + 1, tokens_per_hash)[:whole], *last)
            return
        ends = [min((i + 1) * tokens_per_hash, longest) // size * size for i in range(len(hashes))]
        kept = [i for i, end in enumerate(ends) if end > (ends[i - 1] if i else 0)]
        sequence.block_hashes = tuple(hashes[i] for i in kept)
        sequence.hash_ends = tuple(ends[i] for i in kept)

    def finish(self, sequence: Sequence) -> None:
        """It has its last token: its blocks are free again; with async scheduling, only after the choice of
        the next step, which did not know of the end yet.
        """
        self.stop_running(sequence)
        if self.limits.async_scheduling:
            self._leaving.append(self.detach(sequence))
        else:
            self.release(sequence)

    def stop_running(self, sequence: Sequence) -> None:
        """It leaves the running sequences and still holds its blocks."""
        if sequence.cohort is not None:
            sequence.cohort.leave(sequence)
        self.running.remove(sequence)

    def release_ended(self) -> None:
        """A step is chosen: places and blocks of sequences that ended before it are free for the next one."""
        if self._leaving:
            for held in self._leaving:
                held.free()
            self._leaving.clear()
            self.roomier_after_step = self.step

    def leave(self, sequence: Sequence) -> None:
        """It goes unfinished, wherever it stands: its time is charged up to now, its blocks are free."""
        if sequence in self.running:
            self.charge_steps(sequence)
            if self.ledger is None:
                sequence.wait(REQUEST_PIPELINE, self.env.now)
            sequence.dropped = sequence.in_flight
            self.stop_running(sequence)
        else:
            self._leave_line(sequence)
            sequence.eligible_step = 0
            sequence.charge_queueing(self.env.now)
        self.release(sequence)

    def _leave_line(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        if sequence is self._out_of_order:
            self._out_of_order = None

    def fail(self) -> list[Sequence]:
        """The engine is lost and everything here with it; the sequences that were here, charged up to now."""
        now = self.env.now
        self.cohort.dissolve()
        for sequence in self.running:
            sequence.wait(REQUEST_RECOMPUTE, now)  # what its last step had cost until it was cut off
        for sequence in self.waiting:
            sequence.charge_queueing(now)
        lost = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        self._unseen.clear()
        self._out_of_order = None
        self._leaving.clear()
        self.block_pool.clear()
        return lost

    def release(self, sequence: Sequence) -> None:
        self.block_pool.free(sequence.unhashed_blocks, sequence.block_hashes[: sequence.held])
        sequence.unhashed_blocks = sequence.held = 0

    def reserve(self, tokens: int) -> int | None:
        """Blocks for `tokens` tokens that will come from elsewhere; None when there are not enough, or when a
        preempted sequence waits for blocks already.
        """
        if self.is_owed_blocks:
            self.turned_away = True
            return None
        if not self.could_reserve(tokens):
            return None
        blocks = -(-tokens // self.block_pool.block_size)
        before = self.block_pool.used
        self.block_pool.allocate(blocks)
        self.block_pool.changed(before)
        return blocks

    def could_reserve(self, tokens: int) -> bool:
        """Whether `reserve` finds blocks."""
        pool = self.block_pool
        room = pool.free_blocks - pool.reserve
        return -(-tokens // pool.block_size) <= room and not self.is_owed_blocks

    @property
    def is_owed_blocks(self) -> bool:
        """True where a sequence waits that holds none: it comes before those that come from elsewhere."""
        return any(not one.received for one in self.waiting)

    def detach(self, sequence: Sequence) -> HeldBlocks:
        """Part a sequence that goes elsewhere from its blocks."""
        held = HeldBlocks(self.block_pool, sequence.unhashed_blocks, sequence.block_hashes[: sequence.held])
        sequence.unhashed_blocks = sequence.held = 0
        return held

    def grow_together(self, steps: int) -> None:
        """`grow` for all sequences in the cohort."""
        self.cohort.computed += steps
        self._cover(steps, self.cohort.blocks_for(steps))

    def _cover(self, steps: int, blocks: int) -> None:
        """Allocate the blocks for so many more tokens of each sequence in the cohort, `blocks` in all."""
        cohort = self.cohort
        groups = self.block_pool.groups
        if not cohort.hashes_a_block_within(steps):
            if groups is not None:
                self.block_pool.turn_over(*cohort.turnover(steps))
            elif blocks:
                self.block_pool.allocate(blocks)
            cohort.covered += steps
            return
        # Some block gets a hash. Which copy gets it depends on the order in which sequences fill blocks, so
        # they are gone through one by one, as steps without a cohort do.
        cohort.covered += steps
        for sequence, _ in cohort.grants:
            after = sequence.own_computed + cohort.covered
            if groups is not None:
                self.block_pool.turn_over(*groups.turnover(after - steps, steps))
            else:
                blocks = -(-after // cohort.block_size) + (steps - after) // cohort.block_size
                if blocks:
                    self.block_pool.allocate(blocks)
            if sequence.held < len(sequence.block_hashes):
                self._cache_full_blocks(sequence, after)
        cohort.blocks_hashed()

    def grow(self, sequence: Sequence, tokens: int) -> None:
        """Count the tokens and allocate the blocks of further folded steps, as scheduling each would have."""
        size, groups = self.block_pool.block_size, self.block_pool.groups
        if groups is not None:
            taken, given = groups.turnover(sequence.own_computed, tokens)
            self.block_pool.turn_over(taken, given)
            sequence.own_computed += tokens
            sequence.own_unhashed_blocks += taken - given
        else:
            before = -(-sequence.own_computed // size)
            sequence.own_computed += tokens
            blocks = -(-sequence.own_computed // size) - before
            if blocks:
                self.block_pool.allocate(blocks)
                sequence.own_unhashed_blocks += blocks
        if sequence.block_hashes:
            self._cache_full_blocks(sequence, sequence.own_computed)

    def begins_together(self, granted: Grants[Sequence]) -> bool:
        """True where a step begins with all of the cohort, whose tokens count as computed from here on."""
        cohort = self.cohort
        if not cohort.members:
            return False
        if cohort.covered > cohort.computed and granted[: len(cohort.members)] == cohort.grants:
            cohort.computed += 1
            return True
        if any(sequence.cohort is not None for sequence, _ in granted):
            cohort.dissolve()  # a rule from a script has chosen among its members
        return False

    # ---- for the self-checks

    def holders(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The unhashed blocks and the hashes that each sequence of this queue holds."""
        for sequence in (*self.running, *self.waiting):
            yield sequence.unhashed_blocks, sequence.block_hashes[: sequence.held]
        for held in self._leaving:
            yield held.unhashed, held.hashes

    def could_admit(self) -> Sequence | None:
        """The waiting sequence that an engine at rest would admit whole, if there is room for one."""
        if not self.waiting or len(self.running) >= self.max_running:
            return None
        holds = (one for one in self.waiting if one.received)
        head = self.waiting[0] if self.running else next(holds, self.waiting[0])
        cached = self.cached_tokens(head)
        units = (
            0 if head.received else self.block_pool.cached_units(head.block_hashes, len(head.block_hashes))
        )
        fits = self._blocks_to_admit(head, units if cached else 0, head.known_tokens) is not None
        return head if fits else None

    def check(self) -> None:
        """The books of the KV blocks are in order."""
        self.block_pool.check()

    # ---- what a scheduling rule may ask

    def next_waiting(self) -> Sequence | None:
        if not self.running:
            self._bring_forward()
        if not self.by_priority:
            first = self.waiting[0] if self.waiting else None
            return first if first is not None and first.eligible_step <= self.step else None
        return next((one for one in self.waiting if one.eligible_step <= self.step), None)

    def _bring_forward(self) -> None:
        """Put a sequence that holds blocks in front of one that holds none. With nothing running, no blocks
        become free, and the first one could wait for ever for those that are held behind it.
        """
        if self.waiting and not self.waiting[0].received:
            holder = next((one for one in self.waiting if one.received), None)
            if holder is not None:
                self.waiting.remove(holder)
                self.waiting.insert(0, holder)
                if self.by_priority:
                    self._out_of_order = holder

    def next_unseen_step(self, after: int) -> int | None:
        """The first step after `after` from which one more of the waiting sequences may be admitted."""
        if not self.by_priority:
            first = self.waiting[0].eligible_step if self.waiting else 0
            return first if first > after else None
        unseen = self._unseen
        while unseen and (unseen[0][0] <= after or unseen[0][2].eligible_step != unseen[0][0]):
            heappop(unseen)  # the steps asked about only grow; one that left before its step has another
        return unseen[0][0] if unseen else None

    def cached_tokens(self, sequence: Sequence) -> int:
        if sequence.received:
            return sequence.computed
        size = self.block_pool.block_size
        units = self.block_pool.cached_units(sequence.block_hashes, len(sequence.block_hashes))
        return min(sequence.hash_ends[units - 1], (sequence.known_tokens - 1) // size * size) if units else 0

    def allocate_together(self, most: int) -> Grants[Sequence]:
        cohort = self.cohort
        if self.ledger is None or self.draft_tokens or (len(self.running) < 2 and not cohort.members):
            return []  # a cohort of one saves nothing
        if cohort.covered > cohort.computed:  # a rule dropped the grants that it got here for the last step
            cohort.dissolve()
        for sequence in islice(self.running, len(cohort.members), most):
            if not cohort.may_join(sequence, self.held_blocks(sequence)):
                break
            cohort.join(sequence)
        if not cohort.members:
            return []
        blocks = cohort.blocks_for(1)
        if len(cohort.members) > most or blocks > self.block_pool.free_blocks:
            cohort.dissolve()  # the rule asks about each by itself, and preempts where blocks run out
            return []
        self._cover(1, blocks)
        return cohort.grants

    def allocate(self, sequence: Sequence, tokens: int) -> bool:
        if sequence.cohort is not None:
            sequence.cohort.dissolve()
        pool = self.block_pool
        held = sequence.own_unhashed_blocks
        if sequence.held:
            held += self._hashed_blocks(sequence)
        if pool.groups is not None:
            if not self._allocate_in_groups(pool.groups, sequence, tokens, held):
                return False
            if sequence.block_hashes:
                self._cache_full_blocks(sequence, sequence.own_computed + tokens)
            return True
        needed = -(-(sequence.own_computed + tokens) // pool.block_size) - held
        if needed > 0:
            if needed > pool.free_blocks:
                return False
            before = pool.used
            pool.allocate(needed)
            if tokens > 1:
                pool.changed(before)
            sequence.own_unhashed_blocks += needed
        if sequence.block_hashes:
            self._cache_full_blocks(sequence, sequence.own_computed + tokens)
        return True

    def _allocate_in_groups(self, groups: BlockGroups, sequence: Sequence, tokens: int, held: int) -> bool:
        """`allocate` where layers have windows: what has left them is given back first."""
        pool, computed = self.block_pool, sequence.own_computed
        size = pool.block_size
        more = groups.during(computed, tokens) - held
        filled = -(-(computed + tokens) // size) - -(-computed // size)
        taken = max(more, groups.paged * filled)
        if more > pool.free_blocks:
            return False
        before = pool.used
        pool.turn_over(taken, taken - more)
        if tokens > 1:
            pool.changed(before)
        sequence.own_unhashed_blocks += more
        return True

    def admit(self, sequence: Sequence, cached_tokens: int, tokens: int) -> bool:
        units = 0
        if cached_tokens and not sequence.received:
            hashes = sequence.block_hashes
            units = self.block_pool.cached_units(hashes, len(hashes))
        needed = self._blocks_to_admit(sequence, units, cached_tokens + tokens)
        if needed is None:
            return False
        # The prefix first: no holder keeps it yet, so the blocks allocated next could be its own.
        before = self.block_pool.used
        self.block_pool.touch(sequence.block_hashes[:units])
        self.block_pool.allocate(needed)
        self.block_pool.changed(before)
        if not sequence.received:
            sequence.held = units
            sequence.computed = cached_tokens
        sequence.unhashed_blocks += needed
        sequence.admit(self.env.now, cached_tokens, None if self.ledger is None else self.ledger.read())
        self._leave_line(sequence)  # the first, or the first that may be seen already
        self.running.append(sequence)
        self._cache_full_blocks(sequence, cached_tokens + tokens)
        return True

    def _blocks_to_admit(self, sequence: Sequence, units: int, tokens: int) -> int | None:
        """New blocks for the first `tokens` tokens of a waiting sequence that takes up its first `units`
        cached prefixes; None where there is no room for it.
        """
        pool, limits = self.block_pool, self.limits
        prefix = sequence.hash_ends[units - 1] if units else 0
        held = pool.whole * (prefix // pool.block_size) if units else self.held_blocks(sequence)
        # Free blocks less the watermark, which running sequences grow into (an empty engine may use all, or
        # a long prompt would wait for ever), less prefixes that count as free now and will be taken up.
        room = pool.free_blocks - (pool.reserve if self.running else 0)
        room -= pool.evictable(sequence.block_hashes[:units])
        groups = pool.groups
        if groups is None:
            needed = max(0, -(-tokens // pool.block_size) - held)
            all_blocks = -(-sequence.known_tokens // pool.block_size)
        else:
            first = min(prefix, tokens)
            needed = max(0, groups.during(first, tokens - first) - held)
            all_blocks = groups.most(sequence.known_tokens, limits.token_budget)
        # A prompt admitted with room for its first chunk alone could be preempted before its last one.
        whole = all_blocks - held if limits.reserve_full_prompt else 0
        if max(needed, whole) > room:
            return None
        if limits.guaranteed_no_evict and self.running:
            promised = sum(self._max_blocks(one) for one in (*self.running, sequence))
            if promised > pool.blocks - pool.reserve:
                return None
        return needed

    def preempt(self, sequence: Sequence) -> None:
        self.stop_running(sequence)
        self.charge_steps(sequence)
        if self.ledger is None:
            sequence.wait(REQUEST_PIPELINE, self.env.now)
        sequence.dropped = sequence.in_flight  # steps under way give it no tokens
        if self.block_pool.caches:
            self._hash_for_return(sequence)
        self.release(sequence)
        sequence.computed = 0
        sequence.received = False
        sequence.preemptions += 1
        sequence.recomputing = True
        self.preemptions += 1
        self.roomier_after_step = self.step  # no sequence is admitted in a step that preempts
        self.turned_away = True  # what comes from elsewhere has to wait until this one runs again
        if self.by_priority:
            self.enqueue(sequence)
        else:
            self.waiting.insert(0, sequence)

    def _max_blocks(self, sequence: Sequence) -> int:
        return -(-(sequence.request.prompt_tokens + sequence.output_tokens) // self.block_pool.block_size)

    def charge_steps(self, sequence: Sequence) -> None:
        """Charge a sequence for the steps it was in since the last charge, where a ledger has them."""
        if self.ledger is not None:
            self.ledger.charge(sequence, self.env.now)

    # ---- hashes of blocks

    def _hash_for_return(self, sequence: Sequence) -> None:
        """A preempted sequence's full blocks can be found again until they are evicted: those without a hash
        get one of their own.
        """
        size = self.block_pool.block_size
        full, hashed = sequence.computed // size, self._blocks_with_hashes(sequence)
        base = (sequence.request.request_id + 1) << 24
        sequence.block_hashes += tuple(PRIVATE - base - i for i in range(hashed, full))
        sequence.hash_ends += tuple((i + 1) * size for i in range(hashed, full))
        self._cache_full_blocks(sequence, sequence.computed)

    def _blocks_with_hashes(self, sequence: Sequence) -> int:
        return sequence.hash_ends[-1] // self.block_pool.block_size if sequence.block_hashes else 0

    def _hashed_blocks(self, sequence: Sequence) -> int:
        pool = self.block_pool
        return pool.whole * (sequence.hash_ends[sequence.held - 1] // pool.block_size) if sequence.held else 0

    def held_blocks(self, sequence: Sequence) -> int:
        """Blocks of a sequence outside the cohort."""
        return sequence.own_unhashed_blocks + self._hashed_blocks(sequence)

    def _cache_full_blocks(self, sequence: Sequence, computed: int) -> None:
        """Give hashes to the blocks that `computed` tokens fill, up to the first that another copy has."""
        hashes, ends, size = sequence.block_hashes, sequence.hash_ends, self.block_pool.block_size
        while sequence.held < len(hashes) and ends[sequence.held] <= computed:
            start = ends[sequence.held - 1] if sequence.held else 0
            blocks = self.block_pool.whole * ((ends[sequence.held] - start) // size)
            if blocks > sequence.unhashed_blocks or not self.block_pool.cache(hashes[sequence.held], blocks):
                return  # computed twice at the same time: this copy stays unhashed
            sequence.unhashed_blocks -= blocks
            sequence.held += 1
