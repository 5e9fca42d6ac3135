from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.cost.batch import Batch
from sim.cost.host_time import HIDDEN_SEQUENCE_S, RAY_STEP_S, SEQUENCE_S, STEP_S, sequence_s, step_s
from sim.cost.network import Network
from sim.cost.stage_cost import FEW_STEPS, StageCost
from sim.deployment import shards_of
from sim.inputs.engine import Engine
from sim.scenario.changes import with_changes
from sim.scenario.scenario import Scenario
from sim.simulate import simulate

SERVICE = Scenario.model_validate(
    {
        "topology": "nd-h100-v5",
        "model": "llama-3.1-8b",
        "workload": {
            "arrivals": {"kind": "closed_loop", "users": 8},
            "prompt_tokens": 16,
            "output_tokens": 20,
            "requests": 8,
        },
    }
)


def cost(without: frozenset[str] = frozenset(), **engine: Any) -> StageCost:
    changes = {f"engine.{key}": value for key, value in engine.items()}
    scenario = with_changes(SERVICE, changes) if changes else SERVICE
    (pool,) = scenario.all_pools.values()
    network = Network(scenario.wired.graph)
    shards = shards_of(pool, scenario, network.gpus[: pool.engine.world_size])
    return StageCost(shards[0], network, without)


def decodes(sequences: int) -> Batch:
    return Batch((), sequences, sequences * 500, sequences)


def test_what_is_unset_is_as_measured_for_the_engine() -> None:
    waits = Engine(async_scheduling=False)
    assert (step_s(waits), sequence_s(waits)) == (STEP_S, SEQUENCE_S)
    assert step_s(Engine(executor="ray")) == step_s(Engine(pipeline_parallel_size=2)) == RAY_STEP_S
    assert sequence_s(Engine()) == 0.0
    assert sequence_s(Engine(backend="trtllm")) == HIDDEN_SEQUENCE_S["trtllm"] > 0.0
    assert sequence_s(Engine(backend="sglang", async_scheduling=False)) == 0.0  # only vLLM's was measured
    given = Engine.model_validate({"async_scheduling": False, "host": {"step_s": 1.0, "sequence_s": 2.0}})
    assert (step_s(given), sequence_s(given)) == (1.0, 2.0)


def test_a_hidden_sequence_fits_into_the_fastest_measured_step_of_the_engine() -> None:
    """gpt-oss-120b at TP4 under vLLM 0.11.2, 512 users; Mixtral-8x7B on 8 H200 under TensorRT-LLM 0.17."""
    assert HIDDEN_SEQUENCE_S["vllm"] < 9.67e-3 / 512 < SEQUENCE_S
    assert HIDDEN_SEQUENCE_S["trtllm"] < 1.0 / 68608.0


def test_gpus_of_a_synchronous_engine_wait_for_every_sequence_of_a_step() -> None:
    hidden, exposed = cost(), cost(async_scheduling=False)
    for sequences in (1, 64):
        waited_s = exposed.step(decodes(sequences))[0] - hidden.step(decodes(sequences))[0]
        assert waited_s == pytest.approx(STEP_S + SEQUENCE_S * sequences)
    mixed = Batch(((100, 0),), 8, 4000.0, 9)
    assert exposed.step(mixed)[1].host - hidden.step(mixed)[1].host == pytest.approx(STEP_S + SEQUENCE_S * 9)


def test_drafts_are_no_sequences() -> None:
    speculation = {"num_speculative_tokens": 3, "acceptance_rate": 0.5}
    batch = Batch((), 8, 4000.0, 32, decode_tokens=4)
    host_s = cost(async_scheduling=False, speculation=speculation).step(batch)[1].host
    assert host_s == pytest.approx(STEP_S + SEQUENCE_S * 8)


def test_a_step_of_an_asynchronous_engine_takes_the_longer_of_gpu_and_host() -> None:
    free, busy = cost(), cost(host={"sequence_s": 1e-3})
    assert busy.step(decodes(1)) == free.step(decodes(1))  # the GPU takes longer than a millisecond
    seconds, causes = busy.step(decodes(64))
    assert seconds == 64e-3 == busy.program(decodes(64)).total_s
    assert causes.host == pytest.approx(seconds - free.step(decodes(64))[0])
    assert busy.program(decodes(64)).blocks[-1].ops[0].name == "wait for host"
    assert cost(frozenset({"host"}), host={"sequence_s": 1e-3}).step(decodes(64)) == free.step(decodes(64))


def test_many_steps_beside_a_host_are_each_of_them_to_the_last_bit() -> None:
    """Contexts grow until the GPU takes longer than the host."""
    start = Batch((), 64, 64 * 1000.0, 64)
    gpu_s = cost().step(start)[0]
    both = cost(host={"sequence_s": gpu_s * 1.001 / 64})
    steps = 10 * FEW_STEPS
    seconds, causes = both.decode_steps(start, steps)
    alone = np.array([both.step(start.grown(step))[0] for step in range(steps)])
    assert (seconds == alone).all()
    assert seconds[0] == seconds[1] < seconds[-1]
    assert causes(steps).total_s == pytest.approx(float(seconds.sum()))


def test_folded_and_played_runs_meet_where_gpus_wait_for_the_host() -> None:
    waiting = with_changes(SERVICE, {"engine.host": {"sequence_s": 2e-3}})
    folded, played = (simulate(waiting, fold=fold) for fold in (True, False))
    assert played.end_s == folded.end_s > 19 * 8 * 2e-3 > simulate(SERVICE).end_s
