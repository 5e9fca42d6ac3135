"""What breaks during a run: a link, a place with all its links, or a chip of a switched NVLink domain; an
engine, or a GPU or server with the engines on it.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, model_validator

from sim.inputs.quantities import Count, NotBoolean, Seconds

LOSES_CAPACITY = ("link", "place")
STOPS_ENGINES = ("replica", "gpu", "node")


class Fault(BaseModel):
    """What happens to one thing from `at_s` to `until_s`, or for ever.

    `link` names one direction of one link (`node0.nic3->leaf3`), `place` all links of a place in both
    directions (a NIC, a GPU, a switch); they have only `capacity` of what they were built with. One chip of
    an NVLink domain is a place too: every GPU of the domain loses that chip's share.

    `replica` (counted from 0 in the order of the pools), `gpu` (`node0.gpu3`) or `node` (`node0`) stops the
    engines that run there: they lose their KV cache and what they were doing, and are empty afterwards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_s: Seconds
    until_s: Seconds | None = None
    link: str = ""
    place: str = ""
    replica: Annotated[Count, Ge(0)] | None = None
    gpu: str = ""
    node: str = ""
    capacity: Annotated[float, NotBoolean, Ge(0), Le(1)] | None = None

    @property
    def stops_engines(self) -> bool:
        """True for what stops engines, False for what takes capacity from links."""
        return not (self.link or self.place)

    @model_validator(mode="after")
    def _one_thing_for_some_time(self) -> Fault:
        named = [name for name in (*LOSES_CAPACITY, *STOPS_ENGINES) if getattr(self, name) not in ("", None)]
        if len(named) != 1:
            two = f", not {' and '.join(named)}" if named else ""
            raise ValueError(
                "a fault is of one link or of one place, or stops one replica, gpu or node; write one of "
                f"link, place, replica, gpu and node{two}"
            )
        if self.stops_engines and self.capacity is not None:
            raise ValueError(f"capacity applies to a link or a place; a {named[0]} that fails stops")
        if self.until_s is not None and self.until_s <= self.at_s:
            raise ValueError(f"until_s = {self.until_s:g}: must be above at_s = {self.at_s:g}")
        return self
