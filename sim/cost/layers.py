"""The cost of one forward step on one pipeline stage: model + shard + GPU + network -> ops, seconds and
causes.

A step is: host work, the ops before the layers (embedding), `layers` times the ops of a layer, and on the
last stage the output head. Only attention depends on the context; everything else depends on the number of
tokens alone and is remembered. The seconds of many consecutive decode steps, whose contexts grow by one token
each, are therefore one vectorised expression, equal to the last bit to the step-by-step one.

With data-parallel attention all ranks go through a step together: what a layer takes is what the fullest rank
takes, and ranks without work run one dummy token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np

from sim.cost.attention import DecodeCurve, decode_curve, mla_decode_curve
from sim.cost.batch import Batch, Causes
from sim.cost.demands import Demand
from sim.cost.kernels import KernelModel, KernelTiming, formula
from sim.cost.layer_ops import embedding, head, layer_around
from sim.cost.memory import default_limits
from sim.cost.network import Network
from sim.cost.pricing import Priced, Pricer, causes_of, seconds_of
from sim.cost.program import Block, Op, Program, Traffic
from sim.cost.shard import Shard
from sim.cost.steps import FloatArray
from sim.inputs.engine import Engine

Seconds = float | FloatArray
_Key = tuple[int, int, int, bool]

FEW_STEPS = 8
"""So many decode steps are priced one by one; more of them as arrays, at the price of about eight."""

# Launch cost on the host per layer (PHYSICS of CUDA graphs: one replay launches a whole decode step; a mixed
# batch replays one piece a layer, 25-40 us each; without graphs every kernel costs 5-10 us of processor
# time).
PIECEWISE_LAUNCH_S = 32e-6  # assumed: middle of 25-40 us a piece


@dataclass(frozen=True, slots=True)
class _LayerKind:
    """`repeat` equal layers: ops before and after attention, with their sums. `offsets_s` are those of the
    ops up to and with attention.
    """

    repeat: int
    before: tuple[Op, ...]
    after: tuple[Op, ...]
    before_s: float
    after_s: float
    launch_s: float
    causes: Causes
    offsets_s: tuple[float, ...]
    transfers: tuple[tuple[int, Demand, float], ...]

    def block(self, attention: Op, period_s: float, start_s: float) -> Block:
        ops = (*self.before, attention, *self.after)
        seconds = attention.seconds, *[op.seconds for op in self.after]
        later = accumulate(seconds, initial=self.offsets_s[-1])
        offsets_s = (*self.offsets_s, *islice(later, 1, len(seconds)))
        if self.launch_s:
            slack_s = period_s - sum([op.seconds for op in ops])
            if slack_s > 1e-12:
                ops = (*ops, Op("wait for launch", slack_s))
                offsets_s = (*offsets_s, offsets_s[-1] + ops[-2].seconds)
        return Block(ops, offsets_s, self.repeat, period_s, start_s, self.transfers)


@dataclass(frozen=True, slots=True)
class _Template:
    """All of a step but its attention, for one number of tokens."""

    before_layers: tuple[Block, ...]
    layers: tuple[_LayerKind, ...]
    tail: tuple[Op, ...]
    before_layers_s: float
    tail_s: float
    fixed: Causes  # of everything but attention, all layers together
    repeats: int  # layers of all kinds
    waits_for_launch: bool
    traffic: Traffic


class StageCost:
    """Prices the steps of one stage. Pure: no clock, no state but remembered prices.

    In a step with prefill all products run at their `sustained` pace: layer after layer of busy tensor cores
    brings a GPU to its power limit, where benchmarks of one kernel at a time find it cool. Decode steps wait
    for memory, their tensor cores mostly idle, and keep the pace of the single kernel. So would a decode of
    many hundreds that is bound by arithmetic, which is then too quick by what its GPU loses when hot.
    """

    def __init__(
        self,
        shard: Shard,
        network: Network,
        without: frozenset[str] = frozenset(),
        kernel_model: KernelModel = formula,
    ) -> None:
        """`without`: causes whose cost is taken as nothing, for the question what they cost in all."""
        self.shard = shard
        self._price = Pricer(shard, network, without, kernel_model)
        self._templates: dict[_Key, _Template] = {}
        self._decode_templates: dict[tuple[int, int], _Template] = {}  # by tokens and samples
        self._curves: dict[int, DecodeCurve] = {}  # by decodes
        self._capture = _capture_sizes(shard.engine, *default_limits(shard.engine, shard.gpu))
        self._dense_layers = shard.dense_layers
        self._heads = -(-shard.model.heads // shard.tensor_parallel_size)
        self._kv_heads = -(-shard.model.kv_heads // shard.tensor_parallel_size)

    # ---- public

    def step(self, batch: Batch) -> tuple[float, Causes]:
        """Seconds of one step alone, and their causes."""
        template = self._template(batch)
        attention = self._attention(batch)
        seconds = float(self._total(template, attention.total_s))
        return seconds, self._causes(template, attention, 1, seconds)

    def decode_steps(self, batch: Batch, steps: int) -> tuple[FloatArray, Callable[[int], Causes]]:
        """Seconds of `steps` consecutive decode steps of one batch, shape [steps], and the causes of the
        first n of them.
        """
        template = self._template(batch)
        if steps <= FEW_STEPS:
            each = [self._attention(batch.grown(step)) for step in range(steps)]
            few = [float(self._total(template, one.total_s)) for one in each]

            def causes_of_few(n: int) -> Causes:
                sums = KernelTiming(*map(sum, zip(*each[:n], strict=True)))
                return self._causes(template, sums, n, sum(few[:n]))

            return np.array(few), causes_of_few
        attention = self._attention(batch, np.arange(steps, dtype=np.float64))
        seconds = np.asarray(self._total(template, attention.total_s), dtype=np.float64)
        if not seconds.ndim:
            seconds = np.full(steps, float(seconds))

        def causes(n: int) -> Causes:
            parts = (_first(part, n) for part in attention)
            return self._causes(template, KernelTiming(*parts), n, float(seconds[:n].sum()))

        return seconds, causes

    def program(self, batch: Batch) -> Program:
        """The ops of one step; `program.total_s` equals `step(batch)[0]` to the last bit."""
        template = self._template(batch)
        attention_s = float(self._attention(batch).total_s)
        attention = Op("attention", attention_s)
        blocks = list(template.before_layers)
        start_s = template.before_layers_s
        for kind in template.layers:
            period_s = float(_layer_s(kind, attention_s))
            blocks.append(kind.block(attention, period_s, start_s))
            start_s = start_s + kind.repeat * period_s
        if template.tail:
            blocks.append(Block.of(template.tail, 1, template.tail_s, start_s))
            start_s = start_s + template.tail_s
        return Program.of_blocks(tuple(blocks), template.traffic.links, start_s)

    def traffic(self, batch: Batch) -> Traffic:
        """The transfers of one step, and the links that the stage uses. Independent of the context."""
        return self._template(batch).traffic

    # ---- arithmetic shared by one step, many steps and the program

    @staticmethod
    def _total(template: _Template, attention_s: Seconds) -> Seconds:
        total: Seconds = template.before_layers_s
        for kind in template.layers:
            total = total + kind.repeat * _layer_s(kind, attention_s)
        if template.tail_s:
            total = total + template.tail_s
        return total

    @staticmethod
    def _causes(template: _Template, attention: KernelTiming, steps: int, seconds: float) -> Causes:
        """Causes of `steps` steps of `seconds` in total, whose attention timings are sums over these
        steps.
        """
        compute, memory, kernel_latency, collective_latency, collective_bytes, host = template.fixed
        layers = template.repeats
        busy_s = layers * (attention.total_s - attention.floor_s)
        if attention.compute_s >= attention.memory_s:  # as `kernel_causes` has it
            compute_s, memory_s = steps * compute + busy_s, steps * memory
        else:
            compute_s, memory_s = steps * compute, steps * memory + busy_s
        causes = Causes(
            compute_s,
            memory_s,
            steps * kernel_latency + layers * attention.floor_s,
            steps * collective_latency,
            steps * collective_bytes,
            steps * host,
        )
        if template.waits_for_launch:  # kernels that waited for the host to launch them
            causes = causes._replace(host=causes.host + (seconds - causes.total_s))
        return causes

    def _attention(self, batch: Batch, later: FloatArray | None = None) -> KernelTiming:
        """One layer's attention over the whole batch; fields are arrays over the steps in `later`."""
        if not batch.ranks:
            return self._price.without_floor(self._attention_of_layers(batch, later))
        timings = [self._attention_of_layers(rank, later) for rank in batch.ranks if rank.tokens]
        if later is None:
            return self._price.without_floor(max(timings, key=lambda timing: timing.total_s))
        parts = [
            np.array([np.broadcast_to(part, later.shape) for part in of]) for of in zip(*timings, strict=True)
        ]
        slowest = np.argmax(parts[0], axis=0)[None]  # at every step, the first of the slowest ranks
        chosen = (np.take_along_axis(part, slowest, axis=0)[0] for part in parts)
        return self._price.without_floor(KernelTiming(*chosen))

    def _attention_of_layers(self, batch: Batch, later: FloatArray | None) -> KernelTiming:
        """A layer of the stage; of layers with and without a sliding window the mean."""
        everywhere = self._attention_of(batch, later)
        window = self.shard.model.sliding_window
        if window is None:
            return everywhere
        share = self.shard.model.sliding_layers / self.shard.model.layers
        near = self._attention_of(batch, later, window)
        parts = (a * (1.0 - share) + b * share for a, b in zip(everywhere, near, strict=True))
        return KernelTiming(*parts)

    def _attention_of(
        self, batch: Batch, later: FloatArray | None, window: int | None = None
    ) -> KernelTiming:
        if self._price.kernel_model is not formula:
            if later is not None:
                return self._one_by_one(batch, later, window)
            return self._asked(batch, window)
        if batch.chunks:
            return self._asked(batch, window)
        kv_tokens: Seconds = batch.decode_kv_tokens
        if later is not None:
            kv_tokens = kv_tokens + (batch.decodes * batch.decode_growth) * later
        if window is not None:
            kv_tokens = _at_most(kv_tokens, window * batch.decodes)
        return self._decode_curve(batch.decodes)(kv_tokens)

    def _asked(self, batch: Batch, window: int | None) -> KernelTiming:
        """Attention of one step as the kernel model has it."""
        shard, model, timing = self.shard, self.shard.model, self._price.timing
        dtype = shard.precision.attention or shard.precision.activations
        kv_dtype = shard.precision.kv_cache
        kv_tokens: Seconds = batch.decode_kv_tokens
        if window is not None:
            kv_tokens = _at_most(kv_tokens, window * batch.decodes)
            batch = batch._replace(chunks=_windowed(batch.chunks, window))
        chunks = {"chunks": batch.chunks, "dtype": dtype, "sustained": True}
        decodes = {"batch": batch.decodes, "kv_tokens": kv_tokens}
        if model.mla is not None:
            latent = {"heads": self._heads, "mla": model.mla, "kv_dtype": kv_dtype}
            parts: list[KernelTiming] = []
            if batch.chunks:
                parts.append(timing("mla_prefill", **chunks, **latent))
            if batch.decodes:
                parts.append(timing("mla_decode", **decodes, **latent))
            return parts[0] if len(parts) == 1 else KernelTiming(*map(sum, zip(*parts, strict=True)))
        sizes = {
            "heads": self._heads,
            "kv_heads": self._kv_heads,
            "head_dim": model.head_dim,
            "kv_dtype": kv_dtype,
        }
        if not batch.chunks:
            return timing("attention_decode", **decodes, **sizes)
        if not batch.decodes:
            return timing("attention_prefill", **chunks, **sizes)
        return timing("attention_mixed", **chunks, **decodes, **sizes)

    def _decode_curve(self, decodes: int) -> DecodeCurve:
        """A layer's attention of so many decodes, over their contexts."""
        curve = self._curves.get(decodes)
        if curve is None:
            shard, model = self.shard, self.shard.model
            gpu, kv_dtype = shard.gpu, shard.precision.kv_cache
            if model.mla is not None:
                curve = mla_decode_curve(gpu, decodes, self._heads, model.mla, kv_dtype)
            else:
                curve = decode_curve(gpu, decodes, self._heads, self._kv_heads, model.head_dim, kv_dtype)
            self._curves[decodes] = curve
        return curve

    def _one_by_one(self, batch: Batch, later: FloatArray, window: int | None) -> KernelTiming:
        """Attention of consecutive steps from a kernel model that takes one step at a time."""
        timings = [self._attention_of(batch.grown(int(steps)), None, window) for steps in later]
        return KernelTiming(*(np.array(part) for part in zip(*timings, strict=True)))  # type: ignore[arg-type]

    # ---- what depends on the number of tokens alone

    def _template(self, batch: Batch) -> _Template:
        if batch.chunks or batch.ranks:
            return self._template_by_key(self._key(batch))
        asked = batch.decodes * batch.decode_tokens, batch.sampled
        template = self._decode_templates.get(asked)
        if template is None:
            template = self._decode_templates[asked] = self._template_by_key(self._key(batch))
        return template

    def _template_by_key(self, key: _Key) -> _Template:
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = self._priced(*key)
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

    def _priced(self, tokens: int, all_tokens: int, sampled: int, has_prefill: bool) -> _Template:
        shard, price = self.shard, self._price
        dense = self._dense_layers
        layers = []
        for repeat, is_moe in ((dense, False), (shard.layers - dense, True)):
            if repeat:
                layers.append(self._layer(repeat, tokens, all_tokens, is_moe, has_prefill))
        host = self._host(sampled)
        first = embedding(price, tokens) if shard.is_first else ()
        tail = head(price, sampled) if shard.is_last else ()
        once = causes_of((*host, *first, *tail))
        fixed = [cause + sum(kind.repeat * kind.causes[i] for kind in layers) for i, cause in enumerate(once)]
        host_s, first_s, tail_s = seconds_of(host), seconds_of(first), seconds_of(tail)
        parts = [(_ops(host), 1, host_s), (_ops(first), 1, first_s)]
        before_layers = Program(parts).blocks
        parts += [((*kind.before, *kind.after), kind.repeat, 0.0) for kind in layers]
        return _Template(
            before_layers,
            tuple(layers),
            _ops(tail),
            host_s + first_s,
            tail_s,
            Causes(*fixed),
            shard.layers,
            any(kind.launch_s for kind in layers),
            Program([*parts, (_ops(tail), 1, tail_s)]).traffic(),
        )

    def _host(self, sequences: int) -> tuple[Priced, ...]:
        """Host work that the GPUs of this stage wait for."""
        engine, host = self.shard.engine, self.shard.engine.host
        if engine.schedules_ahead:
            seconds = host.async_step_s if self.shard.is_first else 0.0
        else:
            seconds = host.step_s + host.sequence_s * sequences if self.shard.is_first else host.stage_s
        return self._price.host("host", seconds)

    def _layer(
        self, repeat: int, tokens: int, all_tokens: int, is_moe: bool, has_prefill: bool
    ) -> _LayerKind:
        price = self._price
        before, after = layer_around(
            price, tokens, all_tokens, self._heads, self._kv_heads, is_moe, has_prefill
        )
        kernel_count = sum(one.op.demand is None for one in (*before, *after)) + 1
        launch_s = self._launch_s(tokens, has_prefill, kernel_count)
        attention = Op("attention", 0.0)
        block = Block.of((*_ops(before), attention, *_ops(after)), repeat, 0.0, 0.0)
        return _LayerKind(
            repeat,
            _ops(before),
            _ops(after),
            seconds_of(before),
            seconds_of(after),
            launch_s,
            causes_of((*before, *after)),
            block.offsets_s[: len(before) + 1],
            block.transfers,
        )

    def _launch_s(self, tokens: int, has_prefill: bool, kernel_count: int) -> float:
        if "host" in self._price.without:
            return 0.0
        if not self._captured(tokens):
            return kernel_count * self.shard.engine.host.launch_s
        return PIECEWISE_LAUNCH_S if has_prefill else 0.0


def _ops(priced: tuple[Priced, ...]) -> tuple[Op, ...]:
    return tuple(one.op for one in priced)


def _layer_s(kind: _LayerKind, attention_s: Seconds) -> Seconds:
    seconds = kind.before_s + attention_s + kind.after_s
    if not kind.launch_s:
        return seconds
    if isinstance(seconds, np.ndarray):
        return np.maximum(seconds, kind.launch_s)
    return max(seconds, kind.launch_s)


def _at_most(kv_tokens: Seconds, most: int) -> Seconds:
    return np.minimum(kv_tokens, float(most)) if isinstance(kv_tokens, np.ndarray) else min(kv_tokens, most)


def _windowed(chunks: tuple[tuple[int, int], ...], window: int) -> tuple[tuple[int, int], ...]:
    """Chunks as layers with a sliding window see them: in pieces, each with one window before it."""
    pieces: list[tuple[int, int]] = []
    for new, past in chunks:
        for done in range(0, new, window):
            pieces.append((min(window, new - done), min(past + done, window)))
    return tuple(pieces)


def _first(part: Seconds, n: int) -> float:
    return float(part[:n].sum()) if isinstance(part, np.ndarray) and part.ndim else n * float(part)


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
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
    return tuple(size for size in sizes if size <= largest)
