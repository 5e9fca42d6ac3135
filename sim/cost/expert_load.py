"""How unevenly tokens fall on the ranks that hold the experts: the slowest rank sets the step.

Popularity is uniform, Zipf (the i-th most popular expert is chosen in proportion to i**-exponent) or given.
Experts lie in order of their number (`linear`), or each next popular one on the rank with the least load so
far (`balanced`, as DeepSeek's EPLB packs them); redundant copies of the most popular ones share their tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

from sim.inputs.engine import ExpertRouting


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """Of the busiest rank: its share of the tokens over an even share, and the rate at which its experts
    are hit.
    """

    shares: tuple[float, ...]  # of each rank, summing to 1

    def busiest(self, pairs: float) -> float:
        """Expected load of the busiest rank over an even one, when `pairs` token-expert pairs are drawn.

        Popularity plus chance: of n ranks with m pairs each on average the busiest has about m + sqrt(2 m ln
        n) (the extreme of n Gaussians; Raab and Steger, "Balls into bins", 1998). Where it stops: m below
        one.
        """
        n = len(self.shares)
        if n == 1 or pairs <= 0.0:
            return 1.0
        mean = pairs / n
        chance = sqrt(2.0 * mean * (1.0 - 1.0 / n) * log(n)) / mean
        return min(float(n), max(self.shares) * n + chance)


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


def distinct_ranks(experts: int, topk: int, ranks: int) -> float:
    """Expected number of ranks that the `topk` experts of one token lie on, experts spread evenly and chosen
    at
    random: Y (1 - C(E - E/Y, k) / C(E, k)).
    """
    per_rank = experts / ranks
    none = 1.0
    for i in range(topk):
        none *= max(0.0, experts - per_rank - i) / (experts - i)
    return ranks * (1.0 - none)
