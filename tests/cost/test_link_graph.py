from __future__ import annotations

import pytest

from sim.cost.link_graph import LinkGraph
from sim.inputs.errors import InfeasibleError
from tests.cost.small_graphs import NVLINK, servers, wire


def test_a_lost_chip_of_eighteen_costs_one_eighteenth() -> None:
    graph = servers(gpus=4, chips=18)
    whole = LinkGraph(graph)
    assert sum(whole.stripes["nvlink0"].values()) == pytest.approx(1.0)
    assert whole.stripes["nvlink0"]["node0.nvswitch7"] == pytest.approx(1 / 18)
    graph.remove_node("node0.nvswitch7")
    left = LinkGraph(graph)
    assert left.capacity[left.link_id["node0.gpu1->nvlink0"]] == pytest.approx(NVLINK * 17 / 18)


def test_a_switch_that_blocks_becomes_a_link_of_its_own() -> None:
    graph = servers(gpus=4, chips=2)
    for chip in range(2):
        graph.nodes[f"node0.nvswitch{chip}"]["bytes_per_s"] = 300e9
    compiled = LinkGraph(graph)
    leg = compiled.leg(("node0.gpu0", "nvlink0", "node0.gpu1"))
    assert "nvlink0" in [compiled.links[link] for link in compiled.charged(leg, set())]
    assert compiled.capacity[compiled.link_id["nvlink0"]] == 600e9


def test_switches_wired_to_each_other_keep_their_chips() -> None:
    graph = servers(gpus=4, chips=2)
    wire(graph, "node0.nvswitch0", "node0.nvswitch1", 100e9)
    assert LinkGraph(graph).crossbars == {}


def test_a_host_is_charged_only_for_what_is_staged_in_its_memory() -> None:
    compiled = LinkGraph(servers(chips=0))
    leg = compiled.shortest("node0.gpu0", "node0.host0", frozenset({"pcie_switch", "host"}), 0)
    assert leg is not None
    assert compiled.charged(leg, set()) == leg.links
    assert compiled.charged(leg, {"node0.host0"}) == (*leg.links, compiled.own_link["node0.host0"])


def test_a_link_without_capacity_is_refused_by_name() -> None:
    graph = servers(gpus=2, chips=0)
    wire(graph, "node0.gpu0", "node0.gpu1", 0.0)
    with pytest.raises(InfeasibleError, match=r"link node0\.gpu0->node0\.gpu1"):
        LinkGraph(graph)


def test_a_leg_crosses_its_links_and_the_places_between_its_ends() -> None:
    graph = servers(gpus=4, chips=2)
    places = ("node0.gpu0", "nvlink0", "node0.gpu1")
    unstated = LinkGraph(graph).leg(places)
    assert unstated.latency_s == 0.0
    assert unstated.crossed == (("nvlink", None), ("nvlink", None), ("nvswitch", None))
    for *_, edge in graph.edges(data=True):
        edge["latency_s"] = 1e-6
    for place in graph.nodes.values():
        place["latency_s"] = 2e-6
    stated = LinkGraph(graph)
    assert stated.leg(places).crossed == (("nvlink", 1e-6), ("nvlink", 1e-6), ("nvswitch", 2e-6))
    assert stated.leg(places).latency_s == pytest.approx(4e-6)
    up = stated.leg(("node0.gpu0", "node0.pcie0", "node0.host0", "node0.host1"))
    assert up.crossed == (
        ("pcie", 1e-6),
        ("pcie", 1e-6),
        ("cpu", 1e-6),
        ("pcie_switch", 2e-6),
        ("host", 2e-6),
    )


def test_two_legs_join_in_one_place_and_a_gpu_passes_on_without_latency() -> None:
    graph = servers(gpus=4, chips=2)
    for place in graph.nodes.values():
        place["latency_s"] = 2e-6
    compiled = LinkGraph(graph)
    legs = [compiled.leg(places) for places in (("nvlink0", "node0.gpu1"), ("node0.gpu1", "node0.pcie1"))]
    both = compiled.join(*legs)
    assert both.places == ("nvlink0", "node0.gpu1", "node0.pcie1")
    assert both.latency_s == 0.0
    legs = [
        compiled.leg(places) for places in (("node0.gpu1", "node0.pcie1"), ("node0.pcie1", "node0.host0"))
    ]
    assert compiled.join(*legs).latency_s == 2e-6
    assert compiled.join(*legs).crossed[1] == ("pcie_switch", 2e-6)


def test_hops_go_on_through_the_given_kinds_only() -> None:
    compiled = LinkGraph(servers(chips=0))
    hops = compiled.spread("node0.gpu0", frozenset({"pcie_switch"}), 0, backwards=False)
    assert hops == {"node0.gpu0": 0, "node0.pcie0": 1, "node0.host0": 2}
    beyond = LinkGraph(servers(nodes=2, chips=0))
    hops = beyond.spread("node0.gpu0", frozenset({"pcie_switch", "nic"}), None, backwards=False)
    assert hops["node0.nic0"] == 2
    assert "leaf0" not in hops
