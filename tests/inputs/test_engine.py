from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sim.inputs.engine import Engine, Speculation


def test_an_engine_takes_all_gpus_of_its_three_sizes() -> None:
    engine = Engine(data_parallel_size=2, tensor_parallel_size=4, pipeline_parallel_size=3)
    assert engine.world_size == 24


def test_all_reduces_are_the_engines_own_unless_another_library_is_named() -> None:
    assert Engine(backend="sglang").collectives_library == "sglang"
    assert Engine(backend="sglang", collectives="nccl").collectives_library == "nccl"
    assert Engine(backend="sglang", disable_custom_all_reduce=True).collectives_library == "nccl"


def test_scheduling_is_asynchronous_but_for_ray_and_pipelines() -> None:
    assert Engine().schedules_async
    assert not Engine(executor="ray").schedules_async
    assert not Engine(pipeline_parallel_size=2).schedules_async
    assert Engine(executor="ray", async_scheduling=True).schedules_async


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 1.0), (0.5, 1.75), (1.0, 3.0)])
def test_two_drafts_bring_a_geometric_number_of_tokens(rate: float, expected: float) -> None:
    assert Speculation(num_speculative_tokens=2, acceptance_rate=rate).tokens_per_step == expected


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            {"max_num_seqs": 64, "max_num_batched_tokens": 32},
            "max_num_batched_tokens = 32: must be at least max_num_seqs = 64",
        ),
        (
            {"kv_tiers": {"host": {"capacity_bytes": "1 GB"}}, "enable_prefix_caching": False},
            "enable_prefix_caching: true",
        ),
        ({"kv_tiers": {"host": {"capacity_bytes": "1 GB"}}, "service_time": {"step_s": 1}}, "service_time"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(written: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Engine.model_validate(written)


@pytest.mark.parametrize(
    ("routing", "why"),
    [
        ({"weights": [float("nan")]}, "nan of expert 0: must be a finite number, at least 0"),
        ({"weights": [1.0, -1.0]}, "-1.0 of expert 1"),
        ({"weights": [0, 0, 0]}, "no expert was ever chosen"),
        ({"weights": [1e308, 1e308]}, "the sum is infinite"),
        ({"weights": [1.0], "popularity": "zipf"}, "popularity = zipf: must be given beside weights"),
        ({"popularity": "given"}, "popularity = given: needs weights"),
    ],
)
def test_weights_of_experts_are_counts(routing: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Engine.model_validate({"expert_routing": routing})


def test_weights_alone_are_the_given_popularity() -> None:
    assert Engine.model_validate({"expert_routing": {"weights": [1, 3]}}).expert_routing.popularity == "given"


def test_ranks_that_share_experts_are_in_step() -> None:
    with pytest.raises(ValidationError, match="data_parallel_lock_step = false: must be true beside"):
        Engine.model_validate({"enable_expert_parallel": True, "data_parallel_lock_step": False})
