"""A run in the files of others, and beside what others measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from sim.inputs.errors import InputError
from sim.reading.benchmark_results import read_benchmark_result
from sim.reading.traces import read_trace
from sim.results.beside_measured import causes_beside, differences_of_traffic, metrics_beside
from sim.simulate import Result
from sim.views.saved import SavedResult


@pytest.fixture(scope="module")
def saved(folder: Path) -> SavedResult:
    return sim.load_result(folder)


@pytest.mark.slow
def test_a_run_is_written_as_aiperf_writes_its_summary(
    saved: SavedResult, result: Result, tmp_path: Path
) -> None:
    path = result.export(tmp_path / "run.json")
    found, numbers = json.loads(path.read_text()), result.summary(percentiles=(25,))
    ttft = found["time_to_first_token"]
    assert list(ttft) == ["unit", "avg", "min", "max", *(f"p{p}" for p in (1, 5, 10, 25, 50, 75, 90, 95, 99)),
                          "std", "count"]  # fmt: skip
    assert (ttft["unit"], ttft["count"]) == ("ms", 30)
    for statistic, name in (("avg", "mean"), ("p25", "p25"), ("p99", "p99"), ("max", "max")):
        assert ttft[statistic] == pytest.approx(numbers[f"{name}_ttft_ms"])
        assert found["inter_token_latency"][statistic] == pytest.approx(numbers[f"{name}_tpot_ms"])
    assert found["request_count"] == {"unit": "requests", "avg": 30.0}
    assert saved.export(tmp_path / "again.json").read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="exists; name another file"):
        saved.export(path)
    with pytest.raises(InputError, match=r"must end in \.json, \.csv, \.parquet"):
        saved.export(tmp_path / "run.txt")


@pytest.mark.slow
def test_what_a_run_writes_for_vllm_reads_back_as_a_trace_and_as_a_result(
    saved: SavedResult, result: Result, tmp_path: Path
) -> None:
    path = saved.export(tmp_path / "run.json", "vllm")
    found = json.loads(path.read_text())
    assert (found["model_id"], found["num_prompts"], found["request_rate"]) == ("llama-3-8b", 30, 20)
    trace, rows = read_trace(path), result.records.requests
    assert trace.family == "vllm bench serve result"
    assert trace.arrival_s is not None
    np.testing.assert_allclose(trace.arrival_s, rows["arrival_s"] - rows["arrival_s"].min())
    real = read_benchmark_result(path)
    assert real.numbers["p99_itl_ms"] == result.summary()["p99_itl_ms"]
    beside = metrics_beside(result.summary(), real.numbers)
    assert {row.error for row in beside} == {0.0}
    assert (causes_beside(result.summary(), beside), list(differences_of_traffic(found | real.about | {
        "total_generated_tokens": found["total_output_tokens"]}, real.about))) == ([], [])  # fmt: skip


@pytest.mark.slow
def test_tables_are_csv_parquet_arrow_and_pandas_by_choice(
    saved: SavedResult, result: Result, tmp_path: Path
) -> None:
    import polars

    parquet = saved.export(tmp_path / "steps.parquet", table="steps")
    assert polars.read_parquet(parquet).equals(result.steps)
    assert read_trace(saved.export(tmp_path / "requests.csv")).family == "native CSV"
    kept = sim.load_result(result.save(tmp_path / "kept", tables="parquet"))
    assert (kept.folder / "requests.parquet").exists()
    assert kept.requests.equals(saved.requests)
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame, table = result.to_pandas(), saved.to_arrow("gpus")
    assert frame["prompt_tokens"].tolist() == result.requests["prompt_tokens"].to_list()
    assert table.num_rows == result.gpus.height
    with pytest.raises(InputError, match=r"no table named 'request'; known are .*did you mean 'requests'"):
        result.to_pandas("request")


NUMBERS: dict[str, Any] = {
    "completed": 10, "total_input_tokens": 1000, "total_generated_tokens": 500,
    "mean_ttft_ms": 100.0, "mean_tpot_ms": 10.0, "p99_tpot_ms": 12.0, "output_throughput": 500.0,
    "basis": {"bands": {"mean_tpot_ms": [8.0, 13.0]}, "bands_of": "services"},
    "blame": {"ttft": {"mean": {"admission": 60.0, "prefill_compute": 30.0, "memory": 10.0}}},
}  # fmt: skip


def told(**measured: float) -> str:
    return "\n".join(causes_beside(NUMBERS, metrics_beside(NUMBERS, measured)))


def test_causes_are_said_where_their_size_fits() -> None:
    slow = told(mean_ttft_ms=75.0)
    assert "TTFT 25 ms too long: the causes that have as much in the run are admission, 60 ms" in slow
    assert "prefill_compute, 30 ms" in slow
    assert "memory" not in slow
    assert "no single cause" in told(mean_ttft_ms=20.0)
    assert "TTFT 50 ms too short: work before the engine" in told(mean_ttft_ms=150.0)
    assert "inside the band of the run (services)" in told(mean_tpot_ms=12.5)
    assert "the measured tail is of single steps" in told(mean_tpot_ms=10.0, p99_tpot_ms=30.0)
    assert "number of users" in told(mean_tpot_ms=10.0, output_throughput=300.0)
    assert told(mean_tpot_ms=10.5, mean_ttft_ms=95.0) == ""


def test_another_workload_is_told_before_any_cause() -> None:
    about = {"completed": 10, "mean_input_tokens": 100.0, "mean_output_tokens": 75.0, "failed": 2}
    assert list(differences_of_traffic(NUMBERS, about)) == [
        "mean tokens of an answer: 50 in the run, 75 measured",
        "2 requests failed in the benchmark",
    ]


AIPERF = {
    "time_to_first_token": {"unit": "s", "avg": 0.05, "p50": 0.04, "count": 3},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 900.0},
    "input_sequence_length": {"unit": "tokens", "avg": 550.0},
}


@pytest.mark.parametrize("form", ["plain", "records"])
def test_results_of_aiperf_are_read_in_their_units(tmp_path: Path, form: str) -> None:
    path = tmp_path / "profile_export_aiperf.json"
    path.write_text(json.dumps(AIPERF if form == "plain" else {"records": AIPERF}))
    found = read_benchmark_result(path)
    assert found.numbers == {"mean_ttft_ms": 50.0, "p50_ttft_ms": 40.0, "median_ttft_ms": 40.0,
                             "output_throughput": 900.0}  # fmt: skip
    assert found.about == {"mean_input_tokens": 550.0}


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is no JSON of vllm"), ("[]", "is no result of vllm bench serve"), ('{"a": 1}', "is no result"),
     ('{"request_latency": {"unit": "furlongs", "avg": 1}}', "is in 'furlongs': must be one of ms")],
)  # fmt: skip
def test_what_is_no_result_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_benchmark_result(path)
