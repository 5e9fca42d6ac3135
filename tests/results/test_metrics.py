from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.inputs.workload import Slo
from sim.results.laws import backlog_growth_per_s, little, mser5, saturated, violations
from sim.results.metrics import meets, summary
from sim.results.records import Records
from sim.results.saving import save_summary, save_table
from tests.results.straight import add_straight


def run(*requests: dict[str, Any], end_s: float = 0.0) -> Records:
    records = Records(end_s=end_s)
    for index, request in enumerate(requests):
        defaults = {"request_id": index, "arrival_s": 0.0, "prompt_tokens": 100, "output_tokens": 11}
        records.requests.add(**(defaults | request))
    return records


def queue_of_one(arrival_s: list[float], service_s: list[float]) -> Records:
    """A single server, first come first served: the first token after half of the service."""
    free_s = 0.0
    requests = []
    for at_s, takes_s in zip(arrival_s, service_s, strict=True):
        begin_s = max(at_s, free_s)
        free_s = begin_s + takes_s
        times = {"admitted_s": begin_s, "first_token_s": begin_s + takes_s / 2, "finished_s": free_s}
        requests.append({"arrival_s": at_s, "routed_s": at_s, **times})
    return run(*requests)


ONE = {"routed_s": 0.0, "admitted_s": 0.5, "first_token_s": 1.0, "finished_s": 3.0}


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
            f"{statistic}_{metric}_ms" for statistic in ("mean", "median", "std", "p50", "p90", "p95", "p99")
        }
    assert expected <= names


@given(values=st.lists(st.floats(0.001, 1e3), min_size=1, max_size=50))
def test_percentiles_of_finished_requests_are_numpys(values):
    records = run(*({"first_token_s": value, "finished_s": value} for value in values))
    numbers = summary(records)
    for percent in (50, 90, 95, 99):
        assert numbers[f"p{percent}_ttft_ms"] == pytest.approx(np.percentile(values, percent) * 1e3)
    assert numbers["mean_e2el_ms"] == pytest.approx(np.mean(values) * 1e3)
    assert numbers["std_e2el_ms"] == pytest.approx(np.std(values) * 1e3, abs=1e-9)


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


def test_mser_cuts_a_transient_and_leaves_a_steady_run_alone():
    noise = np.random.default_rng(1).normal(size=500)
    start = np.concatenate((np.linspace(40, 0, 100), np.zeros(400)))
    assert 80 <= mser5(noise + start) <= 130
    assert mser5(np.ones(500)) == 0
    assert mser5(noise[:19]) == 0


@given(
    gaps_s=st.lists(st.floats(0, 3), min_size=2, max_size=40),
    seed=st.integers(0, 100),
    cut=st.floats(0.1, 50),
)
def test_littles_law_holds_on_every_run_even_when_it_was_stopped(gaps_s, seed, cut):
    arrival_s = np.cumsum(gaps_s).tolist()
    service_s = np.random.default_rng(seed).exponential(1.0, len(arrival_s)).tolist()
    whole = queue_of_one(arrival_s, service_s)
    stopped = Records(end_s=max(cut, arrival_s[-1]))
    for row in whole.requests.frame().iter_rows(named=True):
        late = row["finished_s"] > stopped.end_s
        stopped.requests.add(
            row["request_id"], row["arrival_s"], 100, 11,
            status="unfinished" if late else "finished", finished_s=math.nan if late else row["finished_s"],
        )  # fmt: skip
    for records in (whole, stopped):
        law = little(records)
        assert law is None or law.concurrency == pytest.approx(law.rate_per_s * law.sojourn_s, rel=1e-9)


def test_littles_law_fails_when_a_sojourn_is_forged():
    records = queue_of_one([0.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    law = little(records)
    assert law is not None
    assert law.concurrency != pytest.approx(law.rate_per_s * (law.sojourn_s + 0.1))


def test_violations_are_found():
    short = run(ONE | {"generated_tokens": 3})
    assert "without all their tokens" in violations(short)[0]
    early = run(ONE | {"admitted_s": 2.0})
    assert "first_token_s before" in violations(early)[0]
    twice = run(ONE, ONE | {"request_id": 0})
    assert "more than one row" in violations(twice)[0]
    lost = run(ONE)
    add_straight(lost.steps, 0, 1.0, 2.0, 9, 1, 0, 1, 0.1, 0.1, batch_id=0)
    assert violations(lost) == ["9 gaps between tokens, but the requests' tokens have 10"]


@pytest.mark.parametrize(("load", "verdict"), [(0.7, False), (0.9, False), (1.2, True), (2.0, True)])
def test_a_queue_is_called_saturated_when_it_gets_more_than_it_can_serve(load: float, verdict: bool):
    said = []
    for seed in range(10):
        random = np.random.default_rng(seed)
        arrival_s = np.cumsum(random.exponential(1 / load, 2000)).tolist()
        said.append(saturated(queue_of_one(arrival_s, random.exponential(1.0, 2000).tolist())))
    assert said.count(verdict) >= 9


def test_the_backlog_grows_by_what_is_not_served():
    arrival_s = (np.arange(4000) / 2.0).tolist()
    assert backlog_growth_per_s(queue_of_one(arrival_s, [1.0] * 4000)) == pytest.approx(1.0, rel=0.01)


def test_there_is_no_verdict_on_a_burst_or_a_handful():
    assert saturated(queue_of_one([0.0] * 500, [1.0] * 500)) is None
    assert saturated(queue_of_one([0.0, 1.0], [1.0, 1.0])) is None
    assert saturated(Records()) is None


def test_limits_are_upper_for_latencies_and_lower_for_throughputs():
    numbers = summary(run(ONE, {"status": "unfinished"}, end_s=5.0))
    assert meets(numbers, {"median_ttft_ms": math.inf, "output_throughput": 2.0})
    assert not meets(numbers, {"p99_ttft_ms": 1e9})
    assert not meets(numbers, {"output_throughput": 2.5})
    assert not meets(summary(Records()), {"p99_ttft_ms": 1.0})
    with pytest.raises(KeyError):
        meets(numbers, {"p98_ttft_ms": 1.0})


def test_saved_tables_read_back_to_the_last_bit_and_byte(tmp_path):
    random = np.random.default_rng(0)
    records = queue_of_one(
        np.cumsum(random.exponential(1, 200)).tolist(), random.exponential(1, 200).tolist()
    )
    frame = records.requests.frame()
    for name in ("requests.csv", "requests.parquet"):
        first = save_table(frame, tmp_path / name).read_bytes()
        assert save_table(frame, tmp_path / name).read_bytes() == first
    assert polars.read_parquet(tmp_path / "requests.parquet").equals(frame)
    again = polars.read_csv(tmp_path / "requests.csv", schema=frame.schema)
    assert again["finished_s"].to_list() == frame["finished_s"].to_list()
    with pytest.raises(ValueError, match="must end in"):
        save_table(frame, tmp_path / "requests.txt")


def test_the_requests_of_a_run_can_be_played_again(tmp_path):
    from sim.reading.traces import read_trace

    save_table(queue_of_one([1.0, 2.5], [1.0, 1.0]).requests.frame(), tmp_path / "requests.csv")
    assert read_trace(tmp_path / "requests.csv").starts_s.tolist() == [0.0, 1.5]


def test_a_saved_summary_is_json_without_infinities(tmp_path):
    numbers = summary(run(ONE, {"status": "unfinished"}, end_s=5.0))
    read = json.loads(save_summary(numbers, tmp_path / "summary.json").read_text())
    assert read["p99_ttft_ms"] is None
    assert read["censored_ttft"] == 1
    assert read["mean_ttft_ms"] == 1000.0
