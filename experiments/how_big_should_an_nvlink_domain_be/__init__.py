"""How big should an NVLink domain be?

A study in seven sections, each with its charts, its numbers and what they rest on: where a domain of 72 GPUs
pays against domains of 8 (`hump`), what a user and a GPU get in groups of 1 to 576 GPUs (`sizes`), the bounds
that a talk and two papers derive, beside what is simulated (`bound`), memory apart from the domain
(`memory`), equal GPU counts under live traffic with objectives, and machines without a switch (`live`,
`layouts`), spare GPUs (`spares`), and why sparse models press on memory (`sparse`).

    python experiments/how_big_should_an_nvlink_domain_be --quick
    python experiments/how_big_should_an_nvlink_domain_be --out out/domain --store out/domain.sqlite

The second takes a quarter of an hour on two processors; stopped at any moment, it goes on where it was.
Where it stops: steps of sections 1, 2, 4 and 7 are priced alone, in a steady state; only `live` has queues. A
machine whose domains were regrouped was never measured.
"""

from .study import answer

__all__ = ["answer"]
