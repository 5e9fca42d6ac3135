"""Equal sends between all pairs, found by groups, are those that are found pair by pair."""

from __future__ import annotations

import pytest

from sim.catalog import load_topology
from sim.cost.collectives import demands
from sim.cost.collectives.demands import pairs_demand
from sim.cost.collectives.expert_exchange import ExpertChoice, _demands, sends
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


def test_an_exchange_of_experts_by_groups_is_that_by_pairs() -> None:
    network = Network(load_topology("nd-h100-v5", nodes=3).graph)
    choice = ExpertChoice(256, 8)
    sent = sends(network, "expert", network.gpus, choice)
    near = {pair: amount for pair, amount in sent.items() if network.same_domain(pair)}
    far = {pair: amount for pair, amount in sent.items() if pair not in near}
    for found, pairs in zip(
        _demands(network, "expert", network.gpus, choice, False), (sent, near, far), strict=True
    ):
        wanted = pairs_demand(network, pairs)
        loads = dict(zip(wanted.links, wanted.n_bytes, strict=True))
        assert dict(zip(found.links, found.n_bytes, strict=True)) == pytest.approx(loads, rel=1e-12)
