"""A drawn fat tree carries what can be worked out by hand: bisection, all-to-all, exchanges of experts.

Hand values: an uplink for each `oversubscription` NICs, all ways up used evenly. NICs are the slowest links
of a server here, so that one rank sends what its NIC does.
"""

from __future__ import annotations

from functools import cache
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.catalog import load_gpu, load_topology
from sim.cost.collectives.choice import collective
from sim.cost.collectives.expert_exchange import ExpertChoice, exchange
from sim.cost.network import Network
from sim.inputs.hardware import LinkType
from sim.inputs.parts import Part, ScaleOut, Wire
from sim.inputs.topology import Topology
from sim.inputs.topology_check import bisection_bytes_per_s, tiers

NIC = 25e9
WITHIN = 0.05


@cache
def cluster(
    nodes: int,
    ports: int,
    rails: int | None = 1,
    ratio: float | None = None,
    routing: str = "adaptive",
    nvlink: bool = True,
    gpus: int = 4,
) -> Topology:
    """Servers of GPUs with a NIC each, on leaves of half of `ports` NICs."""
    fast = LinkType(name="fast", bytes_per_s=400e9, latency_s=1e-6)
    parts = {
        "gpu": Part(kind="gpu", count=gpus, model="h100-sxm"),
        "nic": Part(kind="nic", count=gpus, latency_s=0.0),
        "pcie": Part(kind="pcie_switch", count=gpus, latency_s=0.0),
        "host": Part(kind="host", count=1, latency_s=0.0),
    }
    wires = [
        Wire.model_validate({"from": "gpu", "to": "pcie", "pattern": "one_to_one", "link": "fast"}),
        Wire.model_validate({"from": "nic", "to": "pcie", "pattern": "one_to_one", "link": "fast"}),
        Wire.model_validate({"from": "pcie", "to": "host", "pattern": "all", "link": "fast"}),
    ]
    if nvlink:
        parts["nvswitch"] = Part(kind="nvswitch", count=1, latency_s=0.0)
        wires.append(Wire.model_validate({"from": "gpu", "to": "nvswitch", "pattern": "all", "link": "fast"}))
    network = ScaleOut.model_validate(
        {
            "of": "nic",
            "link": "cable",
            "switch_ports": ports,
            "rails": rails,
            "latency_s": 0,
            "routing": routing,
        }
        | ({"oversubscription": ratio} if ratio else {})
    )
    return Topology(
        name="drawn",
        nodes=nodes,
        parts=parts,
        wires=tuple(wires),
        scale_out=(network,),
        links={"fast": fast, "cable": LinkType(name="cable", bytes_per_s=NIC, latency_s=1e-6)},
        gpus={"h100-sxm": load_gpu("h100-sxm")},
    )


@cache
def network_of(*described: object) -> Network:
    return Network(cluster(*described).graph)  # type: ignore[arg-type]


SIZES = ((4, 8), (8, 8), (8, 16), (6, 8))  # servers, ports; leaves of one server, of one, of two, of one


@pytest.mark.parametrize(("nodes", "ports"), SIZES)
@pytest.mark.parametrize("rails", [1, 4])
def test_what_is_called_non_blocking_has_full_bisection_on_the_paths_that_traffic_takes(
    nodes: int, ports: int, rails: int
) -> None:
    topology = cluster(nodes, ports, rails)
    (leaves,) = tiers(topology.graph)
    assert leaves.spines
    assert leaves.oversubscription == pytest.approx(1.0) or leaves.oversubscription < 1.0
    by_hand = nodes // 2 * 4 * NIC
    assert bisection_bytes_per_s(topology.graph) == pytest.approx(by_hand, rel=WITHIN)
    assert network_of(nodes, ports, rails).bisection_bytes_per_s() == pytest.approx(by_hand, rel=WITHIN)


@pytest.mark.parametrize(("nodes", "ports"), SIZES)
@pytest.mark.parametrize("nvlink", [True, False])
def test_an_all_to_all_takes_what_leaves_a_server_over_its_nics(nodes: int, ports: int, nvlink: bool) -> None:
    """Of S bytes of a rank (n - 4)/n go to other servers, at the rate of a NIC."""
    network = network_of(nodes, ports, 1, None, "adaptive", nvlink)
    n = len(network.gpus)
    timing = collective(network, "all_to_all", 1e9, network.gpus, library="none")
    assert timing.total_s == pytest.approx((n - 4) / n * 1e9 / NIC, rel=WITHIN)


@pytest.mark.parametrize("rails", [1, 4])
def test_traffic_between_rails_goes_over_nvlink_first_and_without_rails_over_the_spines(rails: int) -> None:
    """An all-to-all takes the NICs' time either way; an all-gather runs a ring over every NIC of a server."""
    network = network_of(8, 8, rails)
    n = len(network.gpus)
    exchanged = collective(network, "all_to_all", 1e9, network.gpus, library="none")
    assert exchanged.total_s == pytest.approx((n - 4) / n * 1e9 / NIC, rel=WITHIN)
    gathered = collective(network, "all_gather", 1e9, network.gpus, library="none")
    assert gathered.total_s == pytest.approx((n - 1) / n * 1e9 / (4 * NIC), rel=WITHIN)
    near = network_of(4, 8, rails)  # with rails all four servers share leaves, one for each rail
    used = collective(near, "all_to_all", 1e9, near.gpus, library="none").demand.links
    assert any("spine" in near.links[link] for link in used) == (rails == 1)


@pytest.mark.parametrize("ratio", [1.0, 2.0, 3.0])
def test_oversubscription_divides_bisection_and_all_to_all_between_leaves(ratio: float) -> None:
    """Leaves of 6 to 12 NICs of 16 ports; what leaves the leaf shares its uplinks."""
    down = {1.0: 8, 2.0: 10, 3.0: 12}[ratio]
    nodes = 12
    network = network_of(nodes, 16, 1, ratio)
    topology = cluster(nodes, 16, 1, ratio)
    (leaves,) = tiers(topology.graph)
    up = ceil(down / ratio)
    assert leaves.oversubscription == pytest.approx(down / up)
    assert down / up <= ratio
    assert leaves.leaves == ceil(nodes * 4 / down)
    n = nodes * 4
    for source, capacity in zip(network.ends, network.capacity, strict=True):
        if source[0] == "leaf0" and source[1].startswith("spine"):
            assert capacity == pytest.approx(up * NIC)
    timing = collective(network, "all_to_all", 1e9, network.gpus, library="none")
    leaf = down / n * 1e9 * (n - down) / (up * NIC)  # all of the leaf to all others, over its uplinks
    nic = (n - 4) / n * 1e9 / NIC
    assert timing.total_s == pytest.approx(max(leaf, nic), rel=WITHIN)


@settings(max_examples=30)
@given(st.data())
def test_adaptive_routing_is_never_slower_than_a_static_hash(data: st.DataObject) -> None:
    nodes, ports = data.draw(st.sampled_from(SIZES))
    rails, nvlink = data.draw(st.sampled_from((1, 4))), data.draw(st.booleans())
    adaptive, static = (network_of(nodes, ports, rails, None, how, nvlink) for how in ("adaptive", "static"))
    ranks = data.draw(st.lists(st.sampled_from(adaptive.gpus), min_size=2, max_size=12, unique=True))
    op = data.draw(st.sampled_from(("all_to_all", "all_reduce", "all_gather", "send_recv")))
    quick, slow = (
        collective(network, op, 1e8, ranks, library="none").total_s for network in (adaptive, static)
    )
    assert quick <= slow * (1 + 1e-9)


def test_a_static_hash_collides() -> None:
    """Eight servers, each on a leaf of its own: 16 flows over 16 uplinks meet on some of them."""
    adaptive, static = (network_of(8, 8, 1, None, how) for how in ("adaptive", "static"))
    assert static.bisection_bytes_per_s() <= adaptive.bisection_bytes_per_s() / 2


@pytest.mark.parametrize("rails", [1, 4])
def test_an_exchange_over_more_whole_servers_takes_longer_and_as_its_bytes_say(rails: int) -> None:
    """Each token goes to 8 experts, of which (n - 4)/n lie on other servers: monotone in n, to the NIC's
    limit.
    """
    network = network_of(8, 8, rails)
    choice = ExpertChoice(256, 8)
    times = [exchange(network, "dispatch", network.gpus[:n], 1024, 7168, choice) for n in (8, 12, 16, 24, 32)]
    flows = [one.flow_s(network.capacity) for one in times]
    assert flows == sorted(flows)
    for n, flow_s in zip((8, 12, 16, 24, 32), flows, strict=True):
        assert flow_s / flows[0] == pytest.approx((n - 4) / n / 0.5, rel=WITHIN)


def evenly_out(network: Network, gpus: int) -> float:
    """Bytes out of each NIC per byte of a rank's tokens, with one expert for each rank and 8 of them
    chosen.
    """
    choice = ExpertChoice(len(network.gpus), 8)
    demand = exchange(network, "dispatch", network.gpus, 1024, 7168, choice)
    out = [
        n_bytes / (1024 * 7168)
        for link, n_bytes in zip(demand.links, demand.n_bytes, strict=True)
        if ".nic" in network.ends[link][0] and network.ends[link][1].startswith("leaf")
    ]
    assert len(out) == len(network.gpus)
    assert max(out) == pytest.approx(min(out))
    return max(out)


@pytest.mark.parametrize("racks", [2, 3, 4])
def test_racks_that_share_only_some_leaves_load_all_their_nics_alike(racks: int) -> None:
    """Domains of 6 GPUs, 2 rails, leaves of 4: a leaf has three NICs of one rack and one of the next."""
    network = network_of(racks, 8, 2, None, "adaptive", True, 6)
    n = 6 * racks
    assert evenly_out(network, 6) == pytest.approx(8 * (n - 6) / n, rel=WITHIN)


@pytest.mark.slow
def test_an_exchange_over_two_racks_of_72_takes_what_leaves_a_rack() -> None:
    network = Network(load_topology("gb200-nvl72", nodes=2).graph)
    assert evenly_out(network, 72) == pytest.approx(8 * 72 / 144, rel=WITHIN)
