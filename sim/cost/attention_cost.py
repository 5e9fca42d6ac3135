"""Seconds of what mixes the tokens of a text in a layer of one kind: attention, with a window or to chosen
tokens, or a state that is read and written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sim.cost.batch import Batch
from sim.cost.kernels.attention import Chunks, DecodeCurve, decode_curve, mla_decode_curve
from sim.cost.kernels.kernels import KernelTiming, formula
from sim.cost.launches import attention_launches
from sim.cost.pricing import Pricer
from sim.cost.step_cost import FloatArray
from sim.inputs.attention_kinds import CompressedCache, Indexer

Seconds = float | FloatArray


class Reach(NamedTuple):
    """What a token attends to: the last `window` tokens, and of all cached tokens one entry for every
    `ratio`, at most `most` of them.
    """

    window: int
    ratio: int = 0
    most: int | None = None

    def of_decodes(self, kv_tokens: Seconds, decodes: int) -> Seconds:
        """Entries that so many sequences of about equal length attend to, with `kv_tokens` cached in all."""
        seen = _at_most(kv_tokens, self.window * decodes)
        if not self.ratio:
            return seen
        entries = kv_tokens / self.ratio
        return seen + (entries if self.most is None else _at_most(entries, self.most * decodes))

    def of_chunks(self, chunks: Chunks) -> tuple[tuple[int, int], ...]:
        """Chunks of prompts in pieces of one window, each with what its tokens attend to before it."""
        pieces: list[tuple[int, int]] = []
        for new, past in chunks:
            for done in range(0, new, self.window):
                seen = min(past + done, self.window)
                if self.ratio:
                    entries = (past + done) // self.ratio
                    seen += entries if self.most is None else min(entries, self.most)
                pieces.append((min(self.window, new - done), seen))
        return tuple(pieces)


class AttentionCost:
    """Times the attention of layers of one kind. Pure, but for remembered curves."""

    def __init__(self, price: Pricer) -> None:
        shard, model = price.shard, price.shard.model
        self.shard = shard
        self._price = price
        self._curves: dict[int, DecodeCurve] = {}  # by decodes
        self._launches = attention_launches(False), attention_launches(True)
        self._heads, self._kv_heads = shard.heads_of_rank, shard.kv_heads_of_rank
        # ranks that share a text's KV cache: each attends for the heads of all, to its part of the tokens
        self._parts = shard.engine.decode_context_parallel_size
        # decodes take what the fitted curve says, over all of their contexts
        self._is_plain = (
            price.kernel_model is formula
            and "kernel_latency" not in price.without
            and model.linear is None
            and model.indexer is None
            and model.sliding_window is None
            and self._parts == 1
        )
        self._decode_heads = self._heads * self._parts
        # kernels count keys and values alike; with values narrower than keys both count as their mean
        self._head_dim = (
            model.head_dim if model.v_head_dim is None else (model.head_dim + model.v_head_dim) // 2
        )

    def __call__(self, batch: Batch, later: FloatArray | None = None) -> KernelTiming:
        """One layer's attention over the whole batch; fields are arrays over the steps in `later`."""
        launches = self._launches[bool(batch.chunks)]
        if self._is_plain and not batch.chunks and not batch.ranks:  # nearly all steps
            curve = self._curves.get(batch.decodes) or self._decode_curve(batch.decodes)
            kv_tokens: Seconds = batch.decode_kv_tokens
            if later is not None:
                kv_tokens = kv_tokens + (batch.decodes * batch.decode_growth) * later
            return self._price.within_a_step(curve(kv_tokens), launches)
        if not batch.ranks:
            return self._price.within_a_step(self._attention_of_layers(batch, later), launches)
        timings = [self._attention_of_layers(rank, later) for rank in batch.ranks if rank.tokens]
        if later is None:
            return self._price.within_a_step(max(timings, key=lambda timing: timing.total_s), launches)
        parts = [
            np.array([np.broadcast_to(part, later.shape) for part in of]) for of in zip(*timings, strict=True)
        ]
        slowest = np.argmax(parts[0], axis=0)[None]  # at every step, the first of the slowest ranks
        chosen = (np.take_along_axis(part, slowest, axis=0)[0] for part in parts)
        return self._price.within_a_step(KernelTiming(*chosen), launches)

    def _attention_of_layers(self, batch: Batch, later: FloatArray | None) -> KernelTiming:
        """A layer of the stage; of layers with and without a sliding window the mean."""
        model = self.shard.model
        if model.linear is not None:
            return self._state(batch)
        if model.compression is not None:
            return self._of_compressed(model.compression, batch, later)
        if model.indexer is not None:
            return self._of_chosen(batch, later)
        everywhere = self._attention_of(batch, later)
        window = model.sliding_window
        if window is None:
            return everywhere
        share = model.sliding_layers / model.layers
        near = self._attention_of(batch, later, Reach(window))
        parts = (a * (1.0 - share) + b * share for a, b in zip(everywhere, near, strict=True))
        return KernelTiming(*parts)

    def _state(self, batch: Batch) -> KernelTiming:
        """Reading and writing the states, whatever the context; of prompts a scan."""
        linear = self.shard.model.linear
        assert linear is not None
        own = linear.of_rank(self.shard.tensor_parallel_size)
        parts: list[KernelTiming] = []
        if batch.chunks:
            dtype = self.shard.precision.activations
            parts.append(
                self._price.timing("state_scan", chunks=batch.chunks, linear=own, dtype=dtype, sustained=True)
            )
        if batch.decodes:
            updates = batch.decodes * batch.decode_tokens
            parts.append(self._price.timing("state_update", batch=updates, linear=own))
        return _sum(parts)

    def _of_chosen(self, batch: Batch, later: FloatArray | None) -> KernelTiming:
        """Attention to the tokens that an indexer has chosen, and its scores, where the layer has its own.
        Where it stops: prompts attend as if keys and values were expanded, within as many tokens as are
        chosen.
        """
        indexer = self.shard.model.indexer
        assert indexer is not None
        chosen = self._attention_of(batch, later, Reach(indexer.topk))
        if self.shard.model.shares_index:
            return chosen
        return _sum([chosen, *self._scores(indexer, batch, later)])

    def _of_compressed(self, cache: CompressedCache, batch: Batch, later: FloatArray | None) -> KernelTiming:
        """Attention to a window and to compressed entries: all, or those that an indexer has chosen."""
        model = self.shard.model
        indexer = None if model.shares_index else model.indexer
        most = None if indexer is None else indexer.topk
        seen = self._attention_of(batch, later, Reach(cache.window, cache.ratio, most))
        if indexer is None or not cache.ratio:
            return seen
        return _sum([seen, *self._scores(indexer, batch, later, cache.ratio)])

    def _scores(
        self, indexer: Indexer, batch: Batch, later: FloatArray | None, ratio: int = 1
    ) -> list[KernelTiming]:
        """Scores of every cached token, or of every `ratio`-th."""
        parts: list[KernelTiming] = []
        if batch.chunks:
            chunks = batch.chunks if ratio == 1 else tuple((new, past // ratio) for new, past in batch.chunks)
            parts.append(self._price.timing("index_prefill", chunks=chunks, indexer=indexer, sustained=True))
        if batch.decodes:
            kv_tokens: Seconds = batch.decode_kv_tokens
            if later is not None:
                kv_tokens = kv_tokens + (batch.decodes * batch.decode_growth) * later
            if ratio > 1:
                kv_tokens = kv_tokens / ratio
            scores = {"batch": batch.decodes, "kv_tokens": kv_tokens, "indexer": indexer}
            parts.append(self._price.timing("index_decode", **scores))
        return parts

    def _attention_of(
        self, batch: Batch, later: FloatArray | None, reach: Reach | None = None
    ) -> KernelTiming:
        if self._price.kernel_model is not formula:
            if later is not None:
                return self._one_by_one(batch, later, reach)
            return self._asked(batch, reach)
        if batch.chunks:
            return self._asked(batch, reach)
        kv_tokens: Seconds = batch.decode_kv_tokens
        if later is not None:
            kv_tokens = kv_tokens + (batch.decodes * batch.decode_growth) * later
        if reach is not None:
            kv_tokens = reach.of_decodes(kv_tokens, batch.decodes)
        if self._parts > 1:
            kv_tokens = kv_tokens / self._parts
        return self._decode_curve(batch.decodes)(kv_tokens)

    def _asked(self, batch: Batch, reach: Reach | None) -> KernelTiming:
        """Attention of one step as the kernel model has it."""
        shard, model, timing = self.shard, self.shard.model, self._price.timing
        dtype = shard.precision.attention or shard.precision.activations
        kv_dtype = shard.precision.kv_cache
        kv_tokens: Seconds = batch.decode_kv_tokens
        if reach is not None:
            kv_tokens = reach.of_decodes(kv_tokens, batch.decodes)
            batch = batch._replace(chunks=reach.of_chunks(batch.chunks))
        if self._parts > 1:
            kv_tokens = kv_tokens / self._parts
        chunks = {"chunks": batch.chunks, "dtype": dtype, "sustained": True}
        decodes: dict[str, Any] = {"batch": batch.decodes, "kv_tokens": kv_tokens}
        if model.mla is not None:
            latent = {"heads": self._heads, "mla": model.mla, "kv_dtype": kv_dtype}
            parts: list[KernelTiming] = []
            if batch.chunks:
                parts.append(timing("mla_prefill", **chunks, **latent))
            if batch.decodes:
                parts.append(timing("mla_decode", **decodes, **{**latent, "heads": self._decode_heads}))
            return _sum(parts)
        sizes = {
            "heads": self._heads,
            "kv_heads": self._kv_heads,
            "head_dim": self._head_dim,
            "kv_dtype": kv_dtype,
        }
        if not batch.chunks:
            return timing("attention_decode", **decodes, **{**sizes, "heads": self._decode_heads})
        if not batch.decodes:
            return timing("attention_prefill", **chunks, **sizes)
        if self._price.kernel_model is formula and self._parts == 1:
            decodes["curve"] = self._decode_curve(batch.decodes)
        return timing("attention_mixed", **chunks, **decodes, **sizes)

    def _decode_curve(self, decodes: int) -> DecodeCurve:
        """A layer's attention of so many decodes, over their contexts."""
        curve = self._curves.get(decodes)
        if curve is None:
            shard, model = self.shard, self.shard.model
            gpu, kv_dtype = shard.gpu, shard.precision.kv_cache
            if model.mla is not None:
                curve = mla_decode_curve(gpu, decodes, self._decode_heads, model.mla, kv_dtype)
            else:
                curve = decode_curve(
                    gpu, decodes, self._decode_heads, self._kv_heads, self._head_dim, kv_dtype
                )
            self._curves[decodes] = curve
        return curve

    def _one_by_one(self, batch: Batch, later: FloatArray, reach: Reach | None) -> KernelTiming:
        """Attention of consecutive steps from a kernel model that takes one step at a time."""
        timings = [self._attention_of(batch.grown(int(steps)), None, reach) for steps in later]
        return KernelTiming(*(np.array(part) for part in zip(*timings, strict=True)))  # type: ignore[arg-type]


def _sum(parts: list[KernelTiming]) -> KernelTiming:
    """Kernels one after the other."""
    return parts[0] if len(parts) == 1 else KernelTiming(*map(sum, zip(*parts, strict=True)))


def _at_most(kv_tokens: Seconds, limit: int) -> Seconds:
    return np.minimum(kv_tokens, float(limit)) if isinstance(kv_tokens, np.ndarray) else min(kv_tokens, limit)
