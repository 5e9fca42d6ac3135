"""Rings over GPUs that are wired to each other without a switch: so many that every link has its share.

A full mesh of n GPUs has a closed form, Walecki's (Lucas, Recreations mathematiques, 1892): one GPU in the
middle, the others on a circle, and a zigzag over the circle turned step by step. Any other wiring, such as
the cube mesh of a DGX-1, is searched as NCCL does (`src/graph/search.cc`): as many rings as the poorest GPU
has pairs of links, else one fewer, a double link counting twice. Each ring runs in both directions, because
a link does.

Where it stops: a search gives up after `SEARCH_STEPS` steps and takes fewer rings; rings all carry one share.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.cost.network import Network

SEARCH_STEPS = 1 << 14
"""Steps of one search before it gives up: NCCL_SEARCH_TIMEOUT of NCCL's `src/graph/search.h`."""

Order = tuple[str, ...]
Lanes = list[list[int]]
"""Lanes between every two places: how many rings may run there, each once in either direction."""


def direct_rings(network: Network, members: Sequence[str]) -> tuple[Order, ...]:
    """Rings over direct links alone; empty where there is none (a switch, a bridge that ends, two GPUs)."""
    lanes = _lanes(network, members)
    if lanes is None:
        return ()
    cycles = _mesh_cycles(len(members)) if _is_full_mesh(lanes) else _searched_cycles(lanes)
    return tuple(tuple(members[place] for place in cycle) for cycle in cycles)


def direct_ways(network: Network, members: Sequence[str]) -> tuple[Order, ...]:
    """One way from each member through all others over direct links, together spread over the links; empty
    where there is none.
    """
    lanes = _lanes(network, members)
    if lanes is None:
        return ()
    if _is_full_mesh(lanes):
        steps = _zigzag(len(members))
        return tuple(
            tuple(members[(start + step) % len(members)] for step in steps) for start in range(len(members))
        )
    cycles = direct_rings(network, members)
    ways = []
    for start, head in enumerate(members):
        cycle = cycles[start % len(cycles)] if cycles else ()
        if cycle:
            turn = cycle.index(head)
            ways.append(cycle[turn:] + cycle[:turn])
    return tuple(ways)


def _is_full_mesh(lanes: Lanes) -> bool:
    """True where every two places are joined by as many lanes."""
    return len({count for row, own in enumerate(lanes) for count in own[:row]}) == 1


def _lanes(network: Network, members: Sequence[str]) -> Lanes | None:
    """Lanes of the slowest direct link each; None where some GPU has fewer than two neighbours."""
    if len(members) < 3 or not network.peer_to_peer or network.crossbar(members[0]) is not None:
        return None
    rates = [[_rate(network, here, there) for there in members] for here in members]
    if any(sum(rate > 0.0 for rate in own) < 2 for own in rates):
        return None
    lane = min(rate for own in rates for rate in own if rate > 0.0)
    # A thousandth lets a rate that was summed up count as the whole multiple that it is.
    return [[int(rate / lane + 1e-3) for rate in own] for own in rates]


def _rate(network: Network, here: str, there: str) -> float:
    """Bytes/s of the direct link between two GPUs, of its slower direction; 0 without one."""
    forth, back = network.link_id.get(f"{here}->{there}"), network.link_id.get(f"{there}->{here}")
    if forth is None or back is None:
        return 0.0
    return min(network.capacity[forth], network.capacity[back])


def _zigzag(n: int) -> list[int]:
    """0, 1, -1, 2, -2, ... modulo n.

    >>> _zigzag(6)
    [0, 1, 5, 2, 4, 3]
    """
    return [(step // 2 + 1 if step % 2 else -(step // 2)) % n for step in range(n)]


def _mesh_cycles(n: int) -> list[tuple[int, ...]]:
    """Cycles that use every direction of every pair of n places equally often.

    >>> _mesh_cycles(3)
    [(0, 1, 2), (0, 2, 1)]
    """
    circle = n - 1
    forth = [(0, *(1 + (turn + step) % circle for step in _zigzag(circle))) for turn in range(circle)]
    # On an even circle half a turn is the way back; on an odd one every pair is used twice, one way.
    return forth if circle % 2 == 0 else [*forth, *((0, *cycle[:0:-1]) for cycle in forth)]


def _searched_cycles(lanes: Lanes) -> list[tuple[int, ...]]:
    """The most cycles found, both directions of each."""
    poorest = min(sum(own) for own in lanes)
    found = _most_cycles(lanes, poorest // 2, 1)
    if 2 * len(found) < poorest:  # an odd link is shared by two rings
        doubled = [[2 * count for count in own] for own in lanes]
        found = _most_cycles(doubled, poorest, 2 * len(found) + 1) or found
    return [way for cycle in found for way in (cycle, (cycle[0], *cycle[:0:-1]))]


def _most_cycles(lanes: Lanes, most: int, least: int) -> list[tuple[int, ...]]:
    for wanted in range(most, least - 1, -1):
        found = _Search(lanes, wanted).cycles()
        if found:
            return found
    return []


class _Search:
    """Looks for `wanted` Hamiltonian cycles that use no lane twice, depth first."""

    def __init__(self, lanes: Lanes, wanted: int) -> None:
        self.left = [list(own) for own in lanes]
        self.wanted = wanted
        self.steps = 0
        self.done: list[tuple[int, ...]] = []

    def cycles(self) -> list[tuple[int, ...]]:
        return self.done if self._extend([0]) else []

    def _extend(self, way: list[int]) -> bool:
        self.steps += 1
        if self.steps > SEARCH_STEPS:
            return False
        here, left = way[-1], self.left
        if len(way) == len(left):
            return left[here][0] > 0 and self._close(way)
        # The widest way on first, as NCCL's search sorts it: what is left then stays even.
        onward = [there for there in range(len(left)) if left[here][there] > 0 and there not in way]
        for there in sorted(onward, key=lambda there: -left[here][there]):
            self._take(here, there, 1)
            if self._extend([*way, there]):
                return True
            self._take(here, there, -1)
        return False

    def _close(self, way: list[int]) -> bool:
        self._take(way[-1], way[0], 1)
        self.done.append(tuple(way))
        if len(self.done) == self.wanted or self._extend([0]):
            return True
        self.done.pop()
        self._take(way[-1], way[0], -1)
        return False

    def _take(self, here: int, there: int, lanes: int) -> None:
        self.left[here][there] -= lanes
        self.left[there][here] -= lanes
