from __future__ import annotations

import pytest

from sim.inputs.errors import InfeasibleError
from sim.inputs.topology_check import (
    bisection_bytes_per_s,
    halves,
    in_domain_bytes_per_s,
    refuse_unreachable,
    tiers,
)
from tests.cost.small_graphs import NIC, NVLINK, servers


def test_a_gpu_sends_into_its_domain_what_its_nvlink_carries() -> None:
    assert in_domain_bytes_per_s(servers(), "node0.gpu0") == pytest.approx(NVLINK)
    assert in_domain_bytes_per_s(servers(chips=0), "node0.gpu0") == 0.0


def test_the_bisection_of_two_servers_is_all_their_nics() -> None:
    assert bisection_bytes_per_s(servers(nodes=2)) == pytest.approx(8 * NIC)
    assert bisection_bytes_per_s(servers()) == pytest.approx(4 * NVLINK)


def test_gpus_that_nothing_joins_are_named() -> None:
    graph = servers(nodes=2)
    refuse_unreachable(graph)
    for rail in range(8):
        graph.remove_node(f"leaf{rail}")
    with pytest.raises(InfeasibleError, match=r"no path from node0\.gpu\d to node1\.gpu\d"):
        refuse_unreachable(graph)


def test_nics_of_another_transport_carry_nothing() -> None:
    graph = servers(nodes=2)
    graph.graph["inter_node"] = "tcp"
    with pytest.raises(InfeasibleError, match="inter_node: infiniband, or an Ethernet NIC"):
        refuse_unreachable(graph)


def test_the_halves_are_of_whole_servers() -> None:
    first, second = halves(servers(nodes=3))
    assert (len(first), len(second)) == (8, 16)
    assert bisection_bytes_per_s(servers(nodes=3)) == pytest.approx(8 * NIC)


def test_oversubscription_is_what_comes_up_over_what_goes_on() -> None:
    graph = servers(nodes=4, spines=2)
    assert [str(one) for one in tiers(graph)] == ["8 leaves, 2 spines, adaptive routing, non-blocking"]
    for rail in range(8):
        for spine in range(2):
            for edge in ((f"leaf{rail}", f"spine{spine}"), (f"spine{spine}", f"leaf{rail}")):
                graph.edges[edge]["bytes_per_s"] = NIC / 2
    assert [str(one) for one in tiers(graph)] == [
        "8 leaves, 2 spines, adaptive routing, oversubscription 4:1"
    ]
    assert [str(one) for one in tiers(servers(nodes=2))] == ["8 leaves, no spine"]
