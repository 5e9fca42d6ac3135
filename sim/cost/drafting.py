"""What drafting costs: the passes of a draft model, an EAGLE head or a layer of multi-token prediction.

A step drafts `num_speculative_tokens` tokens one after the other; every pass goes over one token of each
sequence, with its own attention over the whole text and its own output head. Where it stops: the draft's
prefill of a prompt, and the tokens that the first pass catches up with, are not counted.
"""

from __future__ import annotations

from dataclasses import replace

from sim.cost.attention_cost import AttentionCost
from sim.cost.batch import Batch
from sim.cost.kernels.timing import KernelTiming
from sim.cost.pricing import Priced, Pricer
from sim.cost.shard import Shard
from sim.cost.step_cost import FloatArray
from sim.inputs.engine import Draft
from sim.inputs.model import Model
from sim.inputs.quantities import DTYPE_BYTES

NO_ATTENTION = KernelTiming(0.0, 0.0, 0.0, 0.0)
FUSED_BY_MTP = 2  # the hidden state and the embedding of the last token (DeepSeek-V3, section 2.2)


def draft_shard(shard: Shard) -> Shard | None:
    """The layers of the draft on the last stage's GPUs, in the number formats that they have; None where the
    engine drafts by a given time, or not at all.
    """
    speculation = shard.engine.speculation
    if speculation is None or speculation.draft is None or not shard.is_last:
        return None
    if isinstance(speculation.draft, Draft):
        model = speculation.draft.model
        plain = shard.precision.model_copy(
            update={"weights": shard.precision.activations, "experts": None, "qkv_weights": None}
        )
        return replace(shard, model=model, precision=plain, first_layer=0, layers=model.layers)
    last = shard.model.layers - 1
    shape = shard.model.shape_of(last)
    if not shard.model.is_moe_layer(last) and shape.is_moe:
        shape = Model.model_construct(**{**dict(shape), "experts": 0})
    return replace(shard, model=shape, first_layer=last, layers=1)


def fused_states(shard: Shard) -> int:
    """Hidden states that the draft of a shard's engine joins into one."""
    speculation = shard.engine.speculation
    draft = speculation.draft if speculation is not None else None
    return draft.fused_states if isinstance(draft, Draft) else FUSED_BY_MTP


def draft_weight_bytes(shard: Shard) -> float:
    """Bytes of the draft on one GPU of the last stage: layers, projection, and an output head where its
    vocabulary is not the model's. The embedding is the model's, but for a model of its own.
    """
    own = draft_shard(shard)
    if own is None:
        return 0.0
    model, ranks = own.model, shard.tensor_parallel_size
    width = DTYPE_BYTES[own.precision.weights]
    total = 0.0
    for layer in range(own.first_layer, own.first_layer + own.layers):
        expert_bytes = 0.0
        if model.is_moe_layer(layer):
            expert_bytes = model.experts * model.expert_parameters
        rest = model.mlp_parameters_per_layer(layer) - expert_bytes
        total += (model.attention_parameters_per_gpu(ranks) + rest / ranks) * width
        total += expert_bytes / len(shard.ranks) * DTYPE_BYTES[own.precision.experts or own.precision.weights]
    fused = fused_states(shard)
    total += fused * model.hidden * model.hidden * width
    if model.vocab != shard.model.vocab or not fused:
        total += model.vocab * model.hidden / ranks * width * (1 if fused else 2)
    return total


def draft_kv_bytes_per_token(shard: Shard) -> float:
    """KV bytes of a token in the draft's layers on one GPU of the last stage."""
    own = draft_shard(shard)
    if own is None:
        return 0.0
    return own.model.kv_bytes_of_layers(
        own.first_layer, own.layers, shard.tensor_parallel_size, shard.precision.kv_cache
    )


def draft_head(price: Pricer, shard: Shard, sequences: int) -> tuple[Priced, ...]:
    """What one pass has beside its layers: joining hidden states, logits, and the choice of a token."""
    model, ranks = price.shard.model, price.shard.tensor_parallel_size
    fused, activations = fused_states(shard), price.shard.precision.activations
    joined = (price.gemm("fuse", sequences, model.hidden, fused * model.hidden),) if fused else ()
    return (
        *joined,
        price.elementwise("norm", 2 * sequences * model.hidden),
        price.gemm("lm_head", sequences, -(-model.vocab // ranks), model.hidden, dtype=activations),
        *price.collective("all_gather", sequences * model.vocab * DTYPE_BYTES[activations]),
        price.kernel("sample", price.timing("sampling", sequences=sequences, vocab=model.vocab)),
    )


class DraftAttention:
    """The attention of one pass of a draft: one token of every sequence that decodes."""

    def __init__(self, price: Pricer) -> None:
        self._attention = AttentionCost(price)

    def __call__(self, batch: Batch, later: FloatArray | None = None) -> KernelTiming:
        if not batch.decodes:
            return NO_ATTENTION
        return self._attention(_one_token_each(batch), later)


def _one_token_each(batch: Batch) -> Batch:
    ranks = tuple([_one_token_each(rank) for rank in batch.ranks])
    return batch._replace(chunks=(), decode_tokens=1, sampled=batch.decodes, ranks=ranks)
