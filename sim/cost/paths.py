"""The one path that traffic takes between two places of a network: which links, in what order, and why these.

What decides:

* Peer-to-peer off sends all traffic between GPUs through host memory, NVLink included (as
  `NCCL_P2P_DISABLE` does), and a host that does not forward peers does so for what would turn round in its
  root complex; ACS sends PCIe peer traffic up to the root complex; `inter_node: tcp` sends what leaves a
  server through host memory and an Ethernet NIC. They change paths, never a rate.
* Between servers a GPU uses the nearest NIC. Where the far GPU's NIC is on another rail and NVLink reaches
  a neighbour on that rail, traffic crosses NVLink first (NCCL's PXN), also where the neighbour's way climbs
  to the spines as long as others of the two domains share a leaf. A GPU with several NICs to itself spreads
  its traffic over them by their rates, as NCCL's channels do.
* Where NVLink switches are wired to each other, in tiers, traffic is spread over all shortest ways of them.
* In a fat tree traffic is spread over all ways with the fewest hops, as adaptive routing does packet by
  packet. Switches with `routing: static` choose one way for each pair of NICs by a hash of the two, as ECMP
  does for a flow: pairs that meet on an uplink share it while others are idle.

Where it stops: adaptive routing is perfect, and a pair of NICs is one flow to a hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import repeat
from typing import Literal, cast

import networkx as nx

from sim.cost.link_graph import Crossed, Leg, LinkGraph
from sim.inputs.errors import InfeasibleError
from sim.inputs.parts import CARRIERS

Medium = Literal["local", "nvlink", "pcie", "host", "infiniband", "roce", "efa", "tcp"]

_INTRA_NODE = frozenset({"pcie_switch", "host"})
"""Kinds of places that pass traffic on between places of one server."""


def _hash(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


@dataclass(frozen=True, slots=True)
class Path:
    """The links from one place to another, in order, with the latency of one traversal.

    `medium` is what the traffic is to software: `nvlink`, `pcie` (peer to peer), `host` (staged in host
    memory), `infiniband`, `tcp`, or `local` where both ends are the same place. `crossed` is what adds up
    to the latency. Traffic that is spread over several NICs has in `links` those of all ways, and in `shares`
    the part of the bytes on each; `shares` is empty where every link carries all.
    """

    links: tuple[int, ...]
    latency_s: float
    medium: Medium
    crossed: Crossed = ()
    shares: tuple[float, ...] = ()

    def bytes_on_links(self, n_bytes: float) -> Iterator[tuple[int, float]]:
        """Each link with the bytes that it carries of `n_bytes`."""
        if self.shares:
            return zip(self.links, (share * n_bytes for share in self.shares), strict=True)
        return zip(self.links, repeat(n_bytes))

    def bytes_per_s(self, capacity: Sequence[float]) -> float:
        """The most that flows over the path alone, with `capacity` bytes/s on each link."""
        return min(capacity[link] / share for link, share in self.bytes_on_links(1.0))


class _OneMore(Mapping[str, int]):
    """Hops to a place: `near` of it, and elsewhere one more than to the switch that it hangs on."""

    def __init__(self, near: Mapping[str, int], to_switch: Mapping[str, int]) -> None:
        self.near, self.to_switch = near, to_switch

    def __getitem__(self, place: str) -> int:
        hops = self.near.get(place)
        return self.to_switch[place] + 1 if hops is None else hops

    def __iter__(self) -> Iterator[str]:
        return iter({**self.near, **self.to_switch})

    def __len__(self) -> int:
        return len({**self.near, **self.to_switch})


class Paths:
    """Finds the path between two places, with the NICs and the host that a GPU uses on the way."""

    def __init__(self, graph: nx.DiGraph[str], link_graph: LinkGraph, gpus: Sequence[str]) -> None:
        self.name: str = graph.graph.get("name", "")
        self.peer_to_peer: bool = graph.graph.get("peer_to_peer", True)
        self.acs: bool = graph.graph.get("acs", False)
        self.inter_node: str = graph.graph.get("inter_node", "infiniband")
        self._graph = link_graph
        self._gpus = gpus
        self._nics: dict[str, tuple[str, ...]] = {}
        self._nearest: dict[str, tuple[str, ...]] = {}
        self._distances: dict[str, Mapping[str, int]] = {}
        self._chip_hops: dict[str, dict[str, int]] = {}
        self._in_part: dict[tuple[str, str], bool] = {}
        self._between_leaves: dict[tuple[str, str], tuple[tuple[int, float], ...]] = {}

    def kind(self, place: str) -> str:
        return self._graph.kind(place)

    @property
    def link_graph(self) -> LinkGraph:
        return self._graph

    def _node(self, gpu: str) -> int:
        """The server of a GPU."""
        node: int = self._graph.places[gpu].get("node", 0)
        return node

    def nics_of(self, gpu: str) -> tuple[str, ...]:
        """The NICs that carry a GPU's traffic to other servers: the nearest ones, the GPU's own rail first.

        GPUs that share the same nearest NICs take turns, so that two GPUs and two NICs on one PCIe switch
        pair up.
        """
        if gpu not in self._nics:
            nearest = self._nearest_nics(gpu)
            if len(nearest) > 1:
                turn = self._sharers_of_nics(gpu).index(gpu) % len(nearest)
                nearest = nearest[turn:] + nearest[:turn]
            self._nics[gpu] = nearest
        return self._nics[gpu]

    def _sharers_of_nics(self, gpu: str) -> list[str]:
        """The GPUs of a server with the same nearest NICs."""
        nearest = self._nearest_nics(gpu)
        beside = [other for other in self._gpus if self._node(other) == self._node(gpu)]
        return [other for other in beside if self._nearest_nics(other) == nearest]

    def _nearest_nics(self, gpu: str) -> tuple[str, ...]:
        if gpu not in self._nearest:
            hops = self._nic_hops(gpu, self._node(gpu))
            fewest = min(hops.values(), default=0)
            self._nearest[gpu] = tuple(
                sorted((nic for nic in hops if hops[nic] == fewest), key=self._graph.order)
            )
        return self._nearest[gpu]

    def _nic_hops(self, place: str, server: int) -> dict[str, int]:
        """Hops from a place to each NIC of its server that carries the transport in use."""
        transport = CARRIERS[self.inter_node]
        hops = self._graph.spread(place, _INTRA_NODE | {"nic"}, server, backwards=False)
        return {
            nic: distance
            for nic, distance in hops.items()
            if self.kind(nic) == "nic" and self._graph.places[nic].get("transport", "infiniband") == transport
        }

    def host_of(self, gpu: str) -> str:
        """The CPU socket that a GPU hangs on: the nearest one."""
        hops = self._graph.spread(gpu, _INTRA_NODE, self._node(gpu), backwards=False)
        hosts = [place for place in hops if self.kind(place) == "host"]
        if not hosts:
            raise InfeasibleError(
                f"{gpu} has no path to a host; wire it to a host or to a PCIe switch below one"
            )
        return min(hosts, key=lambda host: (hops[host], self._graph.order(host)))

    def between(self, source: str, target: str) -> Path:
        """The path that traffic takes. InfeasibleError where there is none, or no such place."""
        for place in (source, target):
            if place not in self._graph.places:
                raise InfeasibleError(f"{place!r}: no place of this name in {self.name or 'this topology'}")
        if source == target:
            return Path((), 0.0, "local")
        both_gpus = self.kind(source) == "gpu" and self.kind(target) == "gpu"
        if both_gpus and self.peer_to_peer:
            nvlink = self._nvlink_path(source, target)
            if nvlink is not None:
                return nvlink
        server, other = (self._graph.places[place].get("node", -1) for place in (source, target))
        if server == other and server >= 0 and not (both_gpus and self._on_two_islands(source, target)):
            return self._path_in_server(source, target, server, both_gpus)
        return self._path_between_servers(source, target, server, other)

    def _on_two_islands(self, source: str, target: str) -> bool:
        """True for GPUs of one server that was cut into NVLink domains, which NICs join."""
        here, there = (self._graph.places[gpu].get("island") for gpu in (source, target))
        return bool(here != there)

    def _nvlink_path(self, source: str, target: str) -> Path | None:
        direct = [(link, latency_s) for place, link, latency_s in self._graph.out[source] if place == target]
        if direct:
            crossed = (self._graph.crossed_link(*direct[0]),)
            return Path((direct[0][0],), direct[0][1], "nvlink", crossed)
        crossbar = self._graph.crossbars.get(source)
        if crossbar is not None and crossbar == self._graph.crossbars.get(target):
            leg = self._graph.leg((source, crossbar, target))
            return Path(self._graph.charged(leg, {crossbar}), leg.latency_s, "nvlink", leg.crossed)
        chips = frozenset({"nvswitch"})
        tiered = self._graph.tiered
        if source in tiered and tiered[source] == tiered.get(target):
            # Over all chips at once, as a GPU stripes what it sends over its links.
            left = self._chip_hops.get(target)
            if left is None:
                hops = self._graph.spread(target, chips, None, backwards=True)
                kinds = ("gpu", "nvswitch")
                left = {place: hop for place, hop in hops.items() if self.kind(place) in kinds}
                self._chip_hops[target] = left
            if source not in left:
                return None
            way = self._graph.spread_leg(source, target, left)
            return Path(way.links, way.latency_s, "nvlink", way.crossed, way.shares)
        chained = self._graph.shortest(source, target, chips, None)
        if chained is None:
            return None
        links = self._graph.charged(chained, set(chained.places))
        return Path(links, chained.latency_s, "nvlink", chained.crossed)

    def _path_in_server(self, source: str, target: str, server: int, both_gpus: bool) -> Path:
        graph = self._graph
        if not both_gpus:
            leg = self._required(source, target, _INTRA_NODE | {"store"}, server)
            staged = {place for place in (source, target) if self.kind(place) in ("host", "store")}
            return Path(graph.charged(leg, staged), leg.latency_s, "pcie", leg.crossed)
        if self.peer_to_peer:
            leg = self._required(source, target, _INTRA_NODE, server)
            hosts = [place for place in leg.places if self.kind(place) == "host"]
            if self.acs and not hosts:  # a switch below the root complex may not turn peers round itself
                leg = self._by_way_of(self.host_of(source), source, target, server)
            if all(self._graph.places[host].get("forwards_peers", True) for host in hosts):
                return Path(graph.charged(leg, set()), leg.latency_s, "pcie", leg.crossed)
        # A copy through host memory; the buffer is on the receiver's socket.
        staging = self.host_of(target)
        leg = self._by_way_of(staging, source, target, server)
        return Path(graph.charged(leg, {staging}), leg.latency_s, "host", leg.crossed)

    def _by_way_of(self, host: str, source: str, target: str, server: int) -> Leg:
        """Up to a host and down from it again."""
        up = self._required(source, host, _INTRA_NODE, server)
        return self._graph.join(up, self._required(host, target, _INTRA_NODE, server))

    def _path_between_servers(self, source: str, target: str, server: int, other: int) -> Path:
        tcp = self.inter_node == "tcp"
        out_nics, in_nics = (
            self._nics_to_other_servers(source, server),
            self._nics_to_other_servers(target, other),
        )
        relay: str | None = None
        if out_nics and in_nics:
            relay, out_nic, in_nic = self._nics_between(source, target, out_nics, in_nics)
        elif server >= 0 and other < 0 and out_nics:
            out_nic, in_nic = out_nics[0], target
        elif server < 0 and other >= 0 and in_nics:
            out_nic, in_nic = source, in_nics[0]
        else:
            raise self._unreachable(source, target)
        # Only places in whose memory the traffic rests are charged for it, not those it turns round in.
        staged = {place for place in (source, target) if self.kind(place) == "store"}
        before: list[Leg] = []
        start = source
        if relay is not None:
            crossbar_path = self._nvlink_path(source, relay)
            assert crossbar_path is not None
            before.append(
                Leg((source, relay), crossbar_path.links, crossbar_path.latency_s, crossbar_path.crossed)
            )
            start = relay
        ways: list[Leg] = []
        for one_out, one_in in self._pairs_of_nics(start, out_nic, in_nic, target):
            legs = list(before)
            if start != one_out:  # a NIC can be an end itself
                legs.extend(self._to_nic(start, one_out, server, staged, tcp))
            legs.append(self._leg_between_nics(one_out, one_in, source, target))
            if target != one_in:
                legs.extend(self._from_nic(one_in, target, other, staged, tcp))
            leg = legs[0]
            for following in legs[1:]:
                leg = self._graph.join(leg, following)
            ways.append(leg)
        return self._spread(ways, staged, cast(Medium, self.inter_node))

    def _nics_between(
        self, source: str, target: str, out_nics: Sequence[str], in_nics: Sequence[str]
    ) -> tuple[str | None, str, str]:
        """The NICs out and in, and the neighbour that NVLink reaches first, if any.

        A shared leaf is the shortest way; else NVLink may reach a GPU whose NIC shares one (PXN), before the
        traffic climbs to the spine.
        """
        relay = None
        chosen = self._same_rail(out_nics, in_nics)
        if self.kind(source) == "gpu" and self.peer_to_peer and self.inter_node != "tcp":
            if self._joined_in_part(source, target):
                relay, chosen = self._neighbour_in_place(source, target)
            elif chosen is None:
                relay, chosen = self._neighbour_on_rail(source, target, in_nics)
        return (relay, *(chosen or (out_nics[0], in_nics[0])))

    # ---- parts of ways between GPUs of different servers, for `all_pairs`

    def nics_between(self, source: str, target: str) -> tuple[str | None, str, str]:
        """The neighbour that NVLink reaches first, the NIC out and the NIC in, between two GPUs."""
        return self._nics_between(source, target, self.nics_of(source), self.nics_of(target))

    def over_nvlink(self, source: str, target: str) -> tuple[int, ...]:
        path = self._nvlink_path(source, target)
        assert path is not None, "beside each other"
        return path.links

    def in_server(self, source: str, target: str) -> tuple[int, ...]:
        """The links from a GPU to a NIC of its server, or back."""
        server = self._graph.places[source].get("node", -1)
        return self._graph.charged(self._required(source, target, _INTRA_NODE | {"nic"}, server), set())

    def to_leaf(self, nic: str, leaf: str) -> tuple[int, ...]:
        """The link from a NIC to its leaf switch, or back."""
        return self._graph.leg((nic, leaf)).links

    def over_leaves(self, leaf: str, last: str) -> tuple[tuple[int, float], ...]:
        """The links from one leaf switch to another, each with its share of the bytes, as
        `_leg_between_nics` spreads them where no switch routes statically, with what the two themselves add.
        """
        graph = self._graph
        links = self._between_leaves.get((leaf, last))
        if links is None:
            left = self._distances_to(last)
            if leaf not in left:
                raise self._unreachable(leaf, last)
            own = tuple(
                (graph.own_link[place], 1.0) for place in {leaf: 0, last: 0} if place in graph.own_link
            )
            way = graph.spread_leg(leaf, last, left) if leaf != last else None
            over = tuple(zip(way.links, way.shares, strict=True)) if way is not None else ()
            links = self._between_leaves[leaf, last] = (*over, *own)
        return links

    def _pairs_of_nics(self, source: str, out_nic: str, in_nic: str, target: str) -> list[tuple[str, str]]:
        """The NICs out and in between which traffic is spread: all that the GPUs have to themselves and that
        are as near each other as the pair chosen for one way.
        """
        own_out, own_in = self.nics_to_itself(source, out_nic), self.nics_to_itself(target, in_nic)
        if len(own_out) == len(own_in) == 1 or out_nic not in own_out:
            return [(out_nic, in_nic)]
        if in_nic not in own_in:  # the rail ends at a neighbour's NIC: so do the others
            pairs = self._partners(own_out, self.nics_of(target))
        elif len(own_out) < len(own_in):
            pairs = [(out, into) for into, out in self._partners(own_in, own_out)]
        else:
            pairs = self._partners(own_out, own_in)
        distance = self._distances_to(in_nic).get(out_nic)
        near = [(out, into) for out, into in pairs if self._distances_to(into).get(out) == distance]
        return near or [(out_nic, in_nic)]

    def nics_to_itself(self, place: str, chosen: str) -> tuple[str, ...]:
        """The NICs that a GPU shares with no other; of any other place the chosen one."""
        if self.kind(place) != "gpu":
            return (chosen,)
        nics = self.nics_of(place)
        if len(nics) < 2:
            return nics
        sharers = self._sharers_of_nics(place)
        first = sharers.index(place)
        # Turned so that its own come first, a GPU has every so-many-th of those left to the end of the row.
        return nics[: len(nics) - first : len(sharers)] if first < len(nics) else nics[:1]

    def _partners(self, nics: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
        """Each NIC with one of the others: on its own leaf if there is one, and each in turn."""
        pairs = []
        for number, nic in enumerate(nics):
            turn = number % len(others)
            turned = (*others[turn:], *others[:turn])
            pairs.append(self._same_rail((nic,), turned) or (nic, turned[0]))
        return pairs

    def _spread(self, ways: Sequence[Leg], staged: set[str], medium: Medium) -> Path:
        """One path over several ways at once, each with a share by its own narrowest link."""
        charged = [self._graph.charged(way, staged) for way in ways]
        longest = max(ways, key=lambda way: way.latency_s)
        parts = [  # of a way's bytes, on each of its links; what a place adds carries all
            (*way.shares, *(1.0,) * (len(links) - len(way.shares)))
            for way, links in zip(ways, charged, strict=True)
        ]
        if len(ways) == 1:
            spread = parts[0] if ways[0].shares else ()
            return Path(charged[0], longest.latency_s, medium, longest.crossed, spread)
        common = set(charged[0]).intersection(*charged[1:])
        rates = [
            min(
                (
                    self._graph.capacity[link] / part
                    for link, part in zip(links, of_link, strict=True)
                    if link not in common
                ),
                default=1.0,
            )
            for links, of_link in zip(charged, parts, strict=True)
        ]
        shares: dict[int, float] = {}
        for links, of_link, rate in zip(charged, parts, rates, strict=True):
            for link, part in zip(links, of_link, strict=True):
                shares[link] = shares.get(link, 0.0) + part * rate / sum(rates)
        return Path(tuple(shares), longest.latency_s, medium, longest.crossed, tuple(shares.values()))

    def _nics_to_other_servers(self, place: str, server: int) -> tuple[str, ...]:
        """The NICs through which a place of a server reaches other servers; empty for a place outside all
        servers.
        """
        if server < 0:
            return ()
        if self.kind(place) == "gpu":
            return self.nics_of(place)
        if self.kind(place) == "nic":
            return (place,)
        hops = self._nic_hops(place, server)
        return tuple(sorted(hops, key=lambda nic: (hops[nic], self._graph.order(nic))))

    def _same_rail(self, out_nics: Sequence[str], in_nics: Sequence[str]) -> tuple[str, str] | None:
        """A pair of NICs on one leaf switch (or wired to each other), the preferred ones first."""
        for out_nic in out_nics:
            leaves = {
                place for place, _, _ in self._graph.out[out_nic] if self.kind(place) in ("switch", "nic")
            }
            for in_nic in in_nics:
                if in_nic == out_nic:  # GPUs of two islands at the same NIC: each takes one of its own
                    continue
                if in_nic in leaves or any(leaf in leaves for leaf in self._graph.into[in_nic]):
                    return out_nic, in_nic
        return None

    def _joined_in_part(self, source: str, target: str) -> bool:
        """True where some places of two NVLink domains share a leaf with their counterparts and others do
        not.
        """
        here, there = self._graph.crossbars.get(source), self._graph.crossbars.get(target)
        if here is None or there is None:
            return False
        known = self._in_part.get((here, there))
        if known is None:
            pairs = list(zip(self.beside(source), self.beside(target), strict=False))
            joined = [self._same_rail(self.nics_of(a)[:1], self.nics_of(b)[:1]) is not None for a, b in pairs]
            known = self._in_part[here, there] = any(joined) and not all(joined)
        return known

    def _neighbour_in_place(self, source: str, target: str) -> tuple[str | None, tuple[str, str] | None]:
        """The GPU beside `source` at the place of `target` there, whatever leaf its NIC is on: where domains
        share only some leaves, any other rule puts more traffic on the NICs of those.
        """
        beside, there = self.beside(source), self.beside(target)
        place = there.index(target)
        if place >= len(beside) or not self.nics_of(beside[place]):
            return None, None
        chosen = self.nics_of(beside[place])[0], self.nics_of(target)[0]
        return (beside[place] if beside[place] != source else None), chosen

    def _neighbour_on_rail(
        self, source: str, target: str, in_nics: Sequence[str]
    ) -> tuple[str | None, tuple[str, str] | None]:
        """The GPU beside `source` that has the place of `target` there, if its NIC is on the target's
        rail.
        """
        beside = self.beside(source)
        there = self.beside(target)
        place = there.index(target) if target in there else len(beside)
        if place >= len(beside) or beside[place] == source:
            return None, None
        chosen = self._same_rail(self.nics_of(beside[place])[:1], in_nics)
        return (beside[place], chosen) if chosen is not None else (None, None)

    def beside(self, gpu: str) -> list[str]:
        """The GPUs of an NVLink crossbar, in order; none where there is no crossbar."""
        crossbar = self._graph.crossbars.get(gpu)
        return [place for place, _, _ in self._graph.out[crossbar]] if crossbar is not None else []

    def _to_nic(self, start: str, nic: str, server: int, staged: set[str], tcp: bool) -> list[Leg]:
        if self.kind(start) == "gpu" and (tcp or not self.peer_to_peer):
            host = self.host_of(start)
            staged.add(host)
            return [
                self._required(start, host, _INTRA_NODE, server),
                self._required(host, nic, _INTRA_NODE | {"nic"}, server),
            ]
        if self.kind(start) in ("host", "store"):
            staged.add(start)
        return [self._required(start, nic, _INTRA_NODE | {"nic"}, server)]

    def _from_nic(self, nic: str, end: str, server: int, staged: set[str], tcp: bool) -> list[Leg]:
        if self.kind(end) == "gpu" and (tcp or not self.peer_to_peer):
            host = self.host_of(end)
            staged.add(host)
            return [
                self._required(nic, host, _INTRA_NODE, server),
                self._required(host, end, _INTRA_NODE, server),
            ]
        if self.kind(end) in ("host", "store"):
            staged.add(end)
        return [self._required(nic, end, _INTRA_NODE, server)]

    def _leg_between_nics(self, out_nic: str, in_nic: str, source: str, target: str) -> Leg:
        """From NIC to NIC over the switches: spread over all shortest ways, or on one that a hash chooses."""
        left = self._distances_to(in_nic)
        if out_nic not in left:
            raise self._unreachable(source, target)
        places, links = [out_nic], set[int]()
        while places[-1] != in_nic:
            here = places[-1]
            onward = [hop for hop in self._graph.out[here] if left.get(hop[0], -1) == left[here] - 1]
            if len(onward) > 1 and self._graph.places[here].get("routing") != "static":
                return self._graph.spread_leg(out_nic, in_nic, left)
            # Every switch has a hash of its own, so that two tiers do not choose alike. A checksum such as
            # CRC would spread names that differ in a digit evenly, which is luck.
            choice = _hash(f"{out_nic}->{in_nic} at {here}") if len(onward) > 1 else 0
            place, link, _ = onward[choice % len(onward)]
            places.append(place)
            links.add(link)
        return self._graph.leg(tuple(places), links)

    def _distances_to(self, target: str) -> Mapping[str, int]:
        """Hops over switches from every place. To a NIC on one switch they are one more than to that switch,
        so that a cluster has one table for each leaf, and not for each NIC.
        """
        found = self._distances.get(target)
        if found is None:
            graph = self._graph
            beside = graph.into[target]
            switches = [place for place in beside if graph.kind(place) == "switch"]
            if graph.kind(target) == "nic" and len(switches) == 1:
                near = {target: 0, **dict.fromkeys(beside, 1)}
                found = _OneMore(near, self._distances_to(switches[0]))
            else:
                found = graph.spread(target, frozenset({"switch"}), None, backwards=True)
            self._distances[target] = found
        return found

    def _required(self, source: str, target: str, through: frozenset[str], server: int) -> Leg:
        leg = self._graph.shortest(source, target, through, server)
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
