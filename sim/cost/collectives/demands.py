"""The bytes that a collective puts on each link, per byte of message: one function per algorithm.

A message of S bytes (nccl-tests' size: the whole buffer of a rank) over n ranks. A ring all-reduce sends
2(n-1)/n S over each edge of its ring; in-switch reduction (NVLS) sends S(1 + 1/n) each way between a GPU
and its switch; two levels send S/g of it through each GPU's NIC. Software overheads and protocol bytes are
not in here: see `collectives`. A demand is what a chunk-pipelined collective does in the limit of small
chunks: all its links work at once, and it is as slow as its busiest one. `send_graphs` has the same
algorithms as explicit sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from sim.cost.collectives import groups
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError

OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv")


@dataclass(frozen=True, slots=True)
class Demand:
    """One transfer: the bytes it puts on each link over its life, protocol overhead included.

    `latency_s` passes before its bytes flow; `min_flow_s` is the shortest that the flowing can be on the
    links as built (a kernel's own copy rate, one channel of a protocol, a kernel's share of the links' rate).
    Where that share counts it is `efficiency`, and `aside_s` what the kernel does beside it without links:
    links that lose capacity then slow the kernel by as much.

    Two durations of an uncontended transfer have these names everywhere:

    * `flow_s`: seconds in which its bytes flow, from the first to the last: `max(min_flow_s, the largest of
      bytes / capacity over its links)`. Links are busy for so long.
    * `isolated_s`: seconds from start to end with nothing else on its links: `latency_s + flow_s`.
    """

    links: tuple[int, ...]
    n_bytes: tuple[float, ...]
    latency_s: float = 0.0
    min_flow_s: float = 0.0
    efficiency: float = inf
    aside_s: float = 0.0

    def flow_s(self, capacity: Sequence[float]) -> float:
        """Seconds of its bytes on links of `capacity` bytes/s, those that it was made for, with nothing else
        on them; latency left out.
        """
        busiest_s = max(
            (n / capacity[link] for link, n in zip(self.links, self.n_bytes, strict=True)), default=0.0
        )
        return max(busiest_s, self.min_flow_s)

    def isolated_s(self, capacity: Sequence[float]) -> float:
        """Seconds from start to end with nothing else on its links: `latency_s` + `flow_s`."""
        return self.latency_s + self.flow_s(capacity)


Load = dict[int, float]
"""Link -> bytes per byte of message."""


def demand(network: Network, op: str, algorithm: str, n_bytes: float, ranks: Sequence[str]) -> Demand:
    """The bare demand of a collective: its bytes on links, no software time."""
    load = load_per_byte(network, op, algorithm, tuple(ranks))
    return Demand(tuple(load), tuple(share * n_bytes for share in load.values()))


def load_per_byte(network: Network, op: str, algorithm: str, ranks: tuple[str, ...]) -> Load:
    """Bytes on each link per byte of message. Raises InfeasibleError for an algorithm that these ranks
    cannot run.
    """
    loads = ALGORITHMS.get(op)
    if loads is None:
        raise InfeasibleError(f"op = {op!r}: must be one of {', '.join(OPS)}")
    if algorithm not in loads:
        raise InfeasibleError(f"algorithm = {algorithm!r}: for {op} there are {', '.join(loads)}")
    if len(set(ranks)) != len(ranks) or len(ranks) < 2:
        raise InfeasibleError(
            f"{op} needs at least 2 ranks, all different; {len(set(ranks))} of the {len(ranks)} given are"
        )
    known = network.remembered.loads
    load = known.get((op, algorithm, ranks))
    if load is None:
        load = known[op, algorithm, ranks] = loads[algorithm](network, ranks)
    return load


def pairs_demand(
    network: Network, bytes_between: Mapping[tuple[str, str], float], relay: bool = False
) -> Demand:
    """The demand of many sends at once, bytes per (source, target): an all-to-all with unequal shares.

    With `relay`, bytes to another server go over the NIC to the GPU at the sender's place there, and over
    NVLink from there (as DeepEP's dispatch does); without it they follow the network's own paths, which
    cross NVLink before the NIC.
    """
    load: Load = {}
    for (source, target), n_bytes in bytes_between.items():
        if n_bytes > 0.0 and source != target:
            stop = relay_beside(network, source, target) if relay else None
            if stop is None:
                _add(load, network, source, target, n_bytes)
            else:
                _add(load, network, source, stop, n_bytes)
                _add(load, network, stop, target, n_bytes)
    return Demand(tuple(load), tuple(load.values()))


def relay_beside(network: Network, source: str, target: str) -> str | None:
    """The GPU beside `target` that shares the source's rail, where the two are in different islands."""
    crossbar = network.crossbar(target)
    if not network.peer_to_peer or crossbar is None or network.crossbar(source) == crossbar:
        return None
    relay = members_by_rail(network, crossbar).get(int(network.places[source].get("index", 0)))
    return relay if relay != target else None


def members_by_rail(network: Network, crossbar: str) -> Mapping[int, str]:
    """The GPUs of an NVLink domain by their number in the server."""
    known = network.remembered.domain_members
    if not known:
        for gpu in network.gpus:
            domain = network.crossbar(gpu)
            if domain is not None:
                known.setdefault(domain, {})[int(network.places[gpu].get("index", 0))] = gpu
    return known[crossbar]


def relayed_loads(
    network: Network, islands: Sequence[Sequence[str]], between: float, within: float
) -> tuple[Load, Load] | None:
    """Bytes on each link inside islands and between them, when every GPU sends `between` bytes to its
    counterpart in every other island, which passes `within` on to each GPU beside it; `within` also goes to
    every GPU beside the sender. None where only each pair tells, as where islands are unlike.
    """
    places: set[tuple[int, ...]] = set()
    for island in islands:
        crossbar = network.crossbar(island[0])
        if crossbar is None:
            return None
        numbers = tuple(int(network.places[gpu].get("index", 0)) for gpu in island)
        by_rail = members_by_rail(network, crossbar)
        if [by_rail[number] for number in numbers] != list(island):  # a domain of several servers
            return None
        places.add(numbers)
    if len(places) != 1 or not network.peer_to_peer:
        return None
    far = network.loads_between(islands, between, counterparts=True)
    if far is None:
        return None
    passed = sum(within for _ in islands)
    near = {(a, b): passed for island in islands for a in island for b in island if a != b}
    inside = pairs_demand(network, near)
    return dict(zip(inside.links, inside.n_bytes, strict=True)), far


def _add(load: Load, network: Network, source: str, target: str, n_bytes: float) -> None:
    path = network.path(source, target)
    if path.shares:
        for link, carried in path.bytes_on_links(n_bytes):
            load[link] = load.get(link, 0.0) + carried
    else:  # the common case without a call per link
        for link in path.links:
            load[link] = load.get(link, 0.0) + n_bytes


def _along_rings(network: Network, ranks: tuple[str, ...], per_edge: float) -> Load:
    load: Load = {}
    orders = groups.rings(network, ranks)
    for order in orders:
        for here, there in pairwise((*order, order[0])):
            _add(load, network, here, there, per_edge / len(orders))
    return load


def ring_all_reduce(network: Network, ranks: tuple[str, ...]) -> Load:
    """2(n-1)/n S on each edge of the ring: reduce-scatter, then all-gather."""
    return _along_rings(network, ranks, 2.0 * (len(ranks) - 1) / len(ranks))


def ring_gather_or_scatter(network: Network, ranks: tuple[str, ...]) -> Load:
    """(n-1)/n S on each edge of the ring; S is the gathered buffer."""
    return _along_rings(network, ranks, (len(ranks) - 1) / len(ranks))


def ring_broadcast(network: Network, ranks: tuple[str, ...]) -> Load:
    """S on each edge of the chain that a ring is when cut before its root, the first rank given."""
    load: Load = {}
    orders = groups.rings(network, ranks)
    for order in orders:
        for here, there in pairwise(groups.chain(order, ranks[0])):
            _add(load, network, here, there, 1.0 / len(orders))
    return load


def tree_all_reduce(network: Network, ranks: tuple[str, ...]) -> Load:
    """S up and S down each edge of a chain in an island; between islands S/2 in each of two binary
    trees, over all rails.
    """
    load: Load = {}
    for below, above, share in groups.tree_edges(network, ranks):
        _add(load, network, below, above, share)
        _add(load, network, above, below, share)
    return load


def double_tree_all_reduce(network: Network, ranks: tuple[str, ...]) -> Load:
    """Two binary trees straight over the ranks, S/2 each: at most 2 S through an interior rank."""
    load: Load = {}
    ordered = sorted(ranks, key=network.gpu_index.__getitem__)
    for below, above, share in groups.between_islands(ordered, 1.0):
        _add(load, network, below, above, share)
        _add(load, network, above, below, share)
    return load


def _switch_links(network: Network, ranks: Sequence[str], algorithm: str) -> list[tuple[int, int]]:
    """Each rank's link up to the reducing switch and down from it."""
    if not network.reduces(ranks):
        raise InfeasibleError(
            f"{algorithm} needs all ranks on one NVLink switch that reduces; {ranks[0]} to {ranks[-1]} of "
            f"{network.name or 'this topology'} are not, ring and tree work"
        )
    switches = [network.switch_of(gpu) for gpu in ranks]
    return [
        (network.link_id[f"{gpu}->{switch}"], network.link_id[f"{switch}->{gpu}"])
        for gpu, switch in zip(ranks, switches, strict=True)
    ]


def ranks_by_switch(network: Network, ranks: Sequence[str]) -> dict[str, int]:
    """How many of the ranks hang on each switch that adds; several are a tier below another."""
    found: dict[str, int] = {}
    for gpu in ranks:
        switch = network.switch_of(gpu)
        found[switch] = found.get(switch, 0) + 1
    return found


def _through_switch(
    network: Network, ranks: Sequence[str], reads: float, sends: float, algorithm: str
) -> Load:
    """`reads` bytes of everything are added up and read by the ranks, an n-th by each; `sends` bytes of
    everything are multicast, an n-th by each.

    Where the ranks hang on several switches below a second tier, each of those passes one sum up for every
    reader elsewhere and gets one for every reader of its own; what is multicast goes up once and down once.
    """
    load: Load = {}
    n = len(ranks)
    for link_up, link_down in _switch_links(network, ranks, algorithm):
        load[link_up], load[link_down] = reads + sends / n, reads / n + sends
    switches = ranks_by_switch(network, ranks)
    if len(switches) > 1:
        for switch, own in switches.items():
            up, down = network.trunks(switch)
            mine, others = own / n, (n - own) / n
            load[up], load[down] = reads * others + sends * mine, reads * mine + sends * others
    return load


def nvls_all_reduce(network: Network, ranks: tuple[str, ...]) -> Load:
    """S(1 + 1/n) each way: the switch reads S from each GPU, and each GPU sends its S/n of sums to all
    through it.
    """
    return _through_switch(network, ranks, 1.0, 1.0, "nvls")


def nvls_all_gather(network: Network, ranks: tuple[str, ...]) -> Load:
    """S/n up, S down: the switch multicasts each GPU's part."""
    return _through_switch(network, ranks, 0.0, 1.0, "nvls")


def nvls_reduce_scatter(network: Network, ranks: tuple[str, ...]) -> Load:
    """S up, S/n down: the switch adds."""
    return _through_switch(network, ranks, 1.0, 0.0, "nvls")


def _equal_islands(network: Network, ranks: tuple[str, ...], algorithm: str) -> tuple[tuple[str, ...], ...]:
    found = groups.islands(network, ranks)
    if len(found) < 2 or len({len(group) for group in found}) > 1:
        sizes = ", ".join(str(len(group)) for group in found)
        raise InfeasibleError(
            f"{algorithm} needs two or more islands of equal size; these ranks are in islands of {sizes}"
        )
    return found


def nvls_tree_all_reduce(network: Network, ranks: tuple[str, ...]) -> Load:
    """NVLS in each island and two binary trees over each rail: over two islands each NIC carries S/rails
    per direction.
    """
    found = _equal_islands(network, ranks, "nvls_tree")
    load: Load = {}
    for group in found:
        for link, share in nvls_all_reduce(network, group).items():
            load[link] = load.get(link, 0.0) + share
    lanes = groups.rails(network, found)
    for heads in lanes:
        for below, above, share in groups.between_islands(heads, 1.0 / len(lanes)):
            _add(load, network, below, above, share)
            _add(load, network, above, below, share)
    return load


def two_level_all_reduce(network: Network, ranks: tuple[str, ...]) -> Load:
    """Ring reduce-scatter in each island, a ring per place over the islands on S/g, ring all-gather."""
    found = _equal_islands(network, ranks, "two_level")
    size, load = len(found[0]), Load()
    for group in found:
        if size > 1:
            for link, share in ring_all_reduce(network, group).items():
                load[link] = load.get(link, 0.0) + share
    for column in zip(*found, strict=True):
        for here, there in pairwise((*column, column[0])):
            _add(load, network, here, there, 2.0 * (len(found) - 1) / len(found) / size)
    return load


def _all_pairs(network: Network, ranks: tuple[str, ...], per_pair: float) -> Load:
    islands = _islands(network, ranks)
    load = network.loads_between(islands, per_pair) if len(islands) > 1 else None
    if load is None:
        load, islands = {}, [ranks]
    for island in islands:
        for source in island:
            for target in island:
                if source != target:
                    _add(load, network, source, target, per_pair)
    return load


def _islands(network: Network, ranks: tuple[str, ...]) -> list[Sequence[str]]:
    """The ranks by NVLink island, or by server where they have none."""
    islands: dict[object, list[str]] = {}
    for rank in ranks:
        islands.setdefault(network.crossbar(rank) or network.node_of[rank], []).append(rank)
    return list(islands.values())


def merged(load: Load, more: Load) -> Load:
    """Bytes on each link of two loads together."""
    both = dict(load)
    for link, n_bytes in more.items():
        both[link] = both.get(link, 0.0) + n_bytes
    return both


def one_shot_all_reduce(network: Network, ranks: tuple[str, ...]) -> Load:
    """Every rank reads the whole buffer of every other: (n-1) S into each."""
    return _all_pairs(network, ranks, 1.0)


def two_shot_all_reduce(network: Network, ranks: tuple[str, ...]) -> Load:
    """Every rank reduces S/n read from every other, then reads the sums: 2(n-1)/n S into each."""
    return _all_pairs(network, ranks, 2.0 / len(ranks))


def direct_all_to_all(network: Network, ranks: tuple[str, ...]) -> Load:
    """S/n from every rank to every other."""
    return _all_pairs(network, ranks, 1.0 / len(ranks))


def relayed_all_to_all(network: Network, ranks: tuple[str, ...]) -> Load:
    """S/n from every rank to every other; between islands over the sender's rail, then NVLink."""
    islands = _islands(network, ranks)
    share = 1.0 / len(ranks)
    parts = relayed_loads(network, islands, share * len(islands[0]), share) if len(islands) > 1 else None
    if parts is not None:
        return merged(*parts)
    each = {(a, b): share for a in ranks for b in ranks if a != b}
    relayed = pairs_demand(network, each, relay=True)
    return dict(zip(relayed.links, relayed.n_bytes, strict=True))


def direct_send_recv(network: Network, ranks: tuple[str, ...]) -> Load:
    """S from the first rank to the second; with more ranks, from each to the next and round, as
    nccl-tests does.
    """
    load: Load = {}
    for here, there in pairwise(ranks if len(ranks) == 2 else (*ranks, ranks[0])):
        _add(load, network, here, there, 1.0)
    return load


ALGORITHMS: dict[str, dict[str, Callable[[Network, tuple[str, ...]], Load]]] = {
    "all_reduce": {
        "ring": ring_all_reduce,
        "tree": tree_all_reduce,
        "double_tree": double_tree_all_reduce,
        "nvls": nvls_all_reduce,
        "nvls_tree": nvls_tree_all_reduce,
        "two_level": two_level_all_reduce,
        "one_shot": one_shot_all_reduce,
        "two_shot": two_shot_all_reduce,
    },
    "all_gather": {"ring": ring_gather_or_scatter, "nvls": nvls_all_gather},
    "reduce_scatter": {"ring": ring_gather_or_scatter, "nvls": nvls_reduce_scatter},
    "broadcast": {"ring": ring_broadcast},
    "all_to_all": {"direct": direct_all_to_all, "relayed": relayed_all_to_all},
    "send_recv": {"direct": direct_send_recv},
}
