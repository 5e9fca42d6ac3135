from __future__ import annotations

import pytest

from sim.inputs.errors import InfeasibleError
from sim.inputs.topology_check import bisection_bytes_per_s, in_domain_bytes_per_s, refuse_unreachable
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
