"""Laws of serving with experts: folded runs are played runs, ranks go in step, tokens are conserved."""

from __future__ import annotations

from typing import Any

import pytest

from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from tests.laws.folded_and_played import differences
from tests.laws.folding_scenarios import small

TRAFFIC: dict[str, Any] = {
    "arrivals": {"kind": "poisson", "rate_per_s": 40.0},
    "prompt_tokens": {"kind": "uniform", "low": 100, "high": 3000},
    "output_tokens": {"kind": "uniform", "low": 1, "high": 50},
    "requests": 60,
}


def served(topology: str, nodes: int = 1, **engine: Any) -> dict[str, Any]:
    return {
        "topology": topology, "nodes": nodes, "model": small("deepseek-v3", 6), "workload": TRAFFIC,
        "precision": {"weights": "fp8", "kv_cache": "fp8"}, "engine": engine,
    }  # fmt: skip


def experts(size: int, **more: Any) -> dict[str, Any]:
    return {"data_parallel_size": size, "enable_expert_parallel": True, **more}


POPULAR = {"popularity": "zipf", "redundant_experts": 32, "placement": "balanced"}
DRAFTS = {"num_speculative_tokens": 2, "acceptance_rate": 0.7}
QWEN = small("qwen3-30b-a3b", 6)
SHARED_NICS = {**served("l40s-12", 2, **experts(8)), "replicas": 3, "placement": "strided", "model": QWEN}
SCENARIOS = {
    "in a rack": served("gb200-nvl72", **experts(32)),
    "over NICs": served("hgx-h200", 2, **experts(16)),
    "tensor-parallel pairs over NICs": served("hgx-h200", 2, **experts(8, tensor_parallel_size=2)),
    "overlapped": served("hgx-h200", 2, **experts(16, enable_dbo=True)),
    "rows of experts": served("hgx-h200", data_parallel_size=4, tensor_parallel_size=2),
    "popular experts": served("hgx-h200", **experts(8, expert_routing=POPULAR)),
    "drafts": served("hgx-h200", **experts(8, speculation=DRAFTS)),
    "two stages": served("hgx-h200", **experts(4, pipeline_parallel_size=2)),
    "replicas that share NICs": SHARED_NICS,
    "mixtral": {
        **served("hgx-h200", **experts(4, tensor_parallel_size=2)),
        "model": small("mixtral-8x7b", 6),
    },
    "qwen": {**served("hgx-h200", **experts(8)), "model": QWEN},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_folded_runs_with_experts_are_played_ones_and_no_token_is_lost(name):
    found, result = differences(SCENARIOS[name])
    assert found == []
    assert set(result.requests["status"]) == {"finished"}
    assert (result.requests["generated_tokens"] == result.requests["output_tokens"]).all()
    causes = result.blame.drop("request_id").sum_horizontal()
    lasted = result.requests["finished_s"] - result.requests["arrival_s"]
    assert causes.to_list() == pytest.approx(lasted.to_list(), abs=1e-9)


@pytest.mark.slow
def test_replicas_whose_experts_share_nics_slow_each_other_down():
    result = simulate(Scenario.model_validate(SHARED_NICS))
    assert result.links.filter(result.links["link"].str.contains("nic"))["shared_s"].sum() > 0.0
    assert result.blame["sharing"].sum() > 0.0


def test_one_busy_rank_takes_the_others_with_it():
    """One request on eight data-parallel ranks: every GPU's links carry exchanges, at every step."""
    scenario = served("hgx-h200", **experts(8))
    scenario["workload"] = {**TRAFFIC, "arrivals": {"kind": "burst"}, "requests": 1}
    result = simulate(Scenario.model_validate(scenario))
    nvlinks = result.links.filter(result.links["link"].str.contains("gpu.->nvlink"))
    assert len(nvlinks) == 8
    assert nvlinks["n_bytes"].min() == pytest.approx(nvlinks["n_bytes"].max(), rel=1e-9)
    assert nvlinks["n_bytes"].min() > 0.0
    assert result.gpus["busy_s"].to_list()[:8] == pytest.approx([result.gpus["busy_s"][0]] * 8)


@pytest.mark.slow
def test_prefill_elsewhere_leaves_decode_steps_undisturbed():
    together = served("hgx-h200", 2, **experts(16))
    apart = {
        **together,
        "pools": {"prefill": {"engine": experts(8)}, "decode": {"engine": experts(8)}},
    }
    apart.pop("engine")
    slow, quick = (
        simulate(Scenario.model_validate(one)).summary()["p99_itl_ms"] for one in (together, apart)
    )
    assert quick < slow
