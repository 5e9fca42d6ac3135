"""KV blocks of a model in which some layers attend to a window of the text only, or keep a state.

As vLLM's hybrid KV cache manager has it (`kv_cache_utils.py`, `single_type_kv_cache_manager.py`): layers of
one kind are cut into groups of equally many layers, a block holds `block_size` tokens of one group, and all
groups take their blocks from one pool. Groups with a window give back what the next token cannot see. One
group without a window is what every other model has.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from sim.inputs.engine import Engine
from sim.inputs.model import Model

# Where one kind of layer is not this much more frequent than the other, the groups are as large as the larger
# kind, padded, instead of as large as the smaller (`_get_kv_cache_groups_uniform_page_size`).
NEARLY_AS_MANY = 1.5
STATE_BLOCK = 16  # tokens: what a block with a state beside it is a multiple of


@dataclass(frozen=True, slots=True)
class BlockGroups:
    """`whole` groups keep all tokens of a text and `windowed` ones the last `window`, each in blocks of
    `block_size` tokens. A token attends to itself and `window` - 1 before it. `states` groups have one block
    with the state of a text, however long it is. `beside` blocks more are a text's of any length: its windows
    beside compressed entries.
    """

    block_size: int
    whole: int = 1
    windowed: int = 0
    window: int = 1
    states: int = 0
    beside: int = 0

    @property
    def groups(self) -> int:
        return self.whole + self.windowed + self.states

    @property
    def is_plain(self) -> bool:
        """Whether all layers keep whole texts."""
        return not self.windowed and not self.fixed

    @property
    def fixed(self) -> int:
        """Blocks of a text of any length."""
        return self.states + self.beside

    @property
    def paged(self) -> int:
        """Groups that take a block for every `block_size` tokens."""
        return self.whole + self.windowed

    def gone(self, computed: int) -> int:
        """Blocks of a windowed group that no token after `computed` ones attends to."""
        return max(0, computed - self.window + 1) // self.block_size

    def during(self, computed: int, tokens: int) -> int:
        """Blocks of a text while `tokens` tokens are computed behind `computed` ones."""
        filled = -(-(computed + tokens) // self.block_size)
        fixed = self.fixed if filled else 0
        return self.paged * filled - self.windowed * self.gone(computed) + fixed

    def decoding(self, tokens: int) -> int:
        """Blocks of a text of `tokens` tokens, of which the last was computed alone."""
        return self.during(tokens - 1, 1) if tokens else 0

    def turnover(self, tokens: int, more: int) -> tuple[int, int]:
        """Blocks that a text of `tokens` tokens takes and gives back over the next `more`, one at a time."""
        taken = -(-(tokens + more) // self.block_size) - -(-tokens // self.block_size)
        given = self.gone(tokens + more - 1) - self.gone(max(0, tokens - 1))
        return self.paged * taken, self.windowed * given

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
        return (
            self.whole * filled + self.windowed * min(filled, self._most_windowed(step_tokens)) + self.fixed
        )

    def longest(self, tokens: int, step_tokens: int) -> int:
        """`most` as vLLM sizes its cache: with a block more for a window that begins within one."""
        in_flight = min(self.window - 1 + step_tokens, tokens)
        filled = -(-tokens // self.block_size)
        windowed = self.windowed * (-(-in_flight // self.block_size) + 1)
        return self.whole * filled + windowed + self.fixed

    def _most_windowed(self, step_tokens: int) -> int:
        return -(-(self.window - 2 + step_tokens) // self.block_size) + 1


def layers_by_group(layers: int, windowed: int) -> tuple[int, int, int]:
    """(groups of whole texts, groups with a window, layers of each) for so many layers in all and with a
    window.
    """
    kinds = [count for count in (layers - windowed, windowed) if count]
    of_each = max(kinds) if max(kinds) < NEARLY_AS_MANY * min(kinds) else min(kinds)
    return -(-(layers - windowed) // of_each), -(-windowed // of_each), of_each


def block_groups(model: Model, engine: Engine, kv_dtype: str) -> BlockGroups | None:
    """The groups that an engine makes of a model; None where one of whole texts is all.

    vLLM's alone, and those without KV caches that come and go: it has no groups either by default where a KV
    connector is on. A window that holds every text is none, where all layers have it. States are in groups in
    every engine.
    """
    if model.compression is not None:
        return _with_windows_beside(model, engine, kv_dtype)
    if model.layer_shapes:
        return _groups_of_kinds(model, engine)
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


def _with_windows_beside(model: Model, engine: Engine, kv_dtype: str) -> BlockGroups:
    """One group of compressed entries, and as many blocks more for every text as hold its windows. Where it
    stops: vLLM pads pages of either ratio to three common sizes.
    """
    of_block = engine.block_size * model.kv_bytes_per_token(kv_dtype)
    beside = model.window_bytes_of_layers(0, model.layers, kv_dtype)
    return BlockGroups(engine.block_size, beside=ceil(beside / of_block))


def _groups_of_kinds(model: Model, engine: Engine) -> BlockGroups | None:
    """The groups of a model whose layers differ: those with whole texts, with a window, and with a state."""
    kinds = counted_kinds(model)
    windows = [shape.sliding_window or 1 for shape in model.shapes if _is_windowed(shape)]
    window = min(windows, default=1)
    hybrid = (
        engine.backend == "vllm" and engine.kv_tiers is None and not engine.disable_hybrid_kv_cache_manager
    )
    if not kinds.states and (not kinds.windowed or not hybrid):
        return None
    of_each = kinds.of_each
    if not hybrid:  # windows are kept whole
        kinds = kinds._replace(whole=kinds.whole + kinds.windowed, windowed=0)
        of_each = kinds.of_each
    groups = (-(-kinds.whole // of_each), -(-kinds.windowed // of_each), -(-kinds.states // of_each))
    return BlockGroups(engine.block_size, groups[0], groups[1], window, groups[2])


class KindsOfLayers(NamedTuple):
    """Layers that keep whole texts, a window of them, and a state."""

    whole: int
    windowed: int
    states: int

    @property
    def of_each(self) -> int:
        """Layers of a group: as many as the rarest kind has, unless the kinds are about as frequent."""
        counts = [count for count in self if count] or [1]
        return max(counts) if max(counts) < NEARLY_AS_MANY * min(counts) else min(counts)


def counted_kinds(model: Model, first: int = 0, layers: int | None = None) -> KindsOfLayers:
    """The layers of a stage by what they keep; layers without attention keep nothing."""
    of = [
        model.shape_of(layer) for layer in range(first, first + (model.layers if layers is None else layers))
    ]
    return KindsOfLayers(
        sum(shape.keeps_kv and not _is_windowed(shape) for shape in of),
        sum(shape.keeps_kv and _is_windowed(shape) for shape in of),
        sum(shape.linear is not None for shape in of),
    )


def _is_windowed(shape: Model) -> bool:
    return bool(shape.keeps_kv and shape.sliding_window and shape.sliding_layers)


def block_tokens(model: Model, engine: Engine, kv_dtype: str) -> int:
    """Tokens of a block: `block_size`, raised by vLLM until a block of the layer with the smallest KV holds a
    state, in multiples of 16 (`HybridAttentionMambaModelConfig`). Qwen3-Next: 544.
    """
    states = [shape.linear for shape in model.shapes if shape.linear is not None]
    kept = [shape for shape in model.shapes if shape.keeps_kv]
    if not states or not kept or engine.backend != "vllm":
        return engine.block_size
    tp = engine.tensor_parallel_size
    state_bytes = max(linear.of_rank(tp).state_bytes for linear in states)
    smallest = min(shape.kv_bytes_of_layers(0, 1, tp, kv_dtype) for shape in kept)
    return max(engine.block_size, ceil(state_bytes / smallest / STATE_BLOCK) * STATE_BLOCK)
