"""How many tokens each decode step gives a sequence: one, or one and its accepted drafts (vLLM's speculative
decoding).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.inputs.engine import Speculation
from sim.runtime.engine.sequence import Sequence
from sim.workload.random_streams import random_stream, tokens_by_step


class Speculator:
    """Gives decode steps' tokens to sequences outside cohorts, under one engine's speculation, if it has any.
    `seed` decides which drafts are accepted: drawn per request, so that batching does not change them.
    """

    def __init__(self, speculation: Speculation | None, seed: int) -> None:
        self.speculation = speculation
        self.seed = seed
        self.drafts = speculation.num_speculative_tokens if speculation else 0
        self.tokens_per_step = speculation.tokens_per_step if speculation else 1.0

    def give(self, sequence: Sequence, steps: int, now: float, *, decoded: bool = True) -> None:
        """Give the tokens of `steps` decode steps, or the one that the last chunk of a prompt ends with."""
        if sequence.own_generated == 0:
            sequence.own_generated = 1
        elif self.speculation is None or not decoded:
            sequence.own_generated += steps
        else:  # accepted drafts count as computed; their blocks are allocated with the next step's
            gained = min(self.gain(sequence, steps), sequence.output_tokens - sequence.generated)
            before = self.gain(sequence, steps - 1)
            sequence.decode_steps += steps
            sequence.computed += max(0, gained - before - 1)
            sequence.generated += gained
        if sequence.first_token_s is None:
            sequence.first_token_s = now
            sequence.blame_at_first = tuple(sequence.blame)  # its steps are charged before their token
        sequence.last_token_s = now

    def gain(self, sequence: Sequence, steps: int) -> int:
        """Tokens that a decoding sequence gets in its next `steps` steps, accepted drafts included."""
        if self.speculation is None:
            return steps
        decoded, done = self._decoded(sequence), sequence.decode_steps
        return int(decoded[done + steps - 1]) - (int(decoded[done - 1]) if done else 0) if steps else 0

    def _decoded(self, sequence: Sequence) -> NDArray[np.int64]:
        if sequence.decoded is None:
            assert self.speculation is not None
            stream = random_stream(self.seed, f"drafts of {sequence.request.request_id}")
            sequence.decoded = tokens_by_step(self.speculation, sequence.output_tokens, stream)
        return sequence.decoded

    def steps_left(self, sequence: Sequence) -> int:
        """Decode steps until its last token."""
        left = sequence.output_tokens - sequence.generated
        if self.speculation is None:
            return left
        decoded, done = self._decoded(sequence), sequence.decode_steps
        before = int(decoded[done - 1]) if done else 0
        return int(np.searchsorted(decoded, before + left)) + 1 - done
