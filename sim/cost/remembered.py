"""What is worked out once from a network and asked for again: one typed table for each kind of thing.

Only paths are remembered by the network itself. Everything here follows from the network's links alone,
but for the offers, which depend on the libraries' parameters too: a fit that tries many sets of parameters
on one network forgets them between sets, and keeps the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.cost.collectives.choice import Offer
    from sim.cost.collectives.demands import Load
    from sim.cost.collectives.expert_exchange import Copies, ExpertChoice, Reach

Ranks = tuple[str, ...]
OfferKey = tuple[str, Ranks, str, str, str, str, int]
ReachKey = tuple["Copies", Ranks, "ExpertChoice", bool]


@dataclass(slots=True)
class Remembered:
    """`loads` by (op, algorithm, ranks); `rings` by ranks: the orders of all rings; `domain_members` by
    crossbar: its GPUs by index in their server; `exchanges` of expert parallelism; `offers` of the collective
    libraries by (op, ranks, library, algorithm, protocol, launch, identity of the parameters).
    """

    loads: dict[tuple[str, str, Ranks], Load] = field(default_factory=dict)
    rings: dict[Ranks, tuple[Ranks, ...]] = field(default_factory=dict)
    domain_members: dict[str, dict[int, str]] = field(default_factory=dict)
    exchanges: dict[ReachKey, Reach] = field(default_factory=dict)
    offers: dict[OfferKey, Offer] = field(default_factory=dict)

    def forget_offers(self) -> None:
        """Forget what depends on the parameters of collective libraries."""
        self.offers.clear()
