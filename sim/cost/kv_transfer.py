"""The KV cache that a prefill replica sends to a decode replica: bytes on links, with resharding."""

from __future__ import annotations

from sim.cost.collectives.choice import collective
from sim.cost.collectives.demands import Demand
from sim.cost.network import Network
from sim.cost.pricing import stripped, together
from sim.cost.shard import Shard
from sim.inputs.model import Model
from sim.inputs.quantities import DTYPE_BYTES


def kv_cache(
    network: Network,
    source: list[Shard],
    target: list[Shard],
    tokens: int,
    groups: tuple[int, int] = (0, 0),
    without: frozenset[str] = frozenset(),
) -> Demand:
    """The KV cache of `tokens` tokens from the GPUs of one replica to those of another.

    `groups` are the data-parallel ranks that have it and get it. Layer by layer, every receiving
    tensor-parallel rank gets the heads it keeps from ranks that have them: with unequal tensor parallelism a
    rank's heads come from, or go to, several others (resharding). A latent cache (MLA), and heads that are
    replicated, are sent once to every receiver, by senders in turn. All pairs send at once, and each pays one
    message's latency.
    """
    amounts: dict[tuple[str, str], float] = {}
    for sender in source:
        for receiver in target:
            first = max(sender.first_layer, receiver.first_layer)
            last = min(sender.first_layer + sender.layers, receiver.first_layer + receiver.layers)
            for shape, layers in _kinds(sender.model, first, last):
                shares = _shares(sender.of_shape(shape), receiver.of_shape(shape), groups)
                for pair, values in shares.items():
                    amounts[pair] = amounts.get(pair, 0.0) + values * layers
    width = DTYPE_BYTES[source[0].precision.kv_cache] * tokens
    sends = [
        collective(network, "send_recv", values * width, pair).demand
        for pair, values in amounts.items()
        if pair[0] != pair[1]
    ]
    return stripped(together(sends), without) if sends else Demand((), ())


def _kinds(model: Model, first: int, last: int) -> list[tuple[Model, int]]:
    """The shapes of the layers from `first` to `last`, not included, that keep KV, and how many have each."""
    found: dict[int, tuple[Model, int]] = {}
    for layer in range(first, last):
        shape = model.shape_of(layer)
        if shape.keeps_kv:
            found[id(shape)] = shape, found.get(id(shape), (shape, 0))[1] + 1
    return list(found.values())


def _shares(sender: Shard, receiver: Shard, groups: tuple[int, int]) -> dict[tuple[str, str], float]:
    """KV values of one token and layer that each sending rank has for each receiving rank."""
    model, turn = sender.model, groups[1]
    givers, takers = sender.groups[groups[0]], receiver.groups[groups[1]]
    if model.mla is not None:
        whole = float(model.kv_values_per_token_per_layer)
        return {(givers[(turn + i) % len(givers)], taker): whole for i, taker in enumerate(takers)}
    heads = model.kv_heads
    per_head = float(model.head_dim + (model.v_head_dim or model.head_dim))
    shares: dict[tuple[str, str], float] = {}
    for j, taker in enumerate(takers):
        kept = _heads_of(j, len(takers), heads)
        for head in kept:
            having = [i for i in range(len(givers)) if head in _heads_of(i, len(givers), heads)]
            giver = givers[having[(turn + j) % len(having)]]
            shares[giver, taker] = shares.get((giver, taker), 0.0) + per_head
    return shares


def _heads_of(rank: int, ranks: int, heads: int) -> range:
    """The KV heads that a tensor-parallel rank keeps; beyond one rank a head, heads are replicated."""
    if ranks >= heads:
        head = rank * heads // ranks
        return range(head, head + 1)
    each = heads // ranks
    return range(rank * each, (rank + 1) * each)
