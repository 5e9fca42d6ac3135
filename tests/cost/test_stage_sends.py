from __future__ import annotations

import pytest

from sim.catalog import load_gpu, load_model
from sim.cost.collectives import collective
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.cost.stage_sends import activations
from sim.inputs.engine import Engine
from sim.inputs.precision import Precision
from tests.cost.small_graphs import servers

NETWORK = Network(servers(nodes=2))
MODEL = load_model("llama-3-70b")
TOKENS = 512
N_BYTES = 2 * TOKENS * MODEL.hidden * 2  # hidden state and residual in 16 bits


def stages(ranks: int, receivers: int | None = None) -> tuple[Shard, Shard]:
    """The two halves of the model, each on its own server."""
    gpu, half = load_gpu("h100-sxm"), MODEL.layers // 2
    there = NETWORK.gpus[8 : 8 + (receivers or ranks)]
    return (
        Shard(MODEL, Engine(), Precision(), gpu, (NETWORK.gpus[:ranks],), 0, half),
        Shard(MODEL, Engine(), Precision(), gpu, (there,), half, MODEL.layers - half),
    )


def on_nics(ranks: int, receivers: int | None = None) -> list[float]:
    demand = activations(NETWORK, *stages(ranks, receivers), TOKENS)
    return [
        n
        for link, n in zip(demand.links, demand.n_bytes, strict=True)
        if NETWORK.links[link].startswith("leaf")
    ]


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_each_rail_carries_its_share_of_the_activations(ranks: int) -> None:
    assert on_nics(ranks) == pytest.approx([N_BYTES / ranks] * ranks)


def test_with_unequal_ranks_the_wider_stage_sets_the_pieces() -> None:
    assert sum(on_nics(2, 4)) == pytest.approx(N_BYTES)
    assert on_nics(2, 4) == pytest.approx([N_BYTES / 4] * 4)


def test_receivers_gather_the_rest_after_it_arrives() -> None:
    source, target = stages(8)
    sent = collective(NETWORK, "send_recv", N_BYTES / 8, (NETWORK.gpus[0], NETWORK.gpus[8])).demand
    gathered = collective(NETWORK, "all_gather", N_BYTES, target.groups[0]).demand
    assert activations(NETWORK, source, target, TOKENS).latency_s == pytest.approx(
        sent.latency_s + gathered.latency_s
    )


def test_causes_that_are_taken_away_are_not_sent() -> None:
    source, target = stages(8)
    assert activations(NETWORK, source, target, TOKENS, frozenset({"collective_bytes"})).links == ()
    assert activations(NETWORK, source, target, TOKENS, frozenset({"collective_latency"})).latency_s == 0.0
