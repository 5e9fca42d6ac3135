"""What the engines of a run were started with, in the words in which vLLM logs it: number formats, blocks and
tokens of the KV cache, how many requests of full length it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KEYS = ("kv_cache_tokens", "kv_cache_blocks", "max_model_len", "max_concurrency")


@dataclass(frozen=True, slots=True)
class KvCapacity:
    """Of the engines of one pool. Blocks are those of a data-parallel rank, `precision` the number formats
    and `checkpoint` what decided them, where the published weights are quantised. `windowed_layers` keep a
    whole text although they attend to a window. Layers are in `groups`, each with blocks of its own, of which
    a request of `max_model_len` tokens holds `longest_blocks` at most in all (one for every `block_size`
    tokens where that is None). A number of blocks that the user gives takes `lacking_bytes` more than all of
    a GPU's memory.
    """

    pool: str
    model: str
    precision: dict[str, str]
    checkpoint: str | None
    kv_cache_blocks: int
    block_size: int
    max_model_len: int
    windowed_layers: int = 0
    groups: int = 1
    longest_blocks: int | None = None
    lacking_bytes: float = 0.0

    @property
    def kv_cache_tokens(self) -> int:
        return self.kv_cache_blocks // self.groups * self.block_size

    @property
    def max_concurrency(self) -> float:
        """Requests of `max_model_len` tokens that the cache holds."""
        needed = self.longest_blocks or -(-self.max_model_len // self.block_size)
        return self.kv_cache_blocks / needed

    def lines(self) -> tuple[str, ...]:
        """As vLLM logs them at start-up, by pool where there are several."""
        of = f"{self.pool}: " if self.pool else ""
        return (
            f"{of}GPU KV cache size: {self.kv_cache_tokens:,} tokens ({self.kv_cache_blocks:,} blocks)",
            (
                f"{of}Maximum concurrency for {self.max_model_len:,} tokens per request: "
                f"{self.max_concurrency:.2f}x"
            ),
        )

    def notes(self) -> tuple[str, ...]:
        """What decided the number formats, and which layers could do with less."""
        of = f"{self.pool}: " if self.pool else ""
        found = [] if self.checkpoint is None else [f"{of}{self.checkpoint}"]
        if self.windowed_layers:
            found.append(
                f"{of}the {self.windowed_layers} sliding-window layers of {self.model} keep the KV of whole "
                "texts; an engine that frees what has left the window holds more long requests"
            )
        if self.lacking_bytes > 0.0:
            found.append(
                f"{of}num_gpu_blocks_override: {self.kv_cache_blocks:,} blocks take "
                f"{self.lacking_bytes / 2**30:,.1f} GiB more than a GPU has beside its weights; "
                "no engine starts so"
            )
        return tuple(found)


def capacity_summary(capacities: Sequence[KvCapacity]) -> dict[str, Any]:
    """Keys of a summary: the numbers of the only pool, None where there are several, and those of each in
    `engines`.
    """
    alone = capacities[0] if len(capacities) == 1 else None
    found: dict[str, Any] = {key: getattr(alone, key) if alone else None for key in KEYS}
    found["engines"] = {
        one.pool: {
            "model": one.model,
            "precision": one.precision,
            "checkpoint": one.checkpoint,
            **{key: getattr(one, key) for key in KEYS},
        }
        for one in capacities
    }
    return found
