"""The sections of the study put together."""

from __future__ import annotations

from pathlib import Path

from sim.views.answer import Answer, tell_study

from . import bound, hump, live, memory, sizes, spares, sparse

QUESTION = "How big should an NVLink domain be?"


def answer(quick: bool, store: Path | None = None) -> Answer:
    """How big should an NVLink domain be?"""
    sections = (
        hump.section(quick),
        sizes.section(quick),
        bound.section(quick),
        memory.section(quick),
        live.section(quick, store),
        spares.section(quick),
        sparse.section(quick),
    )
    rows = tuple(row for section in sections for row in section.rows)
    return Answer(QUESTION, rows, takeaway(quick), bound.NOTES, sections=sections)


def takeaway(quick: bool) -> str:
    """One paragraph, with the numbers of the hump."""
    lines = hump.frontiers(quick, hump.mean_acceptance())
    ratio, at = hump.highest(lines)
    return (
        f"As big as what has to be spread. A domain of 72 gives up to {ratio:.1f} times the tokens of "
        f"domains of 8 for a large mixture of experts, and only in the middle, at {at} tokens/s of a user: "
        "there experts are spread over more GPUs than an island has, and what goes between islands would be "
        "half the step. Dense models end at 8 to 64 GPUs, by their heads and by latencies; slow answers need "
        "memory and not links; the fastest come from eight GPUs either way. Latency, more than bandwidth, "
        "says where a domain stops to pay, and kernels decide the latency."
    )


def main() -> None:
    tell_study(answer, "nvlink_")
