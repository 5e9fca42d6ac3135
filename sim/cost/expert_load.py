"""How unevenly tokens fall on the ranks that hold the experts: the slowest rank sets the step.

Popularity is uniform, Zipf (the i-th most popular expert is chosen in proportion to i**-exponent) or given.
Experts lie in order of their number (`linear`), or each next popular one on the rank with the least load so
far (`balanced`, as DeepSeek's EPLB packs them); redundant copies of the most popular ones share their tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import erf, sqrt

import numpy as np

from sim.inputs.engine import ExpertRouting

GRID = 96
"""Points of the integral over the load of the busiest rank; 24 more change it by less than 1e-4."""


@dataclass(frozen=True)
class ExpertLoad:
    """What each rank gets of all token-expert pairs: `shares`, summing to 1."""

    shares: tuple[float, ...]

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
        and variance s (1 - s) pairs, and the busiest the maximum of them: the integral of 1 - product of
        their distribution functions. Where it stops: below some four pairs a rank a Gaussian is not skewed
        enough, and the true maximum is up to a tenth higher.
        """
        n = len(self.shares)
        if n == 1 or pairs <= 0.0:
            return 1.0
        spreads = [(share * pairs, sqrt(share * (1.0 - share) * pairs), many) for share, many in self._kinds]
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


def expert_load(routing: ExpertRouting, experts: int, ranks: int) -> ExpertLoad:
    """Loads of `ranks` ranks that hold `experts` experts between them."""
    weights = popularity(routing, experts)
    copies = [[weight] for weight in weights]
    for _ in range(routing.redundant_experts):
        heaviest = max(range(experts), key=lambda e: (copies[e][0], -e))
        whole = sum(copies[heaviest])
        copies[heaviest] = [whole / (len(copies[heaviest]) + 1)] * (len(copies[heaviest]) + 1)
    pieces = [piece for group in copies for piece in group]
    loads = [0.0] * ranks
    if routing.placement == "linear":
        for i, piece in enumerate(pieces):
            loads[i * ranks // len(pieces)] += piece
    else:
        held = [0] * ranks
        most = -(-len(pieces) // ranks)
        for piece in sorted(pieces, reverse=True):
            rank = min((r for r in range(ranks) if held[r] < most), key=lambda r: (loads[r], r))
            loads[rank] += piece
            held[rank] += 1
    return ExpertLoad(tuple(loads))


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


def distinct_groups(experts: int, topk: int, groups: float) -> float:
    """Expected number of groups (ranks, or domains of ranks) that the `topk` experts of one token lie in,
    experts spread evenly over the groups and chosen at random: Y (1 - C(E - E/Y, k) / C(E, k)).

    >>> [round(distinct_groups(256, 8, ranks), 2) for ranks in (8, 16, 32, 64)]
    [5.29, 6.52, 7.27, 7.68]
    """
    per_group = experts / groups
    none = 1.0
    for i in range(topk):
        none *= max(0.0, experts - per_group - i) / (experts - i)
    return groups * (1.0 - none)
