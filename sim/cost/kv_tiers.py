"""The way of a KV cache between HBM and the tiers below it, and when reloading beats computing again.

Every tensor-parallel rank moves the heads it keeps over its own links: to the host memory of its socket, to
the nearest drives, through its own NIC. What several ranks keep (a latent cache, replicated heads) is
written once and read by each of them. Copies use the links' payload rates; there is no protocol on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from sim.cost.batch import Batch
from sim.cost.collectives.demands import Demand
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.cost.step_cost import StepCost
from sim.inputs.errors import InfeasibleError
from sim.inputs.kv_tiers import KvTier, RemoteTier
from sim.inputs.model import Model
from sim.inputs.quantities import DTYPE_BYTES

Ends = dict[str, tuple[tuple[str, ...], ...]]
"""For each GPU the places that hold its share, evenly: the last of each tuple, by way of those before it."""


def break_even_bytes_per_s(kv_bytes_per_token: float, flops_per_token: float, flops_per_s: float) -> float:
    """The bandwidth at which loading a token's KV takes as long as computing it.

    >>> round(break_even_bytes_per_s(327_680, 2 * 70.55e9, 8 * 989e12 * 0.6) / 1e9, 1)
    11.0
    """
    return kv_bytes_per_token * flops_per_s / flops_per_token


@dataclass(frozen=True)
class Way:
    """What one token's KV puts on each link; `bytes_per_s` is a ceiling of the tier itself."""

    links: tuple[int, ...]
    bytes_per_token: tuple[float, ...]
    latency_s: float
    min_flow_s_per_token: float = 0.0

    def demand(self, tokens: float) -> Demand:
        """The transfer of so many tokens."""
        n_bytes = tuple(amount * tokens for amount in self.bytes_per_token)
        return Demand(self.links, n_bytes, self.latency_s, self.min_flow_s_per_token * tokens)

    def isolated_s(self, tokens: float, capacity: Sequence[float]) -> float:
        """`Demand.isolated_s` for so many tokens, without making the demand; inf where a link is down."""
        busiest = self.min_flow_s_per_token
        for link, amount in zip(self.links, self.bytes_per_token, strict=True):
            busiest = max(busiest, amount / capacity[link] if capacity[link] else inf)
        return self.latency_s + tokens * busiest


def kv_bytes_by_rank(shard: Shard, group: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """KV bytes of a token that each GPU of a tensor-parallel group reads, and writes, for its layers."""
    ranks, width = len(group), DTYPE_BYTES[shard.precision.kv_cache]
    if not shard.model.layer_shapes:
        read, written = _bytes_of_layers(shard.model, ranks, width, shard.layers)
    else:
        layers = range(shard.first_layer, shard.first_layer + shard.layers)
        each = [_bytes_of_layers(shard.model.shape_of(layer), ranks, width, 1) for layer in layers]
        read, written = (sum(found) for found in zip(*each, strict=True))
    return dict.fromkeys(group, read), dict.fromkeys(group, written)


def _bytes_of_layers(model: Model, ranks: int, dtype_bytes: float, layers: int) -> tuple[float, float]:
    """KV bytes of a token in so many layers of one shape that a rank reads, and writes."""
    if not model.keeps_kv:
        return 0.0, 0.0
    width = dtype_bytes * layers
    if model.mla is not None:
        whole = width * model.kv_values_per_token_per_layer + layers * model.index_bytes_per_token_per_layer
        return whole, whole / ranks
    kept = max(1.0, model.kv_heads / ranks)
    values = model.head_dim + (model.v_head_dim or model.head_dim)
    return float(values) * width * kept, float(values) * width * model.kv_heads / ranks


def ends_of(network: Network, kind: str, tier: KvTier, gpus: Sequence[str]) -> Ends:
    """Where each GPU's share of a tier lies. Raises InfeasibleError where the topology has no such place."""
    if kind == "host":
        return {gpu: ((network.host_of(gpu),),) for gpu in gpus}
    if kind == "nvme":
        return {gpu: _nearest_stores(network, gpu) for gpu in gpus}
    place = tier.place if isinstance(tier, RemoteTier) else None
    return {gpu: _remote_places(network, place, gpu) for gpu in gpus}


def _nearest_stores(network: Network, gpu: str) -> tuple[tuple[str, ...], ...]:
    server = network.node_of[gpu]
    stores = [
        name
        for name, place in network.places.items()
        if place["kind"] == "store" and place.get("node", -1) == server
    ]
    if not stores:
        raise InfeasibleError(
            f"kv_tiers.nvme: the servers of {network.name} have no drives",
            "a part of kind store wired to its hosts gives them some, as in "
            "'nvme: {kind: store, count: 2, bytes_per_s: 27.2 GB/s}'; or leave the tier out",
        )
    hops = {store: len(network.path(gpu, store).links) for store in stores}
    return tuple((store,) for store in stores if hops[store] == min(hops.values()))


def _remote_places(network: Network, place: str | None, gpu: str) -> tuple[tuple[str, ...], ...]:
    """Of a server, the memory beside the GPU that has this one's place there, through that GPU's NIC."""
    if place is None:
        found = tuple(
            (name,)
            for name, about in network.places.items()
            if about["kind"] == "store" and about.get("node", -1) < 0
        )
        if not found:
            raise InfeasibleError(
                f"kv_tiers.remote: no store stands in the network of {network.name}",
                "place: node1 keeps it in the host memory of another server, or name any place",
            )
        return found
    if place in network.places:
        if network.kind(place) not in ("host", "store"):
            raise InfeasibleError(
                f"kv_tiers.remote.place: {place} is a {network.kind(place)}", "a host or a store keeps KV"
            )
        return ((place,),)
    there = [other for other in network.gpus if f"node{network.node_of[other]}" == place]
    if not there:
        servers = sorted({network.node_of[other] for other in network.gpus})
        raise InfeasibleError(
            f"kv_tiers.remote.place: {place!r} is no place and no server of {network.name}",
            f"its servers are node{servers[0]} to node{servers[-1]}",
        )
    index = int(network.places[gpu].get("index", 0))
    beside = there[index % len(there)]
    nics = network.nics_of(beside) if network.node_of[beside] != network.node_of[gpu] else ()
    return ((*nics[:1], network.host_of(beside)),)


def way(
    network: Network,
    amounts: Mapping[str, float],
    sources: Ends | None,
    targets: Ends | None,
    *,
    latency_s: float,
    kv_bytes_per_token: float,
    bytes_per_s: float | None,
) -> Way:
    """The way of one token, `amounts` bytes by GPU, from `sources` to `targets`; None is the GPU itself."""
    load: dict[int, float] = {}
    hops_s = 0.0
    for gpu, n_bytes in amounts.items():
        here = sources[gpu] if sources else ((gpu,),)
        there = targets[gpu] if targets else ((gpu,),)
        for source in here:
            for target in there:
                paths = [network.path(a, b) for a, b in pairwise((*source[::-1], *target))]
                hops_s = max(hops_s, sum(path.latency_s for path in paths))
                for path in paths:
                    for link, carried in path.bytes_on_links(n_bytes / (len(here) * len(there))):
                        load[link] = load.get(link, 0.0) + carried
    min_flow_s = kv_bytes_per_token / bytes_per_s if bytes_per_s else 0.0
    return Way(tuple(load), tuple(load.values()), latency_s + hops_s, min_flow_s)


def prefill_seconds(costs: Sequence[StepCost], past: int, tokens: int, *, budget: int, ranks: int) -> float:
    """Seconds to prefill one text from `past` to `tokens` tokens in steps of its own.

    Chunks of `budget` tokens; pipeline stages work on consecutive chunks at once. `ranks` are data-parallel
    ones, of which the others have nothing to do.
    """
    total_s = fill_s = 0.0
    while past < tokens:
        new = min(budget, tokens - past)
        sampled = int(past + new == tokens)
        batch = Batch(((new, past),), sampled=sampled)
        if new == 1 and sampled:  # as engines do: one token is a decode
            batch = Batch(decodes=1, decode_kv_tokens=past + 1, sampled=1)
        if ranks > 1:
            batch = Batch.of_ranks([batch, *[Batch()] * (ranks - 1)])
        stages_s = [cost.step(batch)[0] for cost in costs]
        total_s += max(stages_s)
        fill_s = sum(stages_s) - max(stages_s)
        past += new
    return total_s + fill_s
