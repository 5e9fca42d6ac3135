"""Scenarios as files: what is written reads back to the same."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim.inputs.errors import InputError
from sim.scenario.writing import write_scenario

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize("name", ["pools_llama70b", "returning_sessions", "one_server"])
def test_a_scenario_reads_back_to_the_same_with_shipped_parts_by_name(name: str, tmp_path: Path) -> None:
    described = sim.with_changes(sim.load_scenario(EXPERIMENTS / f"{name}.yaml"), {"engine.max_num_seqs": 64})
    path = write_scenario(described, tmp_path / "s.yaml", "said\nhere")
    assert path.read_text().startswith("# said\n# here\n")
    assert path.stat().st_size < 2000
    again = sim.load_scenario(path)
    assert again.model_copy(update={"name": described.name}) == described


def test_pools_and_a_machine_with_another_constant_read_back_to_the_same(tmp_path: Path) -> None:
    described = sim.load_scenario(EXPERIMENTS / "pools_llama70b.yaml")
    prefill = {"role": "prefill", "engine": {"tensor_parallel_size": 4, "max_num_batched_tokens": 4096}}
    changed = sim.with_changes(
        described,
        {
            "pools": {"prefill": prefill, "decode": {"role": "decode", "replicas": 3}},
            "topology.links.nvlink4.bytes_per_s": "x1.1",
        },
    )
    assert sim.load_scenario(write_scenario(changed, tmp_path / "s.yaml")).topology == changed.topology


def test_a_rule_of_a_script_is_refused(tmp_path: Path) -> None:
    described = sim.load_scenario(EXPERIMENTS / "one_server.yaml")
    ruled = described.model_copy(update={"router": lambda request, replicas, random: 0})
    with pytest.raises(InputError, match="script's own rule"):
        write_scenario(ruled, tmp_path / "s.yaml")
    assert not (tmp_path / "s.yaml").exists()
