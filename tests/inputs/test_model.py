from __future__ import annotations

import pytest

from sim.inputs.attention_kinds import LatentAttention
from sim.inputs.errors import InfeasibleError
from sim.inputs.model import Model


def dense(**changes: object) -> Model:
    shapes: dict[str, object] = {
        "name": "tiny", "architecture": "llama", "layers": 2, "hidden": 64, "intermediate": 128,
        "heads": 8, "kv_heads": 2, "head_dim": 8, "vocab": 100,
    }  # fmt: skip
    return Model.model_validate(shapes | changes)


def test_a_dense_layer_is_attention_a_gated_mlp_and_two_norms() -> None:
    model = dense()
    attention = 64 * 8 * (8 + 2 * 2) + 8 * 8 * 64
    assert model.attention_parameters_per_layer == attention
    assert model.layer_parameters(0) == attention + 3 * 64 * 128 + 2 * 64
    assert model.parameters == 2 * model.layer_parameters(0) + 2 * 100 * 64 + 64
    assert model.active_parameters == model.parameters
    assert not model.is_moe


def test_tied_embeddings_are_counted_once() -> None:
    assert dense().parameters - dense(tie_embeddings=True).parameters == 100 * 64


def test_biases_norms_and_sinks_are_counted() -> None:
    width = (8 + 2 * 2) * 8
    assert dense(qkv_bias=True).layer_parameters(0) - dense().layer_parameters(0) == width
    assert dense(output_bias=True).layer_parameters(0) - dense().layer_parameters(0) == 64
    assert dense(mlp_bias=True).layer_parameters(0) - dense().layer_parameters(0) == 2 * 128 + 64
    assert dense(qk_norm="head").layer_parameters(0) - dense().layer_parameters(0) == 2 * 8
    assert dense(qk_norm="layer").layer_parameters(0) - dense().layer_parameters(0) == (8 + 2) * 8
    assert dense(attention_sinks=True).layer_parameters(0) - dense().layer_parameters(0) == 8


def test_a_token_passes_only_its_own_experts() -> None:
    model = dense(
        experts=16, experts_per_token=2, moe_intermediate=32, shared_intermediate=32, dense_layer_indices=(0,)
    )
    expert = 3 * 64 * 32
    assert model.is_moe_layer(1)
    assert not model.is_moe_layer(0)
    assert model.mlp_parameters_per_layer(0) == 3 * 64 * 128
    assert model.mlp_parameters_per_layer(1) == 64 * 16 + 16 * expert + expert
    assert model.active_mlp_parameters_per_layer(1) == 64 * 16 + 2 * expert + expert
    assert model.parameters - model.active_parameters == 14 * expert


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    model = dense()
    whole = model.kv_bytes_per_token("bf16")
    assert whole == 2 * 2 * 2 * 8 * 2
    assert [model.kv_bytes_per_token_per_gpu(tp, "bf16") / whole for tp in (1, 2, 4, 8)] == [1, 0.5, 0.5, 0.5]
    assert model.kv_bytes_per_token_per_gpu(1, "fp8", layers=1) == whole / 4


def test_latent_attention_caches_one_vector_on_every_rank() -> None:
    mla = LatentAttention(kv_lora_rank=16, rope_head_dim=4, nope_head_dim=8, v_head_dim=8, q_lora_rank=24)
    model = dense(mla=mla, kv_heads=8)
    assert model.kv_bytes_per_token("bf16") == 2 * 20 * 2
    assert model.kv_bytes_per_token_per_gpu(8, "bf16") == model.kv_bytes_per_token("bf16")
    assert model.attention_parameters_per_layer == mla.parameters(64, 8)


def test_a_tensor_parallel_size_that_does_not_divide_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        InfeasibleError,
        match="tensor_parallel_size 3 does not divide 8 attention heads of tiny; 1, 2, 4, 8 do",
    ):
        dense().kv_bytes_per_token_per_gpu(3)
    with pytest.raises(
        InfeasibleError, match="does not divide 12 attention heads and 4 KV heads of tiny; 1, 2, 4, 12 do"
    ):
        dense(heads=12, kv_heads=4).check_tensor_parallel(6)


def test_quantised_weights_keep_embedding_norms_and_router_in_sixteen_bits() -> None:
    model = dense(experts=4, experts_per_token=1, moe_intermediate=32)
    kept = 2 * 100 * 64 + 64 + 2 * (2 * 64 + 64 * 4)
    assert model.weight_bytes("bf16") == 2 * model.parameters
    assert model.weight_bytes("fp8") == model.parameters - kept + 2 * kept
    routed = 2 * 4 * model.expert_parameters
    assert model.weight_bytes("bf16", expert_dtype="fp4") == 2 * (model.parameters - routed) + routed / 2
