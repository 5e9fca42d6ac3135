"""The bytes and FLOPs of a step on one GPU of a stage: what its kernels must move and compute, however long
they take.

Closed forms in the numbers that a row of steps has, so that a row of thousands of folded steps is one
expression. Weights are read once a step, those of an expert where a token chose it. A test holds the sums
against those of the kernels that the step is priced with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.cost.expert_load import hits
from sim.cost.kernels.timing import number_format, peak_flops
from sim.cost.memory import shard_weight_bytes
from sim.cost.shard import Shard
from sim.inputs.model import Model
from sim.inputs.quantities import DTYPE_BYTES

Floats = NDArray[np.float64]
ACTIVATION_PASSES = 8.0
"""Reads and writes of a hidden state a layer: two norms, their residuals, in and out of the products."""
INNER_PASSES = 3.0
"""Of what lies between two products: gate, up and their product; queries, scores and what they weigh."""
LOGIT_PASSES = 8.0
"""Of a token's logits: to 32 bits, temperature, softmax, sorting (assumed: as many as of hidden states)."""


class Work(NamedTuple):
    """Bytes of HBM, seconds of arithmetic at the dense peak of the format that each product runs in, and the
    values of activations that pass the GPU's vector units.
    """

    hbm_bytes: Floats
    peak_s: Floats
    values: Floats


@dataclass(frozen=True)
class StepWork:
    """The work of one GPU in a step of a shard."""

    shard: Shard

    def of(
        self,
        prefill_tokens: Floats,
        decode_tokens: Floats,
        sequences: Floats,
        kv_tokens: Floats,
        prefill_context: float = 0.0,
    ) -> Work:
        """Of steps with so many tokens of prompts and of answers (drafts included), `sequences` that get a
        token, `kv_tokens` in the KV cache of those that decode, and prompts whose tokens look back at
        `prefill_context` others in the mean. All data-parallel ranks together, as rows of steps have it.
        """
        groups = len(self.shard.groups)
        tokens = (prefill_tokens + decode_tokens) / groups
        sampled, kv = sequences / groups, kv_tokens / groups
        context = kv / np.maximum(decode_tokens / groups, 1.0)
        expert_bytes, expert_s = self._experts(tokens * groups)
        hbm = self._weights + expert_bytes
        arithmetic = tokens * self._flop_s + expert_s
        if self.shard.is_last:
            head = self.shard.model.embedding_parameters / self.shard.tensor_parallel_size
            hbm = hbm + head * self._plain_bytes
            arithmetic = arithmetic + sampled * 2.0 * head / self._peak("bf16")
        hbm = hbm + tokens * self._activations
        for shape, layers, window in self._attentions:
            bytes_a_token, flops_a_token = self._of_cached_token(shape)
            seen = np.minimum(context, window) if window else context
            read = layers * seen * (decode_tokens / groups)
            hbm = hbm + (read + layers * tokens) * bytes_a_token
            back = min(prefill_context, window) if window else prefill_context
            pairs = read + layers * prefill_tokens / groups * back
            arithmetic = arithmetic + pairs * flops_a_token / self._peak("bf16")
        values = tokens * self._values
        if self.shard.is_last:
            values = (
                values + sampled * LOGIT_PASSES * self.shard.model.vocab / self.shard.tensor_parallel_size
            )
        return Work(*(np.asarray(part, dtype=float) for part in (hbm, arithmetic, values)))

    def _peak(self, dtype: str) -> float:
        return peak_flops(self.shard.gpu, dtype)

    @property
    def _plain_bytes(self) -> float:
        return DTYPE_BYTES[self.shard.precision.activations]

    @cached_property
    def _expert_bytes_of_rank(self) -> float:
        """Of all routed experts on one GPU."""
        shard = self.shard
        width = DTYPE_BYTES[shard.precision.experts or shard.precision.weights]
        routed = sum(
            shape.experts * shape.expert_parameters for shape, is_moe in shard.kinds_of_layers if is_moe
        )
        return routed / len(shard.ranks) * width

    @cached_property
    def _weights(self) -> float:
        """Bytes of weights that every step reads: all but routed experts, embedding and output head."""
        shard, ranks = self.shard, self.shard.tensor_parallel_size
        copies = shard.experts_with_copies / shard.model.experts if shard.model.is_moe else 1.0
        total = shard_weight_bytes(shard) - self._expert_bytes_of_rank * copies
        outside = 0.0
        if shard.is_first or (shard.is_last and shard.model.tie_embeddings):
            outside += shard.model.embedding_parameters / ranks
        if shard.is_last:
            outside += shard.model.lm_head_parameters / ranks
        plain = DTYPE_BYTES[shard.precision.weights]
        return max(total - outside * (self._plain_bytes if plain < 2 else plain), 0.0)

    @cached_property
    def _flop_s(self) -> float:
        """Seconds of arithmetic at peak for every token outside attention and routed experts."""
        shard, ranks = self.shard, self.shard.tensor_parallel_size
        peak = self._peak(shard.precision.weights)
        parameters = 0.0
        for shape, is_moe in shard.kinds_of_layers:
            parameters += shape.attention_parameters_per_gpu(ranks)
            if is_moe:
                parameters += shape.shared_expert_parameters_per_layer / ranks
                parameters += shape.router_parameters_per_layer
            else:
                parameters += shape.dense_mlp_parameters / ranks
        return 2.0 * parameters / peak

    def _experts(self, tokens: Floats) -> tuple[Floats, Floats]:
        """Bytes of the experts that `tokens` tokens of all ranks hit, and seconds of their arithmetic."""
        shard, model = self.shard, self.shard.model
        if not model.is_moe:
            return np.zeros_like(tokens), np.zeros_like(tokens)
        layers = sum(is_moe for _, is_moe in shard.kinds_of_layers)
        law = hits(shard.engine.expert_routing, model.experts, model.experts_per_token)
        if law is None:
            hit = 1.0 - (1.0 - model.experts_per_token / model.experts) ** tokens
        else:
            hit = law.share_of(tokens)
        pairs = tokens * model.experts_per_token / len(shard.ranks)
        peak = self._peak(shard.precision.experts or shard.precision.weights)
        return hit * self._expert_bytes_of_rank, layers * pairs * 2.0 * model.expert_parameters / peak

    @cached_property
    def _activations(self) -> float:
        """Bytes of HBM for the activations of a token: inputs and outputs of all products and norms."""
        ranks, total = self.shard.tensor_parallel_size, 0.0
        in_bytes = number_format(self.shard.precision.weights).activation_bytes
        for shape, is_moe in self.shard.kinds_of_layers:
            width = shape.moe_intermediate * shape.experts_per_token if is_moe else shape.intermediate
            inner = (shape.query_width + shape.output_width) / ranks + 2.0 * width / ranks
            total += ACTIVATION_PASSES * self._plain_bytes * shape.hidden
            total += (in_bytes + self._plain_bytes) * inner
        return total

    @cached_property
    def _values(self) -> float:
        """Values of a token's activations: of the hidden state and of what lies between products."""
        total = 0.0
        for shape, is_moe in self.shard.kinds_of_layers:
            width = shape.moe_intermediate * shape.experts_per_token if is_moe else shape.intermediate
            total += ACTIVATION_PASSES * shape.hidden + INNER_PASSES * (width + shape.query_width)
        return total / self.shard.tensor_parallel_size

    @cached_property
    def _attentions(self) -> tuple[tuple[Model, int, int], ...]:
        """Layers that keep KV, by shape and window: how many of each."""
        found: dict[tuple[int, int], tuple[Model, int, int]] = {}
        model, first = self.shard.model, self.shard.first_layer
        windowed = model.sliding_layers * self.shard.layers  # of this stage's, times all layers
        for layer in range(first, first + self.shard.layers):
            shape = model.shape_of(layer)
            if not shape.keeps_kv:
                continue
            window = shape.sliding_window or 0
            if not model.layer_shapes and (layer - first) * model.layers >= windowed:
                window = 0
            key = id(shape), window
            held = found.get(key)
            found[key] = shape, (held[1] if held else 0) + 1, window
        return tuple(found.values())

    def _of_cached_token(self, shape: Model) -> tuple[float, float]:
        """Bytes that a token in the cache of one layer has on one GPU, and FLOPs to look at it."""
        shard = self.shard
        ranks, context_ranks = shard.tensor_parallel_size, shard.engine.decode_context_parallel_size
        n_bytes = shape.kv_values_per_token_per_layer * DTYPE_BYTES[shard.precision.kv_cache]
        if shape.mla is None:
            n_bytes *= shape.kv_heads_per_gpu(ranks) / shape.kv_heads
            dims = float(shape.head_dim + (shape.v_head_dim or shape.head_dim))
        else:
            dims = float(shape.mla.attended_values)
            if shape.compression is not None:
                dims = shape.compression.entries(dims)
        return n_bytes / context_ranks, 2.0 * shape.heads / ranks * dims / context_ranks
