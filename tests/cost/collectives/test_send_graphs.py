from __future__ import annotations

import networkx as nx
import pytest
import simpy

from sim.cost.collectives.demands import demand
from sim.cost.collectives.send_graphs import send_graph
from sim.cost.network import Network
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.play_sends import play
from tests.cost.small_graphs import NIC, NVLINK, servers, wire

S = 1.68e9


def played_s(network: Network, op: str, algorithm: str, ranks: tuple[str, ...], chunks: int = 1) -> float:
    env = simpy.Environment()
    play(env, Fabric(env, network), send_graph(network, op, algorithm, S, ranks, chunks))
    env.run()
    return env.now


def demand_s(network: Network, op: str, algorithm: str, ranks: tuple[str, ...]) -> float:
    return demand(network, op, algorithm, S, ranks).isolated_s(network.capacity)


def mesh(n: int) -> Network:
    graph = nx.DiGraph(gpus=[f"node0.gpu{i}" for i in range(n)])
    for i in range(n):
        graph.add_node(f"node0.gpu{i}", kind="gpu", node=0, index=i, domain=0)
        for j in range(i):
            wire(graph, f"node0.gpu{i}", f"node0.gpu{j}", NVLINK)
    return Network(graph)


ONE_ISLAND = {
    ("all_reduce", "ring"): lambda n: 2 * (n - 1) / n,
    ("all_gather", "ring"): lambda n: (n - 1) / n,
    ("reduce_scatter", "ring"): lambda n: (n - 1) / n,
    ("all_reduce", "one_shot"): lambda n: n - 1,
    ("all_reduce", "two_shot"): lambda n: 2 * (n - 1) / n,
    ("all_to_all", "direct"): lambda n: (n - 1) / n,
    ("all_to_all", "relayed"): lambda n: (n - 1) / n,
    ("all_gather", "nvls"): lambda n: 1.0,
    ("reduce_scatter", "nvls"): lambda n: 1.0,
    ("send_recv", "direct"): lambda n: 1.0,
}


@pytest.mark.parametrize(("op", "algorithm"), ONE_ISLAND)
@pytest.mark.parametrize("n", [2, 4, 7, 8])
def test_alone_sends_and_demand_take_what_the_textbook_says(op: str, algorithm: str, n: int) -> None:
    network = Network(servers())
    ranks = network.gpus[:n]
    textbook_s = ONE_ISLAND[op, algorithm](n) * S / NVLINK
    assert demand_s(network, op, algorithm, ranks) == pytest.approx(textbook_s, rel=1e-9)
    assert played_s(network, op, algorithm, ranks) == pytest.approx(textbook_s, rel=1e-9)


@pytest.mark.parametrize("chunks", [1, 2, 8])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_a_pipelined_algorithm_takes_its_demand_and_the_filling_of_its_pipeline(n: int, chunks: int) -> None:
    network = Network(servers())
    ranks = network.gpus[:n]
    filling = {
        ("broadcast", "ring"): n - 2,  # down a chain of n
        ("all_reduce", "nvls"): (n - 1) / n,  # the last multicast has the switch to itself
    }
    for (op, algorithm), hops in filling.items():
        expected_s = demand_s(network, op, algorithm, ranks) + hops * S / chunks / NVLINK
        if algorithm == "nvls":
            assert demand_s(network, op, algorithm, ranks) == pytest.approx(
                (1 + 1 / n) * S / NVLINK, rel=1e-9
            )
        assert played_s(network, op, algorithm, ranks, chunks) == pytest.approx(expected_s, rel=1e-9)


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_chain_on_wires_of_its_own_takes_the_message_and_its_length(chunks: int) -> None:
    network = mesh(6)
    expected_s = S / NVLINK * (chunks + 2 * 5 - 1) / chunks
    assert demand_s(network, "all_reduce", "tree", network.gpus) == pytest.approx(S / NVLINK, rel=1e-9)
    assert played_s(network, "all_reduce", "tree", network.gpus, chunks) == pytest.approx(
        expected_s, rel=1e-9
    )


@pytest.mark.parametrize("n", [2, 3, 4, 7, 8])
def test_a_double_tree_moves_at_most_twice_the_message_through_any_rank(n: int) -> None:
    network = Network(servers())
    assert demand_s(network, "all_reduce", "double_tree", network.gpus[:n]) <= 2 * S / NVLINK * (1 + 1e-9)


def test_two_levels_unpipelined_are_the_sum_of_their_three_phases() -> None:
    network = Network(servers(nodes=4))
    g, nodes = 8, 4
    phases_s = 2 * (g - 1) / g * S / NVLINK + 2 * (nodes - 1) / nodes * S / g / NIC
    assert played_s(network, "all_reduce", "two_level", network.gpus) == pytest.approx(phases_s, rel=1e-9)
    assert demand_s(network, "all_reduce", "two_level", network.gpus) == pytest.approx(
        max(2 * (g - 1) / g * S / NVLINK, 2 * (nodes - 1) / nodes * S / g / NIC), rel=1e-9
    )


@pytest.mark.parametrize(
    ("op", "algorithm"), [("all_reduce", "ring"), ("all_gather", "ring"), ("all_to_all", "direct")]
)
def test_between_nodes_sends_and_demand_agree(op: str, algorithm: str) -> None:
    network = Network(servers(nodes=2, gpus=4, nics=4))
    isolated_s = demand_s(network, op, algorithm, network.gpus)
    assert played_s(network, op, algorithm, network.gpus) == pytest.approx(isolated_s, rel=1e-9)


@pytest.mark.slow
def test_pipelined_trees_across_nodes_approach_their_demand() -> None:
    network = Network(servers(nodes=2, gpus=4, nics=4))
    for algorithm in ("tree", "nvls_tree", "two_level"):
        isolated_s = demand_s(network, "all_reduce", algorithm, network.gpus)
        assert isolated_s <= played_s(network, "all_reduce", algorithm, network.gpus, 32) < 1.25 * isolated_s


COUNTS = {
    ("all_gather", "ring", 6): (6 * 5, 1 / 6),
    ("reduce_scatter", "ring", 6): (6 * 5, 1 / 6),
    ("all_reduce", "ring", 6): (2 * 6 * 5, 1 / 6),
    ("all_reduce", "tree", 6): (2 * 5, 1.0),
    ("all_reduce", "double_tree", 6): (4 * 5, 1 / 2),
    ("all_reduce", "nvls", 6): (6 + 6, 1 / 6),
    ("all_reduce", "one_shot", 6): (6 * 5, 1.0),
    ("all_reduce", "two_shot", 6): (2 * 6 * 5, 1 / 6),
    ("all_to_all", "direct", 6): (6 * 5, 1 / 6),
    ("send_recv", "direct", 2): (1, 1.0),
}


@pytest.mark.parametrize(("op", "algorithm", "n"), COUNTS)
def test_the_number_and_size_of_sends_are_the_textbook_s(op: str, algorithm: str, n: int) -> None:
    network = Network(servers())
    sends = send_graph(network, op, algorithm, S, network.gpus[:n])
    count, share = COUNTS[op, algorithm, n]
    assert len(sends) == count
    assert [send.n_bytes for send in sends] == pytest.approx([share * S] * count)


def test_two_levels_send_what_their_recipe_counts() -> None:
    network = Network(servers(nodes=3, gpus=4, nics=4))
    sends = send_graph(network, "all_reduce", "two_level", S, network.gpus)
    inside, between = 3 * 2 * 4 * 3, 4 * 2 * 3 * 2
    assert len(sends) == inside + between
    assert {round(S / send.n_bytes) for send in sends} == {4, 12}


@pytest.mark.parametrize(
    ("op", "algorithm"), [*ONE_ISLAND, ("all_reduce", "tree"), ("all_reduce", "nvls"), ("broadcast", "ring")]
)
def test_sends_put_the_bytes_of_the_demand_on_each_link(op: str, algorithm: str) -> None:
    network = Network(servers())
    carried: dict[int, float] = {}
    for send in send_graph(network, op, algorithm, S, network.gpus):
        for link, n_bytes in send.load().items():
            carried[link] = carried.get(link, 0.0) + n_bytes
    bare = demand(network, op, algorithm, S, network.gpus)
    assert carried == {link: pytest.approx(n) for link, n in zip(bare.links, bare.n_bytes, strict=True) if n}


def test_two_rings_that_meet_on_one_nic_end_together_in_either_form() -> None:
    network = Network(servers(nodes=2, gpus=8, nics=1))
    first = tuple(f"node{node}.gpu{gpu}" for node in range(2) for gpu in (0, 1))
    second = tuple(f"node{node}.gpu{gpu}" for node in range(2) for gpu in (2, 3))

    env = simpy.Environment()
    fabric = Fabric(env, network)
    for ranks in (first, second):
        play(env, fabric, send_graph(network, "all_reduce", "ring", S, ranks))
    env.run()
    as_sends_s = env.now

    env = simpy.Environment()
    fabric = Fabric(env, network)
    for ranks in (first, second):
        fabric.start(demand(network, "all_reduce", "ring", S, ranks))
    env.run()
    assert env.now == pytest.approx(2 * demand_s(network, "all_reduce", "ring", first))
    assert as_sends_s == pytest.approx(env.now, rel=0.05)
