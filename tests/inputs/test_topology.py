from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError, InputError
from sim.inputs.hardware import LinkType
from sim.inputs.parts import Part, ScaleOut, Transport, Wire
from sim.inputs.server_graph import edge_attributes
from sim.inputs.topology import Topology
from sim.inputs.topology_check import refuse_unreachable

LINKS = {
    "fast": LinkType(name="fast", bytes_per_s=100e9, efficiency=0.8, latency_s=1e-6),
    "cable": LinkType(name="cable", bytes_per_s=50e9, latency_s=1e-7),
}


def cluster(nodes: int = 1, **changes: Any) -> Topology:
    """Two GPUs on a switch and a NIC for each of them."""
    written: dict[str, Any] = {
        "name": "small",
        "nodes": nodes,
        "parts": {
            "gpu": Part(kind="gpu", count=2, model="g"),
            "nvswitch": Part(kind="nvswitch", count=3, reduces=True, latency_s=2e-7),
            "pcie": Part(kind="pcie_switch"),
            "nic": Part(kind="nic", count=2),
            "eth": Part(kind="nic", transport="ethernet"),
        },
        "wires": [
            {"from": "gpu", "to": "nvswitch", "pattern": "all", "link": "fast", "links": [2, 1, 1]},
            {"from": "gpu", "to": "pcie", "pattern": "all", "link": "cable"},
            {"from": "nic", "to": "pcie", "pattern": "all", "link": "cable"},
            {"from": "eth", "to": "pcie", "pattern": "all", "link": "cable"},
        ],
        "scale_out": [
            ScaleOut(of="nic", link="cable", switch_ports=8, latency_s=3e-7),
            ScaleOut(of="eth", link="cable", switch_ports=16, latency_s=3e-7, name="eth_"),
        ],
        "links": LINKS,
    }
    return Topology.model_validate({**written, **changes})


def test_an_edge_has_the_payload_of_its_parallel_links_in_both_directions() -> None:
    graph = cluster().graph
    expected = {"bytes_per_s": 2 * 100e9 * 0.8, "latency_s": 1e-6, "link": "fast", "count": 2}
    assert graph.edges["node0.gpu1", "node0.nvswitch0"] == expected
    assert graph.edges["node0.nvswitch0", "node0.gpu1"] == expected


def test_a_latency_that_is_left_out_is_marked_and_0_is_a_latency() -> None:
    graph = cluster().graph
    assert graph.nodes["node0.pcie0"]["latency_unknown"]
    assert "latency_unknown" not in graph.nodes["node0.nvswitch0"]
    silent = LinkType(name="wire", bytes_per_s=1e9)
    assert edge_attributes(silent, 1)["latency_unknown"]
    assert "latency_unknown" not in edge_attributes(silent.model_copy(update={"latency_s": 0.0}), 1)


def test_nodes_say_what_they_are() -> None:
    graph = cluster(nodes=2).graph
    assert graph.nodes["node1.gpu1"] == {
        "kind": "gpu", "node": 1, "index": 1, "domain": 1, "model": "g", "latency_s": 0.0,
    }  # fmt: skip
    assert graph.nodes["node0.nvswitch2"]["reduces"] is True
    assert graph.nodes["node0.nic1"]["transport"] == "infiniband"
    assert graph.nodes["node0.eth0"]["transport"] == "ethernet"
    assert graph.nodes["node0.eth0"]["index"] == 2, "the index counts within the kind and the server"
    assert graph.nodes["leaf0"]["node"] == -1
    assert "bytes_per_s" not in graph.nodes["node0.pcie0"], "only what can block has a capacity of its own"


def test_gpus_are_in_rank_order() -> None:
    assert cluster(nodes=2).graph.graph["gpus"] == ["node0.gpu0", "node0.gpu1", "node1.gpu0", "node1.gpu1"]


def test_a_gpu_without_nvlink_is_a_domain_by_itself() -> None:
    apart = Topology(
        name="apart",
        parts={"gpu": Part(kind="gpu", count=3, model="g"), "host": Part(kind="host")},
        wires=(Wire.model_validate({"from": "gpu", "to": "host", "pattern": "all", "link": "cable"}),),
        links=LINKS,
    )
    assert [apart.graph.nodes[gpu]["domain"] for gpu in apart.graph.graph["gpus"]] == [0, 1, 2]


def test_one_switch_joins_what_fits_on_it() -> None:
    graph = cluster(nodes=4).graph
    switches = [place for place, kind in graph.nodes(data="kind") if kind == "switch"]
    assert switches == ["leaf0", "eth_leaf0"]


def test_more_servers_take_leaves_per_rail_and_spines() -> None:
    graph = cluster(
        nodes=6
    ).graph  # 12 NICs on 8-port switches: 4 down and 4 up, 2 units of 4 servers, 2 rails
    for server in range(6):
        for rail in range(2):
            assert graph.has_edge(f"node{server}.nic{rail}", f"leaf{server // 4 * 2 + rail}")
    spines = sorted(place for place in graph if place.startswith("spine"))
    assert spines == ["spine0", "spine1"], "4 leaves x 4 uplinks fill 2 spines of 8 ports"
    assert graph.edges["leaf3", "spine1"]["count"] == 2


@pytest.mark.parametrize("nodes", [5, 6, 9, 13, 16])
def test_no_switch_of_a_fat_tree_has_more_links_than_ports_and_the_way_up_is_as_wide_as_the_way_down(
    nodes: int,
) -> None:
    graph = cluster(nodes=nodes).graph
    for switch in (place for place in graph if place.startswith(("leaf", "spine"))):
        assert sum(edge["count"] for _, _, edge in graph.out_edges(switch, data=True)) <= 8
    for leaf in (place for place in graph if place.startswith("leaf")):
        up = sum(edge["count"] for _, to, edge in graph.out_edges(leaf, data=True) if to.startswith("spine"))
        assert up == 4


def test_two_tiers_have_an_end() -> None:
    assert cluster(nodes=16).graph.has_node("leaf7")
    with pytest.raises(
        InfeasibleError,
        match="17 servers with 34 NICs exceed two tiers of 8-port switches; 16 servers fit",
    ):
        _ = cluster(nodes=17).graph


def test_oversubscription_is_a_matter_of_ports() -> None:
    network = ScaleOut(of="nic", link="cable", switch_ports=8, down_ports=6, latency_s=0.0)
    graph = cluster(nodes=6, scale_out=[network]).graph
    up = sum(edge["count"] for _, to, edge in graph.out_edges("leaf0", data=True) if to.startswith("spine"))
    assert up == 2
    with pytest.raises(
        ValidationError, match="leaves none of 8 switch_ports to go up; 4 keeps full bisection"
    ):
        ScaleOut(of="nic", link="cable", switch_ports=8, down_ports=8, latency_s=0.0)


def test_servers_without_a_network_cannot_be_joined() -> None:
    with pytest.raises(InfeasibleError, match="nodes: 1 can, or a topology with a scale_out block"):
        cluster(nodes=2, scale_out=[])


def test_a_transport_decides_which_nics_carry_and_how_much() -> None:
    slow = cluster(
        nodes=2,
        transports={"sick": Transport(kind="infiniband", hop_s=2e-5, bytes_per_s=10e9)},
    ).with_inter_node("sick")
    assert slow.graph.graph["inter_node"] == "infiniband"
    assert slow.graph.graph["transport"] == "sick"
    assert slow.graph.graph["transport_hop_s"] == 2e-5
    assert slow.graph.edges["node0.nic0", "leaf0"]["bytes_per_s"] == 5e9, "10 GB/s per server over two NICs"
    assert slow.graph.edges["node0.eth0", "eth_leaf0"]["bytes_per_s"] == 50e9
    assert cluster(nodes=2, inter_node="tcp").graph.graph["inter_node"] == "tcp"


def test_an_unknown_transport_is_refused_by_name() -> None:
    with pytest.raises(
        ValidationError, match="'smoke' is not a transport of small; infiniband, roce, efa, tcp are"
    ):
        cluster(inter_node="smoke")
    with pytest.raises(InputError, match="'smoke' is not a transport of small"):
        cluster().with_inter_node("smoke")


def test_properties_of_the_system_are_properties_of_the_graph() -> None:
    graph = cluster(peer_to_peer=False, acs=True).graph
    assert (graph.graph["name"], graph.graph["peer_to_peer"], graph.graph["acs"]) == ("small", False, True)


def test_a_copy_with_other_links_has_another_graph() -> None:
    topology = cluster()
    before = topology.graph
    faster = topology.model_copy(
        update={"links": {**LINKS, "cable": LinkType(name="cable", bytes_per_s=99e9)}}
    )
    assert faster.graph.edges["node0.gpu0", "node0.pcie0"]["bytes_per_s"] == 99e9
    assert topology.graph is before, "and the graph of one topology is built once"


def test_a_topology_survives_copies_pickles_and_json() -> None:
    topology = cluster(nodes=2)
    graph = topology.graph
    for other in (
        copy.deepcopy(topology),
        pickle.loads(pickle.dumps(topology)),
        Topology.model_validate(topology.model_dump()),
        Topology.model_validate(dict(topology)),
        Topology.model_validate_json(topology.model_dump_json(by_alias=True)),
    ):
        assert other == topology
        assert dict(other.graph.adjacency()) == dict(graph.adjacency())


def test_a_description_that_is_not_whole_is_refused_with_all_its_faults() -> None:
    with pytest.raises(ValidationError) as refusal:
        cluster(
            wires=[
                {"from": "gpu", "to": "nvswich", "pattern": "all", "link": "fast"},
                {"from": "gpu", "to": "pcie", "pattern": "one_to_one", "link": "fest"},
            ],
            scale_out=[ScaleOut(of="pcie", link="cable", latency_s=0.0)],
        )
    text = str(refusal.value)
    assert "wires.0: 'nvswich' is not a part" in text
    assert "wires.1: 'fest' is not a type of link; fast, cable are" in text
    assert "wires.1: one_to_one joins equal numbers" in text
    assert "scale_out.0: of: 'pcie' is not a part of kind nic; nic, eth is" in text


def test_two_types_of_link_between_the_same_places_are_refused() -> None:
    with pytest.raises(ValidationError, match="gpu0 and pcie0 are joined by cable already"):
        cluster(
            wires=[
                {"from": "gpu", "to": "pcie", "pattern": "all", "link": "cable"},
                {"from": "gpu", "to": "pcie", "pattern": "all", "link": "fast"},
            ]
        )


def test_a_wire_written_twice_is_twice_the_links() -> None:
    one = {"from": "gpu", "to": "pcie", "pattern": "all", "link": "cable"}
    assert cluster(wires=[one, one]).graph.edges["node0.gpu0", "node0.pcie0"]["count"] == 2


def test_a_system_needs_a_gpu_and_has_a_limit() -> None:
    with pytest.raises(ValidationError, match="no part has kind gpu"):
        Topology(name="none", parts={"host": Part(kind="host")})
    with pytest.raises(ValidationError, match="500000 are the most that is simulated"):
        cluster(nodes=16_384, parts={"gpu": Part(kind="gpu", model="g", count=4096)}, wires=[], scale_out=[])
    with pytest.raises(ValidationError, match="less than or equal to 16384"):
        cluster(nodes=16_385)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "gpu"}, "a gpu needs a model"),
        ({"kind": "host", "model": "h100-sxm"}, "a host has none"),
        ({"kind": "gpu", "model": "g", "transport": "ethernet"}, "transport is for nics"),
        ({"kind": "nic", "reduces": True}, "reduces is for switches"),
    ],
)
def test_fields_of_a_part_belong_to_its_kind(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Part.model_validate(fields)


def test_a_server_with_roce_cards_alone_is_joined_by_them() -> None:
    """RoCE is a kind of its own: its cards do not carry InfiniBand, and no transport has to be named."""
    parts = {**cluster().parts, "nic": Part(kind="nic", count=2, transport="roce")}
    described = cluster(parts=parts, nodes=2)
    assert (described.inter_node, described.graph.graph["inter_node"]) == ("roce", "roce")
    network = Network(described.graph)
    across = network.path(network.gpus[0], network.gpus[-1])
    assert across.medium == "roce"
    alone = cluster(parts=parts, nodes=2, inter_node="infiniband")
    with pytest.raises(
        InfeasibleError, match=r"no NIC is for infiniband; inter_node: roce, or transport: infini"
    ):
        refuse_unreachable(alone.graph)
