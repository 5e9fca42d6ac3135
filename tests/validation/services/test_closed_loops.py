"""Measured closed loops as scenarios."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.simulate import simulate
from sim.validation.services.closed_loop_rows import point_rows
from sim.validation.services.closed_loops import (
    ServingPoint,
    engine_of,
    point_of,
    precision_of,
    read_point_rows,
    read_points,
    run,
    scenario_of,
)
from sim.validation.services.request_logs import DATA
from sim.validation.services.tables import cases

POINT = ServingPoint(
    "h200_sxm", "meta-llama/Llama-3.1-70B", "fp8", "vllm", "", 1024, 1024, 16, 2, 1, False, 222.0, 15.1,
    "public InferenceX export", True,
)  # fmt: skip


def test_the_shipped_sample_has_every_model_gpu_and_engine() -> None:
    rows = [case.cells for case in cases("closed-loops", whole=False)]
    assert len(rows) > 50
    assert len({row["model"] for row in rows}) == 8
    assert {row["backend"] for row in rows} == {"vllm", "trtllm", "sglang"}
    assert {row["system"] for row in rows} == {"h100_sxm", "h200_sxm", "b200_sxm", "gb200"}


def test_a_table_of_ones_own_is_read_as_the_shipped_one(tmp_path: Path) -> None:
    assert len(read_points(DATA / "closed_loops.csv")) == 1273
    lines = (DATA / "closed_loops.csv").read_text(encoding="utf-8").splitlines()
    own = tmp_path / "own.csv"
    own.write_text("\n".join([lines[0], lines[1].replace("b200_sxm", "b2000_sxm")]), encoding="utf-8")
    with pytest.raises(InputError, match=r"b2000_sxm.*b200_sxm"):
        read_point_rows(own)
    own.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column"):
        read_point_rows(own)


def test_a_row_is_served_as_its_launch_script_says() -> None:
    scenario = scenario_of(POINT)
    assert scenario.engine.tensor_parallel_size == 2
    assert scenario.precision.kv_cache == "fp8"
    assert scenario.workload.requests == 4 * 16
    assert not scenario.engine.enable_prefix_caching


def test_vllm_schedules_ahead_from_0_14_on() -> None:
    old = replace(POINT, origin="NVIDIA gap-analysis runs", version="0.12.0")
    assert not engine_of(old)["async_scheduling"]
    assert engine_of(replace(old, version="0.14.1"))["async_scheduling"]
    assert engine_of(POINT)["async_scheduling"]


def test_gpt_oss_has_its_experts_in_four_bits_and_all_else_in_sixteen() -> None:
    formats = precision_of(replace(POINT, model="openai/gpt-oss-120b", precision="nvfp4"))
    assert (formats["weights"], formats["experts"]) == ("bf16", "w4a16")


def test_throughput_follows_from_the_two_times() -> None:
    tokens = 0.9 * 1024
    assert POINT.throughput(222.0, 15.1) == pytest.approx(16e3 * tokens / (222.0 + (tokens - 1) * 15.1))


def test_a_service_is_predicted_within_a_quarter() -> None:
    simulated = run(POINT)
    assert abs(simulated.tpot_error) < 0.15
    assert abs(simulated.throughput_error) < 0.15
    assert abs(simulated.ttft_error) < 0.25
    assert {row.kind for row in point_rows(simulated)} == {"predicted"}


def test_a_server_of_tensorrt_llm_admits_only_who_is_sure_to_fit() -> None:
    settings = engine_of(replace(POINT, backend="trtllm"))
    assert settings["capacity_scheduler_policy"] == "guaranteed_no_evict"
    assert "capacity_scheduler_policy" not in engine_of(POINT)


@pytest.mark.parametrize("backend", ["vllm", "trtllm"])
@pytest.mark.parametrize(("isl", "osl"), [(8000, 1000), (15000, 500), (1024, 8192)])
def test_no_text_of_a_row_is_cut_off(backend: str, isl: int, osl: int) -> None:
    point = replace(POINT, backend=backend, origin="NVIDIA", isl=isl, osl=osl, concurrency=2, tp=4)
    requests = simulate(scenario_of(point)).requests
    assert set(requests["status"]) == {"finished"}
    assert requests["output_tokens"].max() > osl


def test_a_table_that_is_not_there_or_has_no_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_points(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="has no rows"):
        read_points(tmp_path / "empty.csv")


def test_the_sampler_of_a_vllm_release_sorts_or_does_not() -> None:
    assert "sampler" not in engine_of(replace(POINT, version="0.16.0"))
    assert engine_of(replace(POINT, version="0.17.0"))["sampler"] == "kernel"
    assert "sampler" not in engine_of(replace(POINT, version="0.19.0", backend="sglang"))


@pytest.mark.parametrize(
    ("cells", "ranks"),
    [
        ({"tp_size": "1", "attention_dp_size": "4", "moe_tp_size": "1", "moe_ep_size": "4"}, (1, 4)),
        ({"tp_size": "1", "attention_dp_size": "4", "moe_tp_size": "2", "moe_ep_size": "2"}, (1, 4)),
        ({"tp_size": "1", "attention_dp_size": "64", "moe_tp_size": "8", "moe_ep_size": "8"}, (1, 8)),
        ({"tp_size": "2", "attention_dp_size": "4", "moe_tp_size": "1", "moe_ep_size": "8"}, (2, 4)),
        ({"tp_size": "4", "attention_dp_size": "4", "moe_tp_size": "1", "moe_ep_size": "16"}, (4, 1)),
        ({"tp_size": "1", "attention_dp_size": "", "moe_tp_size": "2", "moe_ep_size": "1"}, (1, 2)),
        ({"tp_size": "8", "attention_dp_size": "1", "moe_tp_size": "8", "moe_ep_size": "1"}, (8, 1)),
        ({"tp_size": "8", "attention_dp_size": "0", "moe_tp_size": "0", "moe_ep_size": "0"}, (8, 1)),
    ],
)
def test_data_parallel_attention_runs_on_as_many_gpus_as_the_row_has(
    cells: dict[str, str], ranks: tuple[int, int]
) -> None:
    row = next(one for one in read_point_rows(DATA / "closed_loops.csv") if one["attention_dp_size"] == "4")
    point = point_of({**row, **cells})
    assert (point.tp, point.attention_dp) == ranks
    (pool,) = scenario_of(point).all_pools.values()
    assert pool.engine.world_size == ranks[0] * ranks[1]
    assert (" DP" in point.label) is (ranks[1] > 1)
