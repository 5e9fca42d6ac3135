"""Pipelines: how long m micro-batches take through p stages, and how much of that is idle."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from sim.theory.arguments import bounded


@bounded
def makespan_s(stage_s: Sequence[float], micro_batches: int) -> float:
    """Time from the first micro-batch in to the last one out: sum(t_i) + (m - 1) max(t_i).

    Constant stage times, room for waiting between stages, no cost of passing on (add it to the stages).

    Example:
        >>> makespan_s([1.0, 1.0, 1.0, 1.0], 4)
        7.0
    """
    return sum(stage_s) + (micro_batches - 1) * max(stage_s)


@bounded
def bubble(stages: int, micro_batches: int) -> float:
    """The idle fraction of equal stages while filling and draining: (p - 1)/(m + p - 1). (Huang et al.,
    GPipe, 2019.)

    1F1B, a schedule for training, has the same fill and drain.

    Example:
        >>> from fractions import Fraction
        >>> [str(Fraction(bubble(4, m)).limit_denominator(100)) for m in (4, 16)]
        ['3/7', '3/19']
    """
    return (stages - 1) / (micro_batches + stages - 1)


@bounded
def throughput_per_s(stage_s: Sequence[float], in_flight: int) -> float:
    """Micro-batches per second when `in_flight` of them circulate: min(m/sum(t_i), 1/max(t_i)).

    The first term is Little's law, the second the slowest stage. Exact for constant times; what decode does.

    Example: one fat micro-batch leaves three of four stages idle.
        >>> throughput_per_s([1.0] * 4, 1), throughput_per_s([1.0] * 4, 4)
        (0.25, 1.0)
    """
    if not sum(stage_s):
        raise ValueError("throughput_per_s: stage_s are all 0: one must be above 0")
    return min(in_flight / sum(stage_s), 1.0 / max(stage_s))


@bounded
def best_micro_batches(stages: int, work_s: float, overhead_s: float) -> float:
    """How many pieces make (m + p - 1)(work/m + overhead) least: sqrt((p - 1) work/overhead).

    `work_s` is a stage's time for the whole batch, `overhead_s` what each piece costs a stage on top. Not
    rounded.

    Example:
        >>> round(best_micro_batches(4, 0.3, 0.001), 9)
        30.0
    """
    return sqrt((stages - 1) * work_s / overhead_s)
