from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.catalog import load_gpu
from sim.cost.kernels import kernels
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import (
    DecodeParameters,
    MixedParameters,
    PrefillParameters,
)
from tests.cost.kernels.round_gpu import MLA, gpu

DECODE = DecodeParameters(
    floor_s=1e-5,
    hbm_fraction=0.5,
    s_per_kv_token=1e-9,
    s_per_unshared_kv_token=9e-9,
    s_per_sm_kv_token=0,
    s_per_sequence_head=1e-8,
    split_s=2e-6,
)


def test_decode_waits_for_the_longer_of_the_cache_and_the_walk_over_one_head() -> None:
    timing = kernels.attention_decode(gpu(attention_decode={"bf16": DECODE}), 4, 4000, 8, 2, 128)
    n_bytes = 2 * 4000 * 2 * 128 * 2 + 4 * 4 * 8 * 128
    assert timing.memory_s == pytest.approx(n_bytes / 0.5e12)
    split_s = 2e-6 * 2**2 / (1 + 2**2)  # 1000 tokens are twice what begins to be split
    busy_s = ((n_bytes / 0.5e12) ** 4 + (1000 * 1e-9) ** 4) ** 0.25
    assert timing.total_s == pytest.approx(1e-5 + 4 * 2 * 1e-8 + busy_s + split_s)


def test_a_decode_that_is_not_split_takes_as_long_whatever_the_batch() -> None:
    unsplit = gpu(attention_decode={"bf16": DECODE.model_copy(update={"s_per_kv_token": 1e-6})})
    alone, many = (kernels.attention_decode(unsplit, batch, 4096 * batch, 8, 2, 128) for batch in (1, 16))
    assert many.memory_s > 15 * alone.memory_s
    assert many.total_s == pytest.approx(alone.total_s, rel=0.01)


def test_an_sm_with_one_block_waits_for_its_tokens_and_several_blocks_hide_each_other_s_waiting() -> None:
    parameters = DECODE.model_copy(
        update={"floor_s": 0, "hbm_fraction": 1, "s_per_kv_token": 0, "s_per_sequence_head": 0, "split_s": 0}
        | {"s_per_sm_kv_token": 1e-7, "sm_kv_tokens": 1000}
    )
    one = gpu(attention_decode={"bf16": parameters})
    for tokens, waiting_s in ((10, 10 * 1e-7), (1_000_000, 1000 * 1e-7)):  # of one KV head on each SM
        timing = kernels.attention_decode(one, 64, tokens * one.sms // 2, 8, 2, 128)
        assert timing.total_s == pytest.approx(math.hypot(timing.memory_s, waiting_s), rel=1e-3)
    unshared = kernels.attention_decode(one, 64, 10 * one.sms, 8, 8, 128)
    assert unshared.total_s == pytest.approx((unshared.memory_s**4 + (10 * one.sms / 64 * 9e-9) ** 4) ** 0.25)


def test_a_prefill_finds_in_the_cache_what_the_kernel_before_has_left() -> None:
    def memory_s(new: int) -> tuple[float, float]:
        parameters = PrefillParameters(
            floor_s=0, hbm_fraction=1, flop_fraction=1, s_per_kv_token=0, tile_tokens=0, l2_share=0.5
        )
        one = gpu(attention_prefill={"bf16": parameters})
        n_bytes = 4.0 * new * (8 + 2 * 2) * 128
        timing = kernels.attention_prefill(one, [(new, 0)], 8, 2, 128)
        return timing.memory_s, (n_bytes / 1e12) / (1 + (0.5 * one.l2_bytes / n_bytes) ** 2)

    for new in (16, 4096, 65_536):
        found, expected = memory_s(new)
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8"])
@pytest.mark.parametrize("name", ["h100-sxm", "a100-80gb-sxm"])
def test_many_decode_steps_at_once_equal_one_by_one_to_the_last_bit(name: str, kv_dtype: str) -> None:
    tokens = np.arange(1000.0, 90_000.0, 977.0)
    real = load_gpu(name)
    for warm in (False, True):
        at_once = kernels.attention_decode(real, 7, tokens, 8, 1, 128, kv_dtype, warm)
        one_by_one = [kernels.attention_decode(real, 7, int(n), 8, 1, 128, kv_dtype, warm) for n in tokens]
        assert at_once.total_s.tolist() == [timing.total_s for timing in one_by_one]
    at_once = kernels.mla_decode(real, 7, tokens, 16, MLA, kv_dtype)
    one_by_one = [kernels.mla_decode(real, 7, int(n), 16, MLA, kv_dtype) for n in tokens]
    assert at_once.total_s.tolist() == [timing.total_s for timing in one_by_one]


def test_a_chunk_attends_to_what_is_cached_and_half_of_itself() -> None:
    p = PrefillParameters(
        floor_s=0, hbm_fraction=1.5, flop_fraction=1, s_per_kv_token=0, tile_tokens=0, overlap=1
    )
    timing = kernels.attention_prefill(gpu(attention_prefill={"bf16": p}), [(512, 1024)], 8, 2, 128)
    assert timing.compute_s == pytest.approx(4 * 8 * 128 * 512 * (1024 + 256) / 1e15)


def test_a_prompt_in_two_chunks_computes_what_it_does_in_one() -> None:
    p = PrefillParameters(
        floor_s=0, hbm_fraction=1, flop_fraction=1, s_per_kv_token=0, tile_tokens=0, overlap=1
    )
    ideal = gpu(attention_prefill={"bf16": p})
    whole = kernels.attention_prefill(ideal, [(4096, 0)], 8, 2, 128).compute_s
    parts = [
        kernels.attention_prefill(ideal, [chunk], 8, 2, 128).compute_s for chunk in ((1024, 0), (3072, 1024))
    ]
    assert sum(parts) == pytest.approx(whole)


def test_chunks_and_decodes_add_up_but_for_one_floor_where_kernels_tell_them_apart() -> None:
    apart = gpu()
    mixed = kernels.attention_mixed(apart, [(512, 0)], 8, 8000, 8, 2, 128).total_s
    prefill = kernels.attention_prefill(apart, [(512, 0)], 8, 2, 128)
    decode = kernels.attention_decode(apart, 8, 8000, 8, 2, 128)
    spared = min(prefill.floor_s, decode.floor_s)
    assert mixed == pytest.approx(prefill.total_s + decode.total_s - spared)


def test_a_decode_among_chunks_walks_unsplit_and_rereads_its_keys_where_kernels_do_not() -> None:
    p = MixedParameters(
        floor_s=0, hbm_fraction=1, flop_fraction=1, s_per_kv_token=2e-8, tile_tokens=0, rereading=1, overlap=1
    )
    timing = kernels.attention_mixed(gpu(attention_mixed={"bf16": p}), [(16, 0)], 4, 40_000, 8, 2, 128)
    assert timing.memory_s == pytest.approx(4 * 40_000 * 2 * 128 * 2 * 2 / 1e12)
    assert timing.total_s == pytest.approx(timing.compute_s + timing.memory_s + 2e-8 * 10_000)


def test_latent_decode_reads_576_values_a_token_whatever_the_heads() -> None:
    p = DecodeParameters(floor_s=0, hbm_fraction=1, s_per_kv_token=0, s_per_sequence_head=0, flop_fraction=1)
    ideal = gpu(mla_decode={"bf16": p})
    few, many = (kernels.mla_decode(ideal, 8, 80_000, heads, MLA) for heads in (16, 128))
    assert few.memory_s == many.memory_s == pytest.approx(80_000 * 576 * 2 / 1e12)
    assert many.compute_s == pytest.approx(80_000 * 2 * 128 * (512 + 576) / 1e15)
    assert many.total_s == pytest.approx(math.hypot(many.memory_s, many.compute_s))


@given(batch=st.integers(1, 512), length=st.integers(1, 100_000), more=st.integers(1, 10_000))
def test_a_longer_context_is_never_faster(batch: int, length: int, more: int) -> None:
    base = load_gpu("h100-sxm")
    short = kernels.attention_decode(base, batch, batch * length, 8, 1, 128).total_s
    assert kernels.attention_decode(base, batch, batch * length + more, 8, 1, 128).total_s > short


def test_decodes_among_chunks_are_given_blocks_that_find_nothing_to_do() -> None:
    """As many for each of their query heads as the longest chunk has tiles of 64 queries."""
    p = MixedParameters(
        floor_s=0, hbm_fraction=1, s_per_kv_token=0, tile_tokens=0, s_per_idle_block=4e-9, overlap=1
    )
    timing = kernels.attention_mixed(
        gpu(attention_mixed={"bf16": p}), [(30, 0), (1000, 0)], 128, 128, 8, 2, 128
    )
    idle_s = timing.total_s - timing.compute_s - timing.memory_s
    assert idle_s == pytest.approx(128 * 8 * 16 * 4e-9)


def test_keys_beyond_the_level_2_cache_are_read_by_every_query_head() -> None:
    p = MixedParameters(floor_s=0, hbm_fraction=1, s_per_kv_token=0, tile_tokens=0, rereading=0, l2_share=0.5)
    mixed = gpu(attention_mixed={"bf16": p})
    few, many = (
        kernels.attention_mixed(mixed, [(16, 0)], 8, tokens, 8, 2, 128).memory_s / tokens
        for tokens in (1000, 10_000_000)
    )
    assert many == pytest.approx(4 * few, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: kernels.attention_prefill(g, [], 8, 8, 128), "must hold at least one"),
        (lambda g: kernels.attention_prefill(g, [(0, 5)], 8, 8, 128), "its new tokens must be at least 1"),
        (lambda g: kernels.attention_decode(g, 0, 5, 8, 8, 128), "batch = 0: must be at least 1"),
        (lambda g: kernels.attention_decode(g, 1, 5, 8, 0, 128), "kv_heads = 0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(call: Callable[[Gpu], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(gpu())


def test_work_and_walk_of_a_mixed_call_overlap_as_a_norm() -> None:
    p = MixedParameters(floor_s=0, hbm_fraction=1, s_per_kv_token=2e-8, tile_tokens=0, s_per_idle_block=0)
    call = [(16, 0)], 4, 40_000, 8, 2, 128
    timings = [
        kernels.attention_mixed(gpu(attention_mixed={"bf16": p.model_copy(update={"overlap": norm})}), *call)
        for norm in (1.0, 2.0, 3.0)
    ]
    work_s = timings[0].total_s - 2e-8 * 10_000
    assert timings[1].total_s == pytest.approx(math.hypot(work_s, 2e-8 * 10_000))
    assert timings[2].total_s == pytest.approx((work_s**3 + (2e-8 * 10_000) ** 3) ** (1 / 3))
