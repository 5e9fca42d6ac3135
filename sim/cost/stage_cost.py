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

from collections.abc import Callable

import numpy as np

from sim.cost.batch import Batch, Causes
from sim.cost.kernels.attention import DecodeCurve, decode_curve, mla_decode_curve
from sim.cost.kernels.kernels import KernelModel, KernelTiming, formula
from sim.cost.network import Network
from sim.cost.pricing import Pricer
from sim.cost.program import Block, Op, Program, Traffic
from sim.cost.shard import Shard
from sim.cost.step_cost import FloatArray
from sim.cost.step_templates import LayerKind, Template, Templates

Seconds = float | FloatArray

FEW_STEPS = 8
"""So many decode steps are priced one by one; more of them as arrays, at the price of about eight."""


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
        self._curves: dict[int, DecodeCurve] = {}  # by decodes
        self._heads, self._kv_heads = shard.heads_of_rank, shard.kv_heads_of_rank
        self._template = Templates(self._price).of

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

    # One step, an array of steps and a program add the same terms in the same order. That makes a folded run
    # equal to a played one to the last bit: change the order here and in `program` together.
    @staticmethod
    def _total(template: Template, attention_s: Seconds) -> Seconds:
        total: Seconds = template.before_layers_s
        for kind in template.layers:
            total = total + kind.repeat * _layer_s(kind, attention_s)
        if template.tail_s:
            total = total + template.tail_s
        return total

    @staticmethod
    def _causes(template: Template, attention: KernelTiming, steps: int, seconds: float) -> Causes:
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


def _layer_s(kind: LayerKind, attention_s: Seconds) -> Seconds:
    seconds = kind.before_s + attention_s + kind.after_s
    if not kind.launch_s:
        return seconds
    if isinstance(seconds, np.ndarray):
        return np.maximum(seconds, kind.launch_s)
    return max(seconds, kind.launch_s)


def _at_most(kv_tokens: Seconds, limit: int) -> Seconds:
    return np.minimum(kv_tokens, float(limit)) if isinstance(kv_tokens, np.ndarray) else min(kv_tokens, limit)


def _windowed(chunks: tuple[tuple[int, int], ...], window: int) -> tuple[tuple[int, int], ...]:
    """Chunks as layers with a sliding window see them: in pieces, each with one window before it."""
    pieces: list[tuple[int, int]] = []
    for new, past in chunks:
        for done in range(0, new, window):
            pieces.append((min(window, new - done), min(past + done, window)))
    return tuple(pieces)


def _first(part: Seconds, n: int) -> float:
    return float(part[:n].sum()) if isinstance(part, np.ndarray) and part.ndim else n * float(part)
