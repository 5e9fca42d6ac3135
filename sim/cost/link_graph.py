"""A topology graph as lists: link ids, capacities, neighbours by place, and the walks over them.

The switch chips of an NVLink domain become one crossbar: traffic is striped over them evenly, so a GPU has
one link up and one link down with the summed capacity. A domain built without one of 18 chips has 17/18 of
the capacity; `stripes` gives each chip's share, for a chip lost during a run. Domains in which switches are
wired to each other, or two GPUs share no chip, keep their chips.

A place that can block by itself (`bytes_per_s` on a node) becomes a link of its own, named after the place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx

from sim.inputs.errors import InfeasibleError

Crossed = tuple[tuple[str, float | None], ...]
"""What a way goes through: the kind of each link (`nvlink`, `pcie`, `cpu`, `cable`) and of each place between
its ends, with the latency; None where the topology states none.
"""


@dataclass(frozen=True, slots=True)
class Leg:
    """A way through places, with its links and the latency of what lies between its ends."""

    places: tuple[str, ...]
    links: tuple[int, ...]
    latency_s: float
    crossed: Crossed = ()


class LinkGraph:
    """The compiled graph: which place is joined to which by which link, and how fast."""

    def __init__(self, graph: nx.DiGraph[str]) -> None:
        self.places: dict[str, dict[str, Any]] = dict(iter(graph.nodes(data=True)))
        self.links: list[str] = []
        self.capacity: list[float] = []
        self.link_id: dict[str, int] = {}
        self.out: dict[str, list[tuple[str, int, float]]] = {place: [] for place in self.places}
        self.into: dict[str, list[str]] = {place: [] for place in self.places}
        self.own_link: dict[str, int] = {}
        self.crossbars: dict[str, str] = {}
        self.reduces: dict[str, bool] = {}
        self.stripes: dict[str, dict[str, float]] = {}
        self._unknown: set[str] = {  # links and places whose latency is not stated
            place for place, attributes in self.places.items() if _is_unknown(attributes)
        }
        chips = self._add_crossbars(graph)
        for place, attributes in self.places.items():
            if attributes.get("bytes_per_s") is not None and place not in chips:
                self.own_link[place] = self._add_link(place, attributes["bytes_per_s"])
        for source, target, edge in graph.edges(data=True):
            if source not in chips and target not in chips:
                self._connect(source, target, edge["bytes_per_s"], edge.get("latency_s", 0.0))
                if _is_unknown(edge):
                    self._unknown.add(self.links[-1])
        for neighbours in self.out.values():
            neighbours.sort(key=lambda hop: self.order(hop[0]))

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

    def _add_link(self, name: str, bytes_per_s: float) -> int:
        if not bytes_per_s > 0.0:
            raise InfeasibleError(f"link {name}: bytes_per_s = {bytes_per_s}: must be above 0")
        link = len(self.links)
        self.links.append(name)
        self.capacity.append(float(bytes_per_s))
        self.link_id[name] = link
        return link

    def _connect(self, source: str, target: str, bytes_per_s: float, latency_s: float) -> None:
        link = self._add_link(f"{source}->{target}", bytes_per_s)
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
            reached = {chip: set(graph.successors(chip)) for chip in chips}
            gpus = sorted(set().union(*reached.values()), key=self.order)
            if not gpus:  # chips that are wired to nothing carry nothing
                continue
            # A crossbar says that any GPU reaches any other at its full rate. That holds where every two GPUs
            # share a chip; chips wired to each other, or to anything but GPUs, stay what they are.
            if any(self.places[gpu]["kind"] != "gpu" for gpu in gpus) or not _share_chips(gpus, reached):
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

    def leg(self, places: tuple[str, ...]) -> Leg:
        """The leg over these places: latencies of its links, and of the places between its ends."""
        links: list[int] = []
        crossed: list[tuple[str, float | None]] = []
        latency_s = 0.0
        for here, onward in pairwise(places):
            link, hop_s = next((link, hop_s) for place, link, hop_s in self.out[here] if place == onward)
            links.append(link)
            latency_s += hop_s
            crossed.append(self.crossed_link(link, hop_s))
        latency_s += sum(self.places[place].get("latency_s", 0.0) for place in places[1:-1])
        crossed += [self._crossed_place(place) for place in places[1:-1]]
        return Leg(places, tuple(links), latency_s, tuple(crossed))

    def crossed_link(self, link: int, latency_s: float) -> tuple[str, float | None]:
        """The kind of a link and its latency, None where that is not stated."""
        name = self.links[link]
        kinds = {self.kind(end) for end in name.split("->")}
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
        return Leg(
            first.places + second.places[1:],
            first.links + second.links,
            first.latency_s + meeting_s + second.latency_s,
            first.crossed + crossed + second.crossed,
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
