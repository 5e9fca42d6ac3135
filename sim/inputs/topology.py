"""A system: GPUs and what joins them, described by parts and wires, and the graph that this expands to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

import networkx as nx
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from sim.inputs.errors import InfeasibleError, InputError, LocatedError, Problem
from sim.inputs.fat_tree import join_servers
from sim.inputs.given_graph import completed_graph
from sim.inputs.hardware import Gpu, LinkType
from sim.inputs.nvlink_domains import MAX_DOMAIN, nearest_sizes, regroup
from sim.inputs.parts import (
    CARRIERS,
    OwnCollectives,
    Part,
    ScaleOut,
    Transport,
    Whole,
    Wire,
    members,
    part_of,
)
from sim.inputs.provenance import Provenance
from sim.inputs.server_graph import (
    add_nics,
    number_domains,
    places_of_kind,
    server_edges,
    server_places,
    wire_pairs,
)

_GRAPH = "_graph"  # where an instance keeps its graph: not a field, so not compared, written out or copied
MAX_NODES = 16_384
MAX_PLACES = 500_000
BUILT_IN_TRANSPORTS = {kind: Transport(kind=kind) for kind in ("infiniband", "roce", "efa", "tcp")}


def _graph_of(given: Any) -> Any:
    """A directed graph, also from its node-link data. ValueError for anything else."""
    if given is None or (isinstance(given, nx.Graph) and given.is_directed()):
        return given
    what = "must be a directed networkx graph, or its node-link data with the keys nodes and edges"
    if not isinstance(given, Mapping):
        raise ValueError(what)
    try:
        read: Any = nx.node_link_graph(dict(given), edges="edges")
    except (KeyError, TypeError, ValueError, AttributeError, nx.NetworkXError) as error:
        raise ValueError(f"{what}; this is none: {type(error).__name__} {error}") from error
    if not read.is_directed():
        raise ValueError(what)
    return completed_graph(read)


_Graph = Annotated[
    Any,
    BeforeValidator(_graph_of),
    PlainSerializer(
        lambda given: given if given is None else nx.node_link_data(given, edges="edges"), when_used="json"
    ),
    WithJsonSchema({"type": "object", "description": "a networkx graph as node-link data"}),
]

_Systems = Annotated[
    dict[str, "Topology"],
    WithJsonSchema(
        {
            "type": "object",
            "description": "a name or a path of a topology each, or {topology: ..., nodes: 2}",
            "additionalProperties": {"type": ["string", "object"]},
        }
    ),
]


class Topology(BaseModel):
    """A system of `nodes` equal servers (racks, where one NVLink domain fills a rack).

    `parts` and `wires` describe one server, `scale_out` the networks between servers. `links` and `gpus` hold
    the types that wires and parts name. `peer_to_peer` off sends GPU-to-GPU copies through host memory; `acs`
    sends PCIe peer traffic up to the root complex; `inter_node` names the transport between servers. All
    three change paths. `collectives` gives a library's own times. `basis` says whether collectives were
    measured on this very machine, or its links have what their datasheets state; `provenance` where. A
    script's own graph stands in `own_graph` (see `of_graph`) in place of parts and wires. So do
    `systems`, whose servers the networks of the same name join: kinds of servers beside each other,
    numbered one after the other.

    `domain` puts the GPUs of servers with NVSwitches into NVLink domains of so many, the switches on
    `domain_tiers` tiers where a domain is larger than a server (`nvlink_domains`); `nics_per_gpu` puts NICs
    beside those that a server has, wired as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    basis: Literal["measured", "idealised"] | None = None
    nodes: Annotated[Whole, Field(le=MAX_NODES)] = 1
    peer_to_peer: bool = True
    acs: bool = False
    inter_node: str = "infiniband"
    domain: Annotated[Whole, Field(le=MAX_DOMAIN)] | None = None
    domain_tiers: Annotated[Whole, Field(le=2)] | None = None
    nics_per_gpu: Annotated[Whole, Field(le=64)] | None = None
    parts: dict[Annotated[str, Field(pattern=r"^[a-z][a-z_]*$", max_length=40)], Part] = {}
    wires: tuple[Wire, ...] = ()
    scale_out: tuple[ScaleOut, ...] = ()
    transports: dict[str, Transport] = {}
    collectives: OwnCollectives | None = None
    links: dict[str, LinkType] = {}
    gpus: dict[str, Gpu] = {}
    systems: _Systems = {}
    own_graph: _Graph = Field(default=None, repr=False)
    provenance: dict[str, Provenance] = {}

    @model_validator(mode="before")
    @classmethod
    def _transport_of_its_nics(cls, data: Any) -> Any:
        """Where nothing names a transport, the one that the NICs of the servers are for."""
        if (
            not isinstance(data, Mapping)
            or "inter_node" in data
            or not isinstance(data.get("parts"), Mapping)
        ):
            return data
        parts = [dict(part) for part in data["parts"].values() if isinstance(part, Mapping | Part)]
        said = {str(part.get("transport") or "infiniband") for part in parts if part.get("kind") == "nic"}
        of_rdma = sorted(kind for kind in said if kind in ("roce", "efa"))
        if "infiniband" in said or not of_rdma:
            return data
        return {**data, "inter_node": of_rdma[0]}

    @model_validator(mode="after")
    def _parts_and_names_go_together(self) -> Self:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if self.systems:
            found += self._misfits()
        elif self.own_graph is None:
            found += self._inconsistencies()
        if not found:
            found += [*self._domain_problems(), *self._nic_problems()]
        if self.inter_node not in self.known_transports:
            known = ", ".join(self.known_transports)
            found.append(
                (("inter_node",), f"{self.inter_node!r} is not a transport of {self.name}; {known} are")
            )
        if found:
            raise LocatedError(found)
        if self.nodes > 1 and self.own_graph is None and not self.scale_out:
            raise InfeasibleError(
                f"{self.name} has no network between servers, so {self.nodes} of them cannot be joined",
                "nodes: 1 can, or a topology with a scale_out block",
            )
        return self

    def _misfits(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """What keeps `systems` from standing beside each other."""
        if self.parts or self.own_graph is not None or self.nodes > 1:
            yield ("systems",), "parts, a graph and nodes belong to each of the systems, not beside them"
        servers = sum(system.nodes for system in self.systems.values())
        described: dict[str, Gpu] = {}
        for name, system in self.systems.items():
            if system.systems or system.own_graph is not None:
                yield ("systems", name), "is made of systems or a graph itself; parts and wires can be joined"
            elif servers > 1 and not system.scale_out:
                yield ("systems", name), f"{system.name} has no scale_out that would join it to the others"
            for rule in ("peer_to_peer", "acs"):
                if getattr(system, rule) != getattr(self, rule):
                    yield ("systems", name, rule), f"is not that of the whole ({getattr(self, rule)})"
            for model, gpu in system.gpus.items():
                if described.setdefault(model, gpu) != gpu:
                    yield ("systems", name, "gpus", model), "is described in another way by another system"
        if servers > MAX_NODES:
            yield ("systems",), f"have {servers} servers; {MAX_NODES} are the most that is simulated"

    def _domain_problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """What keeps the GPUs from standing in NVLink domains of the size asked for."""
        size, gpus = self.domain, self.gpus_per_node
        if self.domain_tiers is not None and (size is None or size <= gpus):
            yield (
                ("domain_tiers",),
                f"is for a domain over several servers; one of {self.name} has {gpus} GPUs",
            )
        if size is None:
            return
        if self.systems or self.own_graph is not None:
            yield ("domain",), "is for one kind of servers, described by parts and wires"
        elif not any(part.kind == "nvswitch" for part in self.parts.values()):
            yield ("domain",), f"{self.name} has no NVSwitch whose GPUs could be grouped in another way"
        elif size > gpus * self.nodes:
            needed = -(-size // gpus)
            yield (
                ("domain",),
                f"{size} GPUs are more than the {gpus * self.nodes} there are; nodes: {needed} has them",
            )
        elif size > gpus and size % gpus:
            near = " and ".join(map(str, nearest_sizes(gpus, self.nodes, size)))
            yield ("domain",), f"{size} GPUs are no whole number of servers of {gpus}; {near} are the nearest"
        elif size < gpus and not self.scale_out:
            yield (
                ("domain",),
                f"{self.name} has no scale_out that would join domains of {size} of its {gpus} GPUs",
            )

    def _nic_problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """What keeps a server from having so many NICs for each GPU."""
        if self.nics_per_gpu is None:
            return
        own, gpus = sum(self.parts[nic].count for nic in self._nic_parts), self.gpus_per_node
        if self.systems or self.own_graph is not None or not own:
            yield ("nics_per_gpu",), "is for one kind of servers, whose parts have NICs on a scale_out"
        elif self.nics_per_gpu * gpus % own:
            most = max(own // gpus, 1)
            able = [number for number in (most, 2 * most) if number * gpus % own == 0]
            yield (
                ("nics_per_gpu",),
                (
                    f"{self.nics_per_gpu} is no whole number of times the {own} NICs for {gpus} GPUs; "
                    f"{' and '.join(map(str, able)) or 'none'} would be"
                ),
            )

    @property
    def _nic_parts(self) -> tuple[str, ...]:
        """The parts that are NICs between servers, Ethernet left out."""
        parts = dict.fromkeys(part_of(network.of) for network in self.scale_out)
        return tuple(part for part in parts if self.parts[part].transport != "ethernet")

    @property
    def _nic_times(self) -> int:
        """How many NICs there are for each that the parts have."""
        if self.nics_per_gpu is None:
            return 1
        return self.nics_per_gpu * self.gpus_per_node // sum(self.parts[nic].count for nic in self._nic_parts)

    def _inconsistencies(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        if not any(part.kind == "gpu" for part in self.parts.values()):
            yield (
                ("parts",),
                "no part has kind gpu; at least one is needed, as in 'gpu: {kind: gpu, model: h100-sxm}'",
            )
            return
        places = self.nodes * sum(part.count for part in self.parts.values())
        if places > MAX_PLACES:
            yield (
                ("nodes",),
                f"{self.nodes} servers have {places} places; {MAX_PLACES} are the most that is simulated",
            )
            return
        whole = True
        for number, wire in enumerate(self.wires):
            for problem in self._wire_problems(wire):
                whole = False
                yield ("wires", number), problem
        for number, network in enumerate(self.scale_out):
            for problem in self._scale_out_problems(network):
                yield ("scale_out", number), problem
        if whole:
            try:
                server_edges(self.parts, self.wires, self.links)
            except ValueError as problem:
                yield ("wires", self._first_wire_too_many()), str(problem)

    def _first_wire_too_many(self) -> int:
        """The first wire that does not go with those before it."""
        for number in range(1, len(self.wires)):
            try:
                server_edges(self.parts, self.wires[:number], self.links)
            except ValueError:
                return number - 1
        return len(self.wires) - 1

    def _wire_problems(self, wire: Wire) -> Iterable[str]:
        missing = {part_of(wire.source), part_of(wire.to)} - self.parts.keys()
        for name in sorted(missing):
            yield f"{name!r} is not a part; {', '.join(self.parts)} are"
        if wire.link not in self.links:
            yield f"{wire.link!r} is not a type of link; {', '.join(self.links)} are"
        if not missing:
            try:
                for _ in wire_pairs(wire, self.parts):
                    pass
            except ValueError as problem:
                by_number = wire.pattern in ("one_to_one", "blocks")
                ends = [name for name in (wire.source, wire.to) if by_number and name in self.parts]
                one = [name for name in ends if "count" not in self.parts[name].model_fields_set]
                yield f"{problem}" + (f"; {' and '.join(one)} has no count, which makes it 1" if one else "")

    def _scale_out_problems(self, network: ScaleOut) -> Iterable[str]:
        part = self.parts.get(part_of(network.of))
        if part is None or part.kind != "nic":
            nics = [name for name, part in self.parts.items() if part.kind == "nic"]
            yield f"of: {network.of!r} is not a part of kind nic; " + (
                f"{', '.join(nics)} is" if nics else "add one"
            )
            return
        if network.link not in self.links:
            yield f"{network.link!r} is not a type of link; {', '.join(self.links)} are"
        try:
            nics_per_server = len(members(network.of, part.count))
        except ValueError as problem:
            yield str(problem)
            return
        if network.rails is not None and nics_per_server % network.rails:
            yield f"{network.rails} rails do not divide the {nics_per_server} NICs of a server"

    @classmethod
    def of_graph(
        cls,
        graph: nx.DiGraph[str],
        *,
        name: str = "",
        gpus: Mapping[str, Gpu] | None = None,
        peer_to_peer: bool | None = None,
        acs: bool | None = None,
        inter_node: str | None = None,
        transports: Mapping[str, Transport] | None = None,
    ) -> Topology:
        """A topology from a script's own graph; `given_graph.completed_graph` has what the graph must say.

        Properties that are not given are taken from `graph.graph`, where they have the same names.
        """
        completed = completed_graph(graph)
        stated = graph.graph
        nodes = {attributes["node"] for _, attributes in completed.nodes(data=True)} - {-1}
        return cls(
            name=name or stated.get("name") or "own-graph",
            nodes=max(len(nodes), 1),
            peer_to_peer=stated.get("peer_to_peer", True) if peer_to_peer is None else peer_to_peer,
            acs=stated.get("acs", False) if acs is None else acs,
            inter_node=inter_node or stated.get("inter_node", "infiniband"),
            transports=dict(transports or {}),
            gpus=dict(gpus or {}),
            own_graph=completed,
        )

    @property
    def graph(self) -> nx.DiGraph[str]:
        """The system as a graph: one node per place, two directed edges per link. Not to be changed in place.

        InfeasibleError where the servers cannot be joined.
        """
        graph: nx.DiGraph[str] | None = self.__dict__.get(_GRAPH)
        if graph is None:
            graph = self.__dict__[_GRAPH] = self._built()
        return graph

    def _built(self) -> nx.DiGraph[str]:
        graph = self._own() if self.own_graph is not None else self._expanded()
        transport = self.transport
        if transport.bytes_per_s is not None:
            _limit_servers(graph, transport)
        graph.graph.update(
            name=self.name,
            peer_to_peer=self.peer_to_peer,
            acs=self.acs,
            inter_node=transport.kind,
            transport=self.inter_node,
            transport_hop_s=transport.hop_s,
        )
        if self.collectives is not None:
            graph.graph["collectives"] = self.collectives
        return graph

    def with_inter_node(self, transport: str) -> Topology:
        """The same system with another transport between servers; `tcp-eth0` and `tcp_eth0` are one name.

        InputError where the system has no transport of that name.
        """
        known = self.known_transports
        by_sign = {name.replace("_", "-"): name for name in known}
        name = by_sign.get(transport.replace("_", "-"))
        if name is None:
            what = f"{transport!r} is not a transport of {self.name}; {', '.join(known)} are"
            raise InputError(Problem(what, key="inter_node"))
        return self.model_copy(update={"inter_node": name})

    @property
    def transport(self) -> Transport:
        """The transport that `inter_node` names."""
        return self.known_transports[self.inter_node]

    @property
    def known_transports(self) -> dict[str, Transport]:
        """The transports that `inter_node` may name: its own, its systems', and what is always there."""
        known = dict(BUILT_IN_TRANSPORTS)
        for system in self.systems.values():
            known |= system.transports
        return known | self.transports

    @property
    def servers(self) -> int:
        """How many servers there are, of all kinds."""
        return sum(system.nodes for system in self.systems.values()) or self.nodes

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one server; where there are several kinds of servers, of one of each."""
        if self.own_graph is not None:
            return len(self.graph.graph["gpus"]) // self.nodes
        kinds = self.systems.values() or (self,)
        return sum(part.count for one in kinds for part in one.parts.values() if part.kind == "gpu")

    @property
    def gpu_models(self) -> dict[str, Gpu]:
        """All GPUs that there are, by the name of their model."""
        return {name: gpu for one in self.systems.values() for name, gpu in one.gpus.items()} | self.gpus

    def gpu(self, place: str) -> Gpu:
        """What the GPU at `place` (`node0.gpu3`) is."""
        return self.gpu_models[self.graph.nodes[place]["model"]]

    def link_type(self, name: str) -> LinkType | None:
        """A type of link by its name; None where a graph of one's own names what is not described."""
        kinds = (self, *self.systems.values())
        return next((one.links[name] for one in kinds if name in one.links), None)

    def _own(self) -> nx.DiGraph[str]:
        own: nx.DiGraph[str] = self.own_graph.copy()
        return own

    def _expanded(self) -> nx.DiGraph[str]:
        graph: nx.DiGraph[str] = nx.DiGraph()
        networks: dict[str, tuple[ScaleOut, list[tuple[list[str], LinkType]]]] = {}
        first = 0
        for kind in self.systems.values() or (self,):
            places = server_places(kind.parts)
            edges = server_edges(kind.parts, kind.wires, kind.links)
            if self._nic_times > 1:
                add_nics(places, edges, self._nic_parts, self._nic_times)
            for node in range(first, first + kind.nodes):
                graph.add_nodes_from(
                    (f"node{node}.{name}", {**place, "node": node}) for name, place in places
                )
                graph.add_edges_from(
                    (f"node{node}.{one}", f"node{node}.{other}", dict(edge))
                    for (one, other), edge in edges.items()
                )
                for network in kind.scale_out:
                    nics = [f"node{node}.{nic}" for nic in kind.nics_of(network)]
                    _, joined = networks.setdefault(network.name, (network, []))
                    joined.append((nics, kind.links[network.link]))
            first += kind.nodes
        islands = self.domain is not None and self.domain < self.gpus_per_node
        if self.domain is not None:
            regroup(graph, self.domain, self.domain_tiers or 2)
        number_domains(graph)
        if first > 1 or islands:
            for network, servers in networks.values():
                join_servers(graph, servers, network)
        graph.graph["gpus"] = places_of_kind(graph, "gpu")
        return graph

    def nics_of(self, network: ScaleOut) -> list[str]:
        """The NICs of one server that are on a network, in order."""
        part = part_of(network.of)
        count, times = self.parts[part].count, self._nic_times if part in self._nic_parts else 1
        return [f"{part}{turn * count + i}" for turn in range(times) for i in members(network.of, count)]

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied.__dict__.pop(_GRAPH, None)  # a copy may be given other links, and then has another graph
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copied = super().__deepcopy__(memo)
        copied.__dict__.pop(_GRAPH, None)
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": {name: value for name, value in self.__dict__.items() if name != _GRAPH}}


def _limit_servers(graph: nx.DiGraph[str], transport: Transport) -> None:
    """Hold what each server sends and receives over the transport's NICs to `transport.bytes_per_s`."""
    assert transport.bytes_per_s is not None
    carrier = CARRIERS[transport.kind]
    nics: dict[int, list[str]] = {}
    for place, attributes in graph.nodes(data=True):
        if attributes["kind"] == "nic" and attributes["transport"] == carrier:
            nics.setdefault(attributes["node"], []).append(place)
    for of_one_server in nics.values():
        share = transport.bytes_per_s / len(of_one_server)
        for nic in of_one_server:
            for switch in graph.successors(nic):
                if graph.nodes[switch]["node"] != graph.nodes[nic]["node"]:
                    for edge in (graph.edges[nic, switch], graph.edges[switch, nic]):
                        edge["bytes_per_s"] = min(edge["bytes_per_s"], share)
