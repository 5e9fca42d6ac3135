"""The same GPUs in NVLink domains of another size."""

from __future__ import annotations

import pytest

import sim
from sim.cost.collectives.choice import collective
from sim.cost.collectives.demands import demand
from sim.cost.collectives.send_graphs import send_graph
from sim.cost.network import Network
from sim.inputs.errors import InputError
from sim.inputs.nvlink_domains import nearest_sizes
from sim.inputs.topology import Topology
from sim.inputs.topology_check import checked


def regrouped(name: str, nodes: int = 1, **changes: object) -> Topology:
    return Topology.model_validate({**dict(sim.load_topology(name, nodes=nodes)), **changes})


@pytest.mark.parametrize(("size", "domains"), [(1, 72), (2, 36), (8, 9), (16, 5), (18, 4)])
def test_a_rack_is_cut_into_islands_that_keep_their_gpus_rate_and_meet_over_nics(size, domains):
    topology = regrouped("gb200-nvl72", domain=size)
    network, whole = Network(topology.graph), sim.load_topology("gb200-nvl72")
    found = checked(topology)
    assert (found.domains, found.largest_domain, found.gpus) == (domains, size, 72)
    assert found.in_domain_bytes_per_s == checked(whole).in_domain_bytes_per_s
    last, next_one = network.gpus[size - 1], network.gpus[size]
    assert network.path(last, next_one).medium == "infiniband"
    assert network.path(last, next_one).bytes_per_s(network.capacity) == pytest.approx(49e9)
    if size > 1:
        assert network.path(network.gpus[0], last).medium == "nvlink"
    trays = [place for place in topology.graph if "nvswitch" not in place and "leaf" not in place]
    assert set(whole.graph.nodes) - {f"node0.nvswitch{chip}" for chip in range(18)} <= set(trays)


def test_each_island_has_as_many_chips_as_the_server_had():
    graph = regrouped("gb200-nvl72", domain=36).graph
    chips = [place for place in graph if graph.nodes[place]["kind"] == "nvswitch"]
    assert len(chips) == 2 * 18
    assert set(graph.successors("node0.nvswitch18")) == {f"node0.gpu{gpu}" for gpu in range(36, 72)}


def test_a_domain_as_large_as_the_server_changes_no_link():
    whole, same = Network(sim.load_topology("hgx-b200").graph), Network(regrouped("hgx-b200", domain=8).graph)
    assert (same.links, same.capacity) == (whole.links, whole.capacity)


@pytest.mark.parametrize(("tiers", "links", "reduces"), [(1, 2, True), (2, 4, True)])
def test_servers_are_joined_into_one_domain_by_one_or_two_tiers(tiers, links, reduces):
    network = Network(regrouped("hgx-b200", 4, domain=32, domain_tiers=tiers).graph)
    path = network.path(network.gpus[0], network.gpus[31])
    assert (path.medium, len(path.links)) == ("nvlink", links)
    assert path.bytes_per_s(network.capacity) == pytest.approx(720e9)
    assert network.same_domain(network.gpus)
    assert network.reduces(network.gpus) is reduces


def test_the_second_tier_carries_all_that_the_gpus_below_send():
    topology = regrouped("nd-h100-v5", 2, domain=16)
    assert checked(topology).bisection_bytes_per_s == pytest.approx(8 * 369e9)


def test_a_path_over_two_tiers_takes_two_links_and_two_chips_more():
    network = Network(regrouped("hgx-b200", 2, domain=16).graph)
    near, far = (network.path(network.gpus[0], network.gpus[other]).latency_s for other in (1, 8))
    link, chip = network.path("node0.gpu0", "node0.gpu1").crossed[0][1], 0.12e-6
    assert far - near == pytest.approx(2 * link + 2 * chip)


@pytest.mark.parametrize(
    ("changes", "nodes", "what"),
    [
        ({"domain": 100}, 4, "100 GPUs are no whole number of servers of 72; 72 and 144 are the nearest"),
        ({"domain": 144}, 1, "144 GPUs are more than the 72 there are; nodes: 2 has them"),
        ({"domain": 0}, 1, "greater than or equal to 1"),
        ({"domain": 8, "domain_tiers": 2}, 1, "is for a domain over several servers"),
        ({"nics_per_gpu": 3, "parts": "fewer"}, 1, "3 is no whole number of times"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(changes, nodes, what):
    topology = sim.load_topology("gb200-nvl72", nodes=nodes)
    data = {**dict(topology), **changes}
    if changes.get("parts"):
        data["parts"] = {
            **topology.parts,
            "gpu": topology.parts["gpu"].model_copy(update={"count": 64, "trays": 16}),
        }
        data["wires"] = tuple(wire for wire in topology.wires if wire.to != "host" or wire.source == "nic")
    with pytest.raises(ValueError, match=what):
        Topology.model_validate(data)


def test_a_machine_without_nvswitches_has_no_domain_to_group():
    with pytest.raises(ValueError, match="l40s-8 has no NVSwitch"):
        regrouped("l40s-8", domain=4)
    with pytest.raises(ValueError, match="no scale_out that would join"):
        regrouped("hgx-b200", scale_out=(), domain=2)


def test_the_nearest_sizes_are_those_that_are_there():
    assert nearest_sizes(8, 2, 20) == (16,)


def test_twice_the_nics_carry_twice_the_bytes():
    one, two = (Network(regrouped("gb200-nvl72", domain=8, nics_per_gpu=nics).graph) for nics in (1, 2))
    rates = [net.path("node0.gpu0", "node0.gpu8").bytes_per_s(net.capacity) for net in (one, two)]
    assert rates == pytest.approx([49e9, 98e9])
    assert len(two.nics_of("node0.gpu0")) == 2 * len(one.nics_of("node0.gpu0"))


def test_a_scenario_sets_the_domain_by_its_path():
    service = sim.Scenario.model_validate(
        {"topology": "gb200-nvl72", "model": "llama-3-8b", "workload": "single-user"}
    )
    assert sim.with_changes(service, {"topology.domain": 8}).topology.domain == 8
    with pytest.raises(InputError, match=r"topology\.domain: 100 GPUs are more than the 72"):
        sim.with_changes(service, {"topology.domain": 100})


def test_switches_on_two_tiers_add_what_those_on_one_add():
    """Sixteen GPUs below two tiers: each sends S(1 + 1/16) as on one switch, and a server's chips send one
    sum of S up and get one down; sends and demand agree. Chips that do not add refuse.
    """
    n_bytes = 1e9
    network = Network(regrouped("hgx-b200", nodes=2, domain=16).graph)
    assert network.reduces(network.gpus)
    bare = demand(network, "all_reduce", "nvls", n_bytes, network.gpus)
    sent = {network.links[link]: n for link, n in zip(bare.links, bare.n_bytes, strict=True)}
    trunks = {name: n for name, n in sent.items() if "gpu" not in name}
    assert len(trunks) == 4
    assert list(trunks.values()) == pytest.approx([n_bytes] * 4)
    assert {round(n) for name, n in sent.items() if "gpu" in name} == {round(n_bytes * 17 / 16)}
    for op in ("all_reduce", "all_gather", "reduce_scatter"):
        whole = demand(network, op, "nvls", n_bytes, network.gpus)
        played = dict.fromkeys(whole.links, 0.0)
        for send in send_graph(network, op, "nvls", n_bytes, network.gpus):
            for link, carried in send.load().items():
                played[link] += carried
        assert played == pytest.approx(dict(zip(whole.links, whole.n_bytes, strict=True)))
    one, two = (
        collective(Network(regrouped("gb200-nvl72", nodes=2, domain=144, domain_tiers=tiers).graph),
                   "all_reduce", 1e5, ranks, library="flashinfer")
        for tiers in (1, 2)
        for ranks in [[f"node{gpu % 2}.gpu{gpu // 2}" for gpu in range(16)]]
    )  # fmt: skip
    assert one.algorithm == two.algorithm == "mnnvl_two_shot"
    still = regrouped("hgx-b200", nodes=2, domain=16)
    still = still.model_copy(
        update={
            "parts": {
                **still.parts,
                "nvswitch": still.parts["nvswitch"].model_copy(update={"reduces": False}),
            }
        }
    )
    assert not Network(still.graph).reduces(Network(still.graph).gpus)
