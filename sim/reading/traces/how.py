"""What a workload says of a trace because the file does not: columns, units, blocks, a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
COLUMNS = ("arrived_at", "prompt_tokens", "output_tokens", "session", "delay", "request_class", "model")


@dataclass(frozen=True)
class How:
    """`columns` are pairs of what is wanted and what the file calls it; `time_unit` is of all of its times.

    Text is counted by the `tokenizer` (a local tokenizer.json, or the folder that has one), or estimated by
    `characters_per_token`.
    """

    columns: tuple[tuple[str, str], ...] = ()
    time_unit: str = ""
    block_tokens: int = 0
    tokenizer: str = ""
    characters_per_token: float = 0.0

    def seconds(self, usual: float) -> float:
        """Seconds per unit of the file's times, `usual` where nothing else is said."""
        return SECONDS.get(self.time_unit, usual)


AS_WRITTEN = How()
