"""NVLink switches in two tiers carry what can be worked out by hand: a GPU's rate, or what the upper tier
lets by.
"""

from __future__ import annotations

from functools import cache

import networkx as nx
import pytest

from sim.cost.collectives.choice import collective
from sim.cost.collectives.expert_exchange import ExpertChoice, chosen, exchange
from sim.cost.collectives.groups import islands, rings
from sim.cost.network import Network
from sim.inputs.topology import Topology
from sim.inputs.topology_check import bisection_bytes_per_s
from tests.cost.small_graphs import wire

GPU, PCIE = 900e9, 50e9


@cache
def boards(up: float = 1.0, count: int = 4, gpus: int = 4) -> Network:
    """Boards of GPUs on two chips, each joined to two chips above with `up` times what its GPUs send."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for above in range(2):
        graph.add_node(f"above.nvswitch{above}", kind="nvswitch", node=-1, index=above)
    for board in range(count):
        graph.add_node(f"node{board}.host0", kind="host", node=board)
        for chip in range(2):
            graph.add_node(f"node{board}.nvswitch{chip}", kind="nvswitch", node=board, index=chip)
            for above in range(2):
                wire(graph, f"node{board}.nvswitch{chip}", f"above.nvswitch{above}", up * gpus * GPU / 4)
        for gpu in range(gpus):
            name = f"node{board}.gpu{gpu}"
            graph.add_node(name, kind="gpu", model="gb200", node=board, index=gpu)
            wire(graph, name, f"node{board}.host0", PCIE)
            for chip in range(2):
                wire(graph, name, f"node{board}.nvswitch{chip}", GPU / 2)
    return Network(Topology.of_graph(graph).graph)


def test_two_tiers_of_switches_make_one_domain_over_all_boards() -> None:
    network = boards()
    assert network.same_domain(network.gpus)
    assert not network.reduces(network.gpus)
    assert [len(island) for island in islands(network, network.gpus)] == [16]
    assert len(rings(network, network.gpus)) == 1


def test_a_path_uses_all_chips_and_nothing_else() -> None:
    network = boards()
    for target in ("node0.gpu1", "node3.gpu2"):
        path = network.path("node0.gpu0", target)
        assert path.medium == "nvlink"
        assert not any("host" in network.links[link] for link in path.links)
        assert path.bytes_per_s(network.capacity) == pytest.approx(GPU)


@pytest.mark.parametrize("up", [1.0, 0.5, 0.25])
def test_an_all_to_all_takes_a_gpu_s_rate_or_the_board_s_way_up(up: float) -> None:
    network = boards(up)
    n = len(network.gpus)
    timing = collective(network, "all_to_all", 1e9, network.gpus, library="none")
    own, board = (n - 1) / n * 1e9 / GPU, 4 * (n - 4) / n * 1e9 / (up * 4 * GPU)
    assert timing.total_s == pytest.approx(max(own, board), rel=0.05)


@pytest.mark.parametrize("up", [1.0, 0.25, 0.125])
def test_an_all_gather_takes_a_ring_that_leaves_a_board_once(up: float) -> None:
    network = boards(up)
    n = len(network.gpus)
    timing = collective(network, "all_gather", 1e9, network.gpus, library="none")
    assert timing.total_s == pytest.approx((n - 1) / n * 1e9 / min(GPU, up * 4 * GPU), rel=0.05)


def test_the_bisection_is_that_of_the_tier_above() -> None:
    network = boards(0.5)
    assert network.bisection_bytes_per_s() == pytest.approx(8 * GPU * 0.5)
    assert bisection_bytes_per_s(network._described) == pytest.approx(8 * GPU * 0.5)


def test_experts_over_boards_go_one_sided_as_in_a_rack() -> None:
    network = boards(count=6)
    choice = ExpertChoice(96, 8)
    assert chosen(network, network.gpus, has_prefill=False).library == "one_sided"
    demand = exchange(network, "dispatch", network.gpus, 1024, 7168, choice)
    up = [
        n_bytes
        for link, n_bytes in zip(demand.links, demand.n_bytes, strict=True)
        if network.ends[link] == ("node0.gpu0", "node0.nvswitch0")
    ]
    copies = choice.distinct(24) * 23 / 24
    assert up[0] == pytest.approx(1024 * 7168 * copies / 2, rel=0.05)
