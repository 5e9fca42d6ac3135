"""What the settings of a scenario become: rules, queues, replicas, and the way from prefill to decode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simpy

from sim.cost.network import Network
from sim.deployment import deployment_of
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.policy.scheduling import ContinuousBatching, PrefillFirst, StaticBatching
from sim.results.records import Records
from sim.runtime.build import World, kv_transfers_of, replicas_of, scheduling_rule
from sim.runtime.engine.replica import Replica
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.offloading_queue import TieredQueue
from sim.scenario.scenario import Scenario
from tests.laws.folding_scenarios import small

WORKLOAD = {"arrivals": {"kind": "burst"}, "prompt_tokens": 8, "output_tokens": 2, "requests": 1}


def built(**described: Any) -> tuple[World, list[Replica], dict[str, list[Replica]]]:
    one = Scenario.model_validate(
        {"topology": "a100-x4", "model": small("llama-3-8b"), "workload": WORKLOAD, **described}
    )
    env, network = simpy.Environment(), Network(one.wired.graph)
    world = World(one, env, network, Fabric(env, network), Records(), True, 0)
    return world, *replicas_of(deployment_of(one, network), world)


def test_a_scheduler_is_its_rule_with_the_engines_knobs() -> None:
    def rule(**engine: Any) -> Any:
        return scheduling_rule(Engine.model_validate(engine))

    vllm = rule(scheduling_policy="priority", long_prefill_token_threshold=100)
    assert isinstance(vllm, ContinuousBatching)
    assert (vllm.by_priority, vllm.long_prefill_token_threshold, vllm.even_shares) == (True, 100, 1)
    assert rule(pipeline_parallel_size=4, pipeline_split="even").even_shares == 4
    assert isinstance(rule(scheduler="static"), StaticBatching)
    assert isinstance(rule(scheduler="continuous"), PrefillFirst)
    assert isinstance(rule(scheduler="one_at_a_time"), PrefillFirst)


def test_a_replica_has_a_stage_for_each_shard_and_a_queue_for_each_data_parallel_rank() -> None:
    (replica,) = built(engine={"pipeline_parallel_size": 2, "tensor_parallel_size": 2})[1]
    assert (len(replica.stages), len(replica.queues), len(replica.gpus)) == (2, 1, 4)
    engine = {"data_parallel_size": 4, "enable_expert_parallel": True}
    (replica,) = built(topology="hgx-h200", model=small("mixtral-8x7b"), engine=engine)[1]
    assert (len(replica.stages), len(replica.queues)) == (1, 4)
    pools = {id(queue.block_pool) for queue in replica.queues}
    assert len(pools) == 4


def test_a_queue_has_tiers_where_the_engine_has() -> None:
    (plain,) = built()[1]
    (tiered,) = built(engine={"kv_tiers": {"host": {"capacity_bytes": "1 GB"}}})[1]
    assert not isinstance(plain.queues[0], TieredQueue)
    assert isinstance(tiered.queues[0], TieredQueue)


POOLS = {"prefill": {"engine": {}}, "decode": {"replicas": 2, "engine": {}}}


def test_requests_enter_where_prompts_are_computed_and_kv_goes_to_where_answers_are() -> None:
    world, replicas, by_model = built(pools=POOLS)
    assert [one.role for one in replicas] == ["prefill", "decode", "decode"]
    assert list(by_model.values()) == [replicas[:1]]
    transfers = kv_transfers_of(replicas, world, np.random.default_rng(0))
    assert transfers is not None
    assert list(transfers.receivers.values()) == [replicas[1:]]
    assert kv_transfers_of(built()[1], world, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("missing", "message"), [("decode", "none with role decode"), ("prefill", "none with role prefill")]
)
def test_a_pool_without_its_counterpart_is_refused(missing: str, message: str) -> None:
    world, replicas, _ = built(pools=POOLS)
    rest = [one for one in replicas if one.role != missing]
    with pytest.raises(InfeasibleError, match=message):
        kv_transfers_of(rest, world, np.random.default_rng(0))


def test_hops_of_a_kv_transfer_are_between_its_replicas() -> None:
    world, replicas, _ = built(topology="l40s-12", pools={**POOLS, "decode": {"replicas": 7, "engine": {}}})
    transfers = kv_transfers_of(replicas, world, np.random.default_rng(0))
    assert transfers is not None
    sender, *receivers = replicas
    hops = [transfers.hops(sender, receiver) for receiver in receivers]
    assert hops[0] == 2  # two GPUs of one PCIe switch
    assert hops == sorted(hops)
    assert hops[-1] > hops[0]
