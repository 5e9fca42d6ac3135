from __future__ import annotations

import pytest

from sim.catalog import load_gpu, load_model
from sim.cost.kernels import kernels
from sim.cost.kernels.kernels import KERNELS, KernelTiming
from sim.inputs.attention_kinds import Indexer, LinearAttention
from tests.cost.kernels.round_gpu import MLA

INDEXER = Indexer(heads=64, head_dim=128, topk=2048)
LINEAR = LinearAttention(
    kind="gated_delta", key_heads=16, value_heads=32, key_head_dim=128, value_head_dim=128, conv_kernel=4
)


def test_every_kernel_gives_a_timing_whose_parts_are_not_negative() -> None:
    g = load_gpu("h100-sxm")
    calls: dict[str, KernelTiming] = {
        "gemm": kernels.gemm(g, 64, 8192, 8192, "fp8"),
        "attention_prefill": kernels.attention_prefill(g, [(512, 0), (64, 4096)], 8, 1, 128),
        "attention_decode": kernels.attention_decode(g, 64, 64_000, 8, 1, 128),
        "attention_mixed": kernels.attention_mixed(g, [(512, 0)], 64, 64_000, 8, 1, 128),
        "mla_prefill": kernels.mla_prefill(g, [(512, 0)], 16, MLA),
        "mla_decode": kernels.mla_decode(g, 64, 64_000, 16, MLA),
        "index_prefill": kernels.index_prefill(g, [(512, 4096)], INDEXER),
        "index_decode": kernels.index_decode(g, 64, 64_000, INDEXER),
        "state_scan": kernels.state_scan(g, [(512, 0), (64, 4096)], LINEAR),
        "state_update": kernels.state_update(g, 64, LINEAR),
        "moe": kernels.moe(g, 64, 4096, 1536, 128, 8, ep=8, dtype="fp8_block"),
        "elementwise": kernels.elementwise(g, 1e6),
        "lm_head": kernels.lm_head(g, 64, 128_256, 8192),
        "sampling": kernels.sampling(g, 64, 128_256),
    }
    assert calls.keys() == KERNELS.keys()
    for name, timing in calls.items():
        assert min(timing) >= 0, name
        assert timing.total_s >= timing.floor_s > 0, name
        assert timing.bound in ("latency", "compute", "memory")


@pytest.mark.parametrize(("ranks", "observed_ms", "all_reduce_s"), [(4, 16.43, 4.83e-6), (8, 10.02, 5.31e-6)])
def test_decode_of_qwen_72b_on_h100_comes_out_within_five_percent(
    ranks: int, observed_ms: float, all_reduce_s: float
) -> None:
    """TPOT of one sequence under vLLM 0.17, published; nothing here is fitted to it. All-reduce times are
    measured.
    """
    g, model = load_gpu("h100-sxm"), load_model("qwen2.5-72b")
    heads, kv_heads = model.heads // ranks, model.kv_heads_per_gpu(ranks)
    width, inter = model.head_dim, model.intermediate // ranks
    shapes = [
        ((heads + 2 * kv_heads) * width, model.hidden),
        (model.hidden, heads * width),
        (2 * inter, model.hidden),
        (model.hidden, inter),
    ]
    layer_s = sum(kernels.gemm(g, 1, n, k).total_s for n, k in shapes)
    layer_s += kernels.attention_decode(g, 1, 313, heads, kv_heads, width).total_s
    layer_s += 4 * kernels.elementwise(g, 8 * model.hidden).total_s + 2 * all_reduce_s
    head_s = kernels.gemm(g, 1, model.vocab // ranks, model.hidden).total_s
    tail_s = 0.4e-3  # gather of logits, sampling and the gap between steps: assumed
    assert 1e3 * (model.layers * layer_s + head_s + tail_s) == pytest.approx(observed_ms, rel=0.05)


def test_prefill_of_llama_70b_on_four_a100_takes_what_was_published_without_its_collectives() -> None:
    """4096 tokens, TP4: 878.6 ms of which 96.5 ms are all-reduces. The sustained rate of the A100 is
    fitted on this run.
    """
    g, model, ranks, tokens = load_gpu("a100-80gb-sxm"), load_model("llama-3-70b"), 4, 4096
    heads, kv_heads, inter = model.heads // ranks, model.kv_heads // ranks, model.intermediate // ranks
    shapes = [
        ((heads + 2 * kv_heads) * 128, model.hidden),
        (model.hidden, heads * 128),
        (2 * inter, model.hidden),
        (model.hidden, inter),
    ]
    layer_s = sum(kernels.gemm(g, tokens, n, k, sustained=True).total_s for n, k in shapes)
    layer_s += kernels.attention_prefill(g, [(tokens, 0)], heads, kv_heads, 128, sustained=True).total_s
    moved = 2 * 4 * model.hidden + 2 * (heads + kv_heads) * 128 + 3 * inter
    layer_s += kernels.elementwise(g, 2 * tokens * moved).total_s
    assert model.layers * layer_s == pytest.approx(0.782, rel=0.06)
