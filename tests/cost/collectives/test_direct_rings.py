from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import networkx as nx
import pytest

from sim.cost.collectives.choice import collective
from sim.cost.collectives.demands import demand
from sim.cost.collectives.direct_rings import direct_rings, direct_ways
from sim.cost.collectives.groups import rings
from sim.cost.collectives.send_graphs import send_graph
from sim.cost.network import Network
from tests.cost.small_graphs import UPI, wire

S = 1e9
LANE = 25e9

CUBE_MESH = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 2,
    (2, 6): 1, (3, 7): 1, (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2,
}  # fmt: skip
"""NVLinks between the GPUs of an Amazon p3.16xlarge, `nvidia-smi topo -m`."""


def direct(n: int, wires: Mapping[tuple[int, int], float], nodes: int = 1, nics: int = 0) -> Network:
    """Servers of GPUs wired to each other and to one host, and a NIC on a rail for each of the first GPUs."""
    graph = nx.DiGraph(gpus=[f"node{node}.gpu{i}" for node in range(nodes) for i in range(n)])
    for rail in range(nics):
        graph.add_node(f"leaf{rail}", kind="switch", node=-1, index=rail)
    for node in range(nodes):
        graph.add_node(f"node{node}.host0", kind="host", node=node, index=0)
        for i in range(n):
            gpu = f"node{node}.gpu{i}"
            graph.add_node(gpu, kind="gpu", node=node, index=i, domain=node)
            wire(graph, gpu, f"node{node}.host0", UPI)
        for (i, j), lanes in wires.items():
            wire(graph, f"node{node}.gpu{i}", f"node{node}.gpu{j}", lanes * LANE)
        for rail in range(nics):
            nic = f"node{node}.nic{rail}"
            graph.add_node(nic, kind="nic", node=node, index=rail, transport="infiniband")
            wire(graph, nic, f"node{node}.gpu{rail}", 2 * LANE)
            wire(graph, nic, f"leaf{rail}", 2 * LANE)
    return Network(graph)


def mesh(n: int) -> dict[tuple[int, int], int]:
    return {(i, j): 1 for j in range(n) for i in range(j)}


def hops(orders: tuple[tuple[str, ...], ...]) -> Counter[tuple[str, str]]:
    return Counter(hop for order in orders for hop in pairwise((*order, order[0])))


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8, 9, 12, 16])
def test_rings_of_a_full_mesh_load_every_link_alike(n: int) -> None:
    network = direct(n, mesh(n))
    orders = rings(network, network.gpus)
    assert all(sorted(order) == sorted(network.gpus) for order in orders)
    used = hops(orders)
    assert len(used) == n * (n - 1)
    assert set(used.values()) == {2 - n % 2}  # an even number of GPUs has rings both ways
    bare = demand(network, "all_reduce", "ring", S, network.gpus)
    assert bare.isolated_s(network.capacity) == pytest.approx(2 * S / n / LANE)


def test_a_cube_mesh_has_six_rings_that_use_every_link_in_both_directions() -> None:
    network = direct(8, CUBE_MESH)
    orders = rings(network, network.gpus)
    assert len(orders) == 6
    used = hops(orders)
    expected = {
        (f"node0.gpu{a}", f"node0.gpu{b}"): n for (i, j), n in CUBE_MESH.items() for a, b in ((i, j), (j, i))
    }
    assert used == expected
    bare = demand(network, "all_reduce", "ring", S, network.gpus)
    assert bare.isolated_s(network.capacity) == pytest.approx(2 * 7 / 8 * S / (6 * LANE))


@pytest.mark.parametrize(
    ("places", "lanes"), [((0, 1, 2, 3), 4), ((4, 5, 6, 7), 4), ((0, 1, 2), 2), ((0, 1, 2, 3, 4, 5, 6), 4)]
)
def test_part_of_a_cube_mesh_has_as_many_rings_as_its_poorest_gpu_has_links(
    places: tuple[int, ...], lanes: int
) -> None:
    network = direct(8, CUBE_MESH)
    members = tuple(network.gpus[place] for place in places)
    bare = demand(network, "all_gather", "ring", S, members)
    n = len(members)
    assert bare.isolated_s(network.capacity) == pytest.approx((n - 1) / n * S / (lanes * LANE))


def test_two_rings_share_an_odd_link() -> None:
    prism = {(i, (i + 1) % 3): 1 for i in range(3)} | {(3 + i, 3 + (i + 1) % 3): 1 for i in range(3)}
    network = direct(6, prism | {(i, i + 3): 1 for i in range(3)})  # three links at each GPU
    bare = demand(network, "all_gather", "ring", S, network.gpus)
    assert bare.isolated_s(network.capacity) == pytest.approx(5 / 6 * S / (3 * LANE))


def test_gpus_bridged_in_pairs_or_without_a_way_round_have_no_direct_ring() -> None:
    pairs = direct(4, {(0, 1): 12, (2, 3): 12})
    assert direct_rings(pairs, pairs.gpus) == direct_ways(pairs, pairs.gpus) == ()
    assert rings(pairs, pairs.gpus) == (pairs.gpus,)
    hourglass = direct(5, {(0, 1): 1, (0, 2): 1, (1, 2): 1, (0, 3): 1, (0, 4): 1, (3, 4): 1})
    assert direct_rings(hourglass, hourglass.gpus) == direct_ways(hourglass, hourglass.gpus) == ()
    assert rings(hourglass, hourglass.gpus) == (hourglass.gpus,)


@pytest.mark.parametrize(("n", "wires", "share"), [(8, mesh(8), 1), (4, mesh(4), 1), (8, CUBE_MESH, 2)])
def test_between_servers_each_rail_goes_through_a_server_over_other_links(
    n: int, wires: Mapping[tuple[int, int], float], share: int
) -> None:
    network = direct(n, wires, nodes=2, nics=n)
    orders = rings(network, network.gpus)
    assert len(orders) == n
    inside = Counter((a, b) for (a, b), times in hops(orders).items() for _ in range(times) if a[:5] == b[:5])
    lanes = {
        (f"node{node}.gpu{a}", f"node{node}.gpu{b}"): count
        for node in range(2)
        for (i, j), count in wires.items()
        for a, b in ((i, j), (j, i))
    }
    assert set(inside) <= set(lanes)
    assert max(times / lanes[hop] for hop, times in inside.items()) <= share
    assert all(sorted(order) == sorted(network.gpus) for order in orders)


@pytest.mark.parametrize(
    ("wires", "n_bytes", "measured"),
    [
        (dict.fromkeys(mesh(8), 0.75 * 64000000000.0 / LANE), 8 << 20, 161e9),  # 8 MI300X: hpc-ai-envs 30
        ({pair: 0.83 * lanes for pair, lanes in CUBE_MESH.items()}, 1 << 30, 124e9),  # DGX-1: 6 rings
        (dict.fromkeys(mesh(4), 0.83 * 2), 1 << 30, 124e9),  # 4 V100, two links each: nccl-tests 68
    ],
)
def test_an_all_reduce_over_direct_links_comes_near_what_was_measured(
    wires: Mapping[tuple[int, int], float], n_bytes: int, measured: float
) -> None:
    network = direct(1 + max(j for _, j in wires), wires)
    timing = collective(network, "all_reduce", n_bytes, network.gpus, "nccl")
    assert timing.busbw_bytes_per_s == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize(
    ("op", "algorithm"), [("all_reduce", "ring"), ("broadcast", "ring"), ("all_reduce", "tree")]
)
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("wires", [mesh(4), CUBE_MESH])
def test_sends_over_direct_links_put_the_bytes_of_the_demand_on_each(
    op: str, algorithm: str, nodes: int, wires: Mapping[tuple[int, int], float]
) -> None:
    n = 1 + max(j for _, j in wires)
    network = direct(n, wires, nodes=nodes, nics=n)
    carried: dict[int, float] = {}
    for send in send_graph(network, op, algorithm, S, network.gpus):
        for link, n_bytes in send.load().items():
            carried[link] = carried.get(link, 0.0) + n_bytes
    bare = demand(network, op, algorithm, S, network.gpus)
    assert carried == {link: pytest.approx(n) for link, n in zip(bare.links, bare.n_bytes, strict=True)}


@pytest.mark.parametrize("wires", [mesh(4), mesh(7), mesh(8), CUBE_MESH])
@pytest.mark.parametrize("faster", [1.3, 2.0, 7.0])
def test_a_faster_link_never_makes_a_collective_slower(
    wires: Mapping[tuple[int, int], float], faster: float
) -> None:
    def took_s(wires: Mapping[tuple[int, int], float]) -> float:
        network = direct(1 + max(j for _, j in wires), wires)
        return demand(network, "all_reduce", "ring", S, network.gpus).isolated_s(network.capacity)

    plain_s = took_s(wires)
    first = next(iter(wires))
    assert took_s({**wires, first: wires[first] * faster}) <= plain_s * (1 + 1e-9)
    assert took_s(
        {pair: lanes * (faster if 0 in pair else 1) for pair, lanes in wires.items()}
    ) <= plain_s * (1 + 1e-9)


def test_a_link_much_slower_than_the_others_is_left_out() -> None:
    network = direct(5, {**mesh(5), (0, 1): 0.01})
    bare = demand(network, "all_gather", "ring", S, network.gpus)
    # Three links are left at two of the GPUs.
    assert bare.isolated_s(network.capacity) <= 4 / 5 * S / (2 * LANE) * (1 + 1e-9)


PRISM = {(0, 1): 1, (1, 2): 1, (0, 2): 1, (3, 4): 1, (4, 5): 1, (3, 5): 1, (0, 3): 1, (1, 4): 1, (2, 5): 1}


@pytest.mark.parametrize("wires", [PRISM, CUBE_MESH, mesh(5)])
def test_a_way_from_each_gpu_goes_along_wires_through_all(wires: Mapping[tuple[int, int], float]) -> None:
    network = direct(1 + max(j for _, j in wires), wires)
    ways = direct_ways(network, network.gpus)
    assert [way[0] for way in ways] == list(network.gpus)
    assert all(sorted(way) == sorted(network.gpus) for way in ways)
    wired = {f"node0.gpu{a}->node0.gpu{b}" for i, j in wires for a, b in ((i, j), (j, i))}
    assert {f"{a}->{b}" for way in ways for a, b in pairwise(way)} <= wired


@pytest.mark.parametrize("faster", [1.0004, 2.0])
def test_one_link_that_is_a_little_or_twice_as_fast_leaves_the_ways_of_a_full_mesh(faster: float) -> None:
    plain, other = direct(5, mesh(5)), direct(5, {**mesh(5), (0, 1): faster})
    assert direct_ways(other, other.gpus) == direct_ways(plain, plain.gpus)


def test_a_circle_has_a_ring_in_each_direction_and_none_where_a_link_has_one_direction() -> None:
    circle = {(0, 1): 1, (1, 2): 1, (2, 3): 1, (0, 3): 1}
    network = direct(4, circle)
    first, second = direct_rings(network, network.gpus)
    assert second == (first[0], *first[:0:-1])
    graph = nx.DiGraph(gpus=network.gpus)
    for i, gpu in enumerate(network.gpus):
        graph.add_node(gpu, kind="gpu", node=0, index=i, domain=0)
    for i, j in circle:
        wire(graph, network.gpus[i], network.gpus[j], LANE)
    graph.remove_edge("node0.gpu0", "node0.gpu3")
    assert direct_rings(Network(graph), network.gpus) == ()
