"""KV tiers as they are written, and what is said where they are written wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.inputs.errors import InfeasibleError, InputError
from sim.policy.reloading import Always, ByCost
from sim.scenario import Scenario, load_scenario, with_changes
from sim.simulate import simulate

TEXT = """\
topology: nd-h100-v5
model: llama-3.1-8b
engine: {{kv_tiers: {tiers}{engine}}}
workload: {{arrivals: {{kind: closed_loop, users: 1}}, prompt_tokens: 100, output_tokens: 4, requests: 2}}
{more}
"""


def written(folder: Path, tiers: str, engine: str = "", more: str = "") -> Scenario:
    path = folder / "scenario.yaml"
    path.write_text(TEXT.format(tiers=tiers, engine=engine, more=more), encoding="utf-8")
    return load_scenario(path)


def test_tiers_are_written_with_units_and_stand_in_order(tmp_path: Path) -> None:
    tiers = "{nvme: {capacity_bytes: 4 TB, read_bytes_per_s: 20 GB/s}, host: {capacity_bytes: 512 GB}}"
    scenario = written(tmp_path, tiers, more="kv_reload: always")
    assert scenario.engine.kv_tiers is not None
    assert list(scenario.engine.kv_tiers.present) == ["host", "nvme"]
    assert scenario.engine.kv_tiers.present["nvme"].read_bytes_per_s == 20e9
    assert scenario.kv_reload == Always()
    twice = with_changes(scenario, {"engine.kv_tiers.host.capacity_bytes": "x2", "kv_reload": "cost"})
    assert twice.engine.kv_tiers is not None
    assert twice.engine.kv_tiers.present["host"].capacity_bytes == 1024e9
    assert twice.kv_reload == ByCost()


@pytest.mark.parametrize(
    ("tiers", "engine", "more", "says"),
    [
        ("{host: {capacity_bytes: 0 GB}}", "", "", "scenario.yaml:3: engine.kv_tiers.host.capacity_bytes"),
        ("{host: {capacity: 512 GB}}", "", "", "capacity_bytes"),
        ("{ram: {capacity_bytes: 512 GB}}", "", "", "engine.kv_tiers.ram"),
        ("{}", "", "", "name one of host, nvme, remote"),
        (
            "{host: {capacity_bytes: 1 TB}}",
            ", enable_prefix_caching: false",
            "",
            "need enable_prefix_caching",
        ),
        ("{host: {capacity_bytes: 1 TB}}", "", "kv_reload: costs", "did you mean 'cost'"),
        ("{host: {capacity_bytes: 1 TB}}", "", "kv_reload: {kind: cost, margins: 2}", "margin"),
    ],
)
def test_what_is_written_wrongly_is_named_with_what_would_be_right(
    tmp_path: Path, tiers: str, engine: str, more: str, says: str
) -> None:
    with pytest.raises(InputError) as error:
        written(tmp_path, tiers, engine, more)
    assert says in str(error.value)


def test_pools_that_share_a_store_agree_on_its_size() -> None:
    def pool(capacity: str) -> dict[str, Any]:
        remote = {"capacity_bytes": capacity, "place": "node1"}
        return {"engine": {"tensor_parallel_size": 4, "kv_tiers": {"remote": remote}}}

    scenario = Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "nodes": 2,
            "model": "llama-3.1-8b",
            "pools": {"one": pool("1 TB"), "other": pool("2 TB")},
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": 1},
                "prompt_tokens": 9,
                "output_tokens": 1,
                "requests": 1,
            },
        }
    )
    with pytest.raises(InfeasibleError, match="as in the other pools"):
        simulate(scenario)


def test_a_script_may_pass_its_own_rule(tmp_path: Path) -> None:
    asked = []

    def none_of(prefixes: Any) -> int:
        asked.append(prefixes)
        return 0

    scenario = written(tmp_path, "{host: {capacity_bytes: 1 TB}}")
    prefix = {"groups": 3, "tokens": 512}
    changes = {"kv_reload": none_of, "workload.prefix": prefix, "engine.num_gpu_blocks_override": 50,
               "workload.requests": 12}  # fmt: skip
    result = simulate(with_changes(scenario, changes))
    assert result.summary()["completed"] == 12
    assert result.summary()["kv_reloaded_bytes"] == 0.0
    assert asked
    (first, *_) = asked[0]
    assert first.tier == "host"
    assert first.n_bytes == (first.tokens - first.held_tokens) * 131_072
    assert first.compute_s > 0.0 < first.reload_s
