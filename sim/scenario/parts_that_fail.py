"""The parts of a machine that can fail, by kind and name, and what each of them takes out.

Names come from the graph of the topology, so that every machine has them: GPUs, chips, NICs and switches are
places (`node0.gpu3`, `leaf3`), links are two places (`node0.nic3-leaf3`), and what holds several places is
numbered in its server (`node0.compute_tray3`). A kind that a machine does not have has no names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from sim.cost.network import Network
from sim.inputs.outages import KINDS
from sim.inputs.server_graph import places_of_kind
from sim.inputs.topology import Topology
from sim.reading.failure_rates import hbm_stacks, power_shelves
from sim.reading.problems import did_you_mean

MAX_NAMED = 8
BETWEEN_GPUS = {"gpu", "nvswitch"}


@dataclass(frozen=True, slots=True)
class FailingPart:
    """What goes with a part: GPUs that stop (or are slow), places and shares of links that lose capacity, a
    server or an engine that stops. `holds` are the places that the part is made of or hangs on.
    """

    holds: tuple[str, ...]
    gpus: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    links: tuple[tuple[str, float], ...] = ()
    node: str = ""
    replica: int | None = None
    slower: float | None = None


Parts = Mapping[str, FailingPart]


class PartsThatFail:
    """The parts of one topology with so many engines; each kind is worked out when it is asked for."""

    def __init__(self, topology: Topology, replicas: int) -> None:
        self.topology, self.replicas = topology, replicas
        self._graph = topology.graph
        self._found: dict[str, Parts] = {}

    def of_kind(self, kind: str) -> Parts:
        """All parts of a kind by name, in the order of the topology; empty where the machine has none."""
        found = self._found.get(kind)
        if found is None:
            found = self._found[kind] = dict(_FINDERS[kind](self))
        return found

    def named(self, kind: str, name: str) -> list[str]:
        """The names that a name or a pattern stands for. ValueError where there is none, with the nearest."""
        parts = self.of_kind(kind)
        if not parts:
            raise ValueError(f"{self.topology.name} has no {kind}; it has {self._kinds_there()}")
        if name in parts:
            return [name]
        found = [one for one in parts if fnmatchcase(one, name)] if any(c in name for c in "*?[") else []
        if not found:
            listed = ", ".join(list(parts)[:MAX_NAMED])
            more = f" and {len(parts) - MAX_NAMED} more" if len(parts) > MAX_NAMED else ""
            raise ValueError(
                f"there is no {kind} {name!r}; there are {listed}{more}{did_you_mean(name, parts)}"
            )
        return found

    def _kinds_there(self) -> str:
        there = {kind: len(self.of_kind(kind)) for kind in KINDS}
        return ", ".join(f"{kind} ({count})" for kind, count in there.items() if count)

    def enclosing(self, kind: str, part: FailingPart) -> str | None:
        """The part of another kind that a part is in, or None."""
        wholes = self._whole_of(kind)
        return next((wholes[place] for place in part.holds if place in wholes), None)

    def _whole_of(self, kind: str) -> dict[str, str]:
        return {place: name for name, part in self.of_kind(kind).items() for place in part.holds}

    # ---- the graph

    @cached_property
    def network(self) -> Network:
        return Network(self._graph)

    @cached_property
    def _order(self) -> dict[str, int]:
        return {place: number for number, place in enumerate(self._graph)}

    def places(self, *kinds: str) -> list[str]:
        """The places of some kinds."""
        return places_of_kind(self._graph, *kinds)

    def said_of(self, place: str) -> dict[str, Any]:
        """What the graph says of a place."""
        said: dict[str, Any] = self._graph.nodes[place]
        return said

    def trays(self, *kinds: str) -> dict[tuple[int, int], list[str]]:
        """The places of some kinds that stand in trays, by server and tray."""
        found: dict[tuple[int, int], list[str]] = {}
        for place in self.places(*kinds):
            said = self.said_of(place)
            if "tray" in said:
                found.setdefault((said["node"], said["tray"]), []).append(place)
        return dict(sorted(found.items()))

    def servers(self) -> dict[int, list[str]]:
        """The GPUs of every server."""
        found: dict[int, list[str]] = {}
        for gpu in self.places("gpu"):
            found.setdefault(self.said_of(gpu).get("node", 0), []).append(gpu)
        return found

    def joined(self, wanted: Callable[[str, str], bool]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """The pairs of places that links join, once each, where their kinds are wanted."""
        order = self._order
        for one, other, said in self._graph.edges(data=True):
            if self._graph.has_edge(other, one) and order[other] <= order[one]:
                continue
            if wanted(self.said_of(one)["kind"], self.said_of(other)["kind"]):
                yield one, other, said

    def one_of(self, one: str, other: str, links: int) -> tuple[tuple[str, float], ...]:
        """One of the parallel links of two places, both directions: links of the network, and the share of
        each that it is.
        """
        network, found = self.network, []
        whole = {chip: bar for bar, chips in network.stripes.items() for chip in chips}
        for a, b in ((one, other), (other, one)):
            name = f"{a}->{b}"
            if name in network.link_id or name in network.bundled:
                found.append((name, 1.0 / links))
                continue
            merged = f"{whole.get(a, a)}->{whole.get(b, b)}"  # a chip of a crossbar: a share of all its links
            share = self._graph.edges[a, b]["bytes_per_s"] / network.capacity[network.link_id[merged]]
            found.append((merged, share / links))
        return tuple(found)

    def switches(self) -> tuple[list[str], list[str]]:
        """The switches between servers that NICs hang on, and those that join switches alone."""
        between = [place for place in self.places("switch") if self.said_of(place).get("node", -1) == -1]
        leaves = [
            place
            for place in between
            if any(self.said_of(end)["kind"] == "nic" for end in self._graph.successors(place))
        ]
        return leaves, [place for place in between if place not in set(leaves)]


def _gpus(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    for gpu in of.places("gpu"):
        yield gpu, FailingPart((gpu,), gpus=(gpu,))


def _hbm_stacks(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    """A stack less takes its share of the bandwidth, so that what is bound by memory takes n/(n-1)."""
    for gpu in of.places("gpu"):
        stacks = hbm_stacks(str(of.said_of(gpu).get("model", ""))) or 0
        for stack in range(stacks):
            yield f"{gpu}.hbm{stack}", FailingPart((gpu,), gpus=(gpu,), slower=stacks / (stacks - 1))


def _chips(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    for chip in of.places("nvswitch"):
        yield chip, FailingPart((chip,), places=(chip,))


def _nvlinks(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    for one, other, said in of.joined(lambda a, b: {a, b} <= BETWEEN_GPUS):
        links = of.one_of(one, other, int(said.get("count", 1)))
        yield f"{one}-{other}", FailingPart((one, other), links=links)


def _switch_trays(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    """Chips of one tray, of a server or of what stands above servers in a domain of several."""
    trays: dict[str, list[str]] = {}
    for (_, tray), chips in of.trays("nvswitch").items():
        for chip in chips:
            trays.setdefault(f"{chip.partition('.')[0]}.switch_tray{tray}", []).append(chip)
    for name, chips in trays.items():
        yield name, FailingPart(tuple(chips), places=tuple(chips))


def _compute_trays(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    nics = of.trays("nic")
    for at, holds in of.trays("gpu", "host", "nic", "pcie_switch", "store").items():
        gpus = tuple(place for place in holds if of.said_of(place)["kind"] == "gpu")
        if gpus:
            name = f"node{at[0]}.compute_tray{at[1]}"
            yield name, FailingPart(tuple(holds), gpus=gpus, places=tuple(nics.get(at, ())))


def _hosts(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    """What one operating system runs: a server, or a compute tray of a rack."""
    trays = of.of_kind("compute_tray")
    in_trays = {place for part in trays.values() for place in part.holds}
    for name, part in trays.items():
        yield name, FailingPart(part.holds, gpus=part.gpus)
    for node, gpus in of.servers().items():
        if not in_trays.intersection(gpus):
            yield f"node{node}", FailingPart((*gpus, *_of_server(of, node)), gpus=tuple(gpus))


def _of_server(of: PartsThatFail, node: int) -> list[str]:
    kinds = ("nic", "host", "pcie_switch", "nvswitch", "store")
    return [place for place in of.places(*kinds) if of.said_of(place).get("node") == node]


def _nics(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    for nic in of.places("nic"):
        yield nic, FailingPart((nic,), places=(nic,))


def _cables(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    """Between servers: from a NIC to its switch, and from switch to switch, one of the parallel ones."""
    leaves, spines = of.switches()
    height = {**dict.fromkeys(leaves, 1), **dict.fromkeys(spines, 2)}
    for one, other, said in of.joined(lambda a, b: {a, b} <= {"nic", "switch"} and "switch" in (a, b)):
        if one in height or other in height:
            ends = (one, other) if height.get(one, 0) <= height.get(other, 0) else (other, one)
            links = of.one_of(one, other, int(said.get("count", 1)))
            yield f"{ends[0]}-{ends[1]}", FailingPart(ends, links=links)


def _rails(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    """The NICs of one number in every server, as far as the networks say which they are: their cables."""
    topology, first = of.topology, 0
    cables: dict[str, FailingPart] = {part.holds[0]: part for part in of.of_kind("cable").values()}
    rails: dict[str, list[str]] = {}
    for kind in topology.systems.values() or (topology,):
        for network in kind.scale_out if kind.own_graph is None else ():
            nics = kind.nics_of(network)
            count = network.rails or len(nics)
            for node in range(first, first + kind.nodes):
                for position, nic in enumerate(nics):
                    rail = f"{network.name}rail{position % count}"
                    rails.setdefault(rail, []).append(f"node{node}.{nic}")
        first += kind.nodes
    for rail, nics in rails.items():
        joined = [nic for nic in nics if nic in cables]
        if joined:
            yield rail, FailingPart(tuple(joined), links=tuple(_all(cables[nic].links for nic in joined)))


def _all(several: Iterable[tuple[tuple[str, float], ...]]) -> Iterator[tuple[str, float]]:
    for one in several:
        yield from one


def _leaves(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    for leaf in of.switches()[0]:
        yield leaf, FailingPart((leaf,), places=(leaf,))


def _spines(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    for spine in of.switches()[1]:
        yield spine, FailingPart((spine,), places=(spine,))


def _racks(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    """Servers whose GPUs stand in trays: a server without trays does not say in which rack it stands."""
    for node in dict.fromkeys(at[0] for at in of.trays("gpu")):
        gpus = tuple(of.servers()[node])
        yield f"node{node}", FailingPart((*gpus, *_of_server(of, node)), gpus=gpus, node=f"node{node}")


def _shelves(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    """One takes nothing by itself: `sim.scenario.outages` stops a rack that has too few."""
    for rack, part in of.of_kind("rack").items():
        found = power_shelves(str(of.said_of(part.gpus[0]).get("model", "")))
        for shelf in range(found[0] if found else 0):
            yield f"{rack}.power_shelf{shelf}", FailingPart(part.holds, node=rack)


def shelves_of(of: PartsThatFail, rack: str) -> tuple[int, int]:
    """How many power shelves a rack has, and how many it needs."""
    gpu = of.of_kind("rack")[rack].gpus[0]
    found = power_shelves(str(of.said_of(gpu).get("model", "")))
    assert found is not None, f"{rack} has shelves"
    return found


def _replicas(of: PartsThatFail) -> Iterator[tuple[str, FailingPart]]:
    for index in range(of.replicas):
        yield f"replica{index}", FailingPart((), replica=index)


_FINDERS: dict[str, Callable[[PartsThatFail], Iterator[tuple[str, FailingPart]]]] = {
    "gpu": _gpus,
    "hbm_stack": _hbm_stacks,
    "nvswitch_chip": _chips,
    "nvlink": _nvlinks,
    "switch_tray": _switch_trays,
    "compute_tray": _compute_trays,
    "host": _hosts,
    "noisy_host": _hosts,
    "nic": _nics,
    "cable": _cables,
    "rail": _rails,
    "leaf": _leaves,
    "spine": _spines,
    "power_shelf": _shelves,
    "rack": _racks,
    "replica": _replicas,
}
