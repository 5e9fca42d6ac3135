from __future__ import annotations

from typing import Any

import networkx as nx
import pytest

from sim.inputs.errors import InputError
from sim.inputs.topology import Topology


def box(**changes: Any) -> nx.DiGraph[str]:
    """Two GPUs on a PCIe switch, with the least that a script must say."""
    graph: nx.DiGraph[str] = nx.DiGraph(**changes)
    graph.add_node("a", kind="gpu", model="h100-sxm")
    graph.add_node("b", kind="gpu", model="h100-sxm")
    graph.add_node("middle", kind="pcie_switch")
    for gpu in ("a", "b"):
        graph.add_edge(gpu, "middle", bytes_per_s=50e9)
        graph.add_edge("middle", gpu, bytes_per_s=50e9)
    return graph


def test_what_a_script_leaves_out_is_filled_in() -> None:
    topology = Topology.of_graph(box(name="mine"))
    graph = topology.graph
    assert topology.name == "mine"
    assert graph.graph["gpus"] == ["a", "b"]
    assert graph.nodes["b"] == {
        "kind": "gpu", "model": "h100-sxm", "node": 0, "index": 1, "latency_s": 0.0, "domain": 1,
    }  # fmt: skip
    assert graph.edges["a", "middle"] == {
        "bytes_per_s": 50e9, "latency_s": 0.0, "latency_unknown": True, "link": "", "count": 1,
    }  # fmt: skip
    assert graph.graph["peer_to_peer"] is True


def test_the_script_s_graph_is_left_as_it_was() -> None:
    graph = box()
    _ = Topology.of_graph(graph).graph
    assert graph.nodes["a"] == {"kind": "gpu", "model": "h100-sxm"}
    assert graph.graph == {}


def test_graph_properties_are_taken_from_the_graph_or_the_call() -> None:
    graph = box(peer_to_peer=False, acs=True, gpus=["b", "a"])
    assert Topology.of_graph(graph).graph.graph["peer_to_peer"] is False
    assert Topology.of_graph(graph, peer_to_peer=True).graph.graph["peer_to_peer"] is True
    assert Topology.of_graph(graph).graph.graph["acs"] is True
    assert Topology.of_graph(graph).graph.graph["gpus"] == ["b", "a"]


def test_the_graph_of_a_topology_can_be_changed_and_given_back() -> None:
    graph = Topology.of_graph(box()).graph.copy()
    graph.edges["a", "middle"]["bytes_per_s"] = 25e9
    again = Topology.of_graph(graph)
    assert again.graph.edges["a", "middle"]["bytes_per_s"] == 25e9
    assert Topology.model_validate_json(again.model_dump_json()).graph.edges == again.graph.edges


def refused(graph: Any) -> str:
    with pytest.raises(InputError) as refusal:
        Topology.of_graph(graph)
    return str(refusal.value)


def test_an_undirected_graph_is_refused() -> None:
    assert "pass a networkx.DiGraph, as from graph.to_directed()" in refused(box().to_undirected())
    assert "parallel edges" in refused(nx.MultiDiGraph(box()))


@pytest.mark.parametrize(
    ("place", "attributes", "says"),
    [
        ("a", {"kind": None}, "node 'a': has no kind; one of gpu, nvswitch"),
        ("a", {"kind": "tpu"}, "node 'a': kind 'tpu' is unknown"),
        ("a", {"model": None}, "node 'a': a gpu needs a model"),
        ("a", {"latency_s": "1 us"}, "node 'a': latency_s '1 us' is not a finite number"),
        ("a", {"latency_s": -1.0}, "node 'a': latency_s = -1.0: must be at least 0"),
        (
            "middle",
            {"bytes_per_s": 0.0},
            "node 'middle': bytes_per_s = 0.0: must be above 0",
        ),
        ("middle", {"node": "first"}, "node 'middle': node 'first' is not a whole number"),
        ("middle", {"kind": "nic", "transport": "pigeon"}, "node 'middle': transport 'pigeon' is unknown"),
    ],
)
def test_a_node_that_is_not_right_is_named(place: str, attributes: dict[str, Any], says: str) -> None:
    graph = box()
    graph.nodes[place].update(attributes)
    assert says in refused(graph)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"bytes_per_s": float("nan")}, "edge 'a' -> 'middle': bytes_per_s nan is not a finite number"),
        (
            {"bytes_per_s": "50 GB/s"},
            "bytes_per_s '50 GB/s' is not a finite number; give it in the base unit",
        ),
        ({"bytes_per_s": -5.0}, "must be above 0"),
        ({"latency_s": float("inf")}, "latency_s inf is not a finite number"),
    ],
)
def test_an_edge_that_is_not_right_is_named(attributes: dict[str, Any], says: str) -> None:
    graph = box()
    graph.edges["a", "middle"].update(attributes)
    assert says in refused(graph)


def test_an_edge_needs_a_capacity_and_an_edge_back() -> None:
    graph = box()
    del graph.edges["a", "middle"]["bytes_per_s"]
    graph.remove_edge("b", "middle")
    text = refused(graph)
    assert "edge 'a' -> 'middle': bytes_per_s is missing" in text
    assert (
        "edge 'middle' -> 'b': there is no edge back; links carry both directions, so add 'b' -> 'middle'"
        in text
    )


def test_a_graph_needs_a_gpu_and_an_order_that_names_each() -> None:
    graph = box(gpus=["a"])
    assert "must name every gpu once" in refused(graph)
    graph.remove_nodes_from(["a", "b"])
    assert "no node has kind 'gpu'" in refused(graph)


def test_many_problems_are_cut_short() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(f"n{i}" for i in range(100))
    assert len(refused(graph).splitlines()) == 21
    assert "more like these" in refused(graph)


def test_a_switch_routes_adaptively_or_statically() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("gpu0", kind="gpu", model="h100-sxm")
    graph.add_node("leaf0", kind="switch", routing="random")
    with pytest.raises(InputError, match="routing 'random' is unknown; adaptive or static is right"):
        Topology.of_graph(graph)
