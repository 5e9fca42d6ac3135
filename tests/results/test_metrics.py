"""Metrics: vLLM's names and definitions, computed from rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.inputs.workload import Slo
from sim.results.laws import violations
from sim.results.metrics import meets, summary
from sim.results.records import Records
from tests.results.small_runs import ONE, run
from tests.results.straight import add_straight


def test_latencies_of_one_request_are_those_of_the_definitions():
    numbers = summary(run(ONE), gpus=4)
    assert numbers["mean_ttft_ms"] == 1000.0
    assert numbers["p99_queue_ms"] == 500.0
    assert numbers["median_ttft_from_admission_ms"] == 500.0
    assert numbers["mean_tpot_ms"] == 200.0  # (3 - 1) s over the 10 tokens after the first
    assert numbers["p50_e2el_ms"] == 3000.0
    assert numbers["std_e2el_ms"] == 0.0
    assert numbers["request_throughput"] == pytest.approx(1 / 3)
    assert numbers["output_throughput"] == pytest.approx(11 / 3)
    assert numbers["total_token_throughput"] == pytest.approx(111 / 3)
    assert numbers["output_throughput_per_gpu"] == pytest.approx(11 / 12)
    assert numbers["output_throughput_per_user"] == 5.0


def test_the_names_are_those_of_vllm():
    names = set(summary(run(ONE)))
    expected = {"completed", "duration", "total_input_tokens", "request_throughput", "output_throughput"}
    expected |= {"total_token_throughput", "request_goodput"}
    for metric in ("ttft", "tpot", "itl", "e2el"):
        expected |= {
            f"{statistic}_{metric}_ms"
            for statistic in ("mean", "median", "std", "p50", "p90", "p95", "p99", "p99.9", "max")
        }
    assert expected <= names


@given(values=st.lists(st.floats(0.001, 1e3), min_size=1, max_size=50))
def test_percentiles_of_finished_requests_are_numpys(values):
    records = run(*({"first_token_s": value, "finished_s": value} for value in values))
    numbers = summary(records)
    for percent in (50, 90, 95, 99, 99.9):
        assert numbers[f"p{percent}_ttft_ms"] == pytest.approx(np.percentile(values, percent) * 1e3)
    assert numbers["max_ttft_ms"] == max(values) * 1e3
    assert numbers["mean_e2el_ms"] == pytest.approx(np.mean(values) * 1e3)
    assert numbers["std_e2el_ms"] == pytest.approx(np.std(values) * 1e3, abs=1e-9)


def test_percentiles_that_are_asked_for_come_beside_the_usual_ones():
    records = run(*({"first_token_s": float(k), "finished_s": float(k)} for k in range(1, 12)))
    add_straight(records.steps, 0, 0.0, 15.0, 1000, 1, 0, 1, 0.01, 0.02, batch_id=0)
    numbers = summary(records, percentiles=(25, 99.99))
    assert (numbers["p25_ttft_ms"], numbers["p99_ttft_ms"]) == (3500.0, pytest.approx(10_900.0))
    assert numbers["p99.99_itl_ms"] < numbers["max_itl_ms"] == pytest.approx(20.0)
    assert "p25_ttft_ms" not in summary(records)
    with pytest.raises(ValueError, match="percentiles: 101 must be from 0 to 100"):
        summary(records, percentiles=(101,))


def test_the_longest_time_of_an_unfinished_request_is_not_known():
    assert summary(run(ONE, {"status": "unfinished"}, end_s=9.0))["max_ttft_ms"] == math.inf


def test_an_unfinished_request_counts_as_longer_than_any_other():
    finished = [{"first_token_s": float(k), "finished_s": float(k)} for k in (1, 2, 3)]
    numbers = summary(run(*finished, {"status": "unfinished"}, end_s=9.0))
    assert numbers["unfinished"] == numbers["censored_ttft"] == 1
    assert numbers["median_ttft_ms"] == 2500.0
    assert numbers["p99_ttft_ms"] == math.inf
    assert numbers["mean_ttft_ms"] == 2000.0  # of the known ones
    assert numbers["duration"] == 9.0


def test_what_an_unfinished_request_has_reached_counts():
    half = {"status": "unfinished", "admitted_s": 1.0, "first_token_s": 2.0, "generated_tokens": 4}
    numbers = summary(run(half, end_s=4.0))
    assert numbers["p99_ttft_ms"] == 2000.0
    assert numbers["p99_e2el_ms"] == numbers["p99_tpot_ms"] == math.inf
    assert numbers["mean_e2el_ms"] is None
    assert numbers["output_throughput"] == 1.0
    assert numbers["total_input_tokens"] == 100


def test_rejected_requests_have_no_latency_but_miss_their_objectives():
    numbers = summary(run(ONE, {"status": "rejected"}), slos={"": Slo(e2el_ms=4000)})
    assert numbers["rejected"] == 1
    assert numbers["p99_e2el_ms"] == 3000.0
    assert numbers["slo_attainment"] == 0.5
    assert numbers["request_goodput"] == pytest.approx(1 / 3)


def test_nothing_at_all_is_null_and_not_a_number():
    numbers = summary(Records())
    assert numbers["completed"] == 0
    assert numbers["mean_ttft_ms"] is None
    assert numbers["request_throughput"] is None
    assert numbers["p99_itl_ms"] is None
    assert not [name for name, value in numbers.items() if isinstance(value, float) and math.isnan(value)]


def test_a_single_token_has_no_time_per_further_token_and_keeps_any_objective_on_it():
    numbers = summary(run(ONE | {"output_tokens": 1, "finished_s": 1.0}), slos={"": Slo(tpot_ms=1)})
    assert numbers["mean_tpot_ms"] is None
    assert numbers["censored_tpot"] == 0
    assert numbers["slo_attainment"] == 1.0


def test_all_objectives_of_a_class_must_hold():
    requests = [ONE | {"request_class": name} for name in ("a", "a", "b", "c")]
    requests[1] = requests[1] | {"first_token_s": 2.0}
    slos = {"a": Slo(ttft_ms=1500, e2el_ms=3000), "b": Slo(tpot_ms=100)}
    numbers = summary(run(*requests), slos=slos)
    assert numbers["slo_attainment"] == pytest.approx(1 / 3)  # c is promised nothing
    assert numbers["classes"]["a"]["slo_attainment"] == 0.5
    assert numbers["classes"]["b"]["slo_attainment"] == 0.0
    assert numbers["classes"]["c"]["slo_attainment"] is None
    assert numbers["classes"]["c"]["p99_e2el_ms"] == 3000.0


def test_gaps_are_counted_over_every_token():
    records = run(ONE | {"output_tokens": 4}, ONE | {"output_tokens": 4})
    add_straight(records.steps, 0, 0.0, 1.0, 1, 2, 200, 0, 1.0, 1.0, batch_id=0)
    add_straight(records.steps, 0, 1.0, 1.3, 2, 2, 0, 2, 0.1, 0.2, batch_id=1)
    records.gaps.add_gaps(0, 1, 1, 5.0, 5.0, at_s=6.3)
    records.gaps.add_gaps(0, 1, 1, 0.3, 0.3, at_s=1.6)
    values = [0.1, 0.1, 0.2, 0.2, 5.0, 0.3]
    numbers = summary(records)
    assert numbers["mean_itl_ms"] == pytest.approx(np.mean(values) * 1e3)
    assert numbers["p99_itl_ms"] == pytest.approx(np.percentile(values, 99) * 1e3)
    assert numbers["std_itl_ms"] == pytest.approx(np.std(values) * 1e3)
    assert violations(records) == []


def test_a_warmup_leaves_out_the_first_requests():
    requests = [
        {"arrival_s": float(k), "first_token_s": k + 1.0, "finished_s": k + (10.0 if k < 2 else 1.0)}
        for k in range(10)
    ]
    numbers = summary(run(*requests), warmup=0.2)
    assert numbers["warmup_requests"] == 2
    assert numbers["completed"] == 8
    assert numbers["mean_e2el_ms"] == pytest.approx(1000.0)
    assert numbers["duration"] == 8.0  # from the first arrival to the last finish of those that are kept
    with pytest.raises(ValueError, match="must be a share"):
        summary(run(*requests), warmup=1.5)


def test_a_cooldown_leaves_out_the_last_requests_beside_a_warmup():
    requests = [
        {"arrival_s": float(k), "first_token_s": k + 1.0, "finished_s": k + (10.0 if k > 7 else 1.0)}
        for k in range(10)
    ]
    numbers = summary(run(*requests), warmup=0.2, cooldown=0.2)
    assert (numbers["warmup_requests"], numbers["cooldown_requests"], numbers["completed"]) == (2, 2, 6)
    assert numbers["mean_e2el_ms"] == pytest.approx(1000.0)
    assert numbers["duration"] == 6.0
    assert "cooldown_requests" not in summary(run(*requests))


def test_limits_are_upper_for_latencies_and_lower_for_throughputs():
    numbers = summary(run(ONE, {"status": "unfinished"}, end_s=5.0))
    assert meets(numbers, {"median_ttft_ms": math.inf, "output_throughput": 2.0})
    assert not meets(numbers, {"p99_ttft_ms": 1e9})
    assert not meets(numbers, {"output_throughput": 2.5})
    assert not meets(summary(Records()), {"p99_ttft_ms": 1.0})
    with pytest.raises(KeyError):
        meets(numbers, {"p98_ttft_ms": 1.0})
