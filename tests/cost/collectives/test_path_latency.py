"""A machine's latencies move what was fitted on another machine, both ways."""

from __future__ import annotations

from types import SimpleNamespace

import networkx as nx
import pytest

from sim.calibration.collective_points import ISLANDS, island_network
from sim.catalog import load_topology
from sim.cost.collectives.choice import collective
from sim.cost.collectives.expert_exchange import ExpertChoice, exchange
from sim.cost.collectives.parameters import default_parameters
from sim.cost.collectives.path_latency import Crossing, at_once, by_parts, crossing, with_path
from sim.cost.network import Network

SHIPPED = {
    "a100-x4": 1, "a100-x4-no-p2p": 1, "dgx-a100": 3, "gb200-nvl72": 2, "gb300-nvl72": 1, "hgx-b200": 2,
    "hgx-b300": 2, "hgx-h200": 2, "l40s-12": 2, "l40s-8": 1, "l40s-x8": 1, "nd-h100-v5": 2, "rtx-4090-x4": 1,
    "rtx-pro-6000-x8": 1,
}  # fmt: skip
OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv")
SMALL, LARGE = 8 * 1024.0, 16 * 2**20


def scaled(graph: nx.DiGraph, factor: float, *kinds: str, link: str = "") -> Network:
    """The machine with the latency of one type of link, or of the places of some kinds, times `factor`."""
    changed = graph.copy()
    for _, _, edge in changed.edges(data=True):
        if edge["link"] == link:
            edge["latency_s"] *= factor
    for _, place in changed.nodes(data=True):
        if place["kind"] in kinds:
            place["latency_s"] *= factor
    return Network(changed)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_fitted_start_up_contains_the_latency_of_every_path_of_a_shipped_machine(name: str) -> None:
    network = Network(load_topology(name, nodes=SHIPPED[name]).graph)
    first, *others = network.gpus
    for other in others[:40]:
        assert crossing(network.path(first, other), default_parameters()).beyond_s == 0.0


@pytest.mark.parametrize("system", ISLANDS)
def test_the_islands_of_a_fit_have_the_latencies_that_its_start_ups_contain(system: str) -> None:
    network = island_network(system, 2)
    assert crossing(network.path(*network.gpus), default_parameters()).beyond_s == 0.0


@pytest.mark.parametrize(
    ("name", "nodes", "ranks", "link", "kinds"),
    [
        ("nd-h100-v5", 1, 8, "nvlink4", ()),
        ("nd-h100-v5", 1, 8, "", ("nvswitch",)),
        ("l40s-12", 1, 12, "pcie4-x16", ()),
        ("l40s-12", 1, 12, "upi-ice-lake", ()),
        ("l40s-12", 1, 12, "", ("pcie_switch",)),
        ("rtx-4090-x4", 1, 4, "", ("host",)),
        ("nd-h100-v5", 2, 16, "infiniband-ndr", ()),
        ("nd-h100-v5", 2, 16, "", ("switch",)),
        ("nd-h100-v5", 2, 16, "", ("nic",)),
    ],
)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n_bytes", [SMALL, LARGE])
def test_a_tenth_of_a_latency_is_faster_and_ten_times_are_slower(
    name: str, nodes: int, ranks: int, link: str, kinds: tuple[str, ...], op: str, n_bytes: float
) -> None:
    graph = load_topology(name, nodes=nodes).graph
    ten_times, as_built, tenth = (
        collective(network, op, n_bytes, network.gpus[:ranks]).total_s
        for network in (scaled(graph, factor, *kinds, link=link) for factor in (10.0, 1.0, 0.1))
    )
    assert tenth < as_built < ten_times


@pytest.mark.parametrize("library", ["nccl", "vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("algorithm", ["auto", "ring", "nvls", "one_shot", "two_shot"])
def test_every_kernel_inside_a_server_feels_nvlink_s_latency(library: str, algorithm: str) -> None:
    if library == "nccl" and algorithm.endswith("_shot"):
        pytest.skip("NCCL has no such kernel")
    graph = load_topology("nd-h100-v5").graph
    ten_times, as_built, tenth = (
        collective(network, "all_reduce", SMALL, network.gpus, library=library, algorithm=algorithm).total_s
        for network in (scaled(graph, factor, link="nvlink4") for factor in (10.0, 1.0, 0.1))
    )
    assert 0.0 < tenth < as_built < ten_times


@pytest.mark.parametrize("hop_s", [5.22e-6, 0.5e-6])
@pytest.mark.parametrize("algorithm", ["ring", "tree", "nvls_tree"])
def test_a_transport_s_hop_moves_collectives_both_ways(hop_s: float, algorithm: str) -> None:
    graph = load_topology("nd-h100-v5", nodes=2).graph
    seconds = []
    for given_s in (10 * hop_s, hop_s, 0.1 * hop_s):
        network = Network(graph.copy())
        network.transport_hop_s = given_s
        seconds.append(
            collective(
                network, "all_reduce", SMALL, network.gpus, library="nccl", algorithm=algorithm
            ).total_s
        )
    assert seconds[0] > seconds[1] >= seconds[2] > 0.0
    assert seconds[0] > seconds[2]


@pytest.mark.parametrize(("nodes", "link"), [(1, "nvlink4"), (2, "infiniband-ndr")])
@pytest.mark.parametrize("has_prefill", [False, True])
def test_expert_exchanges_feel_the_latency_of_their_way(nodes: int, link: str, has_prefill: bool) -> None:
    graph = load_topology("nd-h100-v5", nodes=nodes).graph
    ten_times, as_built, tenth = (
        exchange(
            network, "dispatch", network.gpus, 16, 7168.0, ExpertChoice(256, 8), has_prefill=has_prefill
        ).latency_s
        for network in (scaled(graph, factor, link=link) for factor in (10.0, 1.0, 0.1))
    )
    assert tenth < as_built < ten_times
    assert ten_times - as_built == pytest.approx(2 * 9 * graph.edges[_pair(graph, link)]["latency_s"])


def _pair(graph: nx.DiGraph, link: str) -> tuple[str, str]:
    return next((here, there) for here, there, edge in graph.edges(data=True) if edge["link"] == link)


def test_only_the_path_s_part_of_a_start_up_goes_down_with_the_path() -> None:
    assert with_path(3e-6, [Crossing(1e-6, 1e-6)]) == 3e-6
    assert with_path(3e-6, [Crossing(5e-6, 1e-6)]) == pytest.approx(7e-6)
    assert with_path(3e-6, [Crossing(0.0, 1e-6)]) == pytest.approx(2e-6)
    # A fitted hop shorter than the stated path is all path: half the path, half the hop.
    assert with_path(0.6e-6, [Crossing(0.5e-6, 1e-6)]) == pytest.approx(0.3e-6)
    # Hops take turns, sends go at once.
    two = [Crossing(3e-6, 1e-6), Crossing(1e-6, 1e-6)]
    assert with_path(3e-6, two) == pytest.approx(4e-6)
    assert at_once(3e-6, two) == pytest.approx(5e-6)
    assert at_once(3e-6, two, times=3) == pytest.approx(9e-6)


def test_a_latency_that_is_not_stated_is_that_of_the_measured_machines() -> None:
    stated, silent = load_topology("nd-h100-v5").graph.copy(), load_topology("nd-h100-v5").graph.copy()
    for _, _, edge in silent.edges(data=True):
        del edge["latency_s"]
    for name in ("nvswitch0", "nvswitch1", "nvswitch2", "nvswitch3"):
        del silent.nodes[f"node0.{name}"]["latency_s"]
    one, other = Network(stated), Network(silent)
    for op in OPS:
        expected = collective(one, op, SMALL, one.gpus).total_s
        assert collective(other, op, SMALL, other.gpus).total_s == expected


@pytest.mark.parametrize(
    ("medium", "kind", "known"),
    [("tcp", "switch", "ethernet_switch"), ("tcp", "host", "host"), ("infiniband", "switch", "switch")],
)
def test_only_the_switches_of_a_tcp_path_are_ethernet_switches(medium: str, kind: str, known: str) -> None:
    path = SimpleNamespace(medium=medium, crossed=((kind, None),))
    least_s, _ = default_parameters().latencies[known]
    assert by_parts(path, default_parameters()).contained_s == least_s  # type: ignore[arg-type]
