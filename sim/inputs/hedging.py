"""When a second copy of a request is sent."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from sim.inputs.quantities import Seconds


class Hedge(BaseModel):
    """A request without a first token `after_s` after its replica got it goes to a second one as well.

    The router chooses that among the others; where it names none, no copy is sent. The copy whose first token
    comes first answers, and the other is cancelled: it leaves its queue at once, or its batch when the step
    in progress ends. (Dean and Barroso, The tail at scale, Communications of the ACM 56, 2013.)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    after_s: Seconds
