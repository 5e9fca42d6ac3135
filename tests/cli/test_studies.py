"""`sim sweep`, `sim compare`, `sim capacity` from files to tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Sim

GOOD = """
topology: a100-x4
model: llama-3-8b
workload: {arrivals: {kind: poisson, rate_per_s: 4}, prompt_tokens: 50, output_tokens: 5, requests: 10}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def test_a_sweep_prints_every_point_and_the_reason_of_those_that_cannot_be(sim: Sim, scenario: Path) -> None:
    over = ("--over", "engine.tensor_parallel_size=1,2,3")
    status, out, err = sim("sweep", scenario, *over, "--seeds", 2)
    assert (status, err) == (0, "")
    assert out.count("done") == 4
    assert out.count("infeasible") == 2
    assert "does not divide" in out
    status, out, _ = sim("sweep", scenario, *over, "--format", "json")
    assert [row["completed"] for row in json.loads(out)] == [10, 10, None]


def test_the_whole_table_goes_into_a_file(sim: Sim, scenario: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    status, _, err = sim("sweep", scenario, "--over", "engine.max_num_seqs=1,4", "--out", table)
    assert status == 0
    assert str(table) in err
    assert table.read_text().splitlines()[0].startswith("engine.max_num_seqs,seed,status,reason")


def test_scenarios_are_compared_with_the_first(sim: Sim, scenario: Path, tmp_path: Path) -> None:
    slower = tmp_path / "slower.yaml"
    slower.write_text(GOOD + "engine: {frontend_s: 5 ms}\n")
    status, out, err = sim("compare", scenario, slower, "--seeds", 3, "--metric", "mean_ttft_ms")
    assert (status, err) == (0, "")
    row = next(line for line in out.splitlines() if "slower" in line)
    assert "True" in row


def test_a_capacity_is_a_rate_and_what_limits_it(sim: Sim, scenario: Path) -> None:
    words = ("capacity", scenario, "--slo", "p99_ttft_ms=60", "--tolerance", 0.3)
    status, out, err = sim(*words)
    assert (status, err) == (0, "")
    assert "requests/s" in out
    assert "limited by: p99_ttft_ms" in out
    status, out, _ = sim(*words, "--format", "json")
    assert json.loads(out)["rate_per_s"] > 0.0


@pytest.mark.parametrize(
    "words",
    [
        ("sweep", "--over", "engine.max_num_seqs"),
        ("sweep", "--over", "engine.max_num_seqs=[1, 2"),
        ("sweep", "--over", "engine.max_num_seqs=1", "--metric", "mean_tttf_ms"),
        ("compare", "--seeds", "2"),
        ("capacity", "--slo", "p99_ttft_ms"),
        ("capacity", "--slo", "p99_tttf_ms=3"),
    ],
)
def test_wrong_words_end_with_status_2_and_a_sentence(
    words: tuple[str, ...], sim: Sim, scenario: Path
) -> None:
    status, out, err = sim(words[0], scenario, *words[1:])
    assert (status, out) == (2, "")
    assert err.startswith("sim: ")


def test_a_key_that_is_given_twice_is_refused_with_both_lists_as_one(sim: Sim, scenario: Path) -> None:
    over = ("--over", "engine.max_num_seqs=1,2", "--over", "engine.max_num_seqs=2,4")
    status, out, err = sim("sweep", scenario, *over)
    assert (status, out) == (2, "")
    assert "--over engine.max_num_seqs is given twice; write --over engine.max_num_seqs=1,2,4" in err
