"""A checkpoint decides the number formats that a scenario leaves open."""

from __future__ import annotations

from typing import Any

import pytest

import sim
from sim.inputs.model import Model
from sim.inputs.precision import Checkpoint
from sim.scenario import Scenario, with_changes
from sim.scenario.precision import precision_note
from tests.scenario.small import scenario


def published(**precision: str) -> Model:
    """Llama-3-8B as a checkpoint in these formats."""
    checkpoint = Checkpoint(quantisation="fp8: as tried", precision=precision)
    return sim.load_model("llama-3-8b").model_copy(update={"checkpoint": checkpoint})


FP8 = published(weights="fp8_block", kv_cache="fp8")
NVFP4 = published(weights="bf16", experts="nvfp4", activation_scales="static")


def formats(found: Scenario) -> tuple[str, str]:
    return found.precision.weights, found.precision.kv_cache


def test_a_checkpoint_decides_what_the_scenario_leaves_open() -> None:
    assert formats(scenario(model=FP8)) == ("fp8_block", "fp8")
    assert formats(scenario(model=FP8, precision={"kv_cache": "bf16"})) == ("fp8_block", "bf16")


def test_written_weights_win_over_all_that_the_checkpoint_says_of_weights() -> None:
    assert formats(scenario(model=FP8, precision={"weights": "bf16"})) == ("bf16", "fp8")
    whole = scenario(model=NVFP4, precision={"weights": "fp8"}).precision
    assert (whole.weights, whole.experts, whole.activation_scales) == ("fp8", None, "dynamic")


def test_only_written_keys_count_as_written() -> None:
    assert scenario(model=FP8, precision={"attention": "fp8"}).precision.model_fields_set == {"attention"}


def test_a_pool_takes_the_formats_of_its_own_model_and_inherits_what_is_written() -> None:
    pools = {
        "published": {"model": FP8},
        "plain": {},
        "own": {"model": FP8, "precision": {"weights": "fp16"}},
    }
    found = scenario(pools=pools, precision={"kv_cache": "bf16"}).pools
    assert [pool.precision.weights for pool in found.values()] == ["fp8_block", "bf16", "fp16"]
    assert {pool.precision.kv_cache for pool in found.values()} == {"bf16"}


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"engine.block_size": 32}, "fp8_block"),
        ({"model": sim.load_model("llama-3-8b")}, "bf16"),
        ({"precision.weights": "bf16"}, "bf16"),
        ({"precision": {"weights": "int8"}}, "int8"),
    ],
)
def test_a_change_of_the_model_decides_anew_and_a_written_precision_stays(
    changes: dict[str, Any], weights: str
) -> None:
    changed = with_changes(scenario(model=FP8), changes)
    assert changed.precision.weights == weights
    assert with_changes(changed, {"engine.block_size": 64}).precision.weights == weights


def test_a_change_of_the_model_decides_anew_in_pools() -> None:
    pools = {"prefill": {}, "decode": {"precision": {"weights": "fp16"}}}
    changed = with_changes(scenario(model=FP8, pools=pools), {"model": sim.load_model("llama-3-8b")})
    assert [pool.precision.weights for pool in changed.pools.values()] == ["bf16", "fp16"]


def test_a_wrong_precision_is_refused_as_ever() -> None:
    with pytest.raises(ValueError, match="weights"):
        scenario(model=FP8, precision={"weights": "fp7"})


def test_a_run_is_told_what_decided() -> None:
    taken = scenario(model=FP8)
    assert precision_note(taken.model, taken.precision) == (
        "precision.weights = fp8_block, precision.kv_cache = fp8, as quantization_config of llama-3-8b says "
        "(fp8: as tried)"
    )
    other = scenario(model=FP8, precision={"weights": "bf16"})
    assert "precision.weights = bf16, as the scenario says" in str(
        precision_note(other.model, other.precision)
    )
    same = scenario(model=FP8, precision={"weights": "fp8_block"})
    assert precision_note(same.model, same.precision) is None
    assert precision_note(scenario().model, scenario().precision) is None
    unknown = published()
    assert "weights are taken as bf16" in str(precision_note(unknown, scenario(model=unknown).precision))


@pytest.mark.parametrize(
    ("formats", "told"),
    [
        ({"weights": "s.yaml"}, "weights = 's.yaml': should be 'bf16'"),
        ({"weight": "fp8"}, "'weight': must be one"),
    ],
)
def test_formats_of_a_checkpoint_are_those_of_a_precision(formats: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        published(**formats)


def test_a_checkpoint_may_say_nothing_of_its_weights() -> None:
    notes = [
        precision_note(found.model, found.precision)
        for experts in ("w4a16", "bf16")
        for found in (scenario(model=published(experts="w4a16"), precision={"experts": experts}),)
    ]
    assert notes[0] is None
    assert str(notes[1]).startswith("precision.weights = bf16, as the scenario says")
