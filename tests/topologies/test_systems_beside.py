"""Servers of different kinds in one topology, joined by the networks that they have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.catalog import load_topology
from sim.cost.network import Network
from sim.inputs.errors import InputError
from sim.inputs.topology_check import checked
from sim.scenario import Scenario, with_changes
from sim.simulate import simulate

PAIR = """
name: pair
systems:
  quick: {topology: nd-h100-v5, nodes: 2}
  cheap: l40s-12
"""


def pair(folder: Path, text: str = PAIR) -> Path:
    path = folder / "pair.yaml"
    path.write_text(text)
    return path


def test_servers_are_numbered_one_after_the_other_and_keep_their_own_links(tmp_path):
    topology = load_topology(pair(tmp_path))
    graph = topology.graph
    assert topology.servers == 3
    assert [graph.nodes[gpu]["model"] for gpu in graph.graph["gpus"]] == ["h100-sxm"] * 16 + ["l40s"] * 12
    assert topology.gpu("node2.gpu11").name == "l40s"
    nics = list(graph.out_edges("leaf0", data=True))
    assert len(nics) == 2 * 8 + 2
    rates = {to: edge["bytes_per_s"] for _, to, edge in nics}
    assert rates["node1.nic7"] == 2 * rates["node2.nic1"] == 49e9  # NDR and HDR, on one switch
    assert sorted(to for _, to in graph.out_edges("eth_leaf0")) == ["node0.eth0", "node1.eth0"]
    found = checked(topology)
    assert (found.gpus, found.nodes, found.gpu_models) == (28, 3, ("h100-sxm", "l40s"))


def test_between_kinds_the_slower_nic_is_the_bound(tmp_path):
    network = Network(load_topology(pair(tmp_path)).graph)
    within = network.path("node0.gpu0", "node1.gpu0")
    between = network.path("node0.gpu0", "node2.gpu0")
    rates = [min(network.capacity[link] for link in path.links) for path in (within, between)]
    assert rates == [pytest.approx(49e9), pytest.approx(24.5e9)]


def test_more_servers_than_ports_are_joined_by_leaves_and_spines(tmp_path):
    many = PAIR.replace("nodes: 2", "nodes: 6").replace("l40s-12", "{topology: l40s-12, nodes: 10}")
    graph = load_topology(pair(tmp_path, many)).graph
    assert sum(place.startswith("spine") for place in graph) > 0
    for server in range(16):
        assert any(graph.successors(f"node{server}.nic1"))
    Network(graph).path("node0.gpu7", "node15.gpu11")


def test_what_cannot_stand_beside_each_other_is_refused_where_it_is_written(tmp_path):
    wrong = {
        "nd-h100-v5, nodes: 2": (
            "nd-h10-v5, nodes: 2",
            "pair.yaml:4: systems.quick: .*did you mean 'nd-h100-v5'",
        ),
        "nodes: 2": ("nods: 2", "pair.yaml:4: systems.quick: nods: not a known key"),
        "cheap: l40s-12": ("cheap: rtx-4090-x4", "systems.cheap: rtx-4090-x4 has no scale_out"),
        "systems:": ("nodes: 2\nsystems:", "nodes belong to each of the systems"),
    }
    for old, (new, said) in wrong.items():
        with pytest.raises(InputError, match=said):
            load_topology(pair(tmp_path, PAIR.replace(old, new)))


def test_a_scenario_writes_systems_in_place_and_changes_reach_each_of_them():
    scenario = Scenario.model_validate(
        {
            "topology": {"systems": {"quick": "nd-h100-v5", "cheap": "l40s-12"}},
            "model": "llama-3-8b",
            "pools": {"one": {"gpu": "l40s"}},
            "workload": {
                "arrivals": {"kind": "burst"},
                "prompt_tokens": 500,
                "output_tokens": 5,
                "requests": 2,
            },
        }
    )
    assert scenario.topology.name == "quick and cheap"
    result = simulate(scenario)
    assert result.gpus.filter(result.gpus["busy_s"] > 0.0)["gpu"].to_list() == ["node1.gpu0"]
    more = with_changes(
        scenario,
        {
            "topology.systems.cheap.nodes": 3,
            "topology.systems.quick.links.infiniband-ndr.bytes_per_s": "x0.5",
            "topology.systems.cheap.gpus.l40s.hbm_bytes_per_s": "x2",
        },
    )
    assert more.nodes == 4
    assert more.topology.graph.edges["leaf0", "node0.nic0"]["bytes_per_s"] == pytest.approx(24.5e9)
    assert simulate(more).end_s < result.end_s
