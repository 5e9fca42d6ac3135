from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.collectives.groups import islands, parents, rails, rings, tree_edges
from sim.cost.network import Network
from tests.cost.small_graphs import servers

S = 1e9


def test_a_ring_of_each_rail_leaves_and_enters_by_that_rail_alone() -> None:
    network = Network(servers(nodes=2))
    for order in rings(network, network.gpus):
        assert sorted(order) == sorted(network.gpus)
        crossings = [network.path(a, b) for a, b in zip(order, (*order[1:], order[0]), strict=True)]
        assert sum(path.medium == "infiniband" for path in crossings) == 2
        assert not any(
            "nvlink" in network.links[link] for p in crossings if p.medium == "infiniband" for link in p.links
        )


def test_islands_are_nvlink_domains_or_servers() -> None:
    assert [len(group) for group in islands(Network(servers(nodes=3)), Network(servers(nodes=3)).gpus)] == [
        8,
        8,
        8,
    ]
    pcie = Network(servers(chips=0))
    assert len(islands(pcie, pcie.gpus)) == 1
    two = Network(servers(nodes=2))
    assert len(rails(two, islands(two, two.gpus))) == 8


@given(st.integers(2, 40))
def test_in_a_double_tree_every_place_but_the_root_has_a_parent_and_no_place_is_interior_in_both(
    nodes: int,
) -> None:
    first, second = parents(nodes)
    for tree in (first, second):
        assert sum(above is None for above in tree) == 1
        for place in range(nodes):
            seen, here = {place}, tree[place]
            while here is not None:
                assert here not in seen
                seen.add(here)
                here = tree[here]
    if nodes % 2 == 0:
        interior = [{above for above in tree if above is not None} for tree in (first, second)]
        assert not interior[0] & interior[1]


def test_the_edges_of_all_trees_carry_the_message_once_from_every_rank_but_one() -> None:
    for nodes, gpus in ((2, 8), (3, 4), (1, 8)):
        network = Network(servers(nodes=nodes, gpus=gpus))
        edges = tree_edges(network, network.gpus)
        assert sum(share for _, _, share in edges) == pytest.approx(nodes * gpus - 1)
