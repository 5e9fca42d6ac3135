"""Sequences that decode in lock-step, counted as one.

While sequences decode, each gets a token with every step and nothing else of them changes. A cohort counts
these steps once for all its members; a member keeps what it has more than that (`Sequence.own_computed` and
so on), and has it all again when it leaves. How long their contexts are together, how many blocks the next
steps take and who ends first is known without looking at anybody, so that a step costs what changes in the
batch and not what is in it.

Where it stops: one batch in flight at a time, one token a step and no drafts.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf, nan
from typing import TYPE_CHECKING

from sim.policy.scheduling import Grants

if TYPE_CHECKING:
    from sim.runtime.engine.sequence import Sequence


class Cohort:
    """Members stand in the order of `running`, whose first ones they are.

    Since it began to count, each member has `computed` and been given (`generated`) so many tokens, and holds
    blocks for as many as are `covered`: more than are computed from the choice of a step to its beginning.
    All got their last token at `last_token_s`.
    """

    __slots__ = (
        "_contexts",
        "_ends",
        "_hash_at",
        "_joined",
        "_phases",
        "block_size",
        "computed",
        "covered",
        "generated",
        "last_token_s",
        "members",
    )  # fmt: skip

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.computed = self.generated = self.covered = 0
        self.last_token_s = nan
        self.members: dict[int, tuple[Sequence, int]] = {}  # by request, each with the token it is granted
        self._contexts = 0  # tokens that members have computed more than the cohort, in sum
        self._phases: dict[int, int] = {}  # members by the same, modulo the size of a block
        self._ends: list[tuple[int, int, tuple[Sequence, int]]] = []  # (tokens at its end, place, grant)
        self._joined = 0
        self._hash_at: float = inf  # tokens covered when the next block with a hash is full, or sooner

    # ---- who is in it

    def may_join(self, sequence: Sequence, held_blocks: int) -> bool:
        """True for who decodes, step by step with the members, and holds just the blocks that it needs."""
        return (
            sequence.own_generated > 0
            and not sequence.recomputing
            and held_blocks == -(-sequence.own_computed // self.block_size)
            and (not self.members or sequence.last_token_s == self.last_token_s)
        )

    def join(self, sequence: Sequence) -> None:
        """The next of `running`, of whom nothing is under way."""
        assert sequence.last_token_s is not None
        if not self.members:
            self.last_token_s = sequence.last_token_s
        sequence.own_computed -= self.computed
        sequence.own_generated -= self.generated
        sequence.own_unhashed_blocks -= self.blocks_of(sequence)
        sequence.cohort = self
        grant = sequence, 1
        self.members[sequence.request.request_id] = grant
        self._contexts += sequence.own_computed
        phase = sequence.own_computed % self.block_size
        self._phases[phase] = self._phases.get(phase, 0) + 1
        self._joined += 1
        heappush(self._ends, (sequence.output_tokens - sequence.own_generated, self._joined, grant))
        if sequence.held < len(sequence.block_hashes):
            self._hash_at = min(self._hash_at, _hash_at(sequence))

    def leave(self, sequence: Sequence) -> None:
        """It goes on, or ends, by itself, with all that it has got in the cohort."""
        del self.members[sequence.request.request_id]
        self._contexts -= sequence.own_computed
        phase = sequence.own_computed % self.block_size
        self._phases[phase] -= 1
        if not self._phases[phase]:
            del self._phases[phase]
        sequence.own_unhashed_blocks += self.blocks_of(sequence)
        sequence.own_computed += self.computed
        sequence.own_generated += self.generated
        sequence.cohort = None
        sequence.last_token_s = self.last_token_s

    def dissolve(self) -> None:
        for sequence, _ in self.grants:
            self.leave(sequence)
        self.covered = self.computed
        self._ends.clear()
        self._phases.clear()
        self._hash_at = inf

    # ---- what a step of all takes and brings

    @property
    def grants(self) -> Grants[Sequence]:
        return list(self.members.values())

    @property
    def kv_tokens(self) -> int:
        """Tokens that all have computed."""
        return self._contexts + len(self.members) * self.computed

    @property
    def steps_left(self) -> int:
        """Steps until the first of them has its last token."""
        while not self._is_member(self._ends[0][2]):
            heappop(self._ends)
        return self._ends[0][0] - self.generated

    def blocks_of(self, sequence: Sequence) -> int:
        """Blocks that a member holds, but for what it had less or more than its tokens need."""
        return -(-(sequence.own_computed + self.covered) // self.block_size)

    def blocks_for(self, steps: int) -> int:
        """Blocks that so many tokens more of everybody take."""
        size, before = self.block_size, self.covered
        if steps == 1:
            return self._phases.get(-before % size, 0)
        after = before + steps
        return sum(
            members * (-(-(phase + after) // size) + (-(phase + before) // size))
            for phase, members in self._phases.items()
        )

    def hashes_a_block_within(self, steps: int) -> bool:
        """False where so many tokens more fill no block that others could ask for."""
        return self.covered + steps >= self._hash_at

    def blocks_hashed(self) -> None:
        """Blocks have got their hashes: look for the member that fills the next one."""
        self._hash_at = min((_hash_at(sequence) for sequence, _ in self.members.values()), default=inf)

    def give(self, steps: int, now: float) -> list[Sequence]:
        """The tokens of so many steps, the last of them `now`; who has its last token with it, in order."""
        self.generated += steps
        self.last_token_s = now
        ended = []
        while self._ends and self._ends[0][0] <= self.generated:
            _, place, grant = heappop(self._ends)
            if self._is_member(grant):
                ended.append((place, grant[0]))
        ended.sort(key=lambda one: one[0])
        return [sequence for _, sequence in ended]

    def _is_member(self, grant: tuple[Sequence, int]) -> bool:
        return self.members.get(grant[0].request.request_id) is grant


def _hash_at(sequence: Sequence) -> float:
    """Tokens that its cohort has covered when a member fills the next block that has a hash."""
    if sequence.held == len(sequence.block_hashes):
        return inf
    return sequence.hash_ends[sequence.held] - sequence.own_computed
