"""A topology graph compiled once: link ids, capacities, and the path between any two places.

networkx is what people write and read; a simulation asks for paths and capacities a million times, and a
look-up in the graph costs 25 times a list index. So the graph becomes lists of links and an adjacency by
place, and a path is worked out when it is first asked for and then remembered.

What the compilation decides:

* The switch chips of an NVLink domain become one crossbar, and a place that can block by itself becomes a
  link of its own: see `wiring`. A host's own link is charged for traffic that is staged in its memory, and
  not for PCIe traffic that only turns round there.
* Peer-to-peer off sends all traffic between GPUs through host memory, NVLink included (as
  `NCCL_P2P_DISABLE` does), and a host that does not forward peers does so for what would turn round in its
  root complex; ACS sends PCIe peer traffic up to the root complex; `inter_node: tcp` sends what leaves a
  server through host memory and an Ethernet NIC. They change paths, never a rate.
* Between servers a GPU uses the nearest NIC. Where the far GPU's NIC is on another rail and NVLink reaches
  a neighbour on that rail, traffic crosses NVLink first (NCCL's PXN). In a fat tree the way up is chosen by
  the destination's port number, as InfiniBand's fat-tree routing does: deterministic, balanced, blind to
  load.

Where it stops: one path per pair (no adaptive routing, no splitting of a message over NICs), and no hash
collisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import networkx as nx

from sim.cost.link_graph import Leg, Wiring
from sim.cost.remembered import Remembered
from sim.inputs.errors import InfeasibleError

Medium = Literal["local", "nvlink", "pcie", "host", "infiniband", "tcp"]

_INSIDE = frozenset({"pcie_switch", "host"})


@dataclass(frozen=True, slots=True)
class Path:
    """The links from one place to another, in order, with the latency of one traversal.

    `medium` is what the traffic is to software: `nvlink`, `pcie` (peer to peer), `host` (staged in host
    memory), `infiniband`, `tcp`, or `local` where both ends are the same place.
    """

    links: tuple[int, ...]
    latency_s: float
    medium: Medium


class Network:
    """Links, capacities and paths of one topology graph.

    `links` are names (`node0.gpu3->nvlink0`; a place that blocks by itself is a link with the place's
    name), `capacity` is payload bytes/s of each, `gpus` are the ranks in order. Paths are worked out on
    first use; `remembered` keeps what collectives work out from this network.
    """

    def __init__(self, graph: nx.DiGraph[str]) -> None:
        self.name: str = graph.graph.get("name", "")
        self.peer_to_peer: bool = graph.graph.get("peer_to_peer", True)
        self.acs: bool = graph.graph.get("acs", False)
        self.inter_node: str = graph.graph.get("inter_node", "infiniband")
        self.transport_hop_s: float | None = graph.graph.get("transport_hop_s")
        self._wiring = wiring = Wiring(graph)
        self.places: dict[str, dict[str, Any]] = wiring.places
        self.links: list[str] = wiring.links
        self.capacity: list[float] = wiring.capacity
        self.link_id: dict[str, int] = wiring.link_id
        self.stripes: dict[str, dict[str, float]] = wiring.stripes
        self.gpus: tuple[str, ...] = tuple(
            graph.graph.get("gpus") or sorted(wiring.of_kind("gpu"), key=wiring.order)
        )
        self.gpu_index: dict[str, int] = {gpu: rank for rank, gpu in enumerate(self.gpus)}
        self.node_of: dict[str, int] = {gpu: self.places[gpu].get("node", 0) for gpu in self.gpus}

        self.remembered = Remembered()
        self._paths: dict[tuple[str, str], Path] = {}
        self._nics: dict[str, tuple[str, ...]] = {}
        self._distances: dict[str, dict[str, int]] = {}
        self._rail_of: dict[str, tuple[str, ...]] = {}

    def kind(self, place: str) -> str:
        """What a place is: gpu, crossbar, nvswitch, pcie_switch, host, nic, switch or store."""
        return str(self.places[place]["kind"])

    def crossbar(self, gpu: str) -> str | None:
        """The NVLink crossbar that a GPU hangs on, or None."""
        return self._wiring.crossbars.get(gpu)

    def same_domain(self, gpus: Iterable[str]) -> bool:
        """True where one NVLink crossbar joins all these GPUs and peer-to-peer is on."""
        crossbars = {self._wiring.crossbars.get(gpu) for gpu in gpus}
        return self.peer_to_peer and len(crossbars) == 1 and None not in crossbars

    def reduces(self, gpus: Iterable[str]) -> bool:
        """True where the switches that join all these GPUs add numbers on the way (NVLink SHARP)."""
        gpus = tuple(gpus)
        return self.same_domain(gpus) and self._wiring.reduces[self._wiring.crossbars[gpus[0]]]

    def nvlink_bytes_per_s(self, gpu: str) -> float:
        """Payload bytes/s that a GPU can send over NVLink to everyone together; 0 without NVLink."""
        crossbar = self._wiring.crossbars.get(gpu)
        if crossbar is not None:
            return self.capacity[self.link_id[f"{gpu}->{crossbar}"]]
        return sum(
            self.capacity[link]
            for target, link, _ in self._wiring.out[gpu]
            if self.kind(target) in ("gpu", "nvswitch")
        )

    def nics_of(self, gpu: str) -> tuple[str, ...]:
        """The NICs that carry a GPU's traffic to other servers: the nearest ones, the GPU's own rail first.

        GPUs that share the same nearest NICs take turns, so that two GPUs and two NICs on one PCIe switch
        pair up.
        """
        if gpu not in self._nics:
            nearest = self._nearest_nics(gpu)
            if len(nearest) > 1:
                sharers = [other for other in self.gpus if self.node_of[other] == self.node_of[gpu]]
                sharers = [other for other in sharers if self._nearest_nics(other) == nearest]
                turn = sharers.index(gpu) % len(nearest)
                nearest = nearest[turn:] + nearest[:turn]
            self._nics[gpu] = nearest
        return self._nics[gpu]

    def _nearest_nics(self, gpu: str) -> tuple[str, ...]:
        if gpu not in self._rail_of:
            transport = "ethernet" if self.inter_node == "tcp" else "infiniband"
            hops = self._wiring.spread(gpu, _INSIDE | {"nic"}, self.node_of[gpu], backwards=False)
            found = [
                place
                for place in hops
                if self.kind(place) == "nic"
                and self.places[place].get("transport", "infiniband") == transport
            ]
            least = min((hops[nic] for nic in found), default=0)
            self._rail_of[gpu] = tuple(
                sorted((nic for nic in found if hops[nic] == least), key=self._wiring.order)
            )
        return self._rail_of[gpu]

    def host_of(self, gpu: str) -> str:
        """The CPU socket that a GPU hangs on: the nearest one."""
        hops = self._wiring.spread(gpu, _INSIDE, self.node_of[gpu], backwards=False)
        hosts = [place for place in hops if self.kind(place) == "host"]
        if not hosts:
            raise InfeasibleError(
                f"{gpu} has no path to a host; wire it to a host or to a PCIe switch below one"
            )
        return min(hosts, key=lambda host: (hops[host], self._wiring.order(host)))

    def path(self, source: str, target: str) -> Path:
        """The one path that traffic from `source` to `target` takes. Raises InfeasibleError where there
        is none.
        """
        path = self._paths.get((source, target))
        if path is None:
            path = self._paths[source, target] = self._find_path(source, target)
        return path

    def own_link(self, place: str) -> int | None:
        """The link that stands for a place which can block by itself (a host's memory), or None."""
        return self._wiring.own_link.get(place)

    def bisection_bytes_per_s(self, gpus: Sequence[str] | None = None) -> float:
        """Bytes/s that the first half of the GPUs can send to the second half, each to its counterpart,
        along `path`.

        Per direction, all pairs at one common rate: what a fixed permutation gets under this routing, which
        in a network with one path per pair is the honest form of a bisection.
        """
        gpus = tuple(gpus) if gpus is not None else self.gpus
        half = len(gpus) // 2
        load: dict[int, int] = {}
        for source, target in zip(gpus[:half], gpus[half : 2 * half], strict=True):
            for link in self.path(source, target).links:
                load[link] = load.get(link, 0) + 1
        return half * min((self.capacity[link] / pairs for link, pairs in load.items()), default=0.0)

    def _find_path(self, source: str, target: str) -> Path:
        for place in (source, target):
            if place not in self.places:
                raise InfeasibleError(f"{place} is no place of topology {self.name or 'given'}")
        if source == target:
            return Path((), 0.0, "local")
        both_gpus = self.kind(source) == "gpu" and self.kind(target) == "gpu"
        if both_gpus and self.peer_to_peer:
            nvlink = self._nvlink_path(source, target)
            if nvlink is not None:
                return nvlink
        server, other = (self.places[place].get("node", -1) for place in (source, target))
        if server == other and server >= 0:
            return self._path_in_server(source, target, server, both_gpus)
        return self._path_between_servers(source, target, server, other)

    def _nvlink_path(self, source: str, target: str) -> Path | None:
        direct = [(link, latency_s) for place, link, latency_s in self._wiring.out[source] if place == target]
        if direct:
            return Path((direct[0][0],), direct[0][1], "nvlink")
        crossbar = self._wiring.crossbars.get(source)
        if crossbar is not None and crossbar == self._wiring.crossbars.get(target):
            leg = self._wiring.leg((source, crossbar, target))
            return Path(self._wiring.charged(leg, {crossbar}), leg.latency_s, "nvlink")
        leg_or_none = self._wiring.shortest(source, target, frozenset({"nvswitch"}), None)
        if leg_or_none is None:
            return None
        return Path(
            self._wiring.charged(leg_or_none, set(leg_or_none.places)), leg_or_none.latency_s, "nvlink"
        )

    def _path_in_server(self, source: str, target: str, server: int, both_gpus: bool) -> Path:
        wiring = self._wiring
        if not both_gpus:
            leg = self._required(source, target, _INSIDE | {"store"}, server)
            staged = {place for place in (source, target) if self.kind(place) in ("host", "store")}
            return Path(wiring.charged(leg, staged), leg.latency_s, "pcie")
        if self.peer_to_peer:
            leg = self._required(source, target, _INSIDE, server)
            hosts = [place for place in leg.places if self.kind(place) == "host"]
            if self.acs and not hosts:
                leg = self._by_way_of(self.host_of(source), source, target, server)
            if all(self.places[host].get("forwards_peers", True) for host in hosts):
                return Path(wiring.charged(leg, set()), leg.latency_s, "pcie")
        staging = self.host_of(target)
        leg = self._by_way_of(staging, source, target, server)
        return Path(wiring.charged(leg, {staging}), leg.latency_s, "host")

    def _by_way_of(self, host: str, source: str, target: str, server: int) -> Leg:
        """Up to a host and down from it again."""
        up = self._required(source, host, _INSIDE, server)
        return self._wiring.join(up, self._required(host, target, _INSIDE, server))

    def _path_between_servers(self, source: str, target: str, server: int, other: int) -> Path:
        tcp = self.inter_node == "tcp"
        out_nics, in_nics = self._doors(source, server), self._doors(target, other)
        relay: str | None = None
        if out_nics and in_nics:
            chosen = self._same_rail(out_nics, in_nics)
            if chosen is None and self.kind(source) == "gpu" and self.peer_to_peer and not tcp:
                relay, chosen = self._neighbour_on_rail(source, target, in_nics)
            out_nic, in_nic = chosen or (out_nics[0], in_nics[0])
        elif server >= 0 and other < 0 and out_nics:
            out_nic, in_nic = out_nics[0], target
        elif server < 0 and other >= 0 and in_nics:
            out_nic, in_nic = source, in_nics[0]
        else:
            raise self._unreachable(source, target)
        staged = {place for place in (source, target) if self.kind(place) == "store"}
        legs: list[Leg] = []
        start = source
        if relay is not None:
            crossbar_path = self._nvlink_path(source, relay)
            assert crossbar_path is not None
            legs.append(Leg((source, relay), crossbar_path.links, crossbar_path.latency_s))
            start = relay
        for end in (out_nic,) if start != out_nic else ():
            legs.extend(self._to_nic(start, end, server, staged, tcp))
        legs.append(self._across(out_nic, in_nic, source, target))
        for end in (in_nic,) if target != in_nic else ():
            legs.extend(self._from_nic(end, target, other, staged, tcp))
        leg = legs[0]
        for following in legs[1:]:
            leg = self._wiring.join(leg, following)
        return Path(self._wiring.charged(leg, staged), leg.latency_s, "tcp" if tcp else "infiniband")

    def _doors(self, place: str, server: int) -> tuple[str, ...]:
        """NICs through which a place inside a server talks to the outside; empty for a place of the
        network itself.
        """
        if server < 0:
            return ()
        if self.kind(place) == "gpu":
            return self.nics_of(place)
        if self.kind(place) == "nic":
            return (place,)
        transport = "ethernet" if self.inter_node == "tcp" else "infiniband"
        hops = self._wiring.spread(place, _INSIDE | {"nic"}, server, backwards=False)
        found = [
            p
            for p in hops
            if self.kind(p) == "nic" and self.places[p].get("transport", "infiniband") == transport
        ]
        return tuple(sorted(found, key=lambda nic: (hops[nic], self._wiring.order(nic))))

    def _same_rail(self, out_nics: Sequence[str], in_nics: Sequence[str]) -> tuple[str, str] | None:
        """A pair of NICs on one leaf switch (or wired to each other), the preferred ones first."""
        for out_nic in out_nics:
            leaves = {
                place for place, _, _ in self._wiring.out[out_nic] if self.kind(place) in ("switch", "nic")
            }
            for in_nic in in_nics:
                if in_nic in leaves or any(leaf in leaves for leaf in self._wiring.into[in_nic]):
                    return out_nic, in_nic
        return None

    def _neighbour_on_rail(
        self, source: str, target: str, in_nics: Sequence[str]
    ) -> tuple[str | None, tuple[str, str] | None]:
        """The GPU beside `source` that has the place of `target` there, if its NIC is on the target's
        rail.
        """
        beside = self._beside(source)
        there = self._beside(target)
        place = there.index(target) if target in there else len(beside)
        if place >= len(beside) or beside[place] == source:
            return None, None
        chosen = self._same_rail(self.nics_of(beside[place])[:1], in_nics)
        return (beside[place], chosen) if chosen is not None else (None, None)

    def _beside(self, gpu: str) -> list[str]:
        """The GPUs of an NVLink crossbar, in order; none where there is no crossbar."""
        crossbar = self._wiring.crossbars.get(gpu)
        return [place for place, _, _ in self._wiring.out[crossbar]] if crossbar is not None else []

    def _to_nic(self, start: str, nic: str, server: int, staged: set[str], tcp: bool) -> list[Leg]:
        if self.kind(start) == "gpu" and (tcp or not self.peer_to_peer):
            host = self.host_of(start)
            staged.add(host)
            return [
                self._required(start, host, _INSIDE, server),
                self._required(host, nic, _INSIDE | {"nic"}, server),
            ]
        if self.kind(start) in ("host", "store"):
            staged.add(start)
        return [self._required(start, nic, _INSIDE | {"nic"}, server)]

    def _from_nic(self, nic: str, end: str, server: int, staged: set[str], tcp: bool) -> list[Leg]:
        if self.kind(end) == "gpu" and (tcp or not self.peer_to_peer):
            host = self.host_of(end)
            staged.add(host)
            return [self._required(nic, host, _INSIDE, server), self._required(host, end, _INSIDE, server)]
        if self.kind(end) in ("host", "store"):
            staged.add(end)
        return [self._required(nic, end, _INSIDE, server)]

    def _across(self, out_nic: str, in_nic: str, source: str, target: str) -> Leg:
        """From NIC to NIC over the switches; at each switch the way on is chosen by the destination's
        port number.
        """
        left = self._distances_to(in_nic)
        if out_nic not in left:
            raise self._unreachable(source, target)
        choice = self._port_number(in_nic)
        places = [out_nic]
        while places[-1] != in_nic:
            here = places[-1]
            onward = [
                place for place, _, _ in self._wiring.out[here] if left.get(place, -1) == left[here] - 1
            ]
            places.append(onward[choice % len(onward)])
        return self._wiring.leg(tuple(places))

    def _port_number(self, nic: str) -> int:
        for leaf in self._wiring.into[nic]:
            if self.kind(leaf) == "switch":
                below = [place for place, _, _ in self._wiring.out[leaf] if self.kind(place) != "switch"]
                return below.index(nic)
        return 0

    def _distances_to(self, target: str) -> dict[str, int]:
        if target not in self._distances:
            self._distances[target] = self._wiring.spread(target, frozenset({"switch"}), None, backwards=True)
        return self._distances[target]

    def _required(self, source: str, target: str, through: frozenset[str], server: int) -> Leg:
        leg = self._wiring.shortest(source, target, through, server)
        if leg is None:
            raise self._unreachable(source, target)
        return leg

    def _unreachable(self, source: str, target: str) -> InfeasibleError:
        way = (
            "over Ethernet NICs (inter_node: tcp)"
            if self.inter_node == "tcp"
            else "over NVLink, PCIe or InfiniBand NICs"
        )
        return InfeasibleError(
            f"no path from {source} to {target} {way}; "
            "wire them through a switch, a host or a NIC, or leave one out"
        )
