"""Request logs of real engines, replayed."""

import json

import numpy as np
import pytest

from sim.validation.services import request_logs

RTX_4090 = "rtx4090_llama31_8b_tp1"


@pytest.fixture(scope="module")
def rows_4090():
    return {row.quantity: row for row in request_logs.log_rows(RTX_4090)}


@pytest.mark.parametrize("quantity", ["mean TTFT", "mean TPOT", "mean E2E", "makespan"])
def test_a_memory_bound_vllm_service_is_predicted_within_five_percent(rows_4090, quantity):
    assert rows_4090[quantity].kind == "predicted"
    assert abs(rows_4090[quantity].error) < 0.05


def test_each_single_request_of_the_log_is_met(rows_4090):
    assert rows_4090["correlation of TTFT by request"].simulated > 0.999
    assert rows_4090["median |error| of E2E by request"].simulated < 0.05


def test_the_memory_plan_leaves_the_kv_blocks_that_the_engine_reported(rows_4090):
    assert rows_4090["KV blocks"].simulated == pytest.approx(2588, rel=0.02)


def test_a_second_gpu_is_met_too_its_throughput_fitted_its_latencies_not():
    rows = {row.quantity: row for row in request_logs.log_rows("rtxpro6000_llama31_8b_tp1")}
    assert rows["mean TPOT"].kind == "fitted"
    assert all(abs(rows[name].error) < 0.05 for name in ("mean TTFT", "mean TPOT", "makespan"))


def test_a_pair_that_cannot_copy_to_each_other_is_met_its_steps_fitted_its_means_not():
    rows = {row.quantity: row for row in request_logs.log_rows("rtxpro6000_qwen3_30b_a3b_dp2ep2")}
    steps = [row for name, row in rows.items() if name.startswith("decode step")]
    assert len(steps) == 7
    assert {row.kind for row in steps} == {"fitted"}
    assert abs(np.median([row.error for row in steps])) < 0.01
    for name in ("mean TPOT", "mean E2E", "makespan"):
        assert rows[name].kind == "predicted"
        assert abs(rows[name].error) < 0.05


def test_requests_that_share_a_prefix_in_the_log_share_token_ids_in_the_replay():
    columns = request_logs.log(RTX_4090)
    requests = list(request_logs.with_texts(columns))
    json.dumps(requests)
    texts = {i: request["input_tok_ids"] for i, request in enumerate(requests) if "input_tok_ids" in request}
    for i, tokens in enumerate(columns["cacheable_prefix_tokens"].astype(int).tolist()):
        if tokens:
            longest = max(_common(texts[i], text) for j, text in texts.items() if j < i)
            assert longest == tokens


def test_a_log_knows_when_its_engine_had_each_request():
    columns = request_logs.log(RTX_4090)
    real = request_logs.measured(columns)
    late_s = columns["queued_s"] - columns["arrival_s"]
    assert 0 < np.mean(late_s) < 0.13
    assert len(real.ttft) == 300


def _common(a, b):
    different = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    return different[0] if different else min(len(a), len(b))


def test_expert_parallel_ranks_keep_their_slots_and_their_requests_in_step():
    rows = {row.quantity: row for row in request_logs.log_rows("rtxpro6000_qwen3_30b_a3b_dp2ep2")}
    assert rows["correlation of E2E by request"].simulated > 0.99
    assert abs(rows["mean TPOT"].error) < 0.10
    assert abs(rows["makespan"].error) < 0.07
