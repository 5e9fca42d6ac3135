"""Which cause each second is charged to: of a step, and of a request.

Two index spaces, and one mapping between them. A *step* counts its seconds by `STEP_CAUSES`: those of its
cost (`sim.cost.batch.Causes`), then what its transfers lost to other traffic and what its batch waited in a
pipeline. A *request* counts its seconds by `sim.results.blame.CAUSES`, the columns of `Result.blame`, which
tell prefill from decode and know of queues and transfers as well. `charged_to` maps the first onto the
second. Constants of the two spaces begin with STEP_ and REQUEST_: the same cause has another index in each.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from typing import TYPE_CHECKING

from sim.cost.batch import Causes
from sim.results.blame import CAUSES

if TYPE_CHECKING:
    from sim.runtime.engine.sequence import Sequence

STEP_CAUSES: tuple[str, ...] = (*Causes._fields, "sharing", "pipeline")
"""Order of the seconds of a step."""
STEP_SHARING, STEP_PIPELINE = STEP_CAUSES.index("sharing"), STEP_CAUSES.index("pipeline")

REQUEST_HOST = CAUSES.index("host")
REQUEST_SHARING = CAUSES.index("sharing")
REQUEST_PIPELINE = CAUSES.index("pipeline")
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


class StepLedger:
    """Seconds by cause of all steps of an engine so far.

    An engine with one batch in flight is at every moment in exactly one step, so the share of a sequence that
    was in all of them is a difference of two readings, and charging costs nothing per step.
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
