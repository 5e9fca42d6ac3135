"""A run prices its kernels with the formulas, with a measured table, or with a script's own function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.cost.kernels.kernels import KernelTiming, formula
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.scenario import Scenario, load_scenario, with_changes
from sim.simulate import simulate

TABLE = """system,framework,version,kernel,dtype,m,n,k,latency_us
h100_sxm,vllm,1,mine,bfloat16,1,6144,4096,500
h100_sxm,vllm,1,mine,bfloat16,64,6144,4096,500
"""
FILE = """topology: nd-h100-v5
model: llama-3-8b
kernels: {kind: measured, path: mine.csv}
workload: {arrivals: {kind: closed_loop, users: 1}, prompt_tokens: 57, output_tokens: 9, requests: 1}
"""


def scenario(kernels: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "model": "llama-3-8b",
            "kernels": kernels,
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": 1},
                "prompt_tokens": 57,
                "output_tokens": 9,
                "requests": 1,
            },
        }
    )


def ten_us(gpu: Gpu, op: str, **sizes: Any) -> KernelTiming:
    return KernelTiming(1e-5, 1e-5, 0.0, 0.0)


def test_a_scripts_own_function_prices_every_kernel() -> None:
    result = simulate(scenario(ten_us))
    kernels_a_layer, layers, around = 9, 32, 4  # embedding, norm, lm_head and sample stand around the layers
    step_ms = (kernels_a_layer * layers + around) * 1e-2
    assert result.summary()["mean_tpot_ms"] == pytest.approx(step_ms, rel=1e-9)


def test_a_model_that_prices_one_step_at_a_time_gives_the_run_of_the_vectorised_one() -> None:
    def same(gpu: Gpu, op: str, **sizes: Any) -> KernelTiming:
        return formula(gpu, op, **sizes)

    assert simulate(scenario(same)).requests.equals(simulate(scenario("formula")).requests)


def test_a_measured_table_is_read_beside_the_scenario_and_used_where_it_reaches(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(TABLE)
    (tmp_path / "mine.yaml").write_text(FILE)
    read = load_scenario(tmp_path / "mine.yaml")
    with pytest.warns(UserWarning, match="outside the measured table"):
        measured = simulate(read).summary()["mean_tpot_ms"]
    by_formula = simulate(with_changes(read, {"kernels": "formula"})).summary()["mean_tpot_ms"]
    assert measured > by_formula + 32 * 0.4  # one product a layer takes 500 us


def test_what_prices_no_kernels_is_refused() -> None:
    with pytest.raises(InputError, match="must be formula, or"):
        with_changes(scenario("formula"), {"kernels": "guess"})
