"""What goes from replica to replica and from stage to stage: bytes on links by formula."""

from __future__ import annotations

from typing import Any

import pytest

from sim.cost.kv_transfer import kv_cache
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.cost.stage_sends import activations
from sim.deployment import shards_of
from sim.scenario.scenario import Scenario

TOKENS = 1000
PER_TOKEN = {"llama-3-70b": 2 * 80 * 8 * 128 * 2, "deepseek-v3": 61 * 576 * 2}


def scenario(model: str, **engine: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "topology": "nd-h100-v5", "nodes": 3, "model": model, "workload": "single-user", "engine": engine,
        }
    )  # fmt: skip


def shards(network: Network, model: str, first_gpu: int, **engine: Any) -> list[Shard]:
    one = scenario(model, **engine)
    (pool,) = one.all_pools.values()
    size = pool.engine.world_size
    return shards_of(pool, one, network.gpus[first_gpu : first_gpu + size])


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(scenario("llama-3-70b").wired.graph)


def into(network: Network, demand: Any) -> list[float]:
    """Bytes into each NIC of the second server."""
    on = dict(zip(demand.links, demand.n_bytes, strict=True))
    return [on.get(network.link_id[f"leaf0->node1.nic{i}"], 0.0) for i in range(8)]


@pytest.mark.parametrize(("givers", "takers"), [(4, 8), (8, 4), (8, 8), (2, 8), (8, 1)])
def test_each_head_is_sent_once_to_the_rank_that_keeps_it(network, givers, takers):
    source = shards(network, "llama-3-70b", 0, tensor_parallel_size=givers)
    target = shards(network, "llama-3-70b", 8, tensor_parallel_size=takers)
    received = into(network, kv_cache(network, source, target, TOKENS))
    whole = TOKENS * PER_TOKEN["llama-3-70b"]
    assert received[:takers] == pytest.approx([whole / takers] * takers, rel=1e-12)


def test_stages_send_their_layers_to_the_stages_that_have_them(network):
    source = shards(network, "llama-3-70b", 0, tensor_parallel_size=2, pipeline_parallel_size=4)
    target = shards(network, "llama-3-70b", 8, tensor_parallel_size=4, pipeline_parallel_size=2)
    received = into(network, kv_cache(network, source, target, TOKENS))
    assert received == pytest.approx([TOKENS * PER_TOKEN["llama-3-70b"] / 8] * 8, rel=1e-12)


def test_beyond_one_rank_a_head_every_rank_gets_its_copy(network):
    source = shards(network, "llama-3-70b", 0, tensor_parallel_size=8)
    target = shards(network, "llama-3-70b", 8, tensor_parallel_size=16)
    demand = kv_cache(network, source, target, TOKENS)
    assert sum(into(network, demand)) == pytest.approx(TOKENS * PER_TOKEN["llama-3-70b"], rel=1e-12)


def test_a_latent_cache_goes_whole_to_every_tensor_parallel_rank_from_senders_in_turn(network):
    source = shards(network, "deepseek-v3", 0, tensor_parallel_size=8)
    target = shards(network, "deepseek-v3", 8, tensor_parallel_size=8)
    received = into(network, kv_cache(network, source, target, TOKENS))
    assert received == pytest.approx([TOKENS * PER_TOKEN["deepseek-v3"]] * 8, rel=1e-12)


def test_a_data_parallel_rank_gets_its_own_and_nobody_elses(network):
    source = shards(network, "deepseek-v3", 0, data_parallel_size=8)
    target = shards(network, "deepseek-v3", 8, data_parallel_size=8)
    received = into(network, kv_cache(network, source, target, TOKENS, (2, 5)))
    assert received == pytest.approx([0.0] * 5 + [TOKENS * PER_TOKEN["deepseek-v3"]] + [0.0] * 2)


def test_one_rail_takes_eight_times_as_long_as_eight(network):
    whole = TOKENS * 100
    eight = kv_cache(
        network,
        shards(network, "llama-3-70b", 0, tensor_parallel_size=8),
        shards(network, "llama-3-70b", 8, tensor_parallel_size=8),
        whole,
    )
    one = kv_cache(
        network,
        shards(network, "llama-3-70b", 0, tensor_parallel_size=1),
        shards(network, "llama-3-70b", 8, tensor_parallel_size=1),
        whole,
    )
    ratio = one.isolated_s(network.capacity) / eight.isolated_s(network.capacity)
    assert ratio == pytest.approx(8.0, rel=0.05)


def test_activations_between_stages_are_hidden_state_and_residual_over_all_rails(network):
    first, second = shards(network, "llama-3-70b", 0, tensor_parallel_size=8, pipeline_parallel_size=2)
    received = into(network, activations(network, first, second, 64))
    assert received == pytest.approx([2 * 64 * 8192 * 2 / 8] * 8, rel=1e-12)


def test_4096_tokens_of_a_70b_take_3_4_ms_over_eight_rails_and_27_over_one(network):
    for ranks, published_ms in ((8, 3.4), (1, 27.0)):
        demand = kv_cache(
            network,
            shards(network, "llama-3-70b", 0, tensor_parallel_size=ranks),
            shards(network, "llama-3-70b", 8, tensor_parallel_size=ranks),
            4096,
        )
        assert 1e3 * demand.isolated_s(network.capacity) == pytest.approx(published_ms, rel=0.15)
