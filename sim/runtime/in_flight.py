"""A batch on its way through the stages of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.cost.batch import Batch
from sim.policy.scheduling import Grants
from sim.results.blame import STEP_CAUSES
from sim.runtime.sequence import Sequence
from sim.runtime.transfer import Transfer

SHARING, PIPELINE = STEP_CAUSES, STEP_CAUSES + 1


@dataclass(slots=True)
class InFlight:
    """`causes` are the seconds of this step so far; `samples` says whether a grant brings its sequence to its
    last known token. The batch came to `stage` at `since_s`; `sent` are its activations on their way to the
    next. `caught_up` counts folded steps whose blocks have been taken before the end of the run of steps.
    """

    grants: Grants[Sequence]
    samples: list[bool]
    batch: Batch
    number: int
    start_s: float
    causes: list[float] = field(default_factory=lambda: [0.0] * (STEP_CAUSES + 2))
    done: bool = False
    caught_up: int = 0
    stage: int = 0
    since_s: float = 0.0
    sent: Transfer | None = None

    def charge(self, sequence: Sequence, now: float) -> None:
        """Charge a sequence for this step, which several stages shared; where chunks of one prompt overlap,
        each gets its share.
        """
        lasted, since = now - self.start_s, now - sequence.charged_s
        share = min(1.0, since / lasted) if lasted > 0.0 else 0.0
        causes = [share * seconds for seconds in self.causes]
        causes[PIPELINE] += since - sum(causes)
        sequence.charge(causes, now)

    def last_tokens_s(self) -> list[float]:
        """When those who get a token from this step had their last one."""
        return [
            sequence.last_token_s
            for (sequence, _), samples in zip(self.grants, self.samples, strict=True)
            if samples and not sequence.dropped and sequence.last_token_s is not None
        ]
