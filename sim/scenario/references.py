"""What a scenario names of its topology: places, links and kinds of GPU, which must be there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import networkx as nx

from sim.cost.network import Network
from sim.inputs.faults import Fault
from sim.inputs.server_graph import places_of_kind
from sim.reading.problems import did_you_mean

Found = tuple[tuple[str | int, ...], str]
MAX_NAMED = 8


def faults_of_nothing(graph: nx.DiGraph[str], faults: Sequence[Fault], replicas: int) -> Iterator[Found]:
    """Every fault that names what is not there: its key, and what there is instead."""
    network = Network(graph)
    for number, fault in enumerate(faults):
        if fault.replica is not None:
            if fault.replica >= replicas:
                are = "0 is the only one" if replicas == 1 else f"0 to {replicas - 1} are"
                yield ("faults", number, "replica"), f"there is no replica {fault.replica}; {are}"
            continue
        for kind, known in _places(network).items():
            name = getattr(fault, kind)
            if name and name not in known:
                yield ("faults", number, kind), _unknown(kind, name, known)


def gpus_of_nothing(graph: nx.DiGraph[str], kinds: Mapping[str, str]) -> Iterator[Found]:
    """Every pool whose kind of GPU the topology does not have, of `kinds` by the pools' names."""
    there = sorted({str(graph.nodes[gpu]["model"]) for gpu in places_of_kind(graph, "gpu")})
    for pool, kind in kinds.items():
        if kind not in there:
            yield ("pools", pool, "gpu"), _unknown("GPU of kind", kind, there)


def faults_without_effect(
    graph: nx.DiGraph[str],
    faults: Sequence[Fault],
    serving: Collection[str],
    bytes_by_link: Mapping[str, float],
    end_s: float,
) -> Iterator[Found]:
    """Every fault that no request can have felt: it began when all was over, or no engine ran on what
    stopped, or no byte crossed what was lost. `serving` are the GPUs that engines ran on.
    """
    network = Network(graph)
    for number, fault in enumerate(faults):
        key: tuple[str | int, ...] = ("faults", number)
        kind = next(kind for kind in ("replica", *_places(network)) if getattr(fault, kind) not in ("", None))
        name = getattr(fault, kind)
        if fault.at_s >= end_s:
            yield (*key, "at_s"), f"nothing fails: the run ended at {end_s:g} s, before {fault.at_s:g} s"
        elif kind in ("gpu", "node"):
            fail = {gpu for gpu in network.gpus if name in (gpu, f"node{network.node_of[gpu]}")}
            if not fail.intersection(serving):
                yield (*key, kind), f"nothing fails: no engine runs on {name}"
        elif kind in ("link", "place") and not sum(bytes_by_link[link] for link in _links(network, name)):
            yield (*key, kind), f"nothing is slower: no byte crossed {name} in this run"


def _places(network: Network) -> dict[str, list[str]]:
    """What a fault may name, by the key that names it."""
    ends = {place for link in network.links for place in link.split("->")}
    ends.update(chip for chips in network.stripes.values() for chip in chips)
    servers = dict.fromkeys(f"node{node}" for node in network.node_of.values())
    return {
        "link": list(network.links),
        "place": sorted(ends),
        "gpu": list(network.gpus),
        "node": list(servers),
    }


def _links(network: Network, name: str) -> list[str]:
    """The links that are `name`, or end at it, or that it is a chip of."""
    crossbars = [crossbar for crossbar, chips in network.stripes.items() if name in chips]
    return [
        link for link in network.links if name == link or {name, *crossbars}.intersection(link.split("->"))
    ]


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    listed = ", ".join(known[:MAX_NAMED])
    if len(known) > MAX_NAMED:
        listed += f" and {len(known) - MAX_NAMED} more"
    return f"there is no {kind} {name!r}; there are {listed}{did_you_mean(name, known)}"
