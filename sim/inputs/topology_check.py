"""What a topology can carry, before any time passes: which GPUs reach each other, and at what bandwidth.

Reachability follows the rules of traffic: GPUs do not forward, NICs of the other transport carry nothing, and
with peer-to-peer off NVLink carries nothing. Bisection is a maximum flow from the first half of the GPUs to
the second, per direction, which is what the best routing could get; the paths that traffic takes get that or
less. The halves are of whole servers (or NVLink domains, where these are larger): a cut through NVLink
would say nothing of the network between servers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx as nx

from sim.inputs.errors import InfeasibleError
from sim.inputs.parts import CARRIERS
from sim.inputs.server_graph import places_of_kind
from sim.inputs.topology import Topology


@dataclass(frozen=True, slots=True)
class SwitchTiers:
    """Switches between servers that are joined to each other. `oversubscription` is what the NICs of a leaf
    can send over what its uplinks carry, of the leaf where that is most; below 1 where uplinks have more.
    None without spines.
    """

    name: str
    leaves: int
    spines: int
    routing: str
    oversubscription: float | None

    def __str__(self) -> str:
        leaves = "1 leaf" if self.leaves == 1 else f"{self.leaves} leaves"
        if not self.spines:
            return f"{leaves}, no spine"
        spines = "1 spine" if self.spines == 1 else f"{self.spines} spines"
        ratio = self.oversubscription
        blocking = (
            "non-blocking" if ratio is None or ratio <= 1.0 + 1e-9 else f"oversubscription {ratio:.3g}:1"
        )
        return f"{leaves}, {spines}, {self.routing} routing, {blocking}"


@dataclass(frozen=True, slots=True)
class TopologyCheck:
    """Figures of a topology; bytes/s are payload, per direction. None where there is nothing of the kind."""

    name: str
    nodes: int
    gpus: int
    gpu_models: tuple[str, ...]
    domains: int
    largest_domain: int
    links: dict[str, int]
    in_domain_bytes_per_s: float | None  # per GPU, to its NVLink domain
    in_domain_raw_bytes_per_s: float | None  # the same before protocol overhead, as datasheets state it
    across_bytes_per_s: float | None  # per GPU of one half that sends to the other, beyond one domain
    bisection_bytes_per_s: float
    switches: tuple[SwitchTiers, ...] = ()


def checked(topology: Topology) -> TopologyCheck:
    """The figures of a topology. InfeasibleError names a pair of GPUs that cannot reach each other."""
    graph = topology.graph
    gpus: list[str] = graph.graph["gpus"]
    refuse_unreachable(graph)
    members: dict[int, int] = {}
    for gpu in gpus:
        domain = graph.nodes[gpu]["domain"]
        members[domain] = members.get(domain, 0) + 1
    links: dict[str, int] = {}
    for _, _, edge in graph.edges(data=True):
        links[edge["link"]] = links.get(edge["link"], 0) + edge["count"]
    payload = [in_domain_bytes_per_s(graph, gpu) for gpu in gpus]
    bisection = bisection_bytes_per_s(graph)
    return TopologyCheck(
        name=topology.name,
        nodes=topology.servers,
        gpus=len(gpus),
        gpu_models=tuple(dict.fromkeys(graph.nodes[gpu]["model"] for gpu in gpus)),
        domains=len(members),
        largest_domain=max(members.values()),
        links={name: number // 2 for name, number in links.items()},
        in_domain_bytes_per_s=min(payload) or None,
        in_domain_raw_bytes_per_s=min(_raw_bytes_per_s(topology, gpu) for gpu in gpus) or None,
        across_bytes_per_s=bisection / len(halves(graph)[0]) if len(members) > 1 else None,
        bisection_bytes_per_s=bisection,
        switches=tuple(tiers(graph)),
    )


def halves(graph: nx.DiGraph[str]) -> tuple[list[str], list[str]]:
    """The GPUs of the first half and of the second, in rank order: of servers or NVLink domains, as long as
    there are several.
    """
    gpus: list[str] = graph.graph["gpus"]
    of_domain = Counter(graph.nodes[gpu]["domain"] for gpu in gpus)
    units: dict[object, list[str]] = {}
    for gpu in gpus:
        place = graph.nodes[gpu]
        joined = graph.graph.get("peer_to_peer", True) and of_domain[place["domain"]] > 1
        units.setdefault(("domain", place["domain"]) if joined else ("node", place["node"]), []).append(gpu)
    parts = list(units.values())
    if len(parts) == 1:
        parts = [[gpu] for gpu in gpus]
    half = len(parts) // 2
    return [gpu for part in parts[:half] for gpu in part], [gpu for part in parts[half:] for gpu in part]


def tiers(graph: nx.DiGraph[str]) -> Iterator[SwitchTiers]:
    """The networks of switches between servers, in the order of the graph; switches that only NICs join, as
    one.
    """
    switches = [place for place in places_of_kind(graph, "switch") if graph.nodes[place]["node"] == -1]
    alone: dict[str, list[str]] = {}
    for component in nx.weakly_connected_components(graph.subgraph(switches)):
        places = [place for place in switches if place in component]
        leaves = [
            place
            for place in places
            if any(graph.nodes[other]["kind"] != "switch" for other in graph.predecessors(place))
        ]
        name = leaves[0].rstrip("0123456789") if leaves else places[0]
        if len(leaves) == len(places):
            alone.setdefault(name, []).extend(places)
            continue
        static = any(graph.nodes[place].get("routing") == "static" for place in places)
        ratios = [_below_over_above(graph, leaf) for leaf in leaves]
        yield SwitchTiers(
            name,
            len(leaves),
            len(places) - len(leaves),
            "static" if static else "adaptive",
            max((ratio for ratio in ratios if ratio is not None), default=None),
        )
    for name, places in alone.items():
        yield SwitchTiers(name, len(places), 0, "", None)


def _below_over_above(graph: nx.DiGraph[str], leaf: str) -> float | None:
    """What can come up to a leaf over what its uplinks carry; None without uplinks."""
    up = sum(edge["bytes_per_s"] for _, to, edge in graph.out_edges(leaf, data=True) if _is_switch(graph, to))
    below = sum(
        edge["bytes_per_s"] for one, _, edge in graph.in_edges(leaf, data=True) if not _is_switch(graph, one)
    )
    return float(below / up) if up else None


def _is_switch(graph: nx.DiGraph[str], place: str) -> bool:
    return bool(graph.nodes[place]["kind"] == "switch")


def refuse_unreachable(graph: nx.DiGraph[str]) -> None:
    """InfeasibleError that names a pair of GPUs without a path between them, if there is one."""
    usable = _usable(graph)
    between = usable.subgraph(place for place in usable if usable.nodes[place]["kind"] != "gpu")
    group: dict[str, int] = {}
    for number, places in enumerate(nx.weakly_connected_components(between)):
        group.update(dict.fromkeys(places, number))
    reached: dict[frozenset[int], str] = {}
    for gpu in graph.graph["gpus"]:
        groups = frozenset(group[place] for place in usable.successors(gpu) if place in group)
        for others, other in reached.items():
            if not groups & others and not usable.has_edge(other, gpu):
                raise InfeasibleError(_no_path(graph, other, gpu), _remedy(graph))
        reached.setdefault(groups, gpu)
        if not groups and gpu != reached[groups] and not usable.has_edge(reached[groups], gpu):
            raise InfeasibleError(_no_path(graph, reached[groups], gpu), _remedy(graph))


def in_domain_bytes_per_s(graph: nx.DiGraph[str], gpu: str) -> float:
    """Payload bytes/s that a GPU can send into its NVLink domain; 0 without NVLink."""
    edges = graph.out_edges(gpu, data=True)
    return float(sum(edge["bytes_per_s"] for _, to, edge in edges if _is_scale_up(graph, to)))


def bisection_bytes_per_s(graph: nx.DiGraph[str]) -> float:
    """Bytes/s from the first half of the GPUs (see `halves`) to the second, by the best routing."""
    gpus: list[str] = graph.graph["gpus"]
    if len(gpus) < 2:
        return 0.0
    flow = _flow_network(graph, *halves(graph))
    quickest = nx.algorithms.flow.boykov_kolmogorov  # 20 times quicker than networkx's default here
    return float(nx.maximum_flow_value(flow, "source", "sink", flow_func=quickest))


def _flow_network(
    graph: nx.DiGraph[str], senders: Sequence[str], receivers: Sequence[str]
) -> nx.DiGraph[str]:
    """Capacities between two sets of GPUs, with NVLink's striped planes as one place per domain.

    Within one domain only NVLink counts: what NVLink can carry does not go over PCIe.
    """
    usable = _usable(graph)
    domains = {graph.nodes[gpu]["domain"] for gpu in (*senders, *receivers)}
    nvlink_only = len(domains) == 1 and graph.graph.get("peer_to_peer", True)
    staged = not graph.graph.get("peer_to_peer", True) or graph.graph.get("inter_node") == "tcp"
    flow: nx.DiGraph[str] = nx.DiGraph()
    plane = _planes(graph)
    for one, other, edge in usable.edges(data=True):
        if nvlink_only and not (_is_scale_up(graph, one) and _is_scale_up(graph, other)):
            continue
        a, b = plane.get(one, one), plane.get(other, other)
        if a != b:
            _add_capacity(flow, f"{a} out", f"{b} in", edge["bytes_per_s"])
    for place in graph:
        attributes = graph.nodes[place]
        own = attributes.get("bytes_per_s")
        if attributes["kind"] in ("host", "store") and not staged:
            own = None
        if attributes["kind"] != "gpu":
            through = plane.get(place, place)
            _add_capacity(flow, f"{through} in", f"{through} out", own)
    for gpu in senders:
        _add_capacity(flow, "source", f"{gpu} out", None)
    for gpu in receivers:
        _add_capacity(flow, f"{gpu} in", "sink", None)
    return flow


def _add_capacity(flow: nx.DiGraph[str], one: str, other: str, bytes_per_s: float | None) -> None:
    if bytes_per_s is None:
        flow.add_edge(one, other)  # networkx takes an edge without capacity for an unlimited one
    elif flow.has_edge(one, other):
        flow.edges[one, other]["capacity"] += bytes_per_s
    else:
        flow.add_edge(one, other, capacity=bytes_per_s)


def _planes(graph: nx.DiGraph[str]) -> dict[str, str]:
    """The name of what stands for each NVLink switch: one place for a domain, but not where switches are
    joined to each other, for between tiers there may be less than below.
    """
    chips = places_of_kind(graph, "nvswitch")
    tiered = {
        graph.nodes[chip]["domain"]
        for chip in chips
        if any(graph.nodes[near]["kind"] == "nvswitch" for near in graph.successors(chip))
    }
    planes = {}
    for chip in chips:
        place = graph.nodes[chip]
        if "tier" in place:  # striped over the chips of a server alike, and over those above
            planes[chip] = f"domain{place['domain']}.{place['node']}"
        elif place["domain"] not in tiered:
            planes[chip] = f"domain{place['domain']}"
    return planes


def _is_scale_up(graph: nx.DiGraph[str], place: str) -> bool:
    return graph.nodes[place]["kind"] in ("gpu", "nvswitch")


def _usable(graph: nx.DiGraph[str]) -> nx.DiGraph[str]:
    """What may carry traffic between GPUs under the graph's properties."""
    carrier = CARRIERS[graph.graph.get("inter_node", "infiniband")]
    idle = {nic for nic in places_of_kind(graph, "nic") if graph.nodes[nic]["transport"] != carrier}
    if not graph.graph.get("peer_to_peer", True):
        idle |= set(places_of_kind(graph, "nvswitch"))
    usable: nx.DiGraph[str] = graph.subgraph(place for place in graph if place not in idle).copy()
    if not graph.graph.get("peer_to_peer", True):
        usable.remove_edges_from(
            [edge for edge in usable.edges if all(_is_scale_up(graph, end) for end in edge)]
        )
    return usable


def _raw_bytes_per_s(topology: Topology, gpu: str) -> float:
    graph = topology.graph
    total = 0.0
    for _, to, edge in graph.out_edges(gpu, data=True):
        if _is_scale_up(graph, to):
            link = topology.link_type(edge["link"])
            total += link.bytes_per_s * edge["count"] if link else edge["bytes_per_s"]
    return total


def _no_path(graph: nx.DiGraph[str], one: str, other: str) -> str:
    return f"no path from {one} to {other} in {graph.graph.get('name') or 'the graph'}"


def _remedy(graph: nx.DiGraph[str]) -> str:
    kind = graph.graph.get("inter_node", "infiniband")
    there = {graph.nodes[nic]["transport"] for nic in places_of_kind(graph, "nic")}
    others = [other for other, carrier in CARRIERS.items() if carrier in there]
    if kind in ("infiniband", "roce", "efa") and others and CARRIERS[kind] not in there:
        either = f"inter_node: {others[0]}, or transport: {kind} of the NICs"
        return f"no NIC is for {kind}; {either}, would join them"
    if graph.graph.get("inter_node") == "tcp" and not any(
        graph.nodes[nic]["transport"] == "ethernet" for nic in places_of_kind(graph, "nic")
    ):
        return "inter_node: infiniband, or an Ethernet NIC in every server, would join them"
    return "a wire, a switch or a NIC between them would join them"
