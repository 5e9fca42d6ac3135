"""The shipped systems, held against what is published about them."""

from __future__ import annotations

import re
from pathlib import Path

import networkx as nx
import pytest
import yaml

from sim import catalog
from sim.inputs.errors import InfeasibleError
from sim.inputs.provenance import TAGS
from sim.inputs.topology_check import (
    bisection_bytes_per_s,
    checked,
    in_domain_bytes_per_s,
    refuse_unreachable,
)
from sim.reading.data_files import topologies

SYSTEMS = catalog.list_topologies()
DESCRIBED = {name: catalog.load_topology(name) for name in SYSTEMS}
CLUSTERS = [name for name, one in DESCRIBED.items() if one.scale_out and one.domain is None]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_gpu_of_a_system_reaches_every_other(name: str) -> None:
    refuse_unreachable(catalog.load_topology(name).graph)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize("nodes", [2, 3, 40])
def test_every_gpu_of_a_cluster_reaches_every_other(name: str, nodes: int) -> None:
    refuse_unreachable(
        catalog.load_topology(
            name, nodes=min(nodes, 8) if DESCRIBED[name].gpus_per_node > 16 else nodes
        ).graph
    )


@pytest.mark.parametrize("name", [name for name in SYSTEMS if DESCRIBED[name].domain is None])
def test_the_graph_keeps_the_contract_with_those_who_use_it(name: str) -> None:
    topology = catalog.load_topology(name, nodes=2 if name in CLUSTERS else None)
    graph = topology.graph
    kinds = {"gpu", "nvswitch", "pcie_switch", "host", "nic", "switch", "store"}
    for place, attributes in graph.nodes(data=True):
        assert attributes["kind"] in kinds
        assert attributes["latency_s"] >= 0
        assert attributes["node"] == (
            -1 if attributes["kind"] == "switch" else int(place[4 : place.index(".")])
        )
        assert isinstance(attributes["index"], int)
        if attributes["kind"] == "gpu":
            assert attributes["model"] in topology.gpus
        if attributes["kind"] in ("gpu", "nvswitch"):
            assert isinstance(attributes["domain"], int)
    for one, other, edge in graph.edges(data=True):
        assert edge == graph.edges[other, one]
        assert edge["bytes_per_s"] == topology.links[edge["link"]].payload_bytes_per_s * edge["count"]
        assert 0 < edge["latency_s"] < 1e-5
    ranks = [(graph.nodes[gpu]["node"], graph.nodes[gpu]["index"]) for gpu in graph.graph["gpus"]]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("name", "raw_gb_per_s", "links_per_gpu", "chips"),
    [
        ("a100-x4", 300, 12, 6),
        ("dgx-a100", 300, 12, 6),
        ("nd-h100-v5", 450, 18, 4),
        ("hgx-h200", 450, 18, 4),
        ("hgx-b200", 900, 18, 2),
        ("hgx-b300", 900, 18, 2),
        ("gb200-nvl72", 900, 18, 18),
        ("gb300-nvl72", 900, 18, 18),
        ("hgx-h20", 450, 18, 4),
        ("hgx-h800", 200, 8, 4),
        ("hgx-a800", 200, 8, 6),
        ("vr-nvl72", 1800, 36, 36),
    ],
)
def test_nvlink_is_what_the_datasheet_says(
    name: str, raw_gb_per_s: float, links_per_gpu: int, chips: int
) -> None:
    topology = catalog.load_topology(name)
    graph = topology.graph
    assert checked(topology).in_domain_raw_bytes_per_s == raw_gb_per_s * 1e9
    for gpu in graph.graph["gpus"]:
        up = [edge["count"] for _, to, edge in graph.out_edges(gpu, data=True) if "nvswitch" in to]
        assert (sum(up), len(up)) == (links_per_gpu, chips)


def test_an_h100_has_five_four_four_and_five_links_to_the_four_switches() -> None:
    graph = catalog.load_topology("nd-h100-v5").graph
    assert [graph.edges["node0.gpu6", f"node0.nvswitch{i}"]["count"] for i in range(4)] == [5, 4, 4, 5]


def test_an_nvl72_rack_has_1296_links_between_72_gpus_and_18_chips() -> None:
    figures = checked(catalog.load_topology("gb200-nvl72"))
    assert figures.links["nvlink5"] == 72 * 18 == 1296
    assert (figures.domains, figures.largest_domain) == (1, 72)
    assert figures.bisection_bytes_per_s == pytest.approx(36 * 900e9 * 0.8)


def test_losing_one_of_18_chips_costs_an_eighteenth_and_a_switch_tray_a_ninth() -> None:
    graph = catalog.load_topology("gb200-nvl72").graph
    whole = in_domain_bytes_per_s(graph, "node0.gpu0")
    without = graph.subgraph(set(graph) - {"node0.nvswitch7"})
    assert in_domain_bytes_per_s(without, "node0.gpu0") == pytest.approx(whole * 17 / 18)
    tray = graph.subgraph(set(graph) - {"node0.nvswitch6", "node0.nvswitch7"})
    assert in_domain_bytes_per_s(tray, "node0.gpu0") == pytest.approx(whole * 8 / 9)


def test_a_tray_of_an_nvl72_has_two_graces_four_gpus_and_four_nics() -> None:
    graph = catalog.load_topology("gb200-nvl72", nodes=2).graph
    tray = {"node1.host34", "node1.host35"}
    around = {place for host in tray for place in graph.successors(host)}
    assert around == {f"node1.gpu{i}" for i in range(68, 72)} | {f"node1.nic{i}" for i in range(68, 72)}
    leaves = [
        next(place for place in graph.successors(f"node1.nic{i}") if "leaf" in place) for i in range(68, 72)
    ]
    assert len(set(leaves)) == 4, "NICs of one tray are on four rails"


@pytest.mark.slow
def test_eight_racks_are_576_gpus_with_18_times_less_between_racks_than_within() -> None:
    figures = checked(catalog.load_topology("gb200-nvl72", nodes=8))
    assert figures.gpus == 576
    assert figures.across_bytes_per_s == pytest.approx(400e9 / 8 * 0.98)
    assert figures.in_domain_raw_bytes_per_s == 18 * 50e9
    newer = checked(catalog.load_topology("gb300-nvl72", nodes=8))
    assert newer.across_bytes_per_s == pytest.approx(800e9 / 8 * 0.98)


def test_nd_h100_v5_is_laid_out_as_azure_s_file_says() -> None:
    graph = catalog.load_topology("nd-h100-v5").graph
    for i in range(8):
        assert set(graph.successors(f"node0.pcie{i}")) == {
            f"node0.gpu{i}",
            f"node0.nic{i}",
            f"node0.host{i // 4}",
        }
    assert set(graph.successors("node0.eth0")) == {"node0.host0"}
    assert graph.has_edge("node0.host0", "node0.host1")


def test_the_bisection_of_eight_h100_is_four_times_450_gb_per_s_before_overhead() -> None:
    figures = checked(catalog.load_topology("nd-h100-v5"))
    assert figures.bisection_bytes_per_s == pytest.approx(4 * 450e9 * 0.82)
    assert figures.across_bytes_per_s is None


def test_two_h100_servers_have_eight_rails_between_them() -> None:
    figures = checked(catalog.load_topology("nd-h100-v5", nodes=2))
    assert figures.bisection_bytes_per_s == pytest.approx(8 * 50e9 * 0.98)
    assert figures.across_bytes_per_s == pytest.approx(49e9)


def test_over_tcp_two_h100_servers_have_one_ethernet_port_between_them() -> None:
    topology = catalog.load_topology("nd-h100-v5", nodes=2).with_inter_node("tcp-eth0")
    assert checked(topology).bisection_bytes_per_s == pytest.approx(10e9 * 0.76)
    assert topology.transport.hop_s == pytest.approx(52.2e-6)


@pytest.mark.parametrize(
    "name", ["ib-nccl-model", "ib_typical", "ib-degraded", "tcp_eth0", "infiniband", "tcp"]
)
def test_the_transports_between_h100_servers_have_names(name: str) -> None:
    graph = catalog.load_topology("nd-h100-v5", nodes=2).with_inter_node(name).graph
    assert graph.graph["inter_node"] == ("tcp" if name.startswith("tcp") else "infiniband")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "leaves", "spines"), [(8, 1, 0), (9, 8, 4), (32, 8, 4), (64, 16, 8), (256, 64, 32)]
)
def test_rails_of_32_servers_share_a_leaf_up_to_2048_nics(nodes: int, leaves: int, spines: int) -> None:
    graph = catalog.load_topology("nd-h100-v5", nodes=nodes).graph
    names = [place for place in graph if re.fullmatch(r"(leaf|spine)\d+", place)]
    assert sum(name.startswith("leaf") for name in names) == leaves
    assert sum(name.startswith("spine") for name in names) == spines


def test_a_fat_tree_has_full_bisection() -> None:
    topology = catalog.load_topology("nd-h100-v5", nodes=64)
    assert bisection_bytes_per_s(topology.graph) == pytest.approx(32 * 8 * 49e9)


def test_more_than_2048_nics_are_too_many_for_two_tiers() -> None:
    with pytest.raises(InfeasibleError, match="256 servers fit"):
        _ = catalog.load_topology("nd-h100-v5", nodes=257).graph


def test_twelve_l40s_share_an_uplink_per_pair_and_upi_between_the_sockets() -> None:
    figures = checked(catalog.load_topology("l40s-12"))
    assert (figures.gpus, figures.domains) == (12, 12)
    assert figures.bisection_bytes_per_s == pytest.approx(22e9)
    assert figures.in_domain_bytes_per_s is None
    graph = catalog.load_topology("l40s-12").graph
    assert nx.shortest_path(graph, "node0.gpu0", "node0.gpu1") == ["node0.gpu0", "node0.pcie0", "node0.gpu1"]
    assert nx.shortest_path_length(graph, "node0.gpu0", "node0.gpu2") == 4
    assert nx.shortest_path_length(graph, "node0.gpu0", "node0.gpu11") == 5
    two = checked(catalog.load_topology("l40s-12", nodes=2))
    assert two.bisection_bytes_per_s == pytest.approx(2 * 25e9 * 0.98)


def test_without_peer_to_peer_nvlink_carries_nothing_and_host_memory_blocks() -> None:
    figures = checked(catalog.load_topology("a100-x4-no-p2p"))
    assert figures.bisection_bytes_per_s == pytest.approx(2 * 8.85e9)
    assert checked(catalog.load_topology("rtx-4090-x4")).bisection_bytes_per_s == pytest.approx(4 * 5.1e9)
    assert checked(catalog.load_topology("rtx-pro-6000-x2")).bisection_bytes_per_s == pytest.approx(2 * 12e9)


def test_a_staged_copy_waits_1_5_to_2_times_as_long_as_a_peer_copy() -> None:
    def latency_s(name: str) -> float:
        graph = catalog.load_topology(name).graph
        return float(
            2 * graph.edges["node0.gpu0", "node0.host0"]["latency_s"]
            + graph.nodes["node0.host0"]["latency_s"]
        )

    assert 1.5 < latency_s("a100-x4-no-p2p") / latency_s("a100-x4") < 2


def test_gpus_that_cannot_reach_each_other_are_named() -> None:
    graph = catalog.load_topology("nd-h100-v5", nodes=2).graph.copy()
    graph.remove_node("leaf0")
    with pytest.raises(InfeasibleError, match=r"no path from node0.gpu0 to node1.gpu0 in nd-h100-v5"):
        refuse_unreachable(graph)
    with pytest.raises(InfeasibleError, match="an Ethernet NIC in every server, would join them"):
        refuse_unreachable(catalog.load_topology("hgx-h200", nodes=2).with_inter_node("tcp").graph)


def constants(block: object, path: str = "") -> list[tuple[str, object]]:
    if isinstance(block, dict):
        if "value" in block:
            return [(path, block)]
        return [found for key, value in block.items() for found in constants(value, f"{path}.{key}")]
    if isinstance(block, list):
        return [found for i, value in enumerate(block) for found in constants(value, f"{path}[{i}]")]
    return [(path, block)]


@pytest.mark.parametrize("kind", ["topology", "gpu", "links"])
def test_every_shipped_constant_has_a_tag_and_a_source(kind: str) -> None:
    structure = {"count", "of", "links", "switch_ports", "rails", "nodes", "domain", "domain_tiers", "trays"}
    for name in catalog.names_of(kind):  # type: ignore[arg-type]
        for path, value in constants(yaml.safe_load(catalog.find(kind, name).read_text())):  # type: ignore[arg-type]
            key = path.rpartition(".")[2].partition("[")[0]
            if isinstance(value, dict):
                assert value["tag"] in TAGS, (name, path)
                assert len(value["source"]) > 5, (name, path)
            elif key not in structure:
                assert isinstance(value, bool | str), f"{name}: {path} is {value!r} without a source"
                assert not re.match(r"[\d.]+ [kMGT]?i?(B|bit|FLOP|us|ns|s)\b", str(value)), (
                    name,
                    path,
                    value,
                )


def test_provenance_reaches_the_description() -> None:
    topology = catalog.load_topology("nd-h100-v5")
    assert topology.links["nvlink4"].provenance["efficiency"].tag == "measured"
    assert topology.links["azure-ethernet"].provenance["efficiency"].tag == "fitted"
    assert topology.gpus["h100-sxm"].provenance["flops.bf16"].tag == "datasheet"
    assert topology.parts["nvswitch"].provenance["latency_s"].tag == "assumed"


@pytest.mark.parametrize(
    ("name", "hbm_gb", "tb_per_s", "bf16_tflops"),
    [
        ("a100-40gb-sxm", 40, 1.555, 312), ("a100-80gb-sxm", 80, 2.039, 312), ("h100-sxm", 80, 3.35, 989),
        ("h200-sxm", 141, 4.8, 989), ("b200-sxm", 180, 7.7, 2250), ("gb200", 186, 8.0, 2500),
        ("gb300", 279, 8.0, 2500),
        ("rtx-4090", 24, 1.008, 165.2), ("l40s", 48, 0.864, 362),
    ],
)  # fmt: skip
def test_a_gpu_is_what_its_datasheet_says(
    name: str, hbm_gb: float, tb_per_s: float, bf16_tflops: float
) -> None:
    gpu = catalog.load_gpu(name)
    assert (gpu.hbm_bytes, gpu.hbm_bytes_per_s, gpu.flops["bf16"]) == pytest.approx(
        (hbm_gb * 1e9, tb_per_s * 1e12, bf16_tflops * 1e12)
    )
    assert gpu.usable_hbm_bytes >= 0.9 * gpu.hbm_bytes


def test_the_system_in_the_readme_works(tmp_path: Path) -> None:
    readme = (topologies() / "README.md").read_text()
    path = tmp_path / "two-pairs.yaml"
    path.write_text(readme.partition("```yaml\n")[2].partition("```")[0])
    assert checked(catalog.load_topology(path)).gpus == 4
