from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.collectives.choice import collective
from sim.cost.collectives.demands import ALGORITHMS, Demand, demand, pairs_demand
from sim.cost.collectives.groups import islands, parents, rails, rings
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError
from tests.cost.small_graphs import NIC, NVLINK, servers, wire

S = 1e9


def on_links(network: Network, of: Demand, marker: str) -> list[float]:
    return [n for link, n in zip(of.links, of.n_bytes, strict=True) if marker in network.links[link]]


def test_nvls_tree_over_two_nodes_puts_an_eighth_on_each_nic_and_direction() -> None:
    network = Network(servers(nodes=2))
    bare = demand(network, "all_reduce", "nvls_tree", S, network.gpus)
    assert on_links(network, bare, "leaf") == pytest.approx([S / 8] * 32)
    assert on_links(network, bare, "nvlink") == pytest.approx([S * (1 + 1 / 8)] * 32)


def test_rings_across_nodes_use_every_rail_alike() -> None:
    network = Network(servers(nodes=4))
    bare = demand(network, "all_reduce", "ring", S, network.gpus)
    nics = on_links(network, bare, "leaf")
    assert nics == pytest.approx([2 * 31 / 32 * S / 8] * 64)
    assert bare.isolated_s(network.capacity) == pytest.approx(max(nics) / NIC)


def test_a_ring_of_each_rail_leaves_and_enters_by_that_rail_alone() -> None:
    network = Network(servers(nodes=2))
    for order in rings(network, network.gpus):
        assert sorted(order) == sorted(network.gpus)
        crossings = [network.path(a, b) for a, b in zip(order, (*order[1:], order[0]), strict=True)]
        assert sum(path.medium == "infiniband" for path in crossings) == 2
        assert not any(
            "nvlink" in network.links[link] for p in crossings if p.medium == "infiniband" for link in p.links
        )


def test_four_gpus_wired_to_each_other_use_all_wires_in_both_directions() -> None:
    graph = nx.DiGraph(gpus=[f"node0.gpu{i}" for i in range(4)])
    for i in range(4):
        graph.add_node(f"node0.gpu{i}", kind="gpu", node=0, index=i, domain=0)
        for j in range(i):
            wire(graph, f"node0.gpu{i}", f"node0.gpu{j}", 100e9)
    network = Network(graph)
    bare = demand(network, "all_reduce", "ring", S, network.gpus)
    assert len(bare.links) == 12
    assert bare.isolated_s(network.capacity) == pytest.approx(1.5 * S / 300e9)


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
def test_in_a_double_tree_every_place_but_the_root_has_a_parent_and_nobody_is_interior_in_both(
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


def test_unequal_bytes_between_pairs_add_up_on_links() -> None:
    network = Network(servers(nodes=2))
    a, b, far = "node0.gpu0", "node0.gpu3", "node1.gpu5"
    bare = pairs_demand(network, {(a, b): 10.0, (a, far): 6.0, (b, far): 4.0})
    by_name = {network.links[link]: n for link, n in zip(bare.links, bare.n_bytes, strict=True)}
    assert by_name["node0.gpu0->nvlink0"] == 16.0
    assert by_name["node0.nic5->leaf5"] == 10.0
    relayed = pairs_demand(network, {(a, far): 6.0}, relay=True)
    names = [network.links[link] for link in relayed.links]
    assert "node0.nic0->leaf0" in names
    assert "nvlink1->node1.gpu5" in names


def test_hosts_that_stage_copies_bound_a_ring_without_peer_to_peer() -> None:
    network = Network(servers(gpus=4, peer_to_peer=False, pcie=26e9))
    bare = demand(network, "all_reduce", "ring", S, network.gpus)
    assert bare.isolated_s(network.capacity) == pytest.approx(2 * 1.5 * S / 30e9)


@pytest.mark.parametrize("op", ALGORITHMS)
@given(n_bytes=st.floats(1.0, 1e10))
def test_more_bandwidth_is_never_slower_alone(op: str, n_bytes: float) -> None:
    slow, fast = Network(servers(nvlink=NVLINK)), Network(servers(nvlink=2 * NVLINK))
    for library in ("none", "nccl", "vllm"):
        before = collective(slow, op, n_bytes, slow.gpus, library=library).total_s
        assert collective(fast, op, n_bytes, fast.gpus, library=library).total_s <= before * (1 + 1e-12)


@pytest.mark.parametrize("op", ALGORITHMS)
def test_time_never_falls_by_more_than_a_switch_of_protocol_as_the_message_grows(op: str) -> None:
    network = Network(servers())
    times = [collective(network, op, 2.0**k, network.gpus, library="nccl").total_s for k in range(6, 34)]
    assert all(after >= before * 0.999 for before, after in pairwise(times))


def test_the_bare_algorithm_has_no_software_time() -> None:
    network = Network(servers())
    timing = collective(network, "all_reduce", S, network.gpus, library="none", algorithm="ring")
    assert timing.total_s == pytest.approx(2 * 7 / 8 * S / NVLINK)
    assert timing.busbw_bytes_per_s == pytest.approx(NVLINK)


def test_the_demand_of_a_timing_takes_the_timing_s_time_alone() -> None:
    network = Network(servers(nodes=2))
    for op in ALGORITHMS:
        for library in ("auto", "nccl", "none"):
            timing = collective(network, op, 3e6, network.gpus, library=library)
            assert timing.demand.isolated_s(network.capacity) == pytest.approx(timing.total_s, rel=1e-12)


def test_one_rank_has_nothing_to_do_and_no_bytes_take_the_latency() -> None:
    network = Network(servers())
    assert collective(network, "all_reduce", S, network.gpus[:1]).total_s == 0.0
    empty = collective(network, "all_reduce", 0.0, network.gpus)
    assert 0.0 < empty.total_s < 1e-5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"op": "all_reduse"}, "no op 'all_reduse'"),
        ({"library": "gloo"}, "no library 'gloo'"),
        ({"algorithm": "butterfly"}, "no algorithm 'butterfly'"),
        ({"algorithm": "nvls_tree"}, "two or more islands"),
        ({"protocol": "ll64"}, "no protocol 'll64'"),
        ({"launch": "lazy"}, "no launch 'lazy'"),
        ({"n_bytes": -1.0}, "zero or more"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(changed: dict[str, object], message: str) -> None:
    network = Network(servers())
    given_arguments: dict[str, object] = {
        "op": "all_reduce",
        "n_bytes": S,
        "ranks": network.gpus,
        "library": "nccl",
    }
    with pytest.raises(InfeasibleError, match=message):
        collective(network, **(given_arguments | changed))  # type: ignore[arg-type]


def test_a_gpu_twice_or_from_elsewhere_is_refused() -> None:
    network = Network(servers())
    with pytest.raises(InfeasibleError, match="different"):
        collective(network, "all_reduce", S, (network.gpus[0], network.gpus[0]))
    with pytest.raises(InfeasibleError, match="no GPU"):
        collective(network, "all_reduce", S, (network.gpus[0], "node9.gpu9"))
