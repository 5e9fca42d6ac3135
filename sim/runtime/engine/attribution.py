"""Which cause each second is charged to: of a step, and of a request.

Two index spaces, and one mapping between them. A *step* counts its seconds by `STEP_CAUSES`: those of its
cost (`sim.cost.batch.Causes`), then what its transfers lost to other traffic, what its batch waited in a
pipeline, and what chunks of other prompts added (`as_seen`). A *request* counts its seconds by
`sim.results.blame.CAUSES`, the columns of `Result.blame`, which tell prefill from decode and know of queues
and transfers as well. `charged_to` maps the first onto the second. Constants of the two spaces begin with
STEP_ and REQUEST_: the same cause has another index in each.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from typing import TYPE_CHECKING

from sim.cost.batch import Causes
from sim.results.blame import CAUSES

if TYPE_CHECKING:
    from sim.runtime.engine.sequence import Sequence

STEP_CAUSES: tuple[str, ...] = (*Causes._fields, "sharing", "pipeline", "interference")
"""Order of the seconds of a step."""
STEP_SHARING, STEP_PIPELINE = STEP_CAUSES.index("sharing"), STEP_CAUSES.index("pipeline")
STEP_INTERFERENCE = STEP_CAUSES.index("interference")

REQUEST_HOST = CAUSES.index("host")
REQUEST_SHARING = CAUSES.index("sharing")
REQUEST_PIPELINE = CAUSES.index("pipeline")
REQUEST_INTERFERENCE = CAUSES.index("interference")
REQUEST_ROUTING = CAUSES.index("routing")
REQUEST_ADMISSION = CAUSES.index("admission")
REQUEST_PREEMPTED = CAUSES.index("preempted")
REQUEST_RECOMPUTE = CAUSES.index("recompute")
REQUEST_HAND_OVER = CAUSES.index("hand_over")


def charged_to(compute: str) -> tuple[int, ...]:
    """The request's cause for each cause of a step, whose compute time is the request's cause `compute`."""
    return tuple(CAUSES.index(compute if cause == "compute" else cause) for cause in STEP_CAUSES)


PREFILL_STEP, DECODE_STEP = charged_to("prefill_compute"), charged_to("decode_compute")
"""Before the first token, and after it."""


def no_seconds() -> list[float]:
    """The seconds of a step that has not begun, by cause."""
    return [0.0] * len(STEP_CAUSES)


def as_seen(causes: Ordered[float], alone: Causes, share: float) -> list[float]:
    """The seconds of a step by `STEP_CAUSES` as one sequence sees them: `alone` is what the step costs
    without the chunks of other prompts, and `share` the part of the difference that the sequence causes
    itself. The rest of the difference is interference; the sum stays the step's.

    >>> seen = as_seen([5.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0], Causes(1.0, 3.0), 0.0)
    >>> seen[:2], seen[STEP_SHARING], seen[STEP_INTERFERENCE]
    ([1.0, 3.0], 0.5, 4.0)
    """
    seen = list(causes)
    more_s = sum(seen[: len(alone)]) - sum(alone)
    if more_s <= 0.0 or share >= 1.0:  # chunks that fill up a padded graph cost nothing
        return seen
    for cause, seconds in enumerate(alone):
        seen[cause] = seconds + share * (seen[cause] - seconds)
    seen[STEP_INTERFERENCE] += (1.0 - share) * more_s
    return seen


class StepLedger:
    """Seconds by cause of all steps of an engine so far, as a sequence sees them that computes no chunk of a
    prompt: what chunks add to a step is interference, and all of a step that computes nothing else.

    An engine with one batch in flight is at every moment in exactly one step, so the share of a sequence that
    was in all of them is a difference of two readings, and charging costs nothing per step. A chunk is
    charged when its step ends (`Flight.charge_chunk`).
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = no_seconds()

    def add(self, causes: Ordered[float]) -> None:
        """The seconds of steps that have ended."""
        for cause, seconds in enumerate(causes):
            self.seconds[cause] += seconds

    def read(self) -> tuple[float, ...]:
        return tuple(self.seconds)

    def charge(self, sequence: Sequence, now: float) -> None:
        """Charge a sequence for all steps since its last reading."""
        if sequence.mark is not None:
            causes = [seconds - then for seconds, then in zip(self.seconds, sequence.mark, strict=True)]
            sequence.charge(causes, now)
            sequence.mark = tuple(self.seconds)
