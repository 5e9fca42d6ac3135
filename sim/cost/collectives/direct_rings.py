"""Rings over GPUs that are wired to each other without a switch: so many that every link has its share.

A full mesh of n GPUs has a closed form, Walecki's (Lucas, Recreations mathematiques, 1892): one GPU in the
middle, the others on a circle, and a zigzag over the circle turned step by step. Any other wiring, such as
the cube mesh of a DGX-1, is searched as NCCL does (`src/graph/search.cc`): as many rings as the poorest GPU
has pairs of links, else one fewer, a double link counting twice. Each ring runs in both directions, because
a link does.

Where links differ, rings of several rates are tried and the fastest set is taken.

Where it stops: a search gives up after `SEARCH_STEPS` steps and takes fewer rings, so that on irregular
wirings a faster link may find a set some percent slower; rings all carry one share, and none leaves the
direct links to add PCIe to them.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.cost.network import Network

SEARCH_STEPS = 1 << 14
"""Steps of one search before it gives up: NCCL_SEARCH_TIMEOUT of NCCL's `src/graph/search.cc`."""

LANE_RATES = 4
"""Rates of a lane that are tried where links differ: a bound on the search, which seldom needs the second."""

MOST_LANES = 4
"""Lanes between two GPUs at most: what is left of a much faster link counts where its own rate is tried."""

Order = tuple[str, ...]
Lanes = list[list[int]]
"""Lanes between every two places: how many rings may run there, each once in either direction."""


def direct_rings(network: Network, members: Sequence[str]) -> tuple[Order, ...]:
    """Rings over direct links alone; empty where there is none (a switch, a bridge that ends, two GPUs)."""
    best: list[tuple[int, ...]] = []
    best_bytes_per_s = 0.0
    for lane_bytes_per_s, lanes in _lanes(network, members)[:LANE_RATES]:
        if _bound(lane_bytes_per_s, lanes) > best_bytes_per_s:
            cycles, rings = _cycles(lanes)
            if rings * lane_bytes_per_s > best_bytes_per_s:
                best, best_bytes_per_s = cycles, rings * lane_bytes_per_s
    return tuple(tuple(members[place] for place in cycle) for cycle in best)


def direct_ways(network: Network, members: Sequence[str]) -> tuple[Order, ...]:
    """One way from each member through all others over direct links, together spread over the links; empty
    where there is none.
    """
    cycles = direct_rings(network, members)
    if not cycles:
        return ()
    offered = _lanes(network, members)
    if len(offered) == 1 and _is_complete(offered[0][1]):
        steps = _zigzag(len(members))
        return tuple(
            tuple(members[(start + step) % len(members)] for step in steps) for start in range(len(members))
        )
    ways = []
    for start, head in enumerate(members):
        cycle = cycles[start % len(cycles)]
        turn = cycle.index(head)
        ways.append(cycle[turn:] + cycle[:turn])
    return tuple(ways)


def _is_complete(lanes: Lanes) -> bool:
    """True where every two places are joined."""
    return all(count > 0 for row, own in enumerate(lanes) for count in own[:row])


def _lanes(network: Network, members: Sequence[str]) -> list[tuple[float, Lanes]]:
    """Rates that a lane may have, each with the lanes of that rate, the most promising first; none of a rate
    at which some GPU has fewer than two neighbours.
    """
    if len(members) < 3 or not network.peer_to_peer or network.crossbar(members[0]) is not None:
        return []
    rates = [[_rate(network, here, there) for there in members] for here in members]
    slowest = min((rate for own in rates for rate in own if rate > 0.0), default=0.0)
    found = []
    # A thousandth lets rates be equal, or whole multiples, that are so but for their last digits.
    multiples = sorted({round(rate / slowest, 3) for own in rates for rate in own if rate > 0.0})
    for multiple in multiples:
        lane = multiple * slowest
        lanes = [[min(int(rate / lane + 1e-3), MOST_LANES) for rate in own] for own in rates]
        if all(sum(count > 0 for count in own) >= 2 for own in lanes):
            found.append((lane, lanes))
    return sorted(found, key=lambda offer: -_bound(*offer))


def _bound(lane_bytes_per_s: float, lanes: Lanes) -> float:
    """No set of rings passes a GPU faster than its lanes do."""
    return min(sum(own) for own in lanes) * lane_bytes_per_s


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


def _cycles(lanes: Lanes) -> tuple[list[tuple[int, ...]], int]:
    """The best cycles found, both directions of each, and how many lanes they fill in each direction."""
    poorest = min(sum(own) for own in lanes)
    if _is_complete(lanes) and poorest == len(lanes) - 1:
        return _mesh_cycles(len(lanes)), poorest
    found = _most_cycles(lanes, poorest // 2, 1)
    filled = 2 * len(found)
    if filled < poorest:  # an odd link is shared by two rings
        doubled = [[2 * count for count in own] for own in lanes]
        shared = _most_cycles(doubled, poorest, filled + 1)
        found, filled = (shared, len(shared)) if shared else (found, filled)
    if _is_complete(lanes) and filled < len(lanes) - 1:
        return _mesh_cycles(len(lanes)), len(lanes) - 1
    return [way for cycle in found for way in (cycle, (cycle[0], *cycle[:0:-1]))], filled


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
