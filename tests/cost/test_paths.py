from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest

from sim.cost.collectives.demands import demand
from sim.cost.collectives.send_graphs import send_graph
from sim.cost.network import Network
from sim.cost.paths import Path
from sim.inputs.errors import InfeasibleError
from tests.cost.small_graphs import MEMORY, NIC, PCIE, servers, wire


def routed(graph: nx.DiGraph, routing: str) -> nx.DiGraph:
    for _, place in graph.nodes(data=True):
        if place["kind"] == "switch":
            place["routing"] = routing
    return graph


def names(network: Network, path: Path) -> list[str]:
    return [network.links[link] for link in path.links]


def test_latency_is_the_sum_of_edges_and_of_the_places_between() -> None:
    graph = servers(latency_s=0.2e-6)
    for chip in range(4):
        graph.nodes[f"node0.nvswitch{chip}"]["latency_s"] = 0.12e-6
    assert Network(graph).path("node0.gpu0", "node0.gpu1").latency_s == pytest.approx(0.52e-6)


def test_direct_nvlink_is_taken_before_anything_else() -> None:
    graph = servers(gpus=2, chips=0)
    wire(graph, "node0.gpu0", "node0.gpu1", 100e9)
    network = Network(graph)
    assert names(network, network.path("node0.gpu0", "node0.gpu1")) == ["node0.gpu0->node0.gpu1"]


def test_pcie_peers_turn_round_at_the_nearest_common_place() -> None:
    network = Network(servers(chips=0, gpus_per_switch=2))
    same_switch = network.path("node0.gpu0", "node0.gpu1")
    assert names(network, same_switch) == ["node0.gpu0->node0.pcie0", "node0.pcie0->node0.gpu1"]
    across = names(network, network.path("node0.gpu0", "node0.gpu7"))
    assert across[2] == "node0.host0->node0.host1"
    assert "node0.host0" not in across
    assert same_switch.medium == "pcie"


def test_acs_sends_peer_traffic_up_to_the_root_complex() -> None:
    network = Network(servers(chips=0, gpus_per_switch=2, acs=True))
    path = names(network, network.path("node0.gpu0", "node0.gpu1"))
    assert path == [
        "node0.gpu0->node0.pcie0",
        "node0.pcie0->node0.host0",
        "node0.host0->node0.pcie0",
        "node0.pcie0->node0.gpu1",
    ]


def test_a_root_complex_that_does_not_forward_peers_stages_what_turns_round_there() -> None:
    graph = servers(chips=0, gpus_per_switch=2)
    for host in ("node0.host0", "node0.host1"):
        graph.nodes[host]["forwards_peers"] = False
    network = Network(graph)
    assert network.path("node0.gpu0", "node0.gpu1").medium == "pcie"
    across = network.path("node0.gpu0", "node0.gpu7")
    assert across.medium == "host"
    assert names(network, across)[-1] == "node0.host1"


def test_peer_to_peer_off_stages_everything_in_host_memory_even_with_nvlink() -> None:
    network = Network(servers(peer_to_peer=False))
    path = network.path("node0.gpu0", "node0.gpu1")
    assert path.medium == "host"
    assert names(network, path)[-1] == "node0.host0"
    assert network.capacity[path.links[-1]] == MEMORY
    assert not network.same_domain(network.gpus[:2])


def test_between_servers_each_gpu_uses_the_nic_of_its_rail() -> None:
    network = Network(servers(nodes=2))
    assert names(network, network.path("node0.gpu3", "node1.gpu3")) == [
        "node0.gpu3->node0.pcie3", "node0.pcie3->node0.nic3", "node0.nic3->leaf3",
        "leaf3->node1.nic3", "node1.nic3->node1.pcie3", "node1.pcie3->node1.gpu3",
    ]  # fmt: skip


def test_two_gpus_and_two_nics_on_one_switch_pair_up() -> None:
    network = Network(servers(nodes=2, gpus_per_switch=2))
    assert [network.nics_of(gpu)[0] for gpu in network.gpus[:4]] == [f"node0.nic{rail}" for rail in range(4)]


def test_traffic_to_another_rail_crosses_nvlink_first() -> None:
    network = Network(servers(nodes=2, spines=2))
    path = names(network, network.path("node0.gpu1", "node1.gpu6"))
    assert path[:2] == ["node0.gpu1->nvlink0", "nvlink0->node0.gpu6"]
    assert "node0.nic6->leaf6" in path
    assert not any("spine" in link for link in path)


def test_without_nvlink_another_rail_is_reached_over_all_spines_as_over_one_link() -> None:
    network = Network(servers(nodes=4, chips=0, spines=4))
    path = names(network, network.path("node0.gpu1", "node3.gpu6"))
    assert path[3:5] == ["leaf1->spines", "spines->leaf6"]
    assert network.capacity[network.link_id["leaf1->spines"]] == pytest.approx(4 * NIC)


def test_a_static_hash_gives_each_pair_of_nics_one_way_up_and_some_pairs_the_same() -> None:
    network = Network(routed(servers(nodes=16, chips=0, spines=4), "static"))
    used = [
        link
        for node in range(1, 16)
        for link in names(network, network.path("node0.gpu1", f"node{node}.gpu6"))
        if "leaf1->spine" in link
    ]
    assert len(used) == 15
    assert len(set(used)) == 4
    again = Network(routed(servers(nodes=16, chips=0, spines=4), "static"))
    assert names(again, again.path("node0.gpu1", "node9.gpu6")) == names(
        network, network.path("node0.gpu1", "node9.gpu6")
    )


def test_a_static_hash_chooses_among_parallel_links_too() -> None:
    graph = routed(servers(nodes=16, chips=0, spines=1), "static")
    for edge in (("leaf1", "spine0"), ("spine0", "leaf6")):
        graph.edges[edge]["count"] = 16
    network = Network(graph)
    assert network.capacity[network.link_id["leaf1->spine0#15"]] == pytest.approx(NIC)
    used = {
        next(
            link
            for link in names(network, network.path("node0.gpu1", f"node{node}.gpu6"))
            if "leaf1->" in link
        )
        for node in range(1, 16)
    }
    assert 5 < len(used) < 15


def test_adaptive_routing_over_three_tiers_spreads_by_the_links_onward() -> None:
    """Two pods with two spines each; four cores, of which the first two join the first spines of the pods."""
    graph: nx.DiGraph = nx.DiGraph(gpus=["node0.gpu0", "node1.gpu0"])
    for pod in range(2):
        for kind, name in (("gpu", "gpu0"), ("host", "host0"), ("nic", "nic0")):
            more = {"model": "h100-sxm"} if kind == "gpu" else {}
            graph.add_node(f"node{pod}.{name}", kind=kind, node=pod, index=0, **more)
        graph.add_node(f"leaf{pod}", kind="switch", node=-1, index=pod)
        wire(graph, f"node{pod}.gpu0", f"node{pod}.host0", PCIE)
        wire(graph, f"node{pod}.host0", f"node{pod}.nic0", PCIE)
        wire(graph, f"node{pod}.nic0", f"leaf{pod}", NIC)
        for plane in range(2):
            graph.add_node(f"spine{pod}{plane}", kind="switch", node=-1, index=10 + 2 * pod + plane)
            wire(graph, f"leaf{pod}", f"spine{pod}{plane}", NIC * (1 + 2 * plane))
    for core in range(4):
        graph.add_node(f"core{core}", kind="switch", node=-1, index=20 + core)
        for pod in range(2):
            wire(graph, f"core{core}", f"spine{pod}{core // 2}", NIC, 1e-6 * core)
    network = Network(graph)
    path = network.path("node0.gpu0", "node1.gpu0")
    share = {network.links[link]: part for link, part in path.bytes_on_links(1.0)}
    assert share["leaf0->spine00"] == pytest.approx(0.25)
    assert share["leaf0->spine01"] == share["spine11->leaf1"] == pytest.approx(0.75)
    assert share["node0.nic0->leaf0"] == share["leaf1->node1.nic0"] == 1.0
    assert sum(part for link, part in share.items() if "->core" in link) == pytest.approx(1.0)
    assert "spine00->cores" in share, "two cores over the same spines are one"
    assert path.latency_s == pytest.approx(5e-6), (
        "the longest way, by the last two cores, in the mean of these"
    )


def test_tcp_leaves_through_host_memory_and_the_ethernet_port() -> None:
    network = Network(servers(nodes=2, ethernet=10e9, inter_node="tcp"))
    path = network.path("node0.gpu7", "node1.gpu0")
    assert path.medium == "tcp"
    assert "node0.eth0->tor" in names(network, path)
    assert {"node0.host1", "node1.host0"} <= set(names(network, path))


def test_a_gpu_reaches_its_host_and_a_store_behind_it() -> None:
    graph = servers(nodes=2)
    graph.add_node("node0.nvme0", kind="store", node=0, index=0)
    wire(graph, "node0.nvme0", "node0.host0", 7e9)
    graph.add_node("vault", kind="store", node=-1, index=0)
    wire(graph, "vault", "leaf0", 40e9)
    network = Network(graph)
    assert names(network, network.path("node0.gpu0", "node0.host0"))[-1] == "node0.host0"
    assert "node0.nvme0->node0.host0" in names(network, network.path("node0.nvme0", "node0.gpu2"))
    assert "node0.nic0->leaf0" in names(network, network.path("node0.gpu0", "vault"))
    assert network.path("vault", "node1.gpu0").medium == "infiniband"


def test_a_pair_without_a_path_is_refused_by_name() -> None:
    graph = nx.DiGraph(gpus=["node0.gpu0", "node1.gpu0"])
    for node in range(2):
        graph.add_node(f"node{node}.gpu0", kind="gpu", node=node, index=0)
    with pytest.raises(InfeasibleError, match=r"no path from node0\.gpu0 to node1\.gpu0"):
        Network(graph).path("node0.gpu0", "node1.gpu0")
    with pytest.raises(InfeasibleError, match="no place"):
        Network(graph).path("node0.gpu0", "elsewhere")


def test_every_link_on_a_path_joins_the_next() -> None:
    network = Network(servers(nodes=3, spines=2, chips=0))
    for target in network.gpus[1:]:
        hops = [link.split("->") for link in names(network, network.path("node0.gpu0", target))]
        assert hops[0][0] == "node0.gpu0"
        assert hops[-1][1] == target
        assert all(here[1] == there[0] for here, there in pairwise(hops))


def with_nics(gpus: int, nics: dict[str, tuple[str, float]], nodes: int = 2) -> Network:
    """Servers of GPUs on one PCIe switch with NICs, each with its leaf and its rate."""
    graph = nx.DiGraph(gpus=[f"node{node}.gpu{i}" for node in range(nodes) for i in range(gpus)])
    for number, leaf in enumerate(sorted({leaf for leaf, _ in nics.values()})):
        graph.add_node(leaf, kind="switch", node=-1, index=number)
    for node in range(nodes):
        graph.add_node(f"node{node}.pcie0", kind="pcie_switch", node=node, index=0)
        for i in range(gpus):
            graph.add_node(f"node{node}.gpu{i}", kind="gpu", node=node, index=i, domain=2 * node + i)
            wire(graph, f"node{node}.gpu{i}", f"node{node}.pcie0", 400e9)
        for index, (nic, (leaf, bytes_per_s)) in enumerate(nics.items()):
            name = f"node{node}.{nic}"
            graph.add_node(name, kind="nic", node=node, index=index, transport="infiniband")
            wire(graph, f"node{node}.pcie0", name, 400e9)
            wire(graph, name, leaf, bytes_per_s, latency_s=1e-6)
    return Network(graph)


def on_leaves(network: Network, source: str, target: str) -> dict[str, float]:
    load = network.path(source, target).bytes_on_links(1.0)
    return {network.links[link]: n for link, n in load if "leaf" in network.links[link]}


@pytest.mark.parametrize("leaves", [("leaf0", "leaf0"), ("leaf0", "leaf1")])
def test_a_gpu_with_two_nics_to_itself_sends_half_through_each(leaves: tuple[str, str]) -> None:
    network = with_nics(1, {f"nic{i}": (leaf, 12e9) for i, leaf in enumerate(leaves)})
    path = network.path("node0.gpu0", "node1.gpu0")
    assert on_leaves(network, "node0.gpu0", "node1.gpu0") == {
        **{f"node0.nic{i}->{leaf}": 0.5 for i, leaf in enumerate(leaves)},
        **{f"{leaf}->node1.nic{i}": 0.5 for i, leaf in enumerate(leaves)},
    }
    assert path.bytes_per_s(network.capacity) == 24e9
    assert path.latency_s == pytest.approx(2e-6)
    assert network.bisection_bytes_per_s() == 24e9


def test_nics_of_unequal_rates_are_busy_alike() -> None:
    network = with_nics(1, {"nic0": ("leaf0", 10e9), "nic1": ("leaf1", 30e9)})
    assert network.path("node0.gpu0", "node1.gpu0").bytes_per_s(network.capacity) == pytest.approx(40e9)


def test_gpus_share_out_the_nics_beside_them_and_one_rail_more_is_never_slower() -> None:
    network = with_nics(2, {f"nic{i}": (f"leaf{i}", 12e9) for i in range(4)})
    assert set(on_leaves(network, "node0.gpu0", "node1.gpu0")) == {
        "node0.nic0->leaf0", "leaf0->node1.nic0", "node0.nic2->leaf2", "leaf2->node1.nic2",
    }  # fmt: skip
    assert len(on_leaves(network, "node0.gpu1", "node1.gpu0")) == 4  # to its neighbour's, on its own rails
    rates = []
    for count in range(1, 6):
        network = with_nics(2, {f"nic{i}": (f"leaf{i}", 12e9) for i in range(count)})
        bare = demand(network, "all_to_all", "direct", 1.0, network.gpus)
        rates.append(1.0 / bare.isolated_s(network.capacity))
    assert rates == sorted(rates)
    one_each = with_nics(2, {f"nic{i}": (f"leaf{i}", 12e9) for i in range(2)})
    assert one_each.path("node0.gpu0", "node1.gpu0").shares == ()


@pytest.mark.parametrize(("op", "algorithm"), [("all_gather", "ring"), ("send_recv", "direct")])
def test_a_collective_over_gpus_with_two_nics_runs_at_the_rate_of_both(op: str, algorithm: str) -> None:
    network = with_nics(1, {f"nic{i}": (f"leaf{i}", 12e9) for i in range(2)})
    bare = demand(network, op, algorithm, 1e9, network.gpus)
    assert bare.isolated_s(network.capacity) == pytest.approx(
        (0.5 if op == "all_gather" else 1.0) * 1e9 / 24e9
    )
    carried: dict[int, float] = {}
    for send in send_graph(network, op, algorithm, 1e9, network.gpus):
        for link, n_bytes in send.load().items():
            carried[link] = carried.get(link, 0.0) + n_bytes
    assert carried == {link: pytest.approx(n) for link, n in zip(bare.links, bare.n_bytes, strict=True)}


def test_of_more_gpus_than_nics_those_left_over_send_through_one_nic() -> None:
    network = Network(servers(nodes=2, nics=4, gpus_per_switch=4))
    for gpu in range(4):
        path = network.path(f"node0.gpu{gpu}", f"node1.gpu{gpu}")
        assert sum("->leaf" in name for name in names(network, path)) == 1


def test_a_nic_is_found_where_a_gpu_s_bytes_go_out() -> None:
    graph = servers(nodes=2)
    graph.remove_edge("node0.nic0", "node0.pcie0")
    assert Network(graph).nics_of("node0.gpu0")[0] == "node0.nic0"


def test_a_nic_reaches_other_servers_itself_and_a_host_there_takes_bytes_into_its_memory() -> None:
    network = Network(servers(nodes=2))
    assert names(network, network.path("node0.nic3", "node1.gpu3"))[0] == "node0.nic3->leaf3"
    assert "node1.host0" in names(network, network.path("node0.gpu0", "node1.host0"))
    assert "node1.host0" not in names(network, network.path("node0.gpu0", "node1.gpu0"))
