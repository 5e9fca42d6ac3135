"""What breaks during a run: a link, a place with all its links, or a chip of a switched NVLink domain."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.inputs.quantities import Seconds


class Fault(BaseModel):
    """From `at_s` to `until_s` (for ever, if it is not given) something has only `capacity` of what it was
    built with.

    `link` names one direction of one link (`node0.nic3->leaf3`), `place` all links of a place in both
    directions (a NIC, a GPU, a switch). One chip of an NVLink domain is a place too: every GPU of the domain
    loses that chip's share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_s: Seconds
    until_s: Seconds | None = None
    link: str = ""
    place: str = ""
    capacity: float = Field(default=0.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _one_thing_for_some_time(self) -> Fault:
        if bool(self.link) == bool(self.place):
            raise ValueError("a fault is of one link or of one place; write link: or place:")
        if self.until_s is not None and self.until_s <= self.at_s:
            raise ValueError(f"until_s {self.until_s:g} is not after at_s {self.at_s:g}")
        return self
