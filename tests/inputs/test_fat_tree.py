from __future__ import annotations

import networkx as nx
import pytest

from sim.inputs.errors import InfeasibleError
from sim.inputs.fat_tree import join_servers
from sim.inputs.hardware import LinkType
from sim.inputs.parts import ScaleOut

LINK = LinkType(name="ndr", bytes_per_s=50e9)


def joined(servers: int, nics: int, ports: int, **more: object) -> nx.DiGraph[str]:
    network = ScaleOut.model_validate(
        {"of": "nic", "link": "ndr", "latency_s": 0, "switch_ports": ports} | more
    )
    graph: nx.DiGraph[str] = nx.DiGraph()
    join_servers(graph, [([f"n{s}.nic{i}" for i in range(nics)], LINK) for s in range(servers)], network)
    return graph


def switches(graph: nx.DiGraph[str], name: str) -> list[str]:
    return [place for place in graph if place.startswith(name)]


def test_what_fits_on_one_switch_is_joined_by_one() -> None:
    graph = joined(2, 4, 8)
    assert switches(graph, "leaf") == ["leaf0"]
    assert switches(graph, "spine") == []


def test_beyond_one_switch_a_leaf_serves_one_rail() -> None:
    graph = joined(4, 4, 8)
    assert len(switches(graph, "leaf")) == 4
    for rail in range(4):
        assert {nic[-1] for nic in graph.predecessors(f"leaf{rail}") if "nic" in nic} == {str(rail)}


@pytest.mark.parametrize(("servers", "nics"), [(4, 4), (24, 1)])
def test_every_leaf_has_equally_many_links_to_every_spine(servers: int, nics: int) -> None:
    """Also with six leaves, which three spines of 8 ports could take, and four can take evenly."""
    graph = joined(servers, nics, 8)
    spines = switches(graph, "spine")
    for leaf in switches(graph, "leaf"):
        assert sum(graph.edges[leaf, spine]["count"] for spine in spines) == 4
        assert len({graph.edges[leaf, spine]["count"] for spine in spines}) == 1


def test_two_tiers_end_where_the_spines_have_no_more_ports() -> None:
    joined(8, 4, 8)
    with pytest.raises(InfeasibleError, match="8 servers fit"):
        joined(9, 4, 8)


def uplinks(graph: nx.DiGraph[str], leaf: str) -> int:
    return sum(edge["count"] for _, to, edge in graph.out_edges(leaf, data=True) if to.startswith("spine"))


@pytest.mark.parametrize(
    ("ratio", "down", "up"), [(1, 8, 8), (1.5, 9, 6), (2, 10, 5), (3, 12, 4), (7, 14, 2)]
)
def test_oversubscription_divides_the_ports_of_a_leaf(ratio: float, down: int, up: int) -> None:
    graph = joined(40, 1, 16, oversubscription=ratio)
    assert sum("nic" in place for place in graph.predecessors("leaf0")) == down
    assert uplinks(graph, "leaf0") == up


def test_a_leaf_that_is_not_full_has_no_more_uplinks_than_its_nics_need() -> None:
    graph = joined(9, 8, 64, oversubscription=2)  # 8 rails, so 8 leaves of 9 NICs
    assert uplinks(graph, "leaf0") == 5


def test_static_routing_is_said_of_every_switch() -> None:
    assert {data["routing"] for _, data in joined(4, 4, 8, routing="static").nodes(data=True) if data} == {
        "static"
    }
    assert not any("routing" in data for _, data in joined(4, 4, 8).nodes(data=True))
