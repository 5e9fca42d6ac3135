"""From a description of tiers to levels: which engine has which, in what chain, over how quick a way."""

from __future__ import annotations

from typing import Any

import pytest
import simpy

from sim.cost.network import Network
from sim.deployment import deployment_of
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.results.records import Records
from sim.runtime.build import World, replicas_of
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.build_tiers import _chunk
from sim.runtime.kv.offloading_queue import TieredQueue
from sim.runtime.kv.tiers import Level
from sim.scenario.scenario import Scenario
from tests.laws.folding_scenarios import small

ALL = {
    "host": {"capacity_bytes": "1 GB"},
    "nvme": {"capacity_bytes": "2 GB", "read_bytes_per_s": "7 GB/s"},
    "remote": {"capacity_bytes": "3 GB", "place": "node1"},
}


def levels(tiers: dict[str, Any] | None = None, **more: Any) -> list[list[Level]]:
    """Of every queue, replica by replica."""
    engine = {"tensor_parallel_size": 2, "kv_tiers": tiers or ALL, **more.pop("engine", {})}
    one = Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "nodes": 2,
            "model": small("llama-3-8b"),
            "engine": engine,
            "workload": {
                "arrivals": {"kind": "burst"}, "prompt_tokens": 8, "output_tokens": 2, "requests": 1
            },
            **more,
        }
    )  # fmt: skip
    env, network = simpy.Environment(), Network(one.wired.graph)
    world = World(one, env, network, Fabric(env, network), Records(), True, 0)
    replicas, _ = replicas_of(deployment_of(one, network), world)
    queues = [queue for replica in replicas for queue in replica.queues]
    assert all(isinstance(queue, TieredQueue) for queue in queues)
    return [queue.levels for queue in queues]  # type: ignore[attr-defined]


def test_levels_are_chained_from_the_nearest_to_the_farthest() -> None:
    ((host, nvme, remote),) = levels({name: ALL[name] for name in reversed(ALL)})
    assert [level.tier.name for level in (host, nvme, remote)] == ["host", "nvme", "remote"]
    assert [level.tier.capacity_bytes for level in (host, nvme, remote)] == [1e9, 2e9, 3e9]
    assert (host.below, nvme.below, remote.below) == (nvme, remote, None)


def test_a_remote_tier_is_that_of_all_replicas_and_the_others_are_of_one() -> None:
    (host, nvme, remote), (other_host, other_nvme, other_remote) = levels(replicas=2)
    assert remote.tier is other_remote.tier
    assert host.tier is not other_host.tier
    assert nvme.tier is not other_nvme.tier
    assert [level.is_shared for level in (host, nvme, remote)] == [False, False, True]


def test_pools_of_one_model_that_write_two_capacities_for_the_shared_store_are_refused() -> None:
    def pool(capacity: str) -> dict[str, Any]:
        remote = {"remote": {"capacity_bytes": capacity, "place": "node1"}}
        return {"engine": {"kv_tiers": remote}}

    with pytest.raises(InfeasibleError, match=r"kv_tiers\.remote\.capacity_bytes = 2e\+09: must be 1e\+09"):
        levels(engine={}, pools={"a": pool("1 GB"), "b": pool("2 GB")})
    same = levels(engine={}, pools={"a": pool("1 GB"), "b": pool("1 GB")})
    assert same[0][0].tier is same[1][0].tier


def test_data_parallel_ranks_have_levels_of_their_own_over_the_same_tiers() -> None:
    engine = {"tensor_parallel_size": 1, "data_parallel_size": 2, "enable_expert_parallel": True}
    (one,), (other,) = levels({"host": ALL["host"]}, model=small("mixtral-8x7b"), engine=engine)
    assert one is not other
    assert one.tier is other.tier
    assert one.reading.links != other.reading.links


def test_a_copy_from_tier_to_tier_is_no_faster_than_the_upper_one_is_read() -> None:
    ((host, nvme, remote),) = levels()
    assert host.reading.min_flow_s_per_token == host.writing.min_flow_s_per_token == 0.0
    assert nvme.reading.min_flow_s_per_token == pytest.approx(nvme.bytes_per_token / 7e9)
    assert nvme.writing.min_flow_s_per_token == 0.0
    assert remote.reading.min_flow_s_per_token == 0.0
    assert remote.writing.min_flow_s_per_token == pytest.approx(nvme.bytes_per_token / 7e9)


def test_bytes_of_a_token_count_each_head_of_each_stage_once() -> None:
    per_token = 2 * 4 * 8 * 128 * 2  # K and V, layers, heads, head size, bytes
    for sizes in ({"tensor_parallel_size": 2}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}):
        ((host,),) = levels({"host": ALL["host"]}, engine=sizes)
        assert host.bytes_per_token == per_token
        gpu_links = [
            n_bytes
            for link, n_bytes in zip(host.writing.links, host.writing.bytes_per_token, strict=True)
            if host.fabric.links[link].startswith("node0.gpu")
        ]
        assert sum(gpu_links) == per_token


@pytest.mark.parametrize(
    ("engine", "tokens"),
    [
        ({}, 512),
        ({"long_prefill_token_threshold": 100}, 100),
        ({"enable_chunked_prefill": False}, 3000),
        ({"scheduler": "static"}, 3000),
    ],
)
def test_a_step_computes_as_much_of_a_prompt_as_its_engine_lets_it(
    engine: dict[str, object], tokens: int
) -> None:
    assert _chunk(Engine.model_validate(engine), 512, 3000) == tokens
