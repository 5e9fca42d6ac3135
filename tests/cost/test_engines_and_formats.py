"""Engines with kernels of their own, and mixed number formats."""

from __future__ import annotations

from typing import Any

import pytest

from sim.catalog import load_gpu
from sim.cost.memory import shard_weight_bytes
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.deployment import shards_of
from sim.scenario.scenario import Scenario
from sim.simulate import simulate


def scenario(model: str = "gpt-oss-120b", **changes: Any) -> Scenario:
    described: dict[str, Any] = {
        "topology": "nd-h100-v5",
        "model": model,
        "precision": {"weights": "bf16", "experts": "w4a16"},
        "engine": {"tensor_parallel_size": 4},
        "workload": {
            "arrivals": {"kind": "closed_loop", "users": 4},
            "prompt_tokens": 512,
            "output_tokens": 64,
            "requests": 12,
        },
    }
    for name, value in changes.items():
        described[name] = described[name] | value
    return Scenario.model_validate(described)


def stage(one: Scenario) -> StageCost:
    network = Network(one.wired.graph)
    (pool,) = one.all_pools.values()
    return StageCost(shards_of(pool, one, tuple(network.gpus[:4]))[0], network)


def test_experts_weigh_what_their_own_format_says() -> None:
    unpadded = {"backend": "sglang"}
    four, sixteen = (
        shard_weight_bytes(stage(scenario(precision={"experts": experts}, engine=unpadded)).shard)
        for experts in ("w4a16", "bf16")
    )
    model = scenario().model
    values = model.moe_layers * model.experts * model.expert_parameters / 4
    assert sixteen - four == pytest.approx(values * (2 - 0.53125))


def test_an_engine_runs_its_own_kernels_and_all_reduces() -> None:
    gpu = load_gpu("h100-sxm")
    assert gpu.kernels is not None
    theirs = gpu.under("trtllm").kernels
    assert theirs is not None
    assert theirs.gemm["bf16"] == gpu.kernels.engines["trtllm"].gemm["bf16"] != gpu.kernels.gemm["bf16"]
    sglang = gpu.under("sglang").kernels  # its products were timed, its attention was not
    assert sglang is not None
    assert sglang.gemm["bf16"] != gpu.kernels.gemm["bf16"]
    assert sglang.attention_decode == gpu.kernels.attention_decode
    assert gpu.under("another") is gpu
    assert scenario(engine={"backend": "trtllm"}).engine.collectives_library == "trtllm"
    assert scenario(engine={"disable_custom_all_reduce": True}).engine.collectives_library == "nccl"


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0, 20])
def test_prompts_wait_for_each_other_and_folding_does_not_change_that(wait: int) -> None:
    engine = {"tensor_parallel_size": 4, "batch_wait_timeout_iters": wait, "frontend_s": 5e-3}
    one = scenario(engine=engine, workload={"output_tokens": {"kind": "uniform", "low": 40, "high": 90}})
    folded, played = (simulate(one, fold=fold).summary() for fold in (True, False))
    assert folded["mean_ttft_ms"] == pytest.approx(played["mean_ttft_ms"], rel=1e-9)
    at_once = simulate(scenario(engine=engine | {"batch_wait_timeout_iters": 0})).summary()
    assert (folded["mean_ttft_ms"] > 1.5 * at_once["mean_ttft_ms"]) == bool(wait)


def test_the_way_in_takes_longer_for_longer_prompts() -> None:
    def ttft_ms(**engine: float) -> float:
        alone = scenario(engine=engine, workload={"arrivals": {"kind": "closed_loop", "users": 1}})
        return float(simulate(alone).summary()["mean_ttft_ms"])

    assert ttft_ms(frontend_s=1e-2, frontend_token_s=1e-5) - ttft_ms() == pytest.approx(10 + 5.12, rel=1e-6)
