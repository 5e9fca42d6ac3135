"""`sim export` and `sim compare-run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Sim

SMALL = """
topology: nd-h100-v5
model: llama-3.1-8b
workload: {arrivals: {kind: burst}, prompt_tokens: 100, output_tokens: 9, requests: 3}
"""


@pytest.mark.slow
def test_a_run_is_exported_and_stands_beside_a_measured_one(sim: Sim, tmp_path: Path) -> None:
    scenario, run, file = tmp_path / "s.yaml", tmp_path / "run", tmp_path / "run.json"
    scenario.write_text(SMALL)
    assert sim("run", scenario, "--out", run, "--tables", "parquet")[0] == 0
    assert (run / "requests.parquet").exists()
    assert sim("export", run, file, "--as", "vllm") == (0, "", f"wrote {file}\n")
    status, out, _ = sim("compare-run", run, file)
    assert (status, "nothing to explain" in out, "mean_ttft_ms" in out) == (0, True, True)
    real = json.loads(file.read_text())
    file.write_text(json.dumps({**real, "mean_ttft_ms": 90.0, "total_output_tokens": 300}))
    status, out, _ = sim("compare-run", run, file)
    assert "Not the same traffic: mean tokens of an answer: 9 in the run, 100 measured." in out
    assert "Possible: TTFT " in out
    found = json.loads(sim("compare-run", run, file, "--format", "json")[1])
    assert found["measured_by"] == "vllm bench serve"
    assert {row["metric"]: row["measured"] for row in found["rows"]}["mean_ttft_ms"] == 90.0
    assert sim("compare-run", run / "summary.json", file)[1] == out
    status, _, err = sim("compare-run", scenario, file)
    assert (status, "is no summary of a run (it lacks completed)" in err) == (2, True)
    status, _, err = sim("compare-run", run, scenario)
    assert (status, "is no JSON" in err) == (2, True)
