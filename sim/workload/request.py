"""One request as it arrives at the service."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(slots=True)
class Request:
    """One request: when it arrives, how long it is, and which of its tokens others share.

    `arrival_s` is simulated time; `output_tokens` is what the request will generate (an oracle: the engine
    must not schedule by it). `block_hashes[i]` is the hash of tokens `[i*hash_block_tokens,
    (i+1)*hash_block_tokens)` of the text, prompt first and then output, together with everything before
    them: two requests whose hashes agree up to `i` share a prefix of `(i+1)*hash_block_tokens` tokens. The
    tuple may stop inside the prompt (what follows is private to the request) and may go on into the output
    (a later turn of the session will begin with it). Its last block may be partial, as in Mooncake's
    traces, and covers the prompt to its end and nothing behind: `hashed_tokens` is where it ends.

    Its client cancels it when the first token has not come `patience_s` after the arrival, or the last one
    not after `timeout_s`.

    Written once by the request generator, only read afterwards; not frozen, because a frozen dataclass costs
    three times as much to make and requests are drawn by the million.
    """

    request_id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    block_hashes: tuple[int, ...] = ()
    hash_block_tokens: int = 0
    session: int = -1
    turn: int = 0
    request_class: str = ""
    model: str = ""
    priority: int = 0
    patience_s: float = inf
    timeout_s: float = inf
    hashed_tokens: float = inf

    @property
    def total_tokens(self) -> int:
        """Tokens of the text when the request is done."""
        return self.prompt_tokens + self.output_tokens
