"""A topology graph compiled once: link ids, capacities, and the path between any two places.

Three things have three names. A *topology* is described: what stands in a server and how servers are joined
(`inputs/topology.py`). A *network* is compiled from its graph and never changes: this module. A *fabric* is
the network on the clock, where transfers share its links (`runtime/fabric/`).

networkx is what people write and read; a simulation asks for paths and capacities a million times, and a
look-up in the graph costs 25 times a list index. So the graph becomes lists of links and an adjacency by
place (`link_graph.py`), and a path is found when it is first asked for (`paths.py`) and then remembered.

The switch chips of an NVLink domain become one crossbar, the spines of a fabric with adaptive routing one
switch, and a place that can block by itself becomes a link of its own. A host's own link is charged for
traffic that is staged in its memory, and not for PCIe traffic that only turns round there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import networkx as nx

from sim.cost.all_pairs import between_groups
from sim.cost.link_graph import LinkGraph
from sim.cost.paths import Path, Paths
from sim.cost.remembered import Remembered
from sim.inputs.parts import OwnCollectives


class Network:
    """Links, capacities and paths of one topology graph.

    `links` are names (`node0.gpu3->nvlink0`; a place that blocks by itself is a link with the place's
    name), `ends` the places that each joins, `capacity` is payload bytes/s of each, `gpus` are the ranks in
    order. Paths are worked out on first use; `remembered` keeps what collectives work out from this
    network. `stripes` has the share of each chip or spine that went into a place, `bundled` the links that
    a described one became, each with its share of their rate.
    """

    def __init__(self, graph: nx.DiGraph[str]) -> None:
        self.name: str = graph.graph.get("name", "")
        self.peer_to_peer: bool = graph.graph.get("peer_to_peer", True)
        self.inter_node: str = graph.graph.get("inter_node", "infiniband")
        self.transport_hop_s: float | None = graph.graph.get("transport_hop_s")
        self.own_collectives: OwnCollectives | None = graph.graph.get("collectives")
        self._graph = compiled = LinkGraph(graph)
        self.places: dict[str, dict[str, Any]] = compiled.places
        self.links: list[str] = compiled.links
        self.ends: list[tuple[str, ...]] = compiled.ends
        self.capacity: list[float] = compiled.capacity
        self.link_id: dict[str, int] = compiled.link_id
        self.stripes: dict[str, dict[str, float]] = compiled.stripes
        self.bundled: dict[str, dict[int, float]] = compiled.bundled
        self.gpus: tuple[str, ...] = tuple(
            graph.graph.get("gpus") or sorted(compiled.of_kind("gpu"), key=compiled.order)
        )
        self.gpu_index: dict[str, int] = {gpu: rank for rank, gpu in enumerate(self.gpus)}
        self.node_of: dict[str, int] = {gpu: self.places[gpu].get("node", 0) for gpu in self.gpus}

        self.remembered = Remembered()
        self._described = graph
        self._with_peers: Network | None = None
        self._paths: dict[tuple[str, str], Path] = {}
        self._finder = Paths(graph, compiled, self.gpus)

    def kind(self, place: str) -> str:
        """What a place is: gpu, crossbar, nvswitch, pcie_switch, host, nic, switch or store."""
        return str(self.places[place]["kind"])

    def crossbar(self, gpu: str) -> str | None:
        """The NVLink crossbar that a GPU hangs on, or None."""
        return self._graph.crossbars.get(gpu)

    def domain(self, gpu: str) -> str | None:
        """What a GPU's NVLink switches join: its crossbar, or a domain of several tiers of switches; or
        None.
        """
        return self._graph.crossbars.get(gpu) or self._graph.tiered.get(gpu)

    def same_domain(self, gpus: Iterable[str]) -> bool:
        """True where NVLink switches join all these GPUs and peer-to-peer is on."""
        domains = {self.domain(gpu) for gpu in gpus}
        return self.peer_to_peer and len(domains) == 1 and None not in domains

    def reduces(self, gpus: Iterable[str]) -> bool:
        """True where the switches that join all these GPUs add numbers on the way (NVLink SHARP), on one tier
        or on two.
        """
        gpus = tuple(gpus)
        domain = self.domain(gpus[0])
        return domain is not None and self.same_domain(gpus) and self._graph.reduces.get(domain, False)

    def switch_of(self, gpu: str) -> str:
        """The place of the NVLink chips that a GPU hangs on, where they add: its crossbar, or of two tiers
        the lower one.
        """
        return self._graph.crossbars.get(gpu) or self._graph.leaf_chips[gpu]

    def trunks(self, switch: str) -> tuple[int, int]:
        """Of the chips of a server below a second tier, the link up to that and the link down from it."""
        top = next(end for end, _, _ in self._graph.out[switch] if self.kind(end) == "nvswitch")
        return self.link_id[f"{switch}->{top}"], self.link_id[f"{top}->{switch}"]

    def with_peers(self) -> Network:
        """These links, with copies from GPU to GPU allowed; itself where they are."""
        if self.peer_to_peer:
            return self
        if self._with_peers is None:
            self._with_peers = Network(self._described)
            self._with_peers.peer_to_peer = self._with_peers._finder.peer_to_peer = True
            self._with_peers.capacity = self.capacity
            self._with_peers.transport_hop_s = self.transport_hop_s
        return self._with_peers

    def without(self, links: Iterable[int]) -> Network:
        """The network whose traffic goes round these links: the same links and capacities, other paths.

        Only ways between servers have others beside them. A cable that is down in one direction is not used
        in the other, which its acknowledgements would take; a NIC that is cut off on one side is not used on
        the other.
        """
        around = copy(self)
        around._graph = around_graph = self._graph.without(links)
        around._finder = Paths(self._described, around_graph, self.gpus)
        around._finder.peer_to_peer = self.peer_to_peer
        around._paths, around._with_peers, around.remembered = {}, None, Remembered()
        return around

    def nvlink_bytes_per_s(self, gpu: str) -> float:
        """Payload bytes/s that a GPU can send over NVLink, to all peers together; 0 without NVLink."""
        crossbar = self._graph.crossbars.get(gpu)
        if crossbar is not None:
            return self.capacity[self.link_id[f"{gpu}->{crossbar}"]]
        return sum(
            self.capacity[link]
            for target, link, _ in self._graph.out[gpu]
            if self.kind(target) in ("gpu", "nvswitch")
        )

    def nics_of(self, gpu: str) -> tuple[str, ...]:
        """The NICs that carry a GPU's traffic to other servers: the nearest ones, its own rail first."""
        return self._finder.nics_of(gpu)

    def host_of(self, gpu: str) -> str:
        """The CPU socket that a GPU hangs on: the nearest one. InfeasibleError where it hangs on none."""
        return self._finder.host_of(gpu)

    def path(self, source: str, target: str) -> Path:
        """The one path that traffic from `source` to `target` takes. Raises InfeasibleError where there
        is none.
        """
        path = self._paths.get((source, target))
        if path is None:
            path = self._paths[source, target] = self._finder.between(source, target)
        return path

    def loads_between(
        self, groups: Sequence[Sequence[str]], n_bytes: float, *, counterparts: bool = False
    ) -> dict[int, float] | None:
        """Bytes on each link when every GPU sends `n_bytes` to every GPU of every other group, or to those at
        its place there; None where only the path of each pair tells. A group is an NVLink island, or a server
        without one.
        """
        return between_groups(self._finder, groups, n_bytes, counterparts=counterparts)

    def own_link(self, place: str) -> int | None:
        """The link that stands for a place which can block by itself (a host's memory), or None."""
        return self._graph.own_link.get(place)

    def bisection_bytes_per_s(self, gpus: Sequence[str] | None = None) -> float:
        """Bytes/s that the first half of the GPUs can send to the second half, each to its counterpart,
        along `path`.

        Per direction, all pairs at one common rate: what a fixed permutation gets under this routing, which
        in a network with one path per pair is the honest form of a bisection.
        """
        gpus = tuple(gpus) if gpus is not None else self.gpus
        half = len(gpus) // 2
        load: dict[int, float] = {}
        for source, target in zip(gpus[:half], gpus[half : 2 * half], strict=True):
            for link, pairs in self.path(source, target).bytes_on_links(1.0):
                load[link] = load.get(link, 0.0) + pairs
        return half * min((self.capacity[link] / pairs for link, pairs in load.items()), default=0.0)
