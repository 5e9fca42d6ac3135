"""The collectives as explicit point-to-point sends: a graph of which send waits for which.

The same algorithms as in `demands`, written out chunk by chunk: for teaching, for tests, and to show that
the fluid form is right. Played alone on a fabric (`sim.runtime.fabric.play_sends`) a ring, one-shot,
two-shot or all-to-all takes what its demand says. An algorithm that pipelines chunks (chain, tree, NVLS,
broadcast) takes longer by the filling of its pipeline, `(hops - 1)` chunks, which vanishes
as chunks get smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat

from sim.cost.collectives import groups
from sim.cost.collectives.demands import ranks_by_switch, relay_beside
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError


@dataclass(frozen=True, slots=True)
class Send:
    """One send: it starts when the sends numbered `after` have arrived, and puts `n_bytes` on each of its
    links.

    A read through a reducing switch and a multicast are one send over several links: the switch adds or
    copies as bytes pass. `shares` is that of a path over several NICs: the part of the bytes on each link.
    """

    source: str
    target: str
    n_bytes: float
    after: tuple[int, ...]
    links: tuple[int, ...]
    latency_s: float
    shares: tuple[float, ...] = ()

    def load(self) -> dict[int, float]:
        """Bytes on each link."""
        load: dict[int, float] = {}
        for link, share in zip(self.links, self.shares or repeat(1.0), strict=False):
            load[link] = load.get(link, 0.0) + share * self.n_bytes
        return load


class _Book:
    """The list of sends as it is written, with the number of each."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.sends: list[Send] = []

    def add(self, source: str, target: str, n_bytes: float, after: Sequence[int] = ()) -> int:
        path = self.network.path(source, target)
        waits = tuple(sorted(set(after)))
        return self.put(Send(source, target, n_bytes, waits, path.links, path.latency_s, path.shares))

    def put(self, send: Send) -> int:
        self.sends.append(send)
        return len(self.sends) - 1


Writer = Callable[[_Book, float, tuple[str, ...], int], None]
"""Writes the sends of so many bytes among ranks, a message cut into so many chunks, into a book."""


def send_graph(
    network: Network, op: str, algorithm: str, n_bytes: float, ranks: Sequence[str], chunks: int = 1
) -> tuple[Send, ...]:
    """The sends of one collective. `chunks` cuts the message of the algorithms that pipeline.

    A ring already works on n chunks and takes no further cut.
    """
    writers = SEND_GRAPHS.get(op, {})
    if algorithm not in writers:
        raise InfeasibleError(
            f"algorithm = {algorithm!r}: send graphs of {op} are {', '.join(writers) or 'none'}"
        )
    return sends_of(writers[algorithm], network, n_bytes, ranks, chunks)


def sends_of(
    writer: Writer, network: Network, n_bytes: float, ranks: Sequence[str], chunks: int = 1
) -> tuple[Send, ...]:
    """The sends that one function writes, also one that stands in no table."""
    book = _Book(network)
    writer(book, float(n_bytes), tuple(ranks), chunks)
    return tuple(book.sends)


def _ring(
    book: _Book,
    n_bytes: float,
    order: Sequence[str],
    steps: int,
    after: Mapping[str, Sequence[int]] | None = None,
    sent: dict[str, int] | None = None,
) -> dict[str, list[int]]:
    """Steps of a ring on an n-th each; a rank sends what it has just received. Returns what each received
    last.

    `after` is what each rank waits for before its first send, `sent` each rank's last send so far: they go
    in order.
    """
    sent = {} if sent is None else sent
    received = {rank: list(after[rank]) if after else [] for rank in order}
    for _ in range(steps):
        arriving: dict[str, list[int]] = {}
        for here, there in pairwise((*order, order[0])):
            waits = received[here] + ([sent[here]] if here in sent else [])
            sent[here] = book.add(here, there, n_bytes / len(order), waits)
            arriving[there] = [sent[here]]
        received = arriving
    return received


def _ring_all_reduce(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    orders = groups.rings(book.network, ranks)
    for order in orders:
        _ring(book, n_bytes / len(orders), order, 2 * (len(order) - 1))


def _ring_half(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    orders = groups.rings(book.network, ranks)
    for order in orders:
        _ring(book, n_bytes / len(orders), order, len(order) - 1)


def _ring_broadcast(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    orders = groups.rings(book.network, ranks)
    for order in orders:
        before: dict[tuple[str, str], int] = {}
        for _ in range(chunks):
            arrived: list[int] = []
            for edge in pairwise(groups.chain(order, ranks[0])):
                queued = [before[edge]] if edge in before else []
                before[edge] = book.add(*edge, n_bytes / len(orders) / chunks, arrived + queued)
                arrived = [before[edge]]


def _up_and_down(
    book: _Book,
    edges: Sequence[tuple[str, str, float]],
    n_bytes: float,
    chunks: int,
    ready: dict[str, list[int]] | None = None,
) -> list[dict[str, list[int]]]:
    """Reduce up a tree of (child, parent, share) edges and copy down it, chunk by chunk; what each place
    waits for.

    `ready` says, per place, which sends must have arrived before its own part can be sent (of the first
    chunk).
    """
    children: dict[str, list[tuple[str, float]]] = {}
    below = {child for child, _, _ in edges}
    for child, above, share in edges:
        children.setdefault(above, []).append((child, share))
    roots = [place for place in children if place not in below]
    queued: dict[tuple[str, str], int] = {}
    done: list[dict[str, list[int]]] = []
    for _ in range(chunks):
        finished: dict[str, list[int]] = {}

        def reduced(place: str, start: dict[str, list[int]] | None = ready) -> list[int]:
            arrived = list((start or {}).get(place, ()))
            for child, share in children.get(place, ()):
                edge = (child, place)
                waits = reduced(child) + ([queued[edge]] if edge in queued else [])
                queued[edge] = book.add(*edge, share * n_bytes / chunks, waits)
                arrived.append(queued[edge])
            return arrived

        def copied(place: str, waits: list[int], into: dict[str, list[int]] = finished) -> None:
            into[place] = waits
            for child, share in children.get(place, ()):
                edge = (place, child)
                queued[edge] = book.add(
                    *edge, share * n_bytes / chunks, waits + ([queued[edge]] if edge in queued else [])
                )
                copied(child, [queued[edge]])

        for root in roots:
            copied(root, reduced(root))
        done.append(finished)
    return done


def _tree_all_reduce(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    found = groups.islands(book.network, ranks)
    if len(found) == 1:
        _up_and_down(book, groups.tree_edges(book.network, ranks), n_bytes, chunks)
        return
    lanes = groups.chains_of_rails(book.network, found)
    for visited in lanes:
        heads = [way[0] for way in visited]
        chains = [(below, above) for way in visited for above, below in pairwise(way)]
        share = 0.5 / len(lanes)
        for tree in groups.parents(len(heads)):
            edges = [(head, heads[up], share) for head, up in zip(heads, tree, strict=True) if up is not None]
            _up_and_down(book, [*edges, *((below, above, share) for below, above in chains)], n_bytes, chunks)


def _double_tree_all_reduce(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    ordered = sorted(ranks, key=book.network.gpu_index.__getitem__)
    for tree in groups.parents(len(ordered)):
        edges = [(rank, ordered[up], 0.5) for rank, up in zip(ordered, tree, strict=True) if up is not None]
        _up_and_down(book, edges, n_bytes, chunks)


def _nvls_all_reduce(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    read: list[int] = []
    multicast: list[int] = []
    for _ in range(chunks):
        read = _read_reduced(book, n_bytes / chunks, ranks, read)
        multicast = _multicast(book, n_bytes / chunks, ranks, [[number] for number in read], multicast)


def _read_reduced(book: _Book, n_bytes: float, ranks: Sequence[str], queued: Sequence[int]) -> list[int]:
    """Each rank reads its n-th of the sum through the switch: an n-th up from all, an n-th down to the
    reader. Of switches below a second tier each passes its sum up, and the reader's gets that of the others.
    """
    network = book.network
    switches = ranks_by_switch(network, ranks)
    trunks = {switch: network.trunks(switch) for switch in switches} if len(switches) > 1 else {}
    up = tuple(network.link_id[f"{rank}->{network.switch_of(rank)}"] for rank in ranks)
    numbers = []
    for place, rank in enumerate(ranks):
        crossbar = network.switch_of(rank)
        between = [trunk[1] if switch == crossbar else trunk[0] for switch, trunk in trunks.items()]
        links = (*up, *between, network.link_id[f"{crossbar}->{rank}"])
        after = (queued[place],) if queued else ()
        latency_s = network.path(ranks[place - 1], rank).latency_s
        numbers.append(book.put(Send(str(crossbar), rank, n_bytes / len(ranks), after, links, latency_s)))
    return numbers


def _multicast(
    book: _Book, n_bytes: float, ranks: Sequence[str], after: Sequence[Sequence[int]], queued: Sequence[int]
) -> list[int]:
    """Each rank sends its n-th up once and the switch copies it down to all, over a second tier where there
    is one.
    """
    network = book.network
    switches = ranks_by_switch(network, ranks)
    trunks = {switch: network.trunks(switch) for switch in switches} if len(switches) > 1 else {}
    down = tuple(network.link_id[f"{network.switch_of(rank)}->{rank}"] for rank in ranks)
    numbers = []
    for place, rank in enumerate(ranks):
        crossbar = network.switch_of(rank)
        between = [trunk[0] if switch == crossbar else trunk[1] for switch, trunk in trunks.items()]
        links = (network.link_id[f"{rank}->{crossbar}"], *between, *down)
        waits = (*after[place], *((queued[place],) if queued else ()))
        latency_s = network.path(rank, ranks[place - 1]).latency_s
        numbers.append(book.put(Send(rank, str(crossbar), n_bytes / len(ranks), waits, links, latency_s)))
    return numbers


def _nvls_all_gather(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    _multicast(book, n_bytes, ranks, [()] * len(ranks), ())


def _nvls_reduce_scatter(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    _read_reduced(book, n_bytes, ranks, ())


def _nvls_tree_all_reduce(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    found = groups.islands(book.network, ranks)
    lanes = groups.rails(book.network, found)
    read: list[list[int]] = [[] for _ in found]
    multicast: list[list[int]] = [[] for _ in found]
    for _ in range(chunks):
        read = [_read_reduced(book, n_bytes / chunks, group, read[i]) for i, group in enumerate(found)]
        arrived: list[list[int]] = [[] for _ in found]
        for heads in lanes:
            ready = {head: read[island] for island, head in enumerate(heads)}
            for tree in groups.parents(len(heads)):
                share = 0.5 / len(lanes)
                edges = [
                    (head, heads[up], share) for head, up in zip(heads, tree, strict=True) if up is not None
                ]
                [finished] = _up_and_down(book, edges, n_bytes / chunks, 1, ready)
                for island, head in enumerate(heads):
                    arrived[island].extend(finished[head])
        multicast = [
            _multicast(book, n_bytes / chunks, group, [arrived[i]] * len(group), multicast[i])
            for i, group in enumerate(found)
        ]


def _two_level_all_reduce(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    found = groups.islands(book.network, ranks)
    size = len(found[0])
    scattering: dict[str, int] = {}
    crossing: dict[str, int] = {}
    gathering: dict[str, int] = {}
    for _ in range(chunks):
        part = n_bytes / chunks
        scattered: dict[str, list[int]] = {rank: [] for rank in ranks}
        crossed: dict[str, list[int]] = {}
        for group in found:
            if size > 1:
                scattered |= _ring(book, part, group, size - 1, sent=scattering)
        for column in zip(*found, strict=True):
            crossed |= _ring(book, part / size, column, 2 * (len(column) - 1), scattered, crossing)
        for group in found:
            if size > 1:
                _ring(book, part, group, size - 1, crossed, gathering)


def _one_shot(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    for source in ranks:
        for target in ranks:
            if source != target:
                book.add(source, target, n_bytes)


def _two_shot(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    _one_shot(book, n_bytes / len(ranks), ranks, chunks)
    barrier = range(len(book.sends))
    for source in ranks:
        for target in ranks:
            if source != target:
                book.add(source, target, n_bytes / len(ranks), tuple(barrier))


def _all_to_all(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    _one_shot(book, n_bytes / len(ranks), ranks, chunks)


def _relayed_all_to_all(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    for _ in range(chunks):
        for source in ranks:
            for target in ranks:
                stop = relay_beside(book.network, source, target) if source != target else None
                if source != target and stop is None:
                    book.add(source, target, n_bytes / len(ranks) / chunks)
                elif stop is not None:
                    first = book.add(source, stop, n_bytes / len(ranks) / chunks)
                    book.add(stop, target, n_bytes / len(ranks) / chunks, (first,))


def _send_recv(book: _Book, n_bytes: float, ranks: tuple[str, ...], chunks: int) -> None:
    for here, there in pairwise(ranks if len(ranks) == 2 else (*ranks, ranks[0])):
        book.add(here, there, n_bytes)


SEND_GRAPHS: dict[str, dict[str, Writer]] = {
    "all_reduce": {
        "ring": _ring_all_reduce,
        "tree": _tree_all_reduce,
        "double_tree": _double_tree_all_reduce,
        "nvls": _nvls_all_reduce,
        "nvls_tree": _nvls_tree_all_reduce,
        "two_level": _two_level_all_reduce,
        "one_shot": _one_shot,
        "two_shot": _two_shot,
    },
    "all_gather": {"ring": _ring_half, "nvls": _nvls_all_gather},
    "reduce_scatter": {"ring": _ring_half, "nvls": _nvls_reduce_scatter},
    "broadcast": {"ring": _ring_broadcast},
    "all_to_all": {"direct": _all_to_all, "relayed": _relayed_all_to_all},
    "send_recv": {"direct": _send_recv},
}
