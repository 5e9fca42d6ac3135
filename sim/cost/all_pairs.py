"""What equal sends between all pairs of GPUs put on each link, without a look at every pair.

The way between GPUs of two groups (an NVLink island, or a server without one) has three parts: from the
sender to a NIC, from NIC to NIC, from the NIC to the receiver. Which NICs, and whether NVLink comes first,
follows from the leaf switches that the NICs of the two groups hang on; so groups whose NICs hang on the same
leaves are a class, and one pair of groups decides for all of its classes. From a leaf on, the way is the
receiver's, so that a link of a group is looked at once, however many classes send. The work grows with GPUs,
and by little with pairs of classes, but not with pairs of GPUs.

The rules are those of `Paths`, which knows more: traffic staged in host memory, switches that route
statically, NICs that take turns or block by themselves, GPUs wired to each other. Where such a thing is,
`None` says that pairs have to be gone through one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from sim.cost.link_graph import LinkGraph
from sim.cost.paths import Paths

Loads = dict[int, float]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Way:
    """From one GPU of an island to one of another, over the neighbour `start`, or by itself; bytes leave by
    the NIC of the GPU `out` and come in by that of `into`. All are places in their islands.
    """

    source: int
    start: int
    out: int
    into: int
    target: int


def between_groups(
    paths: Paths, groups: Sequence[Sequence[str]], n_bytes: float, *, counterparts: bool = False
) -> Loads | None:
    """Bytes on each link when every GPU sends `n_bytes` to every GPU of every other group, or to its
    counterparts alone: those at its place there.
    """
    graph = paths.link_graph
    if not paths.peer_to_peer or paths.inter_node == "tcp" or len(groups) < 2 or graph.routes_statically:
        return None
    islands = [_island(paths, group) for group in groups]
    leaf_of: dict[str, str] = {}  # by NIC
    for gpu in {gpu for island in islands for gpu in island}:
        nics = paths.nics_of(gpu)
        leaves = [_leaf(graph, nic) for nic in nics]
        if not _is_simple(paths, gpu) or None in leaves:
            return None
        leaf_of |= {nic: leaf for nic, leaf in zip(nics, leaves, strict=True) if leaf is not None}
    servers = [{_server(graph, gpu) for gpu in island} for island in islands]
    if sum(map(len, servers)) != len(set().union(*servers)):
        return None
    return _Sum(paths, groups, islands, leaf_of, n_bytes, counterparts).loads()


def _server(graph: LinkGraph, gpu: str) -> tuple[int, int]:
    """The server of a GPU, or the part of it that only NICs join to the rest."""
    place = graph.places[gpu]
    return place.get("node", 0), place.get("island", 0)


def _island(paths: Paths, group: Sequence[str]) -> tuple[str, ...]:
    """The GPUs that may pass on what a group sends: all of its NVLink island, or itself."""
    return tuple(paths.beside(group[0])) or tuple(group)


def _is_simple(paths: Paths, gpu: str) -> bool:
    """Whether a GPU has one NIC to itself and no wire to other GPUs."""
    if any(paths.kind(place) in ("gpu", "nvswitch") for place, _, _ in paths.link_graph.out[gpu]):
        return False
    nics = paths.nics_of(gpu)
    return bool(nics) and len(paths.nics_to_itself(gpu, nics[0])) == 1


def _leaf(graph: LinkGraph, nic: str) -> str | None:
    """The one switch that a NIC hangs on."""
    onward = [place for place, _, _ in graph.out[nic] if graph.kind(place) in ("switch", "nic")]
    back = [place for place in graph.into[nic] if graph.kind(place) in ("switch", "nic")]
    if nic in graph.own_link or len(onward) != 1 or onward != back or graph.kind(onward[0]) != "switch":
        return None
    return onward[0]


class _Sum:
    def __init__(
        self,
        paths: Paths,
        groups: Sequence[Sequence[str]],
        islands: Sequence[tuple[str, ...]],
        leaf_of: dict[str, str],
        n_bytes: float,
        counterparts: bool,
    ) -> None:
        self.paths = paths
        self.groups, self.islands, self.leaf_of, self.n_bytes = groups, islands, leaf_of, n_bytes
        self.counterparts = counterparts
        self.load: Loads = {}

    def loads(self) -> Loads:
        """What a class sends to all others is added up before a link of any of its groups is looked for."""
        classes: dict[Hashable, list[int]] = {}
        for number, (group, island) in enumerate(zip(self.groups, self.islands, strict=True)):
            place = {gpu: index for index, gpu in enumerate(island)}
            owner = self._owners(island)
            nics = [nic for gpu in island for nic in self.paths.nics_of(gpu)]
            wiring = tuple((owner.get(nic), self.leaf_of[nic]) for nic in nics)
            classes.setdefault((wiring, tuple(place[gpu] for gpu in group)), []).append(number)
        kinds = list(classes.values())
        nics_of = [[self.paths.nics_of(gpu)[0] for gpu in self.islands[kind[0]]] for kind in kinds]
        out: list[dict[tuple[int, int, int], float]] = [{} for _ in kinds]
        last: list[dict[int, float]] = [{} for _ in kinds]
        inwards: list[dict[tuple[int, int], float]] = [{} for _ in kinds]
        leaves: dict[tuple[str, str], float] = {}
        for (one, senders), (other, receivers) in product(enumerate(kinds), enumerate(kinds)):
            same = one == other
            if same and len(senders) == 1:
                continue
            ways = list(self._ways(senders[0], receivers[1 if same else 0]))
            onward, from_ = len(receivers) - same, len(senders) - same
            for start, times in Counter((way.source, way.start, way.out) for way in ways).items():
                _more(out[one], start, self.n_bytes * times * onward)
            for (nic, into), times in Counter((way.out, way.into) for way in ways).items():
                amount = self.n_bytes * times * from_
                _more(last[other], into, amount)
                between = self.leaf_of[nics_of[one][nic]], self.leaf_of[nics_of[other][into]]
                _more(leaves, between, amount * len(receivers))
            for end, times in Counter((way.into, way.target) for way in ways).items():
                _more(inwards[other], end, self.n_bytes * times * from_)
        for kind, amounts in zip(kinds, out, strict=True):
            self._out(kind, amounts)
        for (leaf, other_leaf), amount in leaves.items():
            for link, share in self.paths.over_leaves(leaf, other_leaf):
                _more(self.load, link, share * amount)
        for kind, to_nics, to_gpus in zip(kinds, last, inwards, strict=True):
            self._into(kind, to_nics, to_gpus)
        return self.load

    def _ways(self, sender: int, receiver: int) -> Iterator[_Way]:
        """How every GPU of one group reaches every one of the other, as `Paths` decides it."""
        here, there = (
            {gpu: index for index, gpu in enumerate(self.islands[number])} for number in (sender, receiver)
        )
        owner = self._owners(self.islands[sender]) | self._owners(self.islands[receiver])
        ends = self.groups[sender], self.groups[receiver]
        for source, target in zip(*ends, strict=True) if self.counterparts else product(*ends):
            relay, out_nic, in_nic = self.paths.nics_between(source, target)
            start = here[source if relay is None else relay]
            yield _Way(here[source], start, owner[out_nic], owner[in_nic], there[target])

    def _owners(self, island: Sequence[str]) -> dict[str, int]:
        """By NIC the place of a GPU that it is the nearest one of."""
        return {self.paths.nics_of(gpu)[0]: index for index, gpu in enumerate(island)}

    def _out(self, senders: Sequence[int], amounts: dict[tuple[int, int, int], float]) -> None:
        """From the GPUs of every sending group to its leaves."""
        for number in senders:
            island = self.islands[number]
            nics = [self.paths.nics_of(gpu)[0] for gpu in island]
            parts: dict[tuple[int, int], tuple[int, ...]] = {}
            for (source, start, out), amount in amounts.items():
                if source != start:
                    self._add(self.paths.over_nvlink(island[source], island[start]), amount)
                part = parts.get((start, out))
                if part is None:
                    nic = nics[out]
                    to_leaf = self.paths.to_leaf(nic, self.leaf_of[nic])
                    part = parts[start, out] = self.paths.in_server(island[start], nic) + to_leaf
                self._add(part, amount)

    def _into(
        self, receivers: Sequence[int], last: dict[int, float], inwards: dict[tuple[int, int], float]
    ) -> None:
        """From the last leaves to the GPUs of every receiving group."""
        for number in receivers:
            island = self.islands[number]
            nics = [self.paths.nics_of(gpu)[0] for gpu in island]
            for into, amount in last.items():
                self._add(self.paths.to_leaf(self.leaf_of[nics[into]], nics[into]), amount)
            for (into, target), amount in inwards.items():
                self._add(self.paths.in_server(nics[into], island[target]), amount)

    def _add(self, links: Sequence[int], n_bytes: float) -> None:
        for link in links:
            self.load[link] = self.load.get(link, 0.0) + n_bytes


def _more(amounts: dict[K, float], key: K, amount: float) -> None:
    amounts[key] = amounts.get(key, 0.0) + amount
