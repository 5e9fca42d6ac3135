from __future__ import annotations

import networkx as nx
import pytest

from sim.cost.network import Network
from sim.cost.spines import bundles_of_spines
from tests.cost.small_graphs import NIC, servers, wire


def two_tiers(spines: int = 4, leaves: int = 3) -> nx.DiGraph:
    graph: nx.DiGraph = nx.DiGraph()
    for leaf in range(leaves):
        graph.add_node(f"leaf{leaf}", kind="switch", node=-1, index=leaf)
        graph.add_node(f"node{leaf}.nic0", kind="nic", node=leaf, index=0)
        wire(graph, f"node{leaf}.nic0", f"leaf{leaf}", NIC)
        for spine in range(spines):
            graph.add_node(f"spine{spine}", kind="switch", node=-1, index=leaves + spine)
            wire(graph, f"leaf{leaf}", f"spine{spine}", NIC)
    return graph


def test_spines_over_the_same_leaves_are_one() -> None:
    assert bundles_of_spines(two_tiers()) == {"spines": [f"spine{spine}" for spine in range(4)]}


def test_one_spine_stays_what_it_is() -> None:
    assert bundles_of_spines(two_tiers(spines=1)) == {}


def test_a_spine_that_can_block_or_routes_statically_stays_what_it_is() -> None:
    for key, value in (("bytes_per_s", 1e12), ("routing", "static")):
        graph = two_tiers()
        graph.nodes["spine0"][key] = value
        assert bundles_of_spines(graph) == {"spines": ["spine1", "spine2", "spine3"]}


def test_spines_to_which_a_leaf_has_another_share_of_its_rate_stay_what_they_are() -> None:
    graph = two_tiers()
    graph.edges["leaf0", "spine1"]["bytes_per_s"] = NIC / 2
    assert bundles_of_spines(graph) == {}
    for leaf in range(3):
        for edge in ((f"leaf{leaf}", "spine1"), ("spine1", f"leaf{leaf}")):
            graph.edges[edge]["bytes_per_s"] = NIC / 2
    assert list(bundles_of_spines(graph)) == ["spines"]


def test_a_name_that_is_taken_is_not_given_again() -> None:
    graph = two_tiers()
    graph = nx.relabel_nodes(graph, {"leaf0": "spines"})
    assert list(bundles_of_spines(graph)) == ["spine0+3"]


def test_bundled_and_spread_spines_carry_the_same_bytes() -> None:
    """Spines that are kept apart (each with a limit that never binds) have the same shares, one by one."""
    together = servers(nodes=4, chips=0, spines=4)
    apart = together.copy()
    for spine in range(4):
        apart.nodes[f"spine{spine}"]["bytes_per_s"] = 1e15
    one, many = Network(together), Network(apart)
    ends = "node0.gpu1", "node3.gpu6"
    path = many.path(*ends)
    share = {many.links[link]: part for link, part in path.bytes_on_links(1.0)}
    assert all(share[f"leaf1->spine{spine}"] == pytest.approx(0.25) for spine in range(4))
    assert all(share[f"spine{spine}"] == pytest.approx(0.25) for spine in range(4))
    assert one.path(*ends).latency_s == pytest.approx(path.latency_s)
    assert one.path(*ends).bytes_per_s(one.capacity) == pytest.approx(path.bytes_per_s(many.capacity))


def test_a_described_link_is_a_share_of_its_bundle() -> None:
    network = Network(servers(nodes=4, chips=0, spines=4))
    assert network.bundled["leaf1->spine2"] == {network.link_id["leaf1->spines"]: pytest.approx(0.25)}
    assert network.stripes["spines"] == {f"spine{spine}": pytest.approx(0.25) for spine in range(4)}
