from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.catalog import load_topology
from sim.cost.collectives.choice import collective
from sim.cost.collectives.demands import ALGORITHMS
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError
from tests.cost.small_graphs import NVLINK, servers

S = 1e9


@pytest.mark.slow
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
        ({"op": "all_reduse"}, "op = 'all_reduse': must be one of all_reduce"),
        ({"library": "gloo"}, "library = 'gloo': must be one of auto, nccl"),
        ({"algorithm": "butterfly"}, "algorithm = 'butterfly'"),
        ({"algorithm": "nvls_tree"}, "two or more islands"),
        ({"protocol": "ll64"}, "protocol = 'll64'"),
        ({"launch": "lazy"}, "launch = 'lazy': must be one of graph, eager"),
        ({"n_bytes": -1.0}, "n_bytes = -1: must be at least 0"),
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
    with pytest.raises(InfeasibleError, match="1 of the 2 given"):
        collective(network, "all_reduce", S, (network.gpus[0], network.gpus[0]))
    with pytest.raises(InfeasibleError, match="no such GPU"):
        collective(network, "all_reduce", S, (network.gpus[0], "node9.gpu9"))


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "broadcast", "all_to_all", "send_recv"])
@pytest.mark.parametrize("name", ["l40s-12", "rtx-pro-6000-x8", "nd-h100-v5", "gb200-nvl72"])
@pytest.mark.parametrize("ranks", [2, 4, 12])
def test_staged_copies_are_never_quicker_than_peer_to_peer(op: str, name: str, ranks: int) -> None:
    graph = load_topology(name).graph
    staged = Network(nx.DiGraph(graph, peer_to_peer=False))
    peers = Network(graph)
    gpus = peers.gpus[:ranks]
    if len(gpus) < ranks or (name == "gb200-nvl72" and ranks > 2):
        pytest.skip("so many are not in one server")
    for library in ("nccl", "vllm"):
        for power in range(10, 30, 2):
            on, off = (collective(there, op, 2.0**power, gpus, library=library) for there in (peers, staged))
            assert off.total_s >= on.total_s * (1 - 1e-12)
            assert off.demand.isolated_s(staged.capacity) == pytest.approx(off.total_s)


@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter", "all_to_all"])
def test_the_bus_bandwidth_of_every_op_is_the_rate_of_a_link(op: str) -> None:
    network = Network(servers())
    timing = collective(network, op, S, network.gpus, library="none")
    assert timing.busbw_bytes_per_s == pytest.approx(NVLINK)
