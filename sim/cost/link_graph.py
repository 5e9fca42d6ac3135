"""A topology graph as lists: link ids, capacities, neighbours by place, and the walks over them.

The switch chips of an NVLink domain become one crossbar: traffic is striped over them evenly, so a GPU has
one link up and one link down with the summed capacity. A domain built without one of 18 chips has 17/18 of
the capacity; `stripes` gives each chip's share, for a chip lost during a run. Domains in which switches are
wired to each other, or two GPUs share no chip, keep their chips: `tiered` has the GPUs of the former, where
the chips are one piece, or several that each reach every GPU (the planes of a DGX-2). Where
every chip says its `tier`, those of a server become one place too, and those above.

The spines over a set of leaves become one place too, where routing is adaptive: a leaf has one link up to
all of them and one down. Parallel links from a switch that routes statically stay links of their own,
numbered `leaf0->spine1#0` and so on, for a hash chooses among them. `bundled` says what became of the
described ones.

A place that can block by itself (`bytes_per_s` on a node) becomes a link of its own, named after the place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import networkx as nx

from sim.cost.spines import bundles_of_spines
from sim.inputs.errors import InfeasibleError

Crossed = tuple[tuple[str, float | None], ...]
"""What a way goes through: the kind of each link (`nvlink`, `pcie`, `cpu`, `cable`) and of each place between
its ends, with the latency; None where the topology states none.
"""


@dataclass(frozen=True, slots=True)
class Leg:
    """A way through places, with its links and the latency of what lies between its ends.

    Of a way that is spread over equal ones `places` are its ends, and `shares` the part of the bytes on
    each link; `shares` is empty where every link carries all.
    """

    places: tuple[str, ...]
    links: tuple[int, ...]
    latency_s: float
    crossed: Crossed = ()
    shares: tuple[float, ...] = ()


class LinkGraph:
    """The compiled graph: which place is joined to which by which link, and how fast."""

    def __init__(self, graph: nx.DiGraph[str]) -> None:
        self.places: dict[str, dict[str, Any]] = dict(iter(graph.nodes(data=True)))
        self.links: list[str] = []
        self.ends: list[tuple[str, ...]] = []  # of each link its two places, of a place's own link the place
        self.capacity: list[float] = []
        self.link_id: dict[str, int] = {}
        self.out: dict[str, list[tuple[str, int, float]]] = {place: [] for place in self.places}
        self.into: dict[str, list[str]] = {place: [] for place in self.places}
        self.own_link: dict[str, int] = {}
        self.crossbars: dict[str, str] = {}
        self.tiered: dict[str, str] = {}  # the domain of a GPU whose NVLink switches stand in tiers
        self.reduces: dict[str, bool] = {}  # by crossbar, or by domain where its switches stand in tiers
        self.leaf_chips: dict[str, str] = {}  # of GPUs below two tiers, the place of their server's chips
        self.stripes: dict[str, dict[str, float]] = {}
        self.bundled: dict[str, dict[int, float]] = {}
        self._unknown: set[str] = {  # links and places whose latency is not stated
            place for place, attributes in self.places.items() if _is_unknown(attributes)
        }
        bundles = bundles_of_spines(graph)
        chips = self._add_crossbars(graph)
        chips.update(spine for spines in bundles.values() for spine in spines)
        for place, attributes in self.places.items():
            if attributes.get("bytes_per_s") is not None and place not in chips:
                self.own_link[place] = self._add_link(place, attributes["bytes_per_s"])
        for source, target, edge in graph.edges(data=True):
            if source not in chips and target not in chips:
                lanes = self._lanes(source, target, edge)
                for lane in range(lanes):
                    number = f"#{lane}" if lanes > 1 else ""
                    self._connect(
                        source, target, edge["bytes_per_s"] / lanes, edge.get("latency_s", 0.0), number
                    )
                    if _is_unknown(edge):
                        self._unknown.add(self.links[-1])
                if lanes > 1:
                    made = range(len(self.links) - lanes, len(self.links))
                    self.bundled[f"{source}->{target}"] = dict.fromkeys(made, 1.0)
        for bundle, spines in bundles.items():
            self._add_spines(graph, bundle, spines)
        for neighbours in self.out.values():
            neighbours.sort(key=lambda hop: self.order(hop[0]))

    def without(self, links: Iterable[int]) -> LinkGraph:
        """The same places and links, some of which no way goes over (`Network.without`)."""
        names = {frozenset(self.ends[link]) for link in links}
        dead = {link for link, ends in enumerate(self.ends) if frozenset(ends) in names}
        sides: dict[tuple[str, bool], list[int]] = {}
        for link, ends in enumerate(self.ends):
            for nic in ends:
                if len(ends) == 2 and self.kind(nic) == "nic":
                    outside = {self.kind(end) for end in ends} <= {"nic", "switch"}
                    sides.setdefault((nic, outside), []).append(link)
        for (nic, outside), of_side in sides.items():
            if dead.issuperset(of_side):
                dead.update(sides.get((nic, not outside), ()))
        around = copy(self)
        around.out = {place: [hop for hop in hops if hop[1] not in dead] for place, hops in self.out.items()}
        live = {(place, hop[0]) for place, hops in around.out.items() for hop in hops}
        around.into = {
            place: [source for source in sources if (source, place) in live]
            for place, sources in self.into.items()
        }
        return around

    @cached_property
    def routes_statically(self) -> bool:
        """Whether a switch chooses one way for each pair of NICs."""
        return any(attributes.get("routing") == "static" for attributes in self.places.values())

    def kind(self, place: str) -> str:
        """What a place is: gpu, crossbar, nvswitch, pcie_switch, host, nic, switch or store."""
        return str(self.places[place]["kind"])

    def of_kind(self, kind: str) -> list[str]:
        """All places of a kind, in the graph's order."""
        return [place for place, attributes in self.places.items() if attributes.get("kind") == kind]

    def order(self, place: str) -> tuple[int, int, str]:
        """Sorts places by server, then by number in the server, places of the network first."""
        attributes = self.places[place]
        return attributes.get("node", -1), attributes.get("index", 0), place

    def _add_link(self, name: str, bytes_per_s: float, *ends: str) -> int:
        if not bytes_per_s > 0.0:
            raise InfeasibleError(f"link {name}: bytes_per_s = {bytes_per_s}: must be above 0")
        link = len(self.links)
        self.links.append(name)
        self.ends.append(ends or (name,))
        self.capacity.append(float(bytes_per_s))
        self.link_id[name] = link
        return link

    def _lanes(self, source: str, target: str, edge: Mapping[str, Any]) -> int:
        """How many links an edge becomes: its parallel ones, where a hash chooses among them."""
        static = self.places[source].get("routing") == "static"
        return int(edge.get("count", 1)) if static and self.kind(target) == "switch" else 1

    def _connect(
        self, source: str, target: str, bytes_per_s: float, latency_s: float, number: str = ""
    ) -> None:
        link = self._add_link(f"{source}->{target}{number}", bytes_per_s, source, target)
        self.out[source].append((target, link, latency_s))
        self.into[target].append(source)

    def _add_crossbars(self, graph: nx.DiGraph[str]) -> set[str]:
        """One crossbar in place of the striped switch chips of each NVLink domain; the chips that went
        into one.
        """
        domains: dict[Any, list[str]] = {}
        for chip in self.of_kind("nvswitch"):
            domains.setdefault(self.places[chip].get("domain", 0), []).append(chip)
        collapsed: set[str] = set()
        for domain, chips in domains.items():
            members = set(chips)
            if any("tier" in self.places[chip] for chip in chips):
                self._add_tiers(graph, domain, chips)
                collapsed |= members
                continue
            reached = {chip: set(graph.successors(chip)) for chip in chips}
            gpus = sorted(set().union(*reached.values()), key=self.order)
            if not gpus:  # chips that are wired to nothing carry nothing
                continue
            # A crossbar says that any GPU reaches any other at its full rate. That holds where every two GPUs
            # share a chip; chips wired to each other, or to anything but GPUs, stay what they are.
            if any(self.places[gpu]["kind"] != "gpu" for gpu in gpus) or not _share_chips(gpus, reached):
                joined = [gpu for gpu in gpus if self.places[gpu]["kind"] == "gpu"]
                wired = any(self.places[near]["kind"] == "gpu" for gpu in joined for near in graph[gpu])
                planes = nx.weakly_connected_components(graph.subgraph(chips))
                whole = all(
                    set(joined) <= set().union(*(reached[chip] for chip in plane)) for plane in planes
                )
                if whole and not wired:
                    self.tiered.update(dict.fromkeys(joined, f"nvlink{domain}"))
                continue
            crossbar = f"nvlink{domain}"
            up = {gpu: _sum_edges(graph, [(gpu, chip) for chip in chips]) for gpu in gpus}
            down = {gpu: _sum_edges(graph, [(chip, gpu) for chip in chips]) for gpu in gpus}
            if any(bytes_per_s == 0.0 for bytes_per_s, _ in (*up.values(), *down.values())):
                continue
            blocking = [float(self.places[chip].get("bytes_per_s") or 0.0) for chip in chips]
            self.places[crossbar] = {
                "kind": "crossbar",
                "node": self.places[chips[0]].get("node", -1),
                "domain": domain,
                "latency_s": sum(self.places[chip].get("latency_s", 0.0) for chip in chips) / len(chips),
            }
            self.out[crossbar], self.into[crossbar] = [], []
            if all(blocking):  # one chip without a limit of its own could carry everything
                self.own_link[crossbar] = self._add_link(crossbar, sum(blocking))
            if not members.isdisjoint(self._unknown):
                self._unknown.add(crossbar)
            for gpu in gpus:
                self._connect(gpu, crossbar, *up[gpu])
                self._connect(crossbar, gpu, *down[gpu])
                if any(_is_unknown(edge) for _, _, edge in graph.in_edges(gpu, data=True)):
                    self._unknown.update((f"{gpu}->{crossbar}", f"{crossbar}->{gpu}"))
                self.crossbars[gpu] = crossbar
            total = sum(bytes_per_s for bytes_per_s, _ in up.values())
            self.stripes[crossbar] = {
                chip: _sum_edges(graph, [(gpu, chip) for gpu in gpus])[0] / total
                for chip in sorted(chips, key=self.order)
            }
            self.reduces[crossbar] = all(self.places[chip].get("reduces", False) for chip in chips)
            collapsed |= members
        return collapsed

    def _add_tiers(self, graph: nx.DiGraph[str], domain: Any, chips: Sequence[str]) -> None:
        """Two tiers of NVLink chips, striped alike: one place for the chips of each server, one above.

        Every chip of a server carries as much as every other, so that the places carry what the chips do.
        """
        tiers: dict[str, list[str]] = {}
        for chip in sorted(chips, key=self.order):
            place = self.places[chip]
            tiers.setdefault(f"nvlink{domain}.{'top' if place['tier'] == 2 else place['node']}", []).append(
                chip
            )
        joined = {chip: name for name, of_place in tiers.items() for chip in of_place}
        for number, (name, of_place) in enumerate(tiers.items()):
            first = self.places[of_place[0]]
            latency_s = sum(self.places[chip].get("latency_s", 0.0) for chip in of_place) / len(of_place)
            self.places[name] = {
                "kind": "nvswitch",
                "node": first["node"],
                "index": number,
                "domain": domain,
                "latency_s": latency_s,
            }
            self.out[name], self.into[name] = [], []
            if not self._unknown.isdisjoint(of_place):
                self._unknown.add(name)
            self.stripes[name] = dict.fromkeys(of_place, 1.0 / len(of_place))
        pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for one, other in graph.edges:
            if one in joined or other in joined:
                pairs.setdefault((joined.get(one, one), joined.get(other, other)), []).append((one, other))
        for ends, edges in pairs.items():
            self._connect(*ends, *_sum_edges(graph, edges))
            if any(_is_unknown(graph.edges[edge]) for edge in edges):
                self._unknown.add(self.links[-1])
            self.tiered.update((end, f"nvlink{domain}") for end in ends if self.places[end]["kind"] == "gpu")
            if self.places[ends[0]]["kind"] == "gpu":
                self.leaf_chips[ends[0]] = ends[1]
        self.reduces[f"nvlink{domain}"] = all(self.places[chip].get("reduces", False) for chip in chips)

    def _add_spines(self, graph: nx.DiGraph[str], bundle: str, spines: Sequence[str]) -> None:
        """One place for spines over which traffic is spread evenly, with one link to and from each leaf."""
        first = self.places[spines[0]]
        latency_s = sum(self.places[spine].get("latency_s", 0.0) for spine in spines) / len(spines)
        self.places[bundle] = {**first, "latency_s": latency_s}
        self.out[bundle], self.into[bundle] = [], []
        if not self._unknown.isdisjoint(spines):
            self._unknown.add(bundle)
        leaves = sorted(graph.successors(spines[0]), key=self.order)
        for leaf in leaves:
            for edges, ends in (
                ([(leaf, spine) for spine in spines], (leaf, bundle)),
                ([(spine, leaf) for spine in spines], (bundle, leaf)),
            ):
                bytes_per_s, link_latency_s = _sum_edges(graph, edges)
                self._connect(*ends, bytes_per_s, link_latency_s)
                link = len(self.links) - 1
                if any(_is_unknown(graph.edges[edge]) for edge in edges):
                    self._unknown.add(self.links[link])
                for one, other in edges:
                    share = float(graph.edges[one, other]["bytes_per_s"]) / bytes_per_s
                    self.bundled[f"{one}->{other}"] = {link: share}
        self.stripes[bundle] = {
            spine: sum(self.bundled[f"{leaves[0]}->{spine}"].values())
            for spine in sorted(spines, key=self.order)
        }

    def spread(
        self, start: str, through: frozenset[str], server: int | None, *, backwards: bool
    ) -> dict[str, int]:
        """Hops from `start` to every place reachable through places of the given kinds. NICs and stores
        end a way.
        """
        hops = {start: 0}
        waiting = deque([start])
        while waiting:
            here = waiting.popleft()
            if here != start and self.kind(here) not in through:
                continue
            if here != start and self.kind(here) in ("nic", "store"):
                continue
            neighbours = self.into[here] if backwards else [place for place, _, _ in self.out[here]]
            for place in neighbours:
                if place not in hops and (server is None or self.places[place].get("node", -1) == server):
                    hops[place] = hops[here] + 1
                    waiting.append(place)
        return hops

    def shortest(self, source: str, target: str, through: frozenset[str], server: int | None) -> Leg | None:
        """The leg with the fewest hops through places of the given kinds, in one server if `server` is given;
        of equals the one whose places come first in `order`.
        """
        before: dict[str, str] = {}
        waiting = deque([source])
        seen = {source}
        while waiting:
            here = waiting.popleft()
            if here == target:
                places = [here]
                while places[-1] != source:
                    places.append(before[places[-1]])
                return self.leg(tuple(reversed(places)))
            if here != source and (self.kind(here) not in through or self.kind(here) in ("nic", "store")):
                continue
            for place, _, _ in self.out[here]:
                if place not in seen and (server is None or self.places[place].get("node", -1) == server):
                    seen.add(place)
                    before[place] = here
                    waiting.append(place)
        return None

    def spread_leg(self, source: str, target: str, left: Mapping[str, int]) -> Leg:
        """The leg that spreads its bytes over all ways with the fewest hops, at each switch in proportion
        to the links onward. `left` has the hops from each place to `target`.
        """
        part = {source: 1.0}  # of the bytes that go through a place
        waiting = [source]
        carried: dict[int, float] = {}
        longest: dict[str, Leg] = {source: Leg((source,), (), 0.0)}
        while waiting and waiting[0] != target:
            reached: dict[str, float] = {}
            for here in waiting:
                onward = [hop for hop in self.out[here] if left.get(hop[0], -1) == left[here] - 1]
                total = sum(self.capacity[link] for _, link, _ in onward)
                for place, link, _ in onward:
                    share = part[here] * self.capacity[link] / total
                    carried[link] = carried.get(link, 0.0) + share
                    reached[place] = reached.get(place, 0.0) + share
                    leg = self.leg((here, place))
                    way = leg if here == source else self.join(longest[here], leg)
                    if place not in longest or way.latency_s > longest[place].latency_s:
                        longest[place] = way
            part = reached
            waiting = list(reached)
            if target not in reached:
                carried.update(
                    (self.own_link[place], share)
                    for place, share in reached.items()
                    if place in self.own_link
                )
        return Leg(
            (source, target),
            tuple(carried),
            longest[target].latency_s,
            longest[target].crossed,
            tuple(carried.values()),
        )

    def leg(self, places: tuple[str, ...], chosen: Collection[int] = ()) -> Leg:
        """The leg over these places: latencies of its links, and of the places between its ends. Of
        parallel links the `chosen` ones.
        """
        links: list[int] = []
        crossed: list[tuple[str, float | None]] = []
        latency_s = 0.0
        for here, onward in pairwise(places):
            link, hop_s = next(
                (link, hop_s)
                for place, link, hop_s in self.out[here]
                if place == onward and (not chosen or link in chosen)
            )
            links.append(link)
            latency_s += hop_s
            crossed.append(self.crossed_link(link, hop_s))
        latency_s += sum(self.places[place].get("latency_s", 0.0) for place in places[1:-1])
        crossed += [self._crossed_place(place) for place in places[1:-1]]
        return Leg(places, tuple(links), latency_s, tuple(crossed))

    def crossed_link(self, link: int, latency_s: float) -> tuple[str, float | None]:
        """The kind of a link and its latency, None where that is not stated."""
        name = self.links[link]
        kinds = {self.kind(end) for end in self.ends[link]}
        kind = "pcie"
        if kinds <= {"gpu", "nvswitch", "crossbar"}:
            kind = "nvlink"
        elif kinds == {"host"}:
            kind = "cpu"
        elif kinds <= {"nic", "switch"}:
            kind = "cable"
        return kind, None if name in self._unknown else latency_s

    def _crossed_place(self, place: str) -> tuple[str, float | None]:
        kind = self.kind(place)
        latency_s = None if place in self._unknown else float(self.places[place].get("latency_s", 0.0))
        return "nvswitch" if kind == "crossbar" else kind, latency_s

    def join(self, first: Leg, second: Leg) -> Leg:
        """Two legs that meet in a place, whose latency comes on top; a GPU passes traffic on without any."""
        meeting_s = float(self.places[first.places[-1]].get("latency_s", 0.0))
        crossed: Crossed = (self._crossed_place(first.places[-1]),)
        if self.kind(first.places[-1]) == "gpu":
            meeting_s, crossed = 0.0, ()
        shares: tuple[float, ...] = ()
        if first.shares or second.shares:
            shares = (
                *(first.shares or (1.0,) * len(first.links)),
                *(second.shares or (1.0,) * len(second.links)),
            )
        return Leg(
            first.places + second.places[1:],
            first.links + second.links,
            first.latency_s + meeting_s + second.latency_s,
            first.crossed + crossed + second.crossed,
            shares,
        )

    def charged(self, leg: Leg, staged: set[str]) -> tuple[int, ...]:
        """The links of a leg and of the places on it that can block: hosts and stores only where traffic
        is staged.
        """
        own = [
            self.own_link[place]
            for place in leg.places
            if place in self.own_link
            and (place in staged or self.kind(place) not in ("host", "store", "gpu"))
        ]
        return leg.links + tuple(own)


def _is_unknown(attributes: Mapping[str, Any]) -> bool:
    """True where a latency is not stated; one that a script has put into a filled graph is."""
    stated = attributes.get("latency_s")
    return stated is None or (stated == 0.0 and bool(attributes.get("latency_unknown")))


def _sum_edges(graph: nx.DiGraph[str], edges: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Summed bytes/s and the mean latency of those edges that exist."""
    present = [graph.edges[edge] for edge in edges if graph.has_edge(*edge)]
    bytes_per_s = sum(float(edge["bytes_per_s"]) for edge in present)
    latency_s = sum(float(edge.get("latency_s", 0.0)) for edge in present) / len(present) if present else 0.0
    return bytes_per_s, latency_s


def _share_chips(gpus: Sequence[str], reached: dict[str, set[str]]) -> bool:
    """True where every two GPUs hang on a common chip."""
    if any(chip_gpus == set(gpus) for chip_gpus in reached.values()):
        return True
    mine = {gpu: {chip for chip, there in reached.items() if gpu in there} for gpu in gpus}
    return all(mine[a] & mine[b] for position, a in enumerate(gpus) for b in gpus[position + 1 :])
