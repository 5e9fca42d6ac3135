"""What of a step depends on the number of its tokens alone: everything but attention, priced once.

Attention alone depends on the contexts. So a step is a template, remembered by its tokens and samples, with
a hole in every layer where attention goes; a run meets some hundreds of templates and millions of steps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sim.cost.batch import Batch, Causes, StepTokens
from sim.cost.collectives.demands import Demand
from sim.cost.drafting import draft_head, draft_shard
from sim.cost.host_time import sequence_s, step_s
from sim.cost.kernels.timing import KernelTiming
from sim.cost.launches import PIECEWISE_LAUNCH_S, attention_launches, launch_s
from sim.cost.layer_ops import embedding, head, layer_around
from sim.cost.memory import default_limits
from sim.cost.pricing import Priced, Pricer, causes_of, launches_of, seconds_of
from sim.cost.program import Block, Op, Program, Traffic
from sim.inputs.engine import Engine
from sim.inputs.model import Model

Seconds = float | npt.NDArray[np.float64]
_Key = tuple[int, int, int, bool]
Key = TypeVar("Key", bound=Hashable)

LONGEST_PERIOD = 16  # layers; published patterns have 2 to 13
LARGEST_GRAPH = 1 << 20  # tokens: more than any step has, and sizes up to it are few enough to list


@dataclass(frozen=True, slots=True)
class LayerKind:
    """A layer: ops before and after attention, with their sums. `attention` is which of the stage's kinds of
    attention it has; the last of them is none.

    `offsets_s` are those of the ops up to and with attention: the rest follow when attention is known.
    """

    before: tuple[Op, ...]
    after: tuple[Op, ...]
    before_s: float
    after_s: float
    launch_s: float
    causes: Causes
    offsets_s: tuple[float, ...]
    transfers: tuple[tuple[int, Demand, float], ...]
    attention: int = 0

    def seconds(self, attention: Sequence[KernelTiming]) -> Seconds:
        """Of the layer with its attention, a number or one for each of many steps."""
        seconds = self.before_s + attention[self.attention].total_s + self.after_s
        if not self.launch_s:
            return seconds
        if isinstance(seconds, np.ndarray):
            return np.maximum(seconds, self.launch_s)
        return max(seconds, self.launch_s)

    def timed_ops(
        self, attention: Sequence[KernelTiming], period_s: float
    ) -> tuple[tuple[Op, ...], tuple[float, ...]]:
        """The ops with attention among them, and when each begins; a layer longer than its ops ends in a
        wait.
        """
        mixing = Op("attention", float(attention[self.attention].total_s))
        ops = (*self.before, mixing, *self.after)
        seconds = mixing.seconds, *[op.seconds for op in self.after]
        later = accumulate(seconds, initial=self.offsets_s[-1])
        offsets_s = (*self.offsets_s, *islice(later, 1, len(seconds)))
        if self.launch_s:
            slack_s = period_s - sum([op.seconds for op in ops])
            if slack_s > 1e-12:  # what rounding leaves is no wait
                ops = (*ops, Op("wait for launch", slack_s))
                offsets_s = (*offsets_s, offsets_s[-1] + ops[-2].seconds)
        return ops, offsets_s


@dataclass(frozen=True, slots=True)
class LayerRun:
    """Layers that follow each other, `repeat` times over: `first`, and those of `rest` behind it. A model
    whose layers are all alike is one run of one layer.
    """

    repeat: int
    first: LayerKind
    rest: tuple[LayerKind, ...] = ()

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        return (self.first, *self.rest)

    @property
    def causes(self) -> Causes:
        """Of everything but attention, once through."""
        if not self.rest:
            return self.first.causes
        return Causes(*map(sum, zip(*(kind.causes for kind in self.kinds), strict=True)))

    def seconds(self, attention: Sequence[KernelTiming]) -> Seconds:
        """Once through."""
        seconds = self.first.seconds(attention)
        for kind in self.rest:
            seconds = seconds + kind.seconds(attention)
        return seconds

    def block(self, attention: Sequence[KernelTiming], start_s: float) -> Block:
        """These layers with their attention, from `start_s` on."""
        period_s = float(self.first.seconds(attention))
        ops, offsets_s = self.first.timed_ops(attention, period_s)
        transfers = self.first.transfers
        for kind in self.rest:
            layer_s = float(kind.seconds(attention))
            more, later_s = kind.timed_ops(attention, layer_s)
            transfers = (
                *transfers,
                *[(len(ops) + i, demand, flow_s) for i, demand, flow_s in kind.transfers],
            )
            offsets_s = (*offsets_s, *[period_s + offset_s for offset_s in later_s])
            ops, period_s = (*ops, *more), period_s + layer_s
        return Block(ops, offsets_s, self.repeat, period_s, start_s, transfers)


@dataclass(frozen=True, slots=True)
class Template:
    """All of a step but its attention, for one number of tokens."""

    before_layers: tuple[Block, ...]
    layers: tuple[LayerRun, ...]
    tail: tuple[Op, ...]
    before_layers_s: float
    tail_s: float
    fixed: Causes  # of everything but attention, all layers together
    repeats: tuple[int, ...]  # layers with each kind of attention
    waits_for_launch: bool
    traffic: Traffic


class _Ends(NamedTuple):
    """What depends on the sampled sequences: host work before the step, and the head behind the layers."""

    host: tuple[Priced, ...]
    tail: tuple[Priced, ...]


class Templates:
    """The templates of one stage's steps."""

    def __init__(self, price: Pricer) -> None:
        shard = price.shard
        self._shard = shard
        self._price = price
        kinds = shard.kinds_of_layers
        shapes = tuple({id(shape): shape for shape, _ in kinds if shape.attention}.values())
        self.with_attention = tuple(price.of_shape(shape) for shape in shapes)
        own = draft_shard(shard)
        self.draft: Pricer | None = None
        if own is not None:
            self.draft = Pricer(own, price.network, price.without, price.kernel_model)
            self.with_attention += (self.draft,)
        self._prices = {id(shape): price.of_shape(shape) for shape, _ in kinds}
        self._attention_of = {id(shape): i for i, shape in enumerate(shapes)}
        self._kinds = {(id(shape), is_moe): (shape, is_moe) for shape, is_moe in kinds}
        self._runs = runs_of([(id(shape), is_moe) for shape, is_moe in kinds])
        self._one_launch_s = launch_s(shard.engine, shard.gpu)
        self._capture = _capture_sizes(shard.engine, *default_limits(shard.engine, shard.gpu))
        self._of: dict[_Key, Template] = {}
        self._of_decodes: dict[tuple[int, int], Template] = {}  # by tokens and samples
        self._layers: dict[StepTokens, tuple[LayerRun, ...]] = {}
        self._ends: dict[int, _Ends] = {}  # by samples

    def of(self, batch: Batch) -> Template:
        """The template of a batch's step, priced when it is first asked for."""
        if batch.chunks or batch.ranks:
            return self._by_key(self._key(batch))
        # Steps of decodes alone are nearly all steps: a look-up by what was asked, before any padding.
        sizes = batch.decodes * batch.decode_tokens, batch.sampled
        template = self._of_decodes.get(sizes)
        if template is None:
            template = self._of_decodes[sizes] = self._by_key(self._key(batch))
        return template

    def _by_key(self, key: _Key) -> Template:
        template = self._of.get(key)
        if template is None:
            template = self._of[key] = self._priced(*key)
        return template

    def _key(self, batch: Batch) -> _Key:
        """What the template of a batch depends on: the fullest rank's tokens, all tokens, the samples of the
        fullest rank, and whether anything is prefilled.

        With graphs all ranks replay that of the fullest one, padded tokens and all (vLLM's
        `coordinate_batch_across_dp`).
        """
        has_prefill = bool(batch.chunks)
        if not batch.ranks:
            tokens = self._padded(batch.tokens)
            return tokens, tokens, batch.sampled, has_prefill
        tokens = self._padded(max(rank.tokens for rank in batch.ranks))
        # Ranks replay one graph, padding and all; without a graph each has its own tokens, idle ones a dummy.
        if self._captured(tokens):
            every = tokens * len(batch.ranks)
        else:
            every = sum(max(1, rank.tokens) for rank in batch.ranks)
        return tokens, every, max(rank.sampled for rank in batch.ranks), has_prefill

    def _padded(self, tokens: int) -> int:
        """Tokens as the captured graph computes them: the next captured size, or as they are beyond the
        largest.
        """
        if not self._captured(tokens):
            return tokens
        return self._capture[bisect_left(self._capture, tokens)]

    def _captured(self, tokens: int) -> bool:
        return bool(self._capture) and tokens <= self._capture[-1]

    def _priced(self, tokens: int, all_tokens: int, sampled: int, has_prefill: bool) -> Template:
        step = StepTokens(tokens, all_tokens, has_prefill)
        layers = self._layers.get(step)
        if layers is None:
            layers = self._layers[step] = self._all_layers(step)
        ends = self._ends.get(sampled)
        if ends is None:
            tail = head(self._price, sampled) if self._shard.is_last else ()
            ends = self._ends[sampled] = _Ends(self._host(sampled), tail)
        if self.draft is not None and sampled:
            layers = (*layers, self._drafting(self.draft, sampled))
        host, tail = ends
        first = embedding(self._price, tokens) if self._shard.is_first else ()
        once = causes_of((*host, *first, *tail))
        # Causes of the ops that come once, and those of a layer times the layers: the order in which they are
        # added is part of the result, down to the last bit.
        fixed = [cause + sum(run.repeat * run.causes[i] for run in layers) for i, cause in enumerate(once)]
        host_s, first_s, tail_s = seconds_of(host), seconds_of(first), seconds_of(tail)
        parts = [(_ops(host), 1, host_s), (_ops(first), 1, first_s)]
        before_layers = Program(parts).blocks
        parts += [
            (tuple(op for kind in run.kinds for op in (*kind.before, *kind.after)), run.repeat, 0.0)
            for run in layers
        ]
        return Template(
            before_layers,
            layers,
            _ops(tail),
            host_s + first_s,
            tail_s,
            Causes(*fixed),
            tuple(
                sum(run.repeat * (kind.attention == i) for run in layers for kind in run.kinds)
                for i in range(len(self.with_attention))
            ),
            any(kind.launch_s for run in layers for kind in run.kinds),
            Program([*parts, (_ops(tail), 1, tail_s)]).traffic(),
        )

    def _all_layers(self, step: StepTokens) -> tuple[LayerRun, ...]:
        priced = {key: self._layer(shape, step, is_moe) for key, (shape, is_moe) in self._kinds.items()}
        return tuple(
            LayerRun(repeat, priced[keys[0]], tuple(priced[key] for key in keys[1:]))
            for repeat, keys in self._runs
        )

    def _drafting(self, price: Pricer, sampled: int) -> LayerRun:
        """The passes of the draft: its layers, and behind the last of them its output head."""
        speculation = self._shard.engine.speculation
        assert speculation is not None
        drafts, own = speculation.num_speculative_tokens, price.shard
        sequences = -(-sampled // (1 + drafts))
        step = StepTokens(sequences, sequences * len(own.groups), False)
        layer = self._priced_layer(price, step, own.model.is_moe_layer(own.first_layer))
        layer = replace(layer, attention=len(self.with_attention) - 1)
        ends = draft_head(price, self._shard, sequences)
        after = (*layer.after, *_ops(ends))
        block = Block.of((*layer.before, Op("attention", 0.0), *after), 1, 0.0, 0.0)
        last = replace(
            layer,
            after=after,
            after_s=layer.after_s + seconds_of(ends),
            causes=Causes(*map(sum, zip(layer.causes, causes_of(ends), strict=True))),
            transfers=block.transfers,
        )
        layers = [layer] * (own.layers - 1) + [last]
        return LayerRun(drafts, layers[0], tuple(layers[1:]))

    def _host(self, sequences: int) -> tuple[Priced, ...]:
        """Host work that the GPUs of this stage wait for."""
        engine, host = self._shard.engine, self._shard.engine.host
        if engine.schedules_async:
            seconds = host.async_step_s if self._shard.is_first else 0.0
        else:
            seconds = (
                step_s(engine) + sequence_s(engine) * sequences if self._shard.is_first else host.stage_s
            )
        return self._price.host("host", seconds)

    def _layer(self, shape: Model, step: StepTokens, is_moe: bool) -> LayerKind:
        layer = self._priced_layer(self._prices[id(shape)], step, is_moe)
        return replace(layer, attention=self._attention_of.get(id(shape), len(self.with_attention)))

    def _priced_layer(self, price: Pricer, step: StepTokens, is_moe: bool) -> LayerKind:
        before, after = layer_around(price, step, is_moe)
        launches = launches_of((*before, *after))
        launches += attention_launches(step.has_prefill) if price.shard.model.attention else 0
        launch_s = self._launch_s(step, launches)
        attention = Op("attention", 0.0)
        block = Block.of((*_ops(before), attention, *_ops(after)), 1, 0.0, 0.0)
        return LayerKind(
            _ops(before),
            _ops(after),
            seconds_of(before),
            seconds_of(after),
            launch_s,
            causes_of((*before, *after)),
            block.offsets_s[: len(before) + 1],
            block.transfers,
        )

    def _launch_s(self, step: StepTokens, launches: int) -> float:
        """The least that a layer takes because the host launches it: nothing where one replay launches all
        layers, a piece of a graph in a captured step with prefill, else every launch by itself.
        """
        if "host" in self._price.without:
            return 0.0
        if not self._captured(step.of_rank):
            return launches * self._one_launch_s
        return PIECEWISE_LAUNCH_S if step.has_prefill else 0.0


def runs_of(kinds: Sequence[Key]) -> list[tuple[int, tuple[Key, ...]]]:
    """Layers as runs: (how often, which layers), so that as few layers as possible stand in the runs. From
    the front, the period that covers most layers when it comes at least twice, else a layer alone.

    >>> from sim.cost.step_templates import runs_of
    >>> [(repeat, "".join(kinds)) for repeat, kinds in runs_of("DLLLFLLLFL")]
    [(1, 'D'), (2, 'LLLF'), (1, 'L')]
    """
    runs: list[tuple[int, tuple[Key, ...]]] = []
    names = list(kinds)
    at = 0
    while at < len(names):
        best = (1, 1)  # layers of a period, times
        for period in range(1, min(LONGEST_PERIOD, (len(names) - at) // 2) + 1):
            times = 1
            while names[at + times * period : at + (times + 1) * period] == names[at : at + period]:
                times += 1
            if times > 1 and times * period > best[0] * best[1]:
                best = period, times
        runs.append((best[1], tuple(names[at : at + best[0]])))
        at += best[0] * best[1]
    return runs


def _ops(priced: tuple[Priced, ...]) -> tuple[Op, ...]:
    return tuple(one.op for one in priced)


def _capture_sizes(engine: Engine, max_num_seqs: int, max_num_batched_tokens: int) -> tuple[int, ...]:
    """vLLM's CUDA-graph sizes: 1, 2, 4, then every 8 to 256, then every 16 to the largest, which by default
    is twice what all seats decode, and at most 512 (`VllmConfig._set_cudagraph_sizes`).
    """
    if engine.enforce_eager or engine.max_cudagraph_capture_size == 0:
        return ()
    largest = engine.max_cudagraph_capture_size
    if largest is None:
        drafts = engine.speculation.num_speculative_tokens if engine.speculation else 0
        largest = min(512, 2 * max_num_seqs * (1 + drafts), max_num_batched_tokens)
    largest = min(largest, LARGEST_GRAPH)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
    return tuple(size for size in sizes if size <= largest)
