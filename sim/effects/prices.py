"""Whether a link that carried bytes was ever the one that they waited for: the steps of the run, priced on
the same machine with that link slower and faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

from sim.cost import kv_transfer, stage_sends
from sim.cost.batch import Batch
from sim.cost.kv_tiers import ends_of, kv_bytes_by_rank, way
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.effects.ran import Group, Ran
from sim.inputs.hardware import LinkType
from sim.inputs.parts import Part, ScaleOut
from sim.inputs.topology import Topology

FACTORS = (0.5, 2.0)
TOKENS = 1024  # of a KV transfer
MAX_PAIRS = 16  # of replicas that handed KV caches over
MAX_EDGES = 20_000
"""Of larger machines no copies are made: their keys are taken to act."""

Scaled = Callable[[Topology, float], Topology]
"""The same system with what a key says multiplied."""
Described = TypeVar("Described", LinkType, Part, ScaleOut)


def prices_move(ran: Ran, scale: Scaled) -> bool:
    """Whether any step, send between stages, KV transfer or copy between tiers takes another time, alone,
    where a key is half or twice as much. True where this cannot be told: transfers have shared links.
    """
    shared = bool((ran.link_rows["shared_s"] > 0.0).any())
    if shared or ran.graph.number_of_edges() > MAX_EDGES:
        return True
    before = list(_prices(ran, ran.network))
    for factor in FACTORS:
        other = _everywhere(ran.scenario.wired, scale, factor)
        if list(_prices(ran, Network(other.graph))) != before:
            return True
    return False


def waits_for_sequences(ran: Ran, group: Group) -> bool:
    """Whether GPUs of an asynchronous engine waited for its host, in the steps that `prices_move` tries."""
    shard = group.plans[0].shards[0]
    host = shard.engine.host.model_copy(update={"sequence_s": 0.0})
    without_it = replace(shard, engine=shard.engine.model_copy(update={"host": host}))
    costs = [
        StageCost(one, ran.network, frozenset(ran.scenario.without), ran.scenario.kernels)
        for one in (shard, without_it)
    ]
    return any(costs[0].step(batch)[0] > costs[1].step(batch)[0] for batch in _batches(group))


def _prices(ran: Ran, network: Network) -> Iterator[float]:
    without = frozenset(ran.scenario.without)
    for group in ran.groups.values():
        plan = group.plans[0]
        batches = list(_batches(group))
        for stage, shard in enumerate(plan.shards):
            cost = StageCost(shard, network, without, ran.scenario.kernels)
            yield from (cost.step(batch)[0] for batch in batches)
            if stage:
                before = plan.shards[stage - 1]
                for batch in batches:
                    sent = stage_sends.activations(network, before, shard, batch.tokens, without)
                    yield sent.latency_s + sent.flow_s(network.capacity)

    yield from _prices_of_hand_overs(ran, network, without)
    for group in ran.groups.values():
        if group.engine.kv_tiers is not None:
            yield from _prices_of_tiers(group, network)


def _prices_of_hand_overs(ran: Ran, network: Network, without: frozenset[str]) -> Iterator[float]:
    rows, plans = ran.records.hand_overs, ran.deployment.replicas
    pairs = sorted(set(zip(rows["sender"].tolist(), rows["receiver"].tolist(), strict=True)))
    for sender, receiver in pairs[:MAX_PAIRS]:
        source, target = list(plans[sender].shards), list(plans[receiver].shards)
        sent = kv_transfer.kv_cache(network, source, target, TOKENS, without=without)
        yield sent.latency_s + sent.flow_s(network.capacity)


def _prices_of_tiers(group: Group, network: Network) -> Iterator[float]:
    """A read from each tier, and a copy down to it."""
    shards, tiers = group.plans[0].shards, group.engine.kv_tiers
    read: dict[str, float] = {}
    written: dict[str, float] = {}
    for shard in shards:
        reads, writes = kv_bytes_by_rank(shard, shard.groups[0])
        read.update(reads)
        written.update(writes)
    per_token, above = sum(written.values()), None
    for name, about in tiers.present.items() if tiers else ():
        ends = ends_of(network, name, about, tuple(read))
        of_tier = partial(way, network, latency_s=about.latency_s, kv_bytes_per_token=per_token)
        for one in (
            of_tier(read, ends, None, bytes_per_s=about.read_bytes_per_s),
            of_tier(written, above, ends, bytes_per_s=about.write_bytes_per_s),
        ):
            yield one.isolated_s(TOKENS, network.capacity)
        above = ends


def _batches(group: Group) -> Iterator[Batch]:
    """The largest step with prompts, and the largest and the smallest of decodes alone."""
    ranks = group.groups_in_step
    prefill = group.peak_prefill
    if prefill:
        yield _over(Batch(((prefill, 0),), sampled=1), ranks)
    for decodes in sorted(group.decodes_alone):
        yield _over(Batch((), decodes, decodes * 100, decodes), ranks)


def _over(batch: Batch, ranks: int) -> Batch:
    """The same work on one of several data-parallel ranks in lock-step."""
    return batch if ranks == 1 else Batch.of_ranks([batch, *[Batch() for _ in range(ranks - 1)]])


def scaled_links(name: str, attribute: str) -> Scaled:
    """What a type of link says, of all links of this type."""

    return _scaled_entry("links", name, attribute)


def scaled_part(name: str, attribute: str) -> Scaled:
    """What a part says, of all of its places."""

    return _scaled_entry("parts", name, attribute)


def _scaled_entry(table: Literal["links", "parts"], name: str, attribute: str) -> Scaled:
    def scale(topology: Topology, factor: float) -> Topology:
        entries = getattr(topology, table)
        if name not in entries:
            return topology
        return topology.model_copy(
            update={table: {**entries, name: _scaled(entries[name], attribute, factor)}}
        )

    return scale


def scaled_network(number: int, attribute: str) -> Scaled:
    """What the switches of a network between servers say."""

    def scale(topology: Topology, factor: float) -> Topology:
        networks = list(topology.scale_out)
        networks[number] = _scaled(networks[number], attribute, factor)
        return topology.model_copy(update={"scale_out": tuple(networks)})

    return scale


def scaled_wire(number: int) -> Scaled:
    """How many links run in parallel on a wire; half of one is one."""

    def scale(topology: Topology, factor: float) -> Topology:
        wires = list(topology.wires)
        links = wires[number].links
        several = links if isinstance(links, tuple) else (links,)
        scaled = tuple(max(1, int(one * factor)) for one in several)
        of_all = scaled if isinstance(links, tuple) else scaled[0]
        wires[number] = wires[number].model_copy(update={"links": of_all})
        return topology.model_copy(update={"wires": tuple(wires)})

    return scale


def _scaled(described: Described, attribute: str, factor: float) -> Described:
    value = getattr(described, attribute)
    return described if value is None else described.model_copy(update={attribute: value * factor})


def _everywhere(topology: Topology, scale: Scaled, factor: float) -> Topology:
    if not topology.systems:
        return scale(topology, factor)
    systems = {name: scale(system, factor) for name, system in topology.systems.items()}
    return topology.model_copy(update={"systems": systems})
