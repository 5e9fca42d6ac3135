"""A scenario's file: paths are relative to it, and all its problems come at once with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sim.inputs.errors import InputError
from sim.scenario import Scenario, load_scenario

GOOD = """topology: nd-h100-v5
model: llama-3-8b
workload: {arrivals: {kind: closed_loop, users: 1}, prompt_tokens: 50, output_tokens: 5, requests: 2}
"""


def test_a_scenario_is_called_as_its_file_unless_it_says_another_name(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(GOOD)
    assert load_scenario(path).name == "small"
    path.write_text(GOOD + "name: tiny\n")
    assert load_scenario(path).name == "tiny"


def test_paths_are_relative_to_the_file_and_not_to_where_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "traffic.yaml").write_text(
        "arrivals: {kind: closed_loop, users: 3}\nprompt_tokens: 50\noutput_tokens: 5\nrequests: 9\n"
    )
    (tmp_path / "inside" / "kernels.csv").write_text("gpu,kernel,latency_us,m,n,k\nh100-sxm,gemm,5,1,64,64\n")
    path = tmp_path / "inside" / "x.yaml"
    path.write_text(
        "topology: nd-h100-v5\nmodel: llama-3-8b\nworkload: traffic.yaml\n"
        "kernels: {kind: measured, path: kernels.csv}\n"
    )
    monkeypatch.chdir(tmp_path)
    found = load_scenario("inside/x.yaml")
    assert found.workload.requests == 9
    assert found.kernels.source == "inside/kernels.csv"


def test_all_problems_come_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "topology: nd-h100-v55\nmodel: llama-3-8\nnodes: 0\nreplicas: 0\nengin: {}\n"
        "pools:\n  one: {model: llama-3-b}\nworkload: single-user\n"
    )
    with pytest.raises(InputError) as refusal:
        load_scenario(path)
    found = [(problem.line, problem.key) for problem in refusal.value.problems]
    assert found == sorted(found)
    assert {(1, "topology"), (2, "model"), (7, "pools.one.model")} <= set(found)
    assert all(problem.file == str(path) for problem in refusal.value.problems)


def test_a_trace_inside_a_scenario_lies_beside_the_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,2\n")
    written = "topology: a100-x4\nmodel: llama-3-8b\nworkload: {arrivals: {kind: trace, path: t.csv}}\n"
    (tmp_path / "s.yaml").write_text(written)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    scenario = load_scenario(tmp_path / "s.yaml")
    assert scenario.workload.traces[0].path == str(tmp_path / "t.csv")


def test_more_weights_than_experts_are_refused() -> None:
    described = {
        "topology": "hgx-h200",
        "model": "mixtral-8x7b",
        "workload": "single-user",
        "engine": {"expert_routing": {"weights": [1.0] * 9}},
    }
    with pytest.raises(ValidationError, match=r"engine.expert_routing.weights: 9 numbers: must be at most 8"):
        Scenario.model_validate(described)


def test_a_fault_that_pools_inherit_is_told_once_at_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(GOOD + "pools:\n  prefill: {}\n  decode: {}\nengine:\n  block_size: 0\n  samplr: sort\n")
    with pytest.raises(InputError) as refusal:
        load_scenario(path)
    found = {(problem.line, problem.key) for problem in refusal.value.problems}
    assert found == {(8, "engine.block_size"), (9, "engine.samplr")}
