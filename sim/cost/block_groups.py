"""KV blocks of a model in which some layers attend to a window of the text only.

As vLLM's hybrid KV cache manager has it (`kv_cache_utils.py`, `single_type_kv_cache_manager.py`): layers of
one kind are cut into groups of equally many layers, a block holds `block_size` tokens of one group, and all
groups take their blocks from one pool. Groups with a window give back what the next token cannot see. One
group without a window is what every other model has.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.inputs.engine import Engine
from sim.inputs.model import Model

# Where one kind of layer is not this much more frequent than the other, the groups are as large as the larger
# kind, padded, instead of as large as the smaller (`_get_kv_cache_groups_uniform_page_size`).
NEARLY_AS_MANY = 1.5


@dataclass(frozen=True, slots=True)
class BlockGroups:
    """`whole` groups keep all tokens of a text and `windowed` ones the last `window`, each in blocks of
    `block_size` tokens. A token attends to itself and `window` - 1 before it.
    """

    block_size: int
    whole: int = 1
    windowed: int = 0
    window: int = 1

    @property
    def groups(self) -> int:
        return self.whole + self.windowed

    def gone(self, computed: int) -> int:
        """Blocks of a windowed group that no token after `computed` ones attends to."""
        return max(0, computed - self.window + 1) // self.block_size

    def during(self, computed: int, tokens: int) -> int:
        """Blocks of a text while `tokens` tokens are computed behind `computed` ones."""
        filled = -(-(computed + tokens) // self.block_size)
        return self.groups * filled - self.windowed * self.gone(computed)

    def decoding(self, tokens: int) -> int:
        """Blocks of a text of `tokens` tokens, of which the last was computed alone."""
        return self.during(tokens - 1, 1) if tokens else 0

    def turnover(self, tokens: int, more: int) -> tuple[int, int]:
        """Blocks that a text of `tokens` tokens takes and gives back over the next `more`, one at a time."""
        taken = -(-(tokens + more) // self.block_size) - -(-tokens // self.block_size)
        given = self.gone(tokens + more - 1) - self.gone(max(0, tokens - 1))
        return self.groups * taken, self.windowed * given

    def growth(self, tokens: int, more: int) -> int:
        """Blocks that a text of `tokens` tokens has more at most, at any time within the next `more` tokens,
        one at a time. It never falls with `more`.
        """
        taken = -(-(tokens + more) // self.block_size) - -(-tokens // self.block_size)
        held = -(-tokens // self.block_size) - self.gone(max(0, tokens - 1))
        return self.whole * taken + self.windowed * min(taken, self._most_windowed(1) - held)

    def most(self, tokens: int, step_tokens: int) -> int:
        """Blocks that a text of `tokens` tokens ever holds at most, computed `step_tokens` at a time."""
        filled = -(-tokens // self.block_size)
        return self.whole * filled + self.windowed * min(filled, self._most_windowed(step_tokens))

    def longest(self, tokens: int, step_tokens: int) -> int:
        """`most` as vLLM sizes its cache: with a block more for a window that begins within one."""
        in_flight = min(self.window - 1 + step_tokens, tokens)
        filled = -(-tokens // self.block_size)
        return self.whole * filled + self.windowed * (-(-in_flight // self.block_size) + 1)

    def _most_windowed(self, step_tokens: int) -> int:
        return -(-(self.window - 2 + step_tokens) // self.block_size) + 1


def layers_by_group(layers: int, windowed: int) -> tuple[int, int, int]:
    """(groups of whole texts, groups with a window, layers of each) for so many layers in all and with a
    window.
    """
    kinds = [count for count in (layers - windowed, windowed) if count]
    of_each = max(kinds) if max(kinds) < NEARLY_AS_MANY * min(kinds) else min(kinds)
    return -(-(layers - windowed) // of_each), -(-windowed // of_each), of_each


def block_groups(model: Model, engine: Engine) -> BlockGroups | None:
    """The groups that an engine makes of a model; None where one of whole texts is all.

    vLLM's alone, and those without KV caches that come and go: it has no groups either by default where a KV
    connector is on. A window that holds every text is none, where all layers have it.
    """
    window, windowed = model.sliding_window, model.sliding_layers
    if window is None or not windowed or engine.backend != "vllm" or engine.kv_tiers is not None:
        return None
    if windowed < model.layers:
        if engine.disable_hybrid_kv_cache_manager:
            return None
    elif (engine.max_model_len or model.max_context or window + 1) <= window:
        return None
    whole, others, _ = layers_by_group(model.layers, windowed)
    return BlockGroups(engine.block_size, whole, others, window)
