"""What a GPU draws, as a few numbers each of which means something."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Le
from pydantic import BaseModel, ConfigDict

from sim.inputs.quantities import NotBoolean, Watts

PicojoulesPerBit = Annotated[float, NotBoolean, Gt(0), Le(1e4)]


class GpuPower(BaseModel):
    """A GPU draws `idle_w` with weights in its memory and nothing to do, `step_w` more in a step, `hbm_w`
    more when it moves the bytes/s of its datasheet, `tensor_w` more when it computes the FLOP/s of its
    datasheet, and `nvlink_pj_per_bit` for what it sends.

    What these ask for is not what flows near the limit of the board: the clock falls, and `max_w` is never
    passed (`sim.power.drawn_w`). `server_w` is a GPU's share of what stands around it: processors, memory,
    NICs, switches, fans and the loss of conversion, at its datasheet's most. `provisioned_w` is what a data
    centre sets aside for a GPU, all in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    idle_w: Watts
    step_w: Watts = 0.0
    hbm_w: Watts
    tensor_w: Watts
    nvlink_pj_per_bit: PicojoulesPerBit = 2.0
    max_w: Annotated[Watts, Gt(0)]
    server_w: Watts | None = None
    provisioned_w: Watts | None = None
