import json

import numpy as np
import pytest

from sim.studies import serving_logs, serving_validation
from sim.studies.serving_tables import left_out, max_throughput_rows, static_batch_rows

RTX_4090 = "rtx4090_llama31_8b_tp1"


@pytest.fixture(scope="module")
def rows_4090():
    return {row.quantity: row for row in serving_logs.log_rows(RTX_4090)}


@pytest.mark.parametrize("quantity", ["mean TTFT", "mean TPOT", "mean E2E", "makespan"])
def test_a_memory_bound_vllm_service_is_predicted_within_five_percent(rows_4090, quantity):
    assert rows_4090[quantity].kind == "predicted"
    assert abs(rows_4090[quantity].error) < 0.05


def test_each_single_request_of_the_log_is_met(rows_4090):
    assert rows_4090["correlation of TTFT by request"].simulated > 0.999
    assert rows_4090["median |error| of E2E by request"].simulated < 0.05


def test_the_memory_plan_leaves_the_kv_blocks_that_the_engine_reported(rows_4090):
    assert rows_4090["KV blocks"].simulated == pytest.approx(2588, rel=0.002)


def test_a_second_gpu_is_met_too_its_throughput_fitted_its_latencies_not():
    rows = {row.quantity: row for row in serving_logs.log_rows("rtxpro6000_llama31_8b_tp1")}
    assert rows["mean TPOT"].kind == "fitted"
    assert all(abs(rows[name].error) < 0.05 for name in ("mean TTFT", "mean TPOT", "makespan"))


def test_requests_that_share_a_prefix_in_the_log_share_token_ids_in_the_replay():
    columns = serving_logs.log(RTX_4090)
    requests = list(serving_logs.with_texts(columns))
    json.dumps(requests)
    told = {i: request["input_tok_ids"] for i, request in enumerate(requests) if "input_tok_ids" in request}
    for i, tokens in enumerate(columns["cacheable_prefix_tokens"].astype(int).tolist()):
        if tokens:
            longest = max(_common(told[i], text) for j, text in told.items() if j < i)
            assert longest == tokens


def test_a_log_knows_when_its_engine_had_each_request():
    columns = serving_logs.log(RTX_4090)
    real = serving_logs.measured(columns)
    late_s = columns["queued_s"] - columns["arrival_s"]
    assert 0 < np.mean(late_s) < 0.13
    assert len(real.ttft) == 300


def test_what_cannot_be_expressed_is_counted_with_its_reason():
    counted = serving_validation.not_expressed()
    assert all(reason and n > 0 for reason, n in counted.items())
    assert sum(left_out(serving_logs.read_rows("trtllm_max_throughput")).values()) < 853 / 2


def test_rows_of_tables_become_scenarios():
    static = [row for row in serving_logs.read_rows("splitwise_static_batch") if row["model"] == "llama2-70b"]
    first = static_batch_rows(static[:1])
    assert [row.quantity for row in first] == ["prompt time", "token time"]
    told = serving_logs.read_rows("trtllm_max_throughput")
    short = [
        row
        for row in told
        if (row["gpu"], row["isl"], row["osl"], row["tp"]) == ("A100-SXM", "2048", "128", "1")
    ]
    (row,) = max_throughput_rows(short[:1])
    assert abs(row.error) < 0.2


def _common(a, b):
    different = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    return different[0] if different else min(len(a), len(b))
