"""For how many steps, or rounds of a pipeline, a batch of decodes is sure to be chosen again if nothing
arrives: until a sequence ends, one may be admitted, or blocks run out, whichever is first.

The horizon may be too short, which costs an event, and never too long, which would change the result. It asks
no scheduling rule: a rule must choose the same for the same engine.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered

from sim.runtime.engine.flight import Flight, Part
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.speculation import Speculator

MAX_FOLDED_STEPS = 65536  # bounds the vectors of one run of steps; a longer run is cut in two


def fold_horizon(flight: Flight, queues: Ordered[RequestQueue], speculator: Speculator, step: int) -> int:
    """Steps of a batch of decodes that is step number `step`, and the only one in flight."""
    apart = [sequence for sequence, _ in flight.grants]
    # A running sequence without a grant gets one as soon as there are blocks; one that resumes changes what
    # its steps are charged to with its next token.
    if flight.batch.decodes < sum([len(queue.running) for queue in queues]) or any(map(_resumes, apart)):
        return 1
    if any(queue.waiting and (queue.roomier_after_step == step or queue.may_get_room) for queue in queues):
        return 1  # the next step may admit what this one did not look at, or had no room for
    steps = min([MAX_FOLDED_STEPS, *map(speculator.steps_left, apart)])
    for part in flight.parts:
        if part.together:
            steps = min(steps, part.queue.cohort.steps_left)
    for queue in queues:
        seen_from = queue.next_unseen_step(step)
        if seen_from is not None:
            steps = min(steps, max(1, seen_from - step))
    for part in flight.parts:
        if steps > 1:
            steps = _steps_that_fit([part], speculator, steps)
    return steps


def pipeline_fold_horizon(
    flights: Ordered[Flight], queue: RequestQueue, speculator: Speculator, even_shares: int
) -> list[int]:
    """Rounds of each of a pipeline's batches of decodes; none where they may not come back as they are.

    `even_shares` is over how many batches the sequences are spread (1: over as few as can be).
    """
    # A preempted sequence is dropped by the steps under way and waits; the batch would come back without it.
    sequences = [sequence for flight in flights for sequence, _ in flight.grants]
    if len(sequences) < len(queue.running) or any(one.dropped or _resumes(one) for one in sequences):
        return []
    if queue.waiting and queue.may_get_room:
        return []
    share = -(-queue.requests // even_shares)
    if any(len(flight.grants) > share for flight in flights):
        return []  # the rule would split it when it comes back
    parts = [part for flight in flights for part in flight.parts]
    fits = _steps_that_fit(parts, speculator, MAX_FOLDED_STEPS)
    return [
        min(fits, *(speculator.steps_left(sequence) for sequence, _ in flight.grants)) for flight in flights
    ]


def _resumes(sequence: Sequence) -> bool:
    """True for a sequence that gets its first token with this step, or its first since a preemption."""
    return sequence.recomputing or not sequence.generated


def _steps_that_fit(parts: list[Part], speculator: Speculator, steps: int) -> int:
    """As many of `steps` steps of these parts of one queue as its free blocks last for; the first step has
    its blocks already.
    """
    queue, sequences = parts[0].queue, [sequence for part in parts for sequence, _ in part.grants]
    cohorts = [queue.cohort for part in parts if part.together]
    size, free = queue.block_pool.block_size, queue.free_to_grow
    groups = queue.block_pool.groups
    many = sum(len(cohort.members) for cohort in cohorts) + len(sequences)
    of_each = 1 if groups is None else groups.groups
    if many * of_each * -(-(steps - 1) * (1 + speculator.drafts) // size) <= free:
        return steps  # even if all of them need their next blocks at the same time

    def blocks(more: int) -> int:
        if groups is not None:
            apart = (groups.growth(one.computed, speculator.gain(one, more)) for one in sequences)
            return sum(apart) + sum(cohort.growth(more) for cohort in cohorts)
        after = (sequence.computed + speculator.gain(sequence, more) for sequence in sequences)
        together = sum(cohort.blocks_for(more) for cohort in cohorts)
        return together + sum(-(-tokens // size) for tokens in after) - now

    now = sum(-(-sequence.computed // size) for sequence in sequences)
    if blocks(steps - 1) <= free:
        return steps
    # `blocks` never falls with `more`: halve to the last number that fits.
    low, high = 1, steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if blocks(middle - 1) <= free else (low, middle)
    return low
