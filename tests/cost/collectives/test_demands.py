from __future__ import annotations

import networkx as nx
import pytest

from sim.cost.collectives.demands import Demand, demand, pairs_demand
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError
from tests.cost.small_graphs import NIC, servers, wire

S = 1e9


def on_links(network: Network, of: Demand, marker: str) -> list[float]:
    return [n for link, n in zip(of.links, of.n_bytes, strict=True) if marker in network.links[link]]


def test_nvls_tree_over_two_nodes_puts_an_eighth_on_each_nic_and_direction() -> None:
    network = Network(servers(nodes=2))
    bare = demand(network, "all_reduce", "nvls_tree", S, network.gpus)
    assert on_links(network, bare, "leaf") == pytest.approx([S / 8] * 32)
    assert on_links(network, bare, "nvlink") == pytest.approx([S * (1 + 1 / 8)] * 32)


def test_rings_across_nodes_use_every_rail_alike() -> None:
    network = Network(servers(nodes=4))
    bare = demand(network, "all_reduce", "ring", S, network.gpus)
    nics = on_links(network, bare, "leaf")
    assert nics == pytest.approx([2 * 31 / 32 * S / 8] * 64)
    assert bare.isolated_s(network.capacity) == pytest.approx(max(nics) / NIC)


def test_four_gpus_wired_to_each_other_use_all_wires_in_both_directions() -> None:
    graph = nx.DiGraph(gpus=[f"node0.gpu{i}" for i in range(4)])
    for i in range(4):
        graph.add_node(f"node0.gpu{i}", kind="gpu", node=0, index=i, domain=0)
        for j in range(i):
            wire(graph, f"node0.gpu{i}", f"node0.gpu{j}", 100e9)
    network = Network(graph)
    bare = demand(network, "all_reduce", "ring", S, network.gpus)
    assert len(bare.links) == 12
    assert bare.isolated_s(network.capacity) == pytest.approx(1.5 * S / 300e9)


def test_unequal_bytes_between_pairs_add_up_on_links() -> None:
    network = Network(servers(nodes=2))
    a, b, far = "node0.gpu0", "node0.gpu3", "node1.gpu5"
    bare = pairs_demand(network, {(a, b): 10.0, (a, far): 6.0, (b, far): 4.0})
    by_name = {network.links[link]: n for link, n in zip(bare.links, bare.n_bytes, strict=True)}
    assert by_name["node0.gpu0->nvlink0"] == 16.0
    assert by_name["node0.nic5->leaf5"] == 10.0
    relayed = pairs_demand(network, {(a, far): 6.0}, relay=True)
    names = [network.links[link] for link in relayed.links]
    assert "node0.nic0->leaf0" in names
    assert "nvlink1->node1.gpu5" in names


def test_hosts_that_stage_copies_bound_a_ring_without_peer_to_peer() -> None:
    network = Network(servers(gpus=4, peer_to_peer=False, pcie=26e9))
    bare = demand(network, "all_reduce", "ring", S, network.gpus)
    assert bare.isolated_s(network.capacity) == pytest.approx(2 * 1.5 * S / 30e9)


def test_alone_a_demand_takes_its_latency_and_then_its_bytes_on_the_busiest_link() -> None:
    one = Demand((0, 1), (10.0, 8.0), latency_s=2.0)
    assert one.flow_s([5.0, 1.0]) == 8.0
    assert one.isolated_s([5.0, 1.0]) == 2.0 + 8.0
    slow = Demand((0, 1), (10.0, 8.0), latency_s=2.0, min_flow_s=9.0)
    assert slow.flow_s([5.0, 1.0]) == 9.0
    assert Demand((), (), latency_s=2.0).isolated_s([]) == 2.0


def test_what_several_nics_carry_adds_up_to_the_bytes() -> None:
    network = Network(servers(nodes=2, gpus=4, nics=8))
    bare = pairs_demand(network, {("node0.gpu0", "node1.gpu0"): 10.0})
    by_name = {network.links[link]: n for link, n in zip(bare.links, bare.n_bytes, strict=True)}
    assert [n for name, n in by_name.items() if "->leaf" in name] == [5.0, 5.0]


@pytest.mark.parametrize("algorithm", ["nvls_tree", "two_level"])
def test_islands_of_unequal_size_are_refused(algorithm: str) -> None:
    network = Network(servers(nodes=2))
    with pytest.raises(InfeasibleError, match="islands of equal size; these ranks are in islands of 8, 4"):
        demand(network, "all_reduce", algorithm, S, network.gpus[:12])


def test_a_relayed_all_to_all_leaves_by_the_sender_s_rail_and_ends_over_nvlink() -> None:
    network = Network(servers(nodes=2))
    bare = demand(network, "all_to_all", "relayed", S, network.gpus)
    assert on_links(network, bare, "->leaf") == pytest.approx([8 / 16 * S] * 16)
    # Out of a GPU: 7 of 16 parts to its own server's, and 7 of the other server's that it passes on.
    assert on_links(network, bare, "gpu3->nvlink") == pytest.approx([7 * S / 16 + 7 * 8 / 8 * S / 16] * 2)
