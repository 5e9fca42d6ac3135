"""How the ranks of a collective sit in a network: islands, rails, rings and trees.

An island is a set of ranks that talk without a NIC: one NVLink domain, or one server. NCCL calls it a node,
also where a domain spans servers; intra-node and inter-node are meant so for collectives. A rail is a NIC per
island that carries traffic between islands. NCCL runs one ring (or tree) per rail so that all NICs work at
once; within an island the ring visits the GPUs in their order on the PCIe tree, so neighbours in the ring
are neighbours on the board. An odd island is visited backwards, which lets each ring leave and enter by the
same rail (NCCL's alternating rings). GPUs wired to each other without a switch have rings of their own
(`direct_rings`). Source: NCCL `src/graph/rings.cc`, `connect.cc`, `trees.cc`; the tree
pair is that of Sanders, Speck and Traeff (2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sim.cost.collectives.direct_rings import direct_rings, direct_ways
from sim.cost.network import Network


def islands(network: Network, ranks: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Ranks by NVLink domain, or by server where there is none, each island in the order of the board."""
    groups: dict[object, list[str]] = {}
    for rank in sorted(ranks, key=network.gpu_index.__getitem__):
        domain = network.domain(rank) if network.peer_to_peer else None
        groups.setdefault(domain if domain is not None else network.node_of[rank], []).append(rank)
    return tuple(tuple(group) for group in groups.values())


def rails(network: Network, groups: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """For each rail, the GPU of each island that owns its NIC: as many rails as the poorest island has
    NICs in use.
    """
    owners = []
    for group in groups:
        first_owner: dict[str, str] = {}
        for gpu in group:
            nics = network.nics_of(gpu)
            first_owner.setdefault(nics[0] if nics else "", gpu)
        owners.append(tuple(first_owner.values()))
    width = min(len(group_owners) for group_owners in owners)
    return tuple(tuple(group_owners[rail] for group_owners in owners) for rail in range(width))


def rings(network: Network, ranks: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The ring orders over which a message is spread evenly."""
    known = network.remembered.rings
    orders = known.get(tuple(ranks))
    if orders is None:
        orders = known[tuple(ranks)] = _rings(network, ranks)
    return orders


def _rings(network: Network, ranks: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    groups = islands(network, ranks)
    if len(groups) == 1:
        return direct_rings(network, groups[0]) or (groups[0],)
    orders = []
    for chains in chains_of_rails(network, groups):
        order: list[str] = []
        for number, visited in enumerate(chains):
            order.extend(reversed(visited) if number % 2 else visited)
        orders.append(tuple(order))
    return tuple(orders)


def chains_of_rails(
    network: Network, groups: Sequence[Sequence[str]]
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """For each rail, the chain of each island from the head that owns its NIC: over direct links where the
    GPUs are wired to each other, then each rail over other ones, else onward round the board.
    """
    ways = [{way[0]: way for way in direct_ways(network, group)} for group in groups]
    return tuple(
        tuple(
            direct.get(head) or chain(group, head)
            for direct, group, head in zip(ways, groups, heads, strict=True)
        )
        for heads in rails(network, groups)
    )


def chain(group: Sequence[str], head: str) -> tuple[str, ...]:
    """An island's GPUs as a chain from its head, onward round the board."""
    turn = group.index(head)
    return tuple(group[turn:]) + tuple(group[:turn])


def parents(nodes: int) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Two binary trees over `nodes` places: each place's parent, None for the root. A leaf of one is
    interior in the other.

    >>> parents(4)
    ((None, 2, 0, 2), (1, 3, 1, None))
    """
    first = tuple(_parent(place, nodes) for place in range(nodes))
    second: list[int | None] = []
    for place in range(nodes):
        if nodes % 2:
            above = first[(place - 1) % nodes]
            second.append(None if above is None else (above + 1) % nodes)
        else:
            above = first[nodes - 1 - place]
            second.append(None if above is None else nodes - 1 - above)
    return first, tuple(second)


def _parent(place: int, nodes: int) -> int | None:
    if place == 0:
        return None
    bit = place & -place
    above = (place ^ bit) | (bit << 1)
    return above if above < nodes else place ^ bit


def tree_edges(network: Network, ranks: Sequence[str]) -> list[tuple[str, str, float]]:
    """(child, parent, share of the message) of NCCL's trees: a chain in each island, two binary trees
    over each rail.
    """
    groups = islands(network, ranks)
    if len(groups) == 1:
        return [(below, above, 1.0) for above, below in pairwise(groups[0])]
    edges: list[tuple[str, str, float]] = []
    lanes = chains_of_rails(network, groups)
    for chains in lanes:
        share = 1.0 / len(lanes)
        for visited in chains:
            edges.extend((below, above, share) for above, below in pairwise(visited))
        edges.extend(between_islands([visited[0] for visited in chains], share))
    return edges


def between_islands(heads: Sequence[str], share: float) -> list[tuple[str, str, float]]:
    """(child, parent, share) of the two trees that join the heads of the islands on one rail, half the
    message each.
    """
    return [
        (head, heads[above], share / 2.0)
        for tree in parents(len(heads))
        for head, above in zip(heads, tree, strict=True)
        if above is not None
    ]
