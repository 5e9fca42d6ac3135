"""Published rows in words of a scenario."""

from __future__ import annotations

from sim.validation.services.published_rows import PRECISIONS, burst, precision_of, scenario_of


def test_gpt_oss_has_4_bit_experts_in_the_arithmetic_of_its_gpu_and_others_the_formats_of_the_row() -> None:
    assert precision_of("gpt-oss-120b", "fp4", "B200")["experts"] == "w4a8"
    assert precision_of("gpt-oss-120b", "fp4", "H100")["experts"] == "w4a16"
    assert precision_of("Llama-3.1-8B", "fp8", "H100") == PRECISIONS["fp8"]


def test_a_row_is_one_pool_under_equal_requests_that_come_at_once() -> None:
    scenario = scenario_of(
        "a100-x4", "llama-3-8b", PRECISIONS["bf16"], {"tensor_parallel_size": 2}, burst(100, 20, 7), 2
    )
    (pool,) = scenario.all_pools.values()
    assert (pool.replicas, pool.engine.tensor_parallel_size) == (2, 2)
    assert (scenario.workload.requests, scenario.workload.arrivals.kind) == (7, "burst")
