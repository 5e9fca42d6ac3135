"""The numbers of the talk, its two slips, and what latency, algorithms, experts and spares make of them."""

from __future__ import annotations

import pytest

from sim.theory import domain_sizing as sizing

D, F = 8192, 28672
GPU = sizing.BLACKWELL
LLAMA = sizing.LLAMA_3_70B


def test_rooflines_of_the_talk() -> None:
    assert GPU.flop_per_hbm_byte == 1250.0
    assert GPU.hbm_byte_per_link_byte == pytest.approx(8.9, abs=0.05)
    assert sizing.matrix_vector_intensity(1e9) == pytest.approx(4.0)
    assert sizing.square_product_intensity(937.5) == 1250.0


def test_sizes_of_llama_3_70b() -> None:
    assert LLAMA.attention_parameters == pytest.approx(151.0e6, rel=1e-3)
    assert LLAMA.mlp_parameters == pytest.approx(704.6e6, rel=1e-3)
    assert LLAMA.mlp_parameters / LLAMA.layer_parameters == pytest.approx(0.824, abs=1e-3)
    assert LLAMA.embedding_parameters == pytest.approx(2.10e9, rel=2e-3)
    assert (LLAMA.kv_bytes_per_token(1), LLAMA.kv_bytes_per_token(2)) == (163_840, 327_680)
    assert LLAMA.kv_bytes_per_token(1) / LLAMA.layers == 2048


def test_two_figures_of_the_talk_are_a_quarter_and_a_half_of_its_own_formulas() -> None:
    said_compute_s, said_network_s = 16 * D * F / GPU.flop_per_s, 16 * D / GPU.link_bytes_per_s
    assert said_compute_s == pytest.approx(0.376e-6, rel=1e-3)
    assert sizing.mlp_compute_s(16, D, F, GPU) == pytest.approx(4 * said_compute_s)
    assert said_network_s == pytest.approx(0.146e-6, rel=3e-3)
    assert sizing.mlp_network_s(16, D, GPU) == pytest.approx(2 * said_network_s)
    assert sizing.mlp_network_s(128, D, GPU) == pytest.approx(2.33e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("latency_us", "domains"),
    [
        (0, {1: 3226, 16: 201.6, 64: 50, 128: 25.2, 512: 6.3}),
        (1, {1: 58, 16: 45, 64: 27, 128: 17.6, 512: 5.7}),
        (2, {1: 29, 16: 26, 64: 19, 128: 13.6, 512: 5.2}),
        (4, {1: 15, 16: 14, 64: 11, 128: 9.3, 512: 4.4}),
    ],
)
def test_the_largest_domain_shrinks_with_batch_and_latency(
    latency_us: float, domains: dict[int, float]
) -> None:
    for batch, domain in domains.items():
        found = sizing.largest_domain(batch, D, F, GPU, latency_us * 1e-6)
        assert found == pytest.approx(domain, abs=0.6 if domain >= 11 and domain == int(domain) else 0.06)


def test_without_latency_the_bound_is_f_net_over_b_mem() -> None:
    assert sizing.largest_domain(16, D, F, GPU) == pytest.approx(
        F * GPU.link_bytes_per_s / (16 * GPU.hbm_bytes_per_s)
    )


@pytest.mark.parametrize(
    ("batch", "per_user", "per_gpu"),
    [
        (16, {1: 70, 8: 212, 16: 244, 72: 278, 576: 288}, {1: 1112, 8: 423, 16: 244, 72: 62, 576: 8}),
        (128, {1: 40, 8: 152, 16: 169, 72: 185, 576: 190}, {1: 5058, 8: 2431, 16: 1351, 72: 329, 576: 42}),
    ],
)
def test_tokens_per_user_and_per_gpu_of_llama_70b_by_domain(
    batch: int, per_user: dict[int, float], per_gpu: dict[int, float]
) -> None:
    gpu = sizing.Gpu(5e15, 8e12, 192e9, 9e11)
    for domain in per_user:
        user, one_gpu = sizing.tokens_per_s(LLAMA, gpu, batch, 4096, domain)
        assert user == pytest.approx(per_user[domain], rel=0.01)
        assert one_gpu == pytest.approx(per_gpu[domain], rel=0.02)


def test_kv_heads_cannot_be_split_so_a_larger_domain_reads_the_cache_no_faster() -> None:
    gpu = sizing.Gpu(5e15, 8e12, 192e9, 9e11)
    at_8, at_16 = (sizing.layer_seconds(LLAMA, gpu, 16, 4096, domain) for domain in (8, 16))
    assert at_8["kv_cache"] == at_16["kv_cache"]
    assert at_8["weights"] == 2 * at_16["weights"]
    assert sizing.layer_seconds(LLAMA, gpu, 16, 4096, 1)["all_reduce"] == 0.0


def test_routed_weights_of_deepseek_r1_and_the_time_to_read_them() -> None:
    parameters = 58 * 256 * 3 * 7168 * 2048
    assert parameters == pytest.approx(653.9e9, rel=1e-3)
    for ranks, giga, milliseconds in ((8, 81.7, 11.9), (16, 40.9, 5.9), (32, 20.4, 3.0), (72, 9.1, 1.3)):
        n_bytes = sizing.expert_bytes_per_gpu(parameters, ranks, 1.0)
        assert n_bytes == pytest.approx(giga * 1e9, rel=5e-3)
        assert n_bytes / (8e12 * 0.86) == pytest.approx(milliseconds * 1e-3, rel=0.02)


def test_a_dense_choice_hits_every_expert_and_experts_must_divide_over_ranks() -> None:
    assert sizing.distinct_experts(8, 8, 1) == 8.0
    with pytest.raises(ValueError, match="do not divide"):
        sizing.distinct_ranks(256, 8, 7)


def test_spare_gpus_are_justified_by_trays_that_fail_whole() -> None:
    assert [sizing.at_least_up(64, 72, q) for q in (0.01, 0.02, 0.05)] == pytest.approx(
        [0.99999995, 0.999986, 0.990], abs=5e-4
    )
    assert [sizing.at_least_up(72, 72, q) for q in (0.01, 0.02, 0.05)] == pytest.approx(
        [0.485, 0.233, 0.025], abs=5e-4
    )
    assert [sizing.at_least_up(16, 18, q) for q in (0.01, 0.02, 0.04, 0.08)] == pytest.approx(
        [0.99927, 0.9948, 0.967, 0.830], abs=5e-4
    )
