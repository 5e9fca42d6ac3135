"""Sequences that decode in lock-step, counted as one.

While sequences decode, each gets a token with every step and nothing else of them changes. A cohort counts
these steps once for all its members; a member keeps the difference to its own counts (`Sequence.own_computed`
and so on), and takes the sum when it leaves. The sum of the contexts, the blocks that the next steps need and
the member that ends first are known without a look at the members, so that a step costs what changes in the
batch instead of what is in it.

Where it stops: one batch in flight at a time, one token a step and no drafts.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf, nan
from typing import TYPE_CHECKING

from sim.cost.block_groups import BlockGroups
from sim.policy.scheduling import Grants

if TYPE_CHECKING:
    from sim.runtime.engine.sequence import Sequence


class Cohort:
    """Members are the first sequences of `running`, in its order.

    Since the cohort began to count, each member has `computed` and been given (`generated`) so many tokens,
    and holds blocks for as many as are `covered`: one more than are computed between the choice of a step and
    its beginning. All got their last token at `last_token_s`.
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
        "groups",
        "last_token_s",
        "members",
    )  # fmt: skip

    def __init__(self, block_size: int, groups: BlockGroups | None = None) -> None:
        self.block_size = block_size
        self.groups = groups
        self.computed = self.generated = self.covered = 0
        self.last_token_s = nan
        self.members: dict[int, tuple[Sequence, int]] = {}  # by request, each with the token it is granted
        self._contexts = 0  # sum of the members' own_computed
        # members by own_computed, modulo block size where no layer has a window
        self._phases: dict[int, int] = {}
        self._ends: list[tuple[int, int, tuple[Sequence, int]]] = []  # (tokens at its end, place, grant)
        self._joined = 0
        self._hash_at: float = inf  # tokens covered when the next block with a hash is full, or sooner

    # ---- its members

    def may_join(self, sequence: Sequence, held_blocks: int) -> bool:
        """True for a sequence that decodes in step with the members and holds just the blocks it needs."""
        return (
            sequence.own_generated > 0
            and not sequence.recomputing
            and held_blocks == self._blocks(sequence.own_computed)
            and (not self.members or sequence.last_token_s == self.last_token_s)
        )

    def join(self, sequence: Sequence) -> None:
        """The next of `running`, with no step of it under way."""
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
        phase = self._phase(sequence)
        self._phases[phase] = self._phases.get(phase, 0) + 1
        self._joined += 1
        heappush(self._ends, (sequence.output_tokens - sequence.own_generated, self._joined, grant))
        if sequence.held < len(sequence.block_hashes):
            self._hash_at = min(self._hash_at, _hash_at(sequence))

    def leave(self, sequence: Sequence) -> None:
        """It goes on, or ends, outside, with all that it got in the cohort."""
        del self.members[sequence.request.request_id]
        self._contexts -= sequence.own_computed
        phase = self._phase(sequence)
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

    # ---- what a step of all members needs and gives

    @property
    def grants(self) -> Grants[Sequence]:
        return list(self.members.values())

    @property
    def kv_tokens(self) -> int:
        """Tokens that all members have computed."""
        return self._contexts + len(self.members) * self.computed

    @property
    def steps_left(self) -> int:
        """Steps until the first member has its last token."""
        # Members that have left stay in the heap until they come to its top; the grant object tells them
        # from a later stay of the same request.
        while not self._is_member(self._ends[0][2]):
            heappop(self._ends)
        return self._ends[0][0] - self.generated

    def blocks_of(self, sequence: Sequence) -> int:
        """Blocks that a member holds, less the constant kept in `own_unhashed_blocks`."""
        return self._blocks(sequence.own_computed + self.covered)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_size) if self.groups is None else self.groups.decoding(tokens)

    def _phase(self, sequence: Sequence) -> int:
        return sequence.own_computed % self.block_size if self.groups is None else sequence.own_computed

    def turnover(self, steps: int) -> tuple[int, int]:
        """Blocks that so many more tokens of each member take and give back, where layers have windows."""
        assert self.groups is not None
        taken = given = 0
        for own, members in self._phases.items():
            more, less = self.groups.turnover(own + self.covered, steps)
            taken += members * more
            given += members * less
        return taken, given

    def growth(self, steps: int) -> int:
        """Blocks that all members have more at most, at any time within so many more tokens of each."""
        groups = self.groups
        if groups is None:
            return self.blocks_for(steps)
        return sum(n * groups.growth(own + self.covered, steps) for own, n in self._phases.items())

    def blocks_for(self, steps: int) -> int:
        """New blocks for so many more tokens of each member, those that it gives back aside.

        A member needs one whenever its context passes a multiple of the block size, so members with the same
        context modulo the block size (their phase) need theirs with the same step.
        """
        if self.groups is not None:
            return self.turnover(steps)[0]
        size, before = self.block_size, self.covered
        if steps == 1:
            return self._phases.get(-before % size, 0)
        after = before + steps
        return sum(
            members * (-(-(phase + after) // size) - -(-(phase + before) // size))
            for phase, members in self._phases.items()
        )

    def hashes_a_block_within(self, steps: int) -> bool:
        """False where so many more tokens fill no block that other sequences could ask for."""
        return self.covered + steps >= self._hash_at

    def blocks_hashed(self) -> None:
        """Full blocks have got their hashes: look for the member that fills the next one."""
        self._hash_at = min((_hash_at(sequence) for sequence, _ in self.members.values()), default=inf)

    def give(self, steps: int, now: float) -> list[Sequence]:
        """Give the tokens of so many steps, the last of them `now`; the members that have their last token
        with it, in the order in which they joined.
        """
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
