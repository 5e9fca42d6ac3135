"""The bytes that a KV cache puts on links on its way to a tier and back, and when a reload pays."""

from __future__ import annotations

from functools import cache
from math import inf

import pytest

from sim.catalog import load_model, load_topology
from sim.cost.batch import Batch
from sim.cost.kv_tiers import Way, break_even_bytes_per_s, ends_of, kv_bytes_by_rank, prefill_seconds, way
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.inputs.kv_tiers import KvTier, NvmeTier, RemoteTier
from sim.inputs.precision import Precision
from sim.inputs.topology import Topology

TIER = {"capacity_bytes": 1e12}


@cache
def network(topology: str, nodes: int = 1) -> Network:
    return Network(load_topology(topology, nodes=nodes).graph)


def shard(model: str, ranks: int) -> Shard:
    described = load_model(model)
    gpu = load_topology("nd-h100-v5").gpus["h100-sxm"]
    names = tuple(f"node0.gpu{i}" for i in range(ranks))
    return Shard(
        described, Engine(tensor_parallel_size=ranks), Precision(), gpu, (names,), 0, described.layers
    )


def bytes_by_link(one: Way, of: Network) -> dict[str, float]:
    return {of.links[link]: n for link, n in zip(one.links, one.bytes_per_token, strict=True)}


def test_llama_70b_on_eight_h100_breaks_even_at_11_gigabytes_per_second() -> None:
    at = break_even_bytes_per_s(327_680, 2 * 70.55e9, 8 * 989e12 * 0.6)
    assert at == pytest.approx(11e9, rel=0.01)


@pytest.mark.parametrize(
    ("model", "ranks", "read", "written"),
    [
        ("llama-3-70b", 8, 327_680, 327_680),
        ("llama-3-70b", 4, 327_680, 327_680),
        ("llama-3-70b", 16, 2 * 327_680, 327_680),  # sixteen ranks, eight heads: two ranks read each head
        ("deepseek-v3", 8, 8 * 70_272, 70_272),  # every rank reads the latent cache, one copy is written
    ],
)
def test_what_ranks_share_is_written_once_and_read_by_each(
    model: str, ranks: int, read: float, written: float
) -> None:
    one = shard(model, ranks)
    reads, writes = kv_bytes_by_rank(one, one.groups[0])
    assert sum(reads.values()) == pytest.approx(read)
    assert sum(writes.values()) == pytest.approx(written)


def priced(kind: str, tier: KvTier, of: Network, gpus: tuple[str, ...]) -> Way:
    ends = ends_of(of, kind, tier, gpus)
    return way(
        of,
        dict.fromkeys(gpus, 1.0),
        ends,
        None,
        latency_s=0.0,
        kv_bytes_per_token=float(len(gpus)),
        bytes_per_s=tier.read_bytes_per_s,
    )


@pytest.mark.parametrize(
    ("topology", "nodes", "kind", "tier", "gb_per_s"),
    [
        ("nd-h100-v5", 1, "host", KvTier(**TIER), 8 * 54.81),  # every GPU has sixteen lanes of its own
        ("dgx-a100", 1, "host", KvTier(**TIER), 4 * 26.145),  # two GPUs share sixteen lanes
        ("nd-h100-v5", 1, "nvme", NvmeTier(**TIER), 8 * 6.8),
        ("nd-h100-v5", 2, "remote", RemoteTier(**TIER, place="node1"), 8 * 49.0),  # every rail
        ("nd-h100-v5", 2, "remote", RemoteTier(**TIER, place="node1.host0"), 49.0),  # its first NIC
    ],
)
def test_an_engine_gets_what_its_links_carry(
    topology: str, nodes: int, kind: str, tier: KvTier, gb_per_s: float
) -> None:
    of = network(topology, nodes)
    one = priced(kind, tier, of, of.gpus[:8])
    seconds = one.isolated_s(1.0, of.capacity) - one.latency_s
    assert 8 / seconds / 1e9 == pytest.approx(gb_per_s, rel=1e-3)


def test_bytes_from_a_remote_server_come_over_the_rail_of_each_rank() -> None:
    of = network("nd-h100-v5", 2)
    load = bytes_by_link(priced("remote", RemoteTier(**TIER, place="node1"), of, of.gpus[:8]), of)
    assert [load[f"leaf0->node0.nic{i}"] for i in range(8)] == [1.0] * 8
    assert [load[f"node1.nic{i}->leaf0"] for i in range(8)] == [1.0] * 8


def test_drives_are_those_of_the_own_socket() -> None:
    of = network("nd-h100-v5")
    load = bytes_by_link(priced("nvme", NvmeTier(**TIER), of, of.gpus[:2]), of)
    assert load["node0.nvme0"] == 2.0
    assert "node0.nvme1" not in load


def test_a_tiers_own_rate_is_a_ceiling_and_a_link_that_is_down_is_never_done() -> None:
    of = network("nd-h100-v5")
    one = priced("host", KvTier(**TIER, read_bytes_per_s=10e9), of, of.gpus[:8])
    assert one.isolated_s(1e9, of.capacity) - one.latency_s == pytest.approx(8e9 / 10e9)
    assert one.isolated_s(1.0, [0.0] * len(of.capacity)) == inf


@pytest.mark.parametrize(
    ("topology", "nodes", "kind", "tier", "says"),
    [
        ("a100-x4", 1, "nvme", NvmeTier(**TIER), "have no drives"),
        ("nd-h100-v5", 2, "remote", RemoteTier(**TIER), "no store stands in the network"),
        ("nd-h100-v5", 2, "remote", RemoteTier(**TIER, place="node7"), "node0 to node1"),
        ("nd-h100-v5", 2, "remote", RemoteTier(**TIER, place="node1.gpu0"), "a host or a store keeps KV"),
    ],
)
def test_places_that_are_not_there_are_refused_with_what_is(
    topology: str, nodes: int, kind: str, tier: KvTier, says: str
) -> None:
    of = network(topology, nodes)
    with pytest.raises(InfeasibleError, match=says):
        ends_of(of, kind, tier, of.gpus[:1])


def test_a_store_in_a_network_of_ones_own_is_found() -> None:
    graph = load_topology("nd-h100-v5", nodes=2).graph.copy()
    graph.add_node("store0", kind="store", node=-1, index=0, bytes_per_s=20e9, latency_s=0.0)
    for ends in (("store0", "leaf0"), ("leaf0", "store0")):
        graph.add_edge(*ends, bytes_per_s=98e9, latency_s=1e-7, link="fast", count=1)
    of = Network(Topology.of_graph(graph, gpus=load_topology("nd-h100-v5").gpus).graph)
    one = priced("remote", RemoteTier(**TIER), of, of.gpus[:8])
    assert 8 / (one.isolated_s(1.0, of.capacity) - one.latency_s) == pytest.approx(20e9)


class Noted:
    """A stage that takes a given time a step and notes what it is given."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.batches: list[Batch] = []

    def step(self, batch: Batch) -> tuple[float, None]:
        self.batches.append(batch)
        return self.seconds, None


def test_a_prefill_goes_through_its_stages_in_chunks_and_the_last_one_leaves_last() -> None:
    stages = [Noted(1.0), Noted(2.0)]
    assert prefill_seconds(stages, 0, 100, budget=40, ranks=1) == 3 * 2.0 + 1.0  # type: ignore[arg-type]
    assert [batch.chunks for batch in stages[0].batches] == [((40, 0),), ((40, 40),), ((20, 80),)]
    assert [batch.sampled for batch in stages[0].batches] == [0, 0, 1]


def test_a_prefill_of_one_token_is_a_decode_and_other_ranks_idle() -> None:
    stage = Noted(1.0)
    assert prefill_seconds([stage], 99, 100, budget=40, ranks=1) == 1.0  # type: ignore[list-item]
    assert stage.batches == [Batch(decodes=1, decode_kv_tokens=100, sampled=1)]
    prefill_seconds([stage], 0, 40, budget=40, ranks=2)  # type: ignore[list-item]
    assert stage.batches[1].ranks == (Batch(chunks=((40, 0),), sampled=1), Batch())
    assert prefill_seconds([stage], 40, 40, budget=40, ranks=1) == 0.0  # type: ignore[list-item]
