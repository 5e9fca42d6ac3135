from __future__ import annotations

from sim.inputs.attention_kinds import LatentAttention


def test_latent_attention_weighs_its_projections_and_the_norms_of_its_latent_vectors() -> None:
    mla = LatentAttention(kv_lora_rank=16, rope_head_dim=4, nope_head_dim=8, v_head_dim=8, q_lora_rank=24)
    queries = 64 * 24 + 24 + 24 * 8 * 12
    keys_values = 64 * 20 + 16 + 16 * 8 * 16
    assert mla.cached_values == 20
    assert mla.parameters(64, 8) == queries + keys_values + 8 * 8 * 64
