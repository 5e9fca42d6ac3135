"""What a scenario names of its topology: places, links and kinds of GPU, which must be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
        for kind, known in faultable_places(network).items():
            name = getattr(fault, kind)
            if name and name not in known:
                yield ("faults", number, kind), unknown(kind, name, known)


def gpus_of_nothing(graph: nx.DiGraph[str], kinds: Mapping[str, str]) -> Iterator[Found]:
    """Every pool whose kind of GPU the topology does not have, of `kinds` by the pools' names."""
    there = sorted({str(graph.nodes[gpu]["model"]) for gpu in places_of_kind(graph, "gpu")})
    for pool, kind in kinds.items():
        if kind not in there:
            yield ("pools", pool, "gpu"), unknown("GPU of kind", kind, there)


def faultable_places(network: Network) -> dict[str, list[str]]:
    """What a fault may name, by the key that names it."""
    ends = {place for ends in network.ends for place in ends}
    ends.update(chip for chips in network.stripes.values() for chip in chips)
    servers = dict.fromkeys(f"node{node}" for node in network.node_of.values())
    return {
        "link": [*network.links, *network.bundled],
        "place": sorted(ends),
        "gpu": list(network.gpus),
        "node": list(servers),
    }


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name that is none, with those that there are."""
    listed = ", ".join(known[:MAX_NAMED])
    if len(known) > MAX_NAMED:
        listed += f" and {len(known) - MAX_NAMED} more"
    return f"there is no {kind} {name!r}; there are {listed}{did_you_mean(name, known)}"
