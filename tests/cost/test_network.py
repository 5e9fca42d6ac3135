from __future__ import annotations

import pytest

from sim.cost.collectives import collective
from sim.cost.network import Network
from tests.cost.small_graphs import NVLINK, servers


def test_striped_chips_become_one_crossbar_with_the_summed_capacity() -> None:
    network = Network(servers())
    path = network.path("node0.gpu0", "node0.gpu5")
    assert [network.links[link] for link in path.links] == ["node0.gpu0->nvlink0", "nvlink0->node0.gpu5"]
    assert [network.capacity[link] for link in path.links] == pytest.approx([NVLINK, NVLINK])
    assert path.medium == "nvlink"
    assert network.same_domain(network.gpus)
    assert network.reduces(network.gpus)


def test_bisection_counts_what_the_paths_carry() -> None:
    assert Network(servers()).bisection_bytes_per_s() == pytest.approx(4 * NVLINK)
    assert Network(servers(nodes=2)).bisection_bytes_per_s() == pytest.approx(8 * 50e9)


def test_a_path_is_found_once() -> None:
    network = Network(servers(nodes=2))
    assert network.path("node0.gpu3", "node1.gpu3") is network.path("node0.gpu3", "node1.gpu3")


def test_forgetting_the_offers_keeps_what_depends_on_links_alone() -> None:
    network = Network(servers())
    first = collective(network, "all_reduce", 1e6, network.gpus)
    loads = dict(network.remembered.loads)
    network.remembered.forget_offers()
    again = collective(network, "all_reduce", 1e6, network.gpus)
    assert again is not first
    assert again == first
    assert loads
    assert network.remembered.loads == loads
