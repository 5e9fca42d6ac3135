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

import numpy as np

from sim.cost.batch import Batch, Causes
from sim.cost.kernels import KernelModel, KernelTiming, formula
from sim.cost.layer_ops import embedding, head, layer_around
from sim.cost.memory import default_limits
from sim.cost.network import Network
from sim.cost.pricing import Priced, Pricer, causes_of, kernel_causes, seconds_of
from sim.cost.program import Op, Program, Traffic
from sim.cost.shard import Shard
from sim.cost.steps import FloatArray
from sim.inputs.engine import Engine

Seconds = float | FloatArray
_Key = tuple[int, int, int, bool]

# Launch cost on the host per layer (PHYSICS of CUDA graphs: one replay launches a whole decode step; a mixed
# batch replays one piece a layer, 25-40 us each; without graphs every kernel costs 5-10 us of processor
# time).
PIECEWISE_LAUNCH_S = 32e-6  # assumed: middle of 25-40 us a piece


@dataclass(frozen=True, slots=True)
class _LayerKind:
    """`repeat` equal layers: ops before and after attention, with their sums."""

    repeat: int
    before: tuple[Priced, ...]
    after: tuple[Priced, ...]
    before_s: float
    after_s: float
    launch_s: float
    causes: Causes


@dataclass(frozen=True, slots=True)
class _Template:
    """All of a step but its attention, for one number of tokens."""

    host: tuple[Priced, ...]
    head: tuple[Priced, ...]
    layers: tuple[_LayerKind, ...]
    tail: tuple[Priced, ...]
    host_s: float
    head_s: float
    before_layers_s: float
    tail_s: float
    fixed: Causes  # of everything but attention, all layers together
    repeats: int  # layers of all kinds
    waits_for_launch: bool


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
        self._template_of: dict[tuple[int, int, bool], _Template] = {}  # as `_templates`, before padding
        self._traffic: dict[int, Traffic] = {}  # by the template's identity
        self._capture = _capture_sizes(shard.engine, *default_limits(shard.engine, shard.gpu))
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
        attention = self._attention(batch)
        attention_op = Op("attention", float(attention.total_s))
        blocks: list[tuple[tuple[Op, ...], int, float]] = []
        for part, seconds in ((template.host, template.host_s), (template.head, template.head_s)):
            blocks.append((tuple(one.op for one in part), 1, seconds))
        for kind in template.layers:
            period = float(_layer_s(kind, attention.total_s))
            ops = [*(one.op for one in kind.before), attention_op, *(one.op for one in kind.after)]
            slack = period - sum(op.seconds for op in ops)
            if slack > 1e-12:
                ops.append(Op("wait for launch", slack))
            blocks.append((tuple(ops), kind.repeat, period))
        blocks.append((tuple(one.op for one in template.tail), 1, template.tail_s))
        traffic = self._traffic.get(id(template))
        return Program(blocks, traffic.links if traffic else None)

    def traffic(self, batch: Batch) -> Traffic:
        """The transfers of one step, and the links that the stage uses. Independent of the context."""
        template = self._template(batch)
        traffic = self._traffic.get(id(template))
        if traffic is None:
            traffic = self._traffic[id(template)] = self.program(batch).traffic()
        return traffic

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
        layers = template.repeats
        causes = [
            steps * fixed + layers * grown
            for fixed, grown in zip(template.fixed, kernel_causes(attention), strict=True)
        ]
        if template.waits_for_launch:  # kernels that waited for the host to launch them
            causes[-1] += seconds - sum(causes)
        return Causes(*causes)

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
        shard, model, timing = self.shard, self.shard.model, self._price.timing
        dtype = shard.precision.attention or shard.precision.activations
        kv_dtype = shard.precision.kv_cache
        if later is not None and self._price.kernel_model is not formula:
            return self._one_by_one(batch, later, window)
        kv_tokens: Seconds = batch.decode_kv_tokens
        if later is not None:
            kv_tokens = kv_tokens + (batch.decodes * batch.decode_growth) * later
        if window is not None:
            most = float(window * batch.decodes)
            kv_tokens = (
                np.minimum(kv_tokens, most) if isinstance(kv_tokens, np.ndarray) else min(kv_tokens, most)
            )
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

    def _one_by_one(self, batch: Batch, later: FloatArray, window: int | None) -> KernelTiming:
        """Attention of consecutive steps from a kernel model that takes one step at a time."""
        timings = [self._attention_of(batch.grown(int(steps)), None, window) for steps in later]
        return KernelTiming(*(np.array(part) for part in zip(*timings, strict=True)))  # type: ignore[arg-type]

    # ---- what depends on the number of tokens alone

    def _template(self, batch: Batch) -> _Template:
        asked = (
            batch.prefill_tokens + batch.decodes * batch.decode_tokens,
            batch.sampled,
            bool(batch.chunks),
        )
        template = self._template_of.get(asked) if not batch.ranks else None
        if template is None:
            key = self._key(batch)
            template = self._templates.get(key) or self._priced(*key)
            self._templates[key] = template
            if not batch.ranks:
                self._template_of[asked] = template
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
        dense = shard.dense_layers
        layers = []
        for repeat, is_moe in ((dense, False), (shard.layers - dense, True)):
            if repeat:
                layers.append(self._layer(repeat, tokens, all_tokens, is_moe, has_prefill))
        host = self._host(sampled)
        first = embedding(price, tokens) if shard.is_first else ()
        tail = head(price, sampled) if shard.is_last else ()
        once = causes_of((*host, *first, *tail))
        fixed = [cause + sum(kind.repeat * kind.causes[i] for kind in layers) for i, cause in enumerate(once)]
        host_s, first_s = seconds_of(host), seconds_of(first)
        return _Template(
            host,
            first,
            tuple(layers),
            tail,
            host_s,
            first_s,
            host_s + first_s,
            seconds_of(tail),
            Causes(*fixed),
            shard.layers,
            any(kind.launch_s for kind in layers),
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
        causes = causes_of((*before, *after))
        return _LayerKind(repeat, before, after, seconds_of(before), seconds_of(after), launch_s, causes)

    def _launch_s(self, tokens: int, has_prefill: bool, kernel_count: int) -> float:
        if "host" in self._price.without:
            return 0.0
        if not self._captured(tokens):
            return kernel_count * self.shard.engine.host.launch_s
        return PIECEWISE_LAUNCH_S if has_prefill else 0.0


def _layer_s(kind: _LayerKind, attention_s: Seconds) -> Seconds:
    seconds = kind.before_s + attention_s + kind.after_s
    if not kind.launch_s:
        return seconds
    if isinstance(seconds, np.ndarray):
        return np.maximum(seconds, kind.launch_s)
    return max(seconds, kind.launch_s)


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
