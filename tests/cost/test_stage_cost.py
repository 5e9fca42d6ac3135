"""A step is its program, many steps are single ones, prefill is paced, windows bound contexts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import sim
from sim.cost.batch import Batch
from sim.cost.kernels.kernels import KernelTiming, formula
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.deployment import shards_of
from sim.inputs.hardware import Gpu
from sim.inputs.model import Model
from sim.scenario.scenario import Scenario

PROMPT = Batch(chunks=((4096, 0),), sampled=1)
DECODE = Batch(decodes=8, decode_kv_tokens=8000, sampled=8)
MIXED = Batch(chunks=((2048, 0),), decodes=8, decode_kv_tokens=8000, sampled=9)


def cost(sustained_flop_fraction: float, **engine: object) -> StageCost:
    scenario = sim.Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": "llama-3-70b",
            "engine": {"tensor_parallel_size": 4, **engine},
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": 1},
                "prompt_tokens": 8,
                "output_tokens": 8,
                "requests": 1,
            },
        }
    )
    scenario = sim.with_changes(
        scenario, {"topology.gpus.a100-80gb-sxm.kernels.sustained_flop_fraction": sustained_flop_fraction}
    )
    pool = scenario.all_pools[""]
    network = Network(scenario.topology.graph)
    (shard,) = shards_of(pool, scenario, network.gpus)
    return StageCost(shard, network)


def test_a_hot_gpu_slows_the_arithmetic_of_prefill_in_proportion() -> None:
    cool, hot = (cost(fraction).step(PROMPT) for fraction in (1.0, 0.5))
    assert hot[1].compute / cool[1].compute == pytest.approx(2.0, rel=0.05)
    assert hot[0] - cool[0] == pytest.approx(hot[1].compute - cool[1].compute, rel=1e-6)


def test_decode_steps_are_as_quick_on_a_hot_gpu() -> None:
    cool, hot = cost(1.0), cost(0.5)
    assert hot.step(DECODE) == cool.step(DECODE)
    assert (hot.decode_steps(DECODE, 5)[0] == cool.decode_steps(DECODE, 5)[0]).all()


@pytest.mark.parametrize("batch", [PROMPT, DECODE, MIXED], ids=["prompt", "decode", "mixed"])
def test_the_ops_of_a_step_take_what_the_step_takes_to_the_last_bit(batch: Batch) -> None:
    stage = cost(0.76)
    assert stage.program(batch).total_s == stage.step(batch)[0]


def test_many_decode_steps_take_what_each_takes_to_the_last_bit() -> None:
    stage = cost(0.76)
    seconds, causes = stage.decode_steps(DECODE, 20)
    each = [stage.step(DECODE._replace(decode_kv_tokens=8000 + 8 * i)) for i in range(20)]
    assert seconds.tolist() == [one for one, _ in each]
    for i, cause in enumerate(causes(20)):
        assert cause == pytest.approx(sum(one[i] for _, one in each), abs=1e-15)


def sliding() -> StageCost:
    """GPT-OSS-120B on four H100: every other layer sees a window of 128 tokens."""
    scenario = Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "model": "gpt-oss-120b",
            "precision": {"weights": "bf16", "experts": "w4a16"},
            "engine": {"tensor_parallel_size": 4},
            "workload": "single-user",
        }
    )
    network = Network(scenario.wired.graph)
    (pool,) = scenario.all_pools.values()
    return StageCost(shards_of(pool, scenario, tuple(network.gpus[:4]))[0], network)


def without_window(cost: StageCost) -> StageCost:
    model: Model = cost.shard.model.model_copy(update={"sliding_window": None})
    return StageCost(replace(cost.shard, model=model), cost._price.network)


def test_layers_with_a_window_stop_to_grow_with_the_context() -> None:
    cost = sliding()
    short, long = (cost.step(Batch((), 4, 4 * context, 4))[0] for context in (128, 8192))
    whole = without_window(cost)
    grown = whole.step(Batch((), 4, 4 * 8192, 4))[0] - whole.step(Batch((), 4, 4 * 128, 4))[0]
    assert long - short == pytest.approx(0.5 * grown, rel=1e-6)  # half of the layers slide


def test_a_chunk_costs_no_more_with_a_window_than_without() -> None:
    cost = sliding()
    whole = without_window(cost)
    for chunk in ((64, 0), (2048, 0), (2048, 4096)):
        batch = Batch((chunk,), 0, 0, 1)
        assert cost.step(batch)[0] <= whole.step(batch)[0] * 1.001


def test_many_steps_of_a_sliding_model_are_the_single_ones_to_the_last_bit() -> None:
    cost = sliding()
    batch = Batch((), 4, 4 * 100, 4)
    together, _ = cost.decode_steps(batch, 60)
    alone = [cost.step(batch.grown(i))[0] for i in range(60)]
    assert np.array_equal(together, np.array(alone))


def test_the_causes_of_the_first_of_many_steps_add_up_to_their_seconds() -> None:
    eager = {"enforce_eager": True, "host": {"launch_s": 1e-3}}  # where kernels wait for their launch
    for engine in ({}, eager):
        seconds, causes = cost(1.0, **engine).decode_steps(DECODE, 200)
        assert causes(7).total_s == pytest.approx(seconds[:7].sum())


class Counted:
    """The kernel formulas, and how often they are asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, gpu: Gpu, op: str, **sizes: Any) -> KernelTiming:
        self.times += 1
        return formula(gpu, op, **sizes)


@pytest.mark.parametrize("first", [4, 6], ids=["in a server", "over two servers"])
def test_a_stage_of_the_same_shape_is_priced_once_and_has_links_of_its_own(first: int) -> None:
    scenario = Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "nodes": 2,
            "model": "llama-3-8b",
            "engine": {"tensor_parallel_size": 4},
            "workload": "single-user",
        }
    )
    network, (pool,) = Network(scenario.wired.graph), scenario.all_pools.values()
    known, place = (shards_of(pool, scenario, tuple(network.gpus[i : i + 4]))[0] for i in (0, first))
    one = StageCost(known, network)
    assert one.has_shape_of(place)
    assert not one.has_shape_of(replace(place, layers=1))
    kernels = Counted()
    alone = StageCost(place, network)
    there = StageCost(known, network, kernel_model=kernels)
    like = StageCost(place, network, kernel_model=kernels, like=there)
    for batch in (PROMPT, DECODE, MIXED):
        there.step(batch)
        asked = kernels.times
        assert like.step(batch) == alone.step(batch)
        template = like._template(batch)
        again = kernels.times - asked
        assert (again < 5) == (first == 4)  # else its transfers take longer, and it is priced by itself
        assert template.traffic == like.traffic(batch) == alone.traffic(batch) != there.traffic(batch)
        played = [like.program(batch).blocks, alone.program(batch).blocks]
        assert played[0] == played[1]
    assert (like.decode_steps(DECODE, 20)[0] == alone.decode_steps(DECODE, 20)[0]).all()
