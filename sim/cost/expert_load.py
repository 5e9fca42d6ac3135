"""How unevenly tokens fall on experts, and on the ranks that hold them: the slowest rank sets the step.

One law gives all of it: popularity is Zipf (the i-th most popular expert is chosen in proportion to
i**-exponent), uniform, or given. From the chance that a token chooses an expert follow the experts that a
step hits (the weights that it reads), and the tokens of the fullest rank.

Experts lie in order of their number (`linear`), or each next popular one on the rank with the least load so
far (`balanced`, as DeepSeek's EPLB packs them); redundant copies of the most popular ones share their tokens.
With Zipf's law the number of an expert says nothing of its popularity: every layer has other popular ones, so
that in order of their number they lie anywhere. Loads are then means over `LAYOUTS` drawn layouts, and the
ranks that a token reaches are those of a uniform choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import ceil, comb, erf, floor, log2, sqrt
from random import Random

import numpy as np
from numpy.typing import NDArray

from sim.inputs.engine import ExpertRouting
from sim.inputs.model import GroupLimit

GRID = 96
"""Points of the integral over the load of the busiest rank; 24 more change it by less than 1e-4."""
LAYOUTS = 16
"""Drawn layouts of popular experts; as many others change the load of the busiest of eight ranks by 1 %."""
NODES = 4
"""Per doubling of the pairs, between which the mean over layouts is a straight line."""
REACH = 6.0
"""Deviations of a Gaussian within which all of it lies, as far as eight digits go."""


@dataclass(frozen=True)
class ExpertLoad:
    """What each rank gets of all token-expert pairs: `shares`, summing to 1; `crowding`: how much more the
    pairs of a rank vary than if every one were drawn by itself. `layouts`: several such shares, where it is
    open which ranks the popular experts are on.
    """

    shares: tuple[float, ...]
    crowding: float = 1.0
    layouts: tuple[tuple[float, ...], ...] = ()
    _at_nodes: dict[int, float] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def _kinds(self) -> tuple[tuple[float, int], ...]:
        """Ranks with equal shares, together: (share, how many)."""
        counts: dict[float, int] = {}
        for share in self.shares:
            rounded = round(share, 12)
            counts[rounded] = counts.get(rounded, 0) + 1
        return tuple(sorted(counts.items()))

    def busiest(self, pairs: float) -> float:
        """Expected load of the busiest rank over an even one, when `pairs` token-expert pairs are drawn.

        Popularity and chance: a rank with share s gets about a Gaussian number of pairs, of mean s * pairs
        and variance s (1 - s) pairs times the crowding, and the busiest the maximum of them: the integral
        of 1 - product of their distribution functions. Where it stops: below some four pairs a rank a
        Gaussian is not skewed enough, and the true maximum is up to a tenth higher.
        """
        n = len(self.shares)
        if n == 1 or pairs <= 0.0:
            return 1.0
        if self.layouts:
            return self._mean_over_layouts(pairs)
        drawn = pairs * self.crowding
        spreads = [(share * pairs, sqrt(share * (1.0 - share) * drawn), many) for share, many in self._kinds]
        low = max(mean for mean, _, _ in spreads)
        high = max(mean + 6.0 * deviation for mean, deviation, _ in spreads)
        low = max(0.0, min(low, max(mean - 6.0 * deviation for mean, deviation, _ in spreads)))
        if high <= low:
            return min(float(n), low * n / pairs)
        below = []
        for i in range(GRID + 1):
            x = low + (high - low) * i / GRID
            product = 1.0
            for mean, deviation, many in spreads:
                if deviation > 0.0:
                    product *= (0.5 * (1.0 + erf((x - mean) / (deviation * sqrt(2.0))))) ** many
            below.append(product)
        expected = high - float(np.trapezoid(below, dx=(high - low) / GRID))
        return min(float(n), expected * n / pairs)

    def _mean_over_layouts(self, pairs: float) -> float:
        """The same as a mean over the layouts, on a straight line in the logarithm of the pairs."""
        at = NODES * log2(pairs)
        node = floor(at)
        low, high = (self._at_node(node + i) for i in (0, 1))
        return low + (at - node) * (high - low)

    def _at_node(self, node: int) -> float:
        found = self._at_nodes.get(node)
        if found is None:
            found = self._at_nodes[node] = _mean_busiest(
                np.array(self.layouts), 2.0 ** (node / NODES), self.crowding
            )
        return found


def _mean_busiest(shares: NDArray[np.float64], pairs: float, crowding: float) -> float:
    """`ExpertLoad.busiest` of every row of shares, in the mean."""
    n = shares.shape[1]
    mean = shares * pairs
    deviation = np.maximum(np.sqrt(shares * (1.0 - shares) * pairs * crowding), 1e-12)
    high = (mean + REACH * deviation).max(axis=1)
    low = np.clip((mean - REACH * deviation).max(axis=1), 0.0, None)
    x = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, GRID + 1)
    scaled = (x[:, :, None] - mean[:, None, :]) / deviation[:, None, :]
    below = np.interp(scaled, *_gaussian()).prod(axis=2)
    expected = high - np.trapezoid(below, axis=1) * (high - low) / GRID
    return float(np.minimum(n, expected * n / pairs).mean())


@cache
def _gaussian() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of the distribution function, near enough to each other for lines between them (1e-7)."""
    at = np.linspace(-REACH, REACH, 4097)
    return at, np.array([0.5 * (1.0 + erf(x / sqrt(2.0))) for x in at.tolist()])


@cache
def expert_load(
    routing: ExpertRouting, experts: int, ranks: int, topk: int = 1, limit: GroupLimit | None = None
) -> ExpertLoad:
    """Loads of `ranks` ranks that hold `experts` experts between them, `topk` of which a token chooses."""
    copies = _copies(routing, experts, topk)
    crowded = crowding(experts, topk, ranks, limit_in_traffic(routing, limit))
    pieces = [piece / topk for group in copies for piece in group]
    if routing.placement == "balanced":
        return ExpertLoad(_packed(pieces, ranks), crowded)
    if routing.popularity != "zipf" or routing.is_even or ranks == 1:
        return ExpertLoad(_in_order(pieces, ranks), crowded)
    random = Random(0)
    layouts = []
    for _ in range(LAYOUTS):
        keys = [random.random() for _ in pieces]
        layouts.append(_in_order([piece for _, piece in sorted(zip(keys, pieces, strict=True))], ranks))
    return ExpertLoad((1.0 / ranks,) * ranks, crowded, tuple(layouts))


def _copies(routing: ExpertRouting, experts: int, topk: int) -> list[list[float]]:
    """The chance of each copy of each expert to be chosen by a token."""
    copies = [[chance] for chance in chances(routing, experts, topk)]
    for _ in range(routing.redundant_experts):
        heaviest = max(range(experts), key=lambda e: (copies[e][0], -e))
        whole = sum(copies[heaviest])
        copies[heaviest] = [whole / (len(copies[heaviest]) + 1)] * (len(copies[heaviest]) + 1)
    return copies


def _in_order(pieces: Sequence[float], ranks: int) -> tuple[float, ...]:
    loads = [0.0] * ranks
    for i, piece in enumerate(pieces):
        loads[i * ranks // len(pieces)] += piece
    return tuple(loads)


def _packed(pieces: Sequence[float], ranks: int) -> tuple[float, ...]:
    loads, held = [0.0] * ranks, [0] * ranks
    max_held = -(-len(pieces) // ranks)
    for piece in sorted(pieces, reverse=True):
        rank = min((r for r in range(ranks) if held[r] < max_held), key=lambda r: (loads[r], r))
        loads[rank] += piece
        held[rank] += 1
    return tuple(loads)


class Hits:
    """Experts that get at least one of so many tokens, in expectation: the sum of 1 - (1 - q)^tokens over
    the chances q of experts, or of their copies, to be chosen by a token. Tokens choose each for itself;
    that one token chooses no expert twice does not show in an expectation.
    """

    def __init__(self, chances: Sequence[float]) -> None:
        with np.errstate(divide="ignore"):
            self._log_missed = np.log1p(-np.minimum(np.array(chances), 1.0))

    def of(self, tokens: float) -> float:
        """For a number of tokens, a fraction too."""
        return float(-np.expm1(tokens * self._log_missed).sum()) if tokens > 0.0 else 0.0

    def share_of(self, tokens: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Of all experts, for many numbers of tokens at once."""
        at, where = np.unique(tokens, return_inverse=True)
        shares = np.array([self.of(one) for one in at.tolist()]) / len(self._log_missed)
        return shares[where].reshape(np.shape(tokens))


@cache
def hits(routing: ExpertRouting, experts: int, topk: int) -> Hits | None:
    """Experts hit by tokens that choose by popularity; None where it is uniform."""
    if routing.is_even:
        return None
    return Hits([piece for group in _copies(routing, experts, topk) for piece in group])


def chances(routing: ExpertRouting, experts: int, topk: int) -> list[float]:
    """The chance of each expert to be one of the `topk` of a token: in proportion to its popularity, as far
    as a token can choose an expert no more than once.

    >>> chances(ExpertRouting(popularity="given", weights=(6.0, 1.0, 1.0, 1.0)), 4, 2)
    [1.0, 0.3333333333333333, 0.3333333333333333, 0.3333333333333333]
    """
    shares = popularity(routing, experts)
    certain: set[int] = set()
    while True:
        left = sum(share for e, share in enumerate(shares) if e not in certain)
        if left <= 0.0:
            return [1.0 if e in certain else 0.0 for e in range(experts)]
        scale = (topk - len(certain)) / left
        more = {e for e, share in enumerate(shares) if e not in certain and share * scale > 1.0}
        if not more:
            return [1.0 if e in certain else share * scale for e, share in enumerate(shares)]
        certain |= more


def limit_in_traffic(routing: ExpertRouting, limit: GroupLimit | None) -> GroupLimit | None:
    """The limit as far as it shows in the traffic: a balanced placement spreads every group over all
    ranks, and then a token's experts lie as if it had chosen freely.
    """
    return limit if routing.placement == "linear" else None


def popularity(routing: ExpertRouting, experts: int) -> list[float]:
    """The share of each expert, summing to 1."""
    if routing.popularity == "zipf":
        weights = [(i + 1.0) ** -routing.exponent for i in range(experts)]
    elif routing.weights:
        weights = list(routing.weights[:experts]) + [0.0] * max(0, experts - len(routing.weights))
    else:
        weights = [1.0] * experts
    whole = sum(weights)
    return [weight / whole for weight in weights]


def distinct_places(experts: int, topk: int, places: float, limit: GroupLimit | None = None) -> float:
    """Expected number of places (ranks, or domains of ranks) that the `topk` experts of one token lie in,
    experts spread evenly over Y places and chosen at random: Y (1 - C(E - E/Y, k) / C(E, k)).

    With a `limit` a token first chooses groups. Every chosen group gives its best expert (that is why it was
    chosen), and the others are taken at random from what is left of the chosen groups. Where it stops: places
    hold experts in order of their number; against drawn scores it is 1 % off.

    >>> [round(distinct_places(256, 8, ranks), 2) for ranks in (8, 16, 32, 64)]
    [5.29, 6.52, 7.27, 7.68]
    >>> [round(distinct_places(256, 8, ranks, GroupLimit(8, 4)), 2) for ranks in (8, 16, 32, 64)]
    [4.0, 5.71, 6.84, 7.48]
    """
    if limit is not None:
        return _distinct_within_groups(experts, topk, places, limit)
    per_group = experts / places
    none = 1.0
    for i in range(topk):
        none *= max(0.0, experts - per_group - i) / (experts - i)
    return places * (1.0 - none)


@cache
def _distinct_within_groups(experts: int, topk: int, places: float, limit: GroupLimit) -> float:
    size = experts // limit.groups
    others, left = topk - limit.chosen, limit.chosen * (size - 1)
    whole, distinct = comb(limit.groups, limit.chosen), 0.0
    for place in range(ceil(places)):
        # (groups chosen so far, experts of this place in them) -> chance that it has the best of none
        ways: dict[tuple[int, float], float] = {(0, 0.0): 1.0}
        start, end = place * experts / places, min((place + 1) * experts / places, experts)
        for group in range(limit.groups):
            held = max(0.0, min(end, (group + 1) * size) - max(start, group * size))
            for (chosen, within), chance in list(ways.items()):
                if chosen < limit.chosen:
                    key = chosen + 1, round(within + held, 9)
                    ways[key] = ways.get(key, 0.0) + chance * (1.0 - held / size)
        for (chosen, within), chance in ways.items():
            if chosen == limit.chosen:
                for i in range(others):
                    chance *= max(0.0, left - within - i) / (left - i)
                distinct -= chance / whole
        distinct += 1.0
    return distinct


def crowding(experts: int, topk: int, ranks: int, limit: GroupLimit | None) -> float:
    """By how much the variance of a rank's token-expert pairs exceeds that of a free choice, when tokens are
    held to groups: a rank that gets one expert's token is likely to get another's.

    From the chances that two experts are chosen by one token, in one group and in two; averaged over ranks.
    """
    if limit is None:
        return 1.0
    size = experts // limit.groups
    others, left = topk - limit.chosen, limit.chosen * (size - 1)
    more = others / limit.chosen  # of a chosen group, beside its best expert
    pairs_of_more = others * (others - 1) * (size - 1) * (size - 2) / max(1, left * (left - 1))
    within = limit.chosen * (pairs_of_more + 2.0 * more)  # ordered pairs of a token in one group
    same = within / (limit.groups * size * max(1, size - 1))
    apart = (topk * (topk - 1) - within) / (limit.groups * (limit.groups - 1) * size * size)
    held = experts / ranks
    mean = topk / ranks
    variance = 0.0
    for rank in range(ranks):
        start, end = rank * held, (rank + 1) * held
        of_groups = [
            max(0.0, min(end, (group + 1) * size) - max(start, group * size)) for group in range(limit.groups)
        ]
        squares = sum(n * n for n in of_groups)
        variance += (squares - held) * same + (held * held - squares) * apart + mean - mean * mean
    return variance / ranks / (mean * (1.0 - 1.0 / ranks)) if ranks > 1 else 1.0
