"""Equal sends between all pairs, found by groups, are those that are found pair by pair."""

from __future__ import annotations

import pytest

from sim.catalog import load_topology
from sim.cost.collectives import demands
from sim.cost.collectives.demands import pairs_demand
from sim.cost.collectives.expert_exchange import Copies, ExpertChoice, _demands, sends
from sim.cost.network import Network


@pytest.mark.parametrize(
    ("system", "nodes", "which"),
    [
        ("nd-h100-v5", 3, slice(None)),
        ("nd-h100-v5", 3, slice(1, -3)),
        ("nd-h100-v5", 2, slice(None, None, -1)),
        ("dgx-a100", 3, slice(None, None, 2)),
        ("dgx-a100", 34, slice(None, None, 8)),  # over two leaves
        ("l40s-12", 2, slice(None)),
    ],
)
def test_groups_send_what_their_pairs_send(system: str, nodes: int, which: slice) -> None:
    network = Network(load_topology(system, nodes=nodes).graph)
    ranks = network.gpus[which]
    by_pairs = pairs_demand(network, {(a, b): 0.37 for a in ranks for b in ranks if a != b})
    by_groups = demands._all_pairs(network, ranks, 0.37)
    assert by_groups == pytest.approx(dict(zip(by_pairs.links, by_pairs.n_bytes, strict=True)), rel=1e-12)


@pytest.mark.parametrize("system", ["nd-h100-v5", "dgx-a100"])
def test_no_path_of_a_pair_is_asked_for_between_groups(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(load_topology(system, nodes=3).graph)
    asked = []
    path = Network.path
    monkeypatch.setattr(Network, "path", lambda self, a, b: asked.append((a, b)) or path(self, a, b))
    demands.direct_all_to_all(network, network.gpus)
    assert asked
    assert all(network.node_of[a] == network.node_of[b] for a, b in asked)


@pytest.mark.parametrize("copies", ["expert", "domain"])
@pytest.mark.parametrize(
    ("system", "nodes", "which"),
    [
        ("nd-h100-v5", 3, slice(None)),
        ("nd-h100-v5", 2, slice(None, None, -1)),
        ("dgx-a100", 3, slice(None, None, 2)),
        ("dgx-a100", 3, slice(3, None)),  # islands of different size: pair by pair
        ("nd-h100-v5", 36, slice(None, None, 24)),  # one GPU of a server
    ],
)
def test_an_exchange_of_experts_by_groups_is_that_by_pairs(
    system: str, nodes: int, which: slice, copies: Copies
) -> None:
    network = Network(load_topology(system, nodes=nodes).graph)
    ranks = network.gpus[which]
    choice = ExpertChoice(256, 8)
    for back in (False, True):
        sent = sends(network, copies, ranks, choice)
        if back:
            sent = {(target, source): amount for (source, target), amount in sent.items()}
        near = {pair: amount for pair, amount in sent.items() if network.same_domain(pair)}
        far = {pair: amount for pair, amount in sent.items() if pair not in near}
        for found, pairs in zip(
            _demands(network, copies, ranks, choice, back), (sent, near, far), strict=True
        ):
            wanted = pairs_demand(network, pairs)
            loads = dict(zip(wanted.links, wanted.n_bytes, strict=True))
            assert dict(zip(found.links, found.n_bytes, strict=True)) == pytest.approx(loads, rel=1e-12)


def test_a_relayed_all_to_all_by_groups_is_that_by_pairs() -> None:
    network = Network(load_topology("nd-h100-v5", nodes=34).graph)  # over two sets of leaves
    ranks = network.gpus[128:160] + network.gpus[-16:]
    pairs = {(a, b): 1.0 / len(ranks) for a in ranks for b in ranks if a != b}
    wanted = pairs_demand(network, pairs, relay=True)
    loads = dict(zip(wanted.links, wanted.n_bytes, strict=True))
    assert demands.relayed_all_to_all(network, ranks) == pytest.approx(loads, rel=1e-12)


def test_no_path_between_islands_is_asked_for_where_traffic_is_relayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network(load_topology("nd-h100-v5", nodes=3).graph)
    asked = []
    path = Network.path
    monkeypatch.setattr(Network, "path", lambda self, a, b: asked.append((a, b)) or path(self, a, b))
    _demands(network, "domain", network.gpus, ExpertChoice(256, 8), back=False)
    demands.relayed_all_to_all(network, network.gpus)
    assert asked
    assert all(network.node_of[a] == network.node_of[b] for a, b in asked)


@pytest.mark.parametrize("system", ["nd-h100-v5", "dgx-a100", "gb200-nvl72"])
def test_hops_to_a_nic_are_those_of_a_search_from_it(system: str) -> None:
    network = Network(load_topology(system, nodes=1 if "72" in system else 34).graph)
    paths, graph = network._finder, network._graph
    for gpu in (network.gpus[0], network.gpus[-1]):
        nic = paths.nics_of(gpu)[0]
        searched = graph.spread(nic, frozenset({"switch"}), None, backwards=True)
        assert dict(paths._distances_to(nic)) == searched
    assert len(paths._distances) <= 2 * 2
