"""Which steps run at the pace that a long run leaves of single kernels."""

from __future__ import annotations

import pytest

import sim
from sim.cost.batch import Batch
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.deployment import shards_of

PROMPT = Batch(chunks=((4096, 0),), sampled=1)
DECODE = Batch(decodes=8, decode_kv_tokens=8000, sampled=8)
MIXED = Batch(chunks=((2048, 0),), decodes=8, decode_kv_tokens=8000, sampled=9)


def cost(sustained_flop_fraction: float) -> StageCost:
    scenario = sim.Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": "llama-3-70b",
            "engine": {"tensor_parallel_size": 4},
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
