"""What one engine step computes, as far as its cost depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Batch(NamedTuple):
    """Prefill chunks (new tokens, tokens already in the KV cache) and decodes fused into one forward step.

    `decode_kv_tokens` sums the context lengths of the decodes, the new token included; `sampled` sequences
    get a token from this step; `decode_tokens` are the tokens each decode feeds in (1, or 1 + drafts when
    speculating).
    """

    chunks: tuple[tuple[int, int], ...] = ()
    decodes: int = 0
    decode_kv_tokens: float = 0
    sampled: int = 0
    decode_tokens: int = 1
    decode_growth: float = 1.0
    ranks: tuple[Batch, ...] = ()

    @classmethod
    def of_ranks(cls, ranks: Sequence[Batch]) -> Batch:
        """The step of several data-parallel ranks together: sums, and what each of them computes."""
        return cls(
            tuple(chunk for rank in ranks for chunk in rank.chunks),
            sum(rank.decodes for rank in ranks),
            sum(rank.decode_kv_tokens for rank in ranks),
            sum(rank.sampled for rank in ranks),
            ranks[0].decode_tokens,
            ranks[0].decode_growth,
            tuple(ranks),
        )

    def grown(self, steps: int) -> Batch:
        """The same batch of decodes `steps` steps later."""
        chunks, decodes, kv_tokens, sampled, decode_tokens, growth, ranks = self
        return Batch(
            chunks,
            decodes,
            kv_tokens + steps * (decodes * growth),
            sampled,
            decode_tokens,
            growth,
            tuple([rank.grown(steps) for rank in ranks]) if ranks else ranks,
        )

    @property
    def without_chunks(self) -> Batch:
        """The same step with its decodes alone."""
        _, decodes, kv_tokens, _, decode_tokens, growth, ranks = self
        if ranks:
            ranks = tuple([rank.without_chunks for rank in ranks])
        return Batch((), decodes, kv_tokens, decodes * decode_tokens, decode_tokens, growth, ranks)

    @property
    def with_least_chunk(self) -> Batch:
        """The same step with one chunk of one token, of a prompt of its own, instead of its chunks."""
        alone = self.without_chunks
        with_it = alone._replace(chunks=((1, 0),), sampled=alone.sampled + 1)
        if not self.ranks:
            return with_it
        first = next(i for i, rank in enumerate(self.ranks) if rank.chunks)
        ranks = tuple([one.with_least_chunk if i == first else one for i, one in enumerate(alone.ranks)])
        return with_it._replace(ranks=ranks)

    @property
    def prefill_tokens(self) -> int:
        """New tokens of prompts."""
        return sum([new for new, _ in self.chunks])

    @property
    def tokens(self) -> int:
        """All tokens that the step computes, drafts included; of data-parallel ranks together."""
        return self.prefill_tokens + self.decodes * self.decode_tokens


class StepTokens(NamedTuple):
    """The tokens of a step as the ops around attention see them.

    `of_rank` of the fullest data-parallel rank, `of_all` of all ranks together, padding included;
    `has_prefill` where any of them belong to a prompt.
    """

    of_rank: int
    of_all: int
    has_prefill: bool


class Causes(NamedTuple):
    """Where the seconds of a step go; they add up to the step."""

    compute: float = 0.0
    memory: float = 0.0
    kernel_latency: float = 0.0
    collective_latency: float = 0.0
    collective_bytes: float = 0.0
    host: float = 0.0

    @property
    def total_s(self) -> float:
        return sum(self)
