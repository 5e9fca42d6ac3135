"""What a GPU draws, as a few numbers each of which means something."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict

from sim.inputs.quantities import NotBoolean, Watts

Share = Annotated[float, NotBoolean, Ge(0), Le(0.9)]
PicojoulesPerBit = Annotated[float, NotBoolean, Gt(0), Le(1e4)]
CLOCK_EXPONENT = 1.25
"""Fitted: a GB300 multiplies matrices at 617 TFLOP/s under 500 W and at 1,600 to 2,174 under 1,400
(facebookexperimental/triton, pull request 2023): above 194 W of idle, 1.09 to 1.44. Chips at the top of their
voltage fall by more: an RTX 3090 at 1,395 MHz under 210 W and 1,950 under 363 (noonghunna/club-3090, issues
103 and 104) has 1.8.
"""


class GpuPower(BaseModel):
    """A GPU draws `idle_w` with weights in its memory and nothing to do, `step_w` more in a step, `hbm_w`
    more when it moves the bytes/s of its datasheet, `tensor_w` more when it computes the FLOP/s of its
    datasheet, `activation_nj` for each value of a token's activations (what grows with tokens and not with
    weights: attention, norms, routing, sampling), and `nvlink_pj_per_bit` for what it sends.

    What these ask for is not what flows near the limit of the board: the clock falls, and `max_w` is never
    passed (`sim.cost.power.drawn_w`). Under a limit that is set lower the clock falls further, and the watts
    above idle with it, to the power `clock_exponent`.

    Around it stand its shares of the host (processors, memory, disks), of NICs and of NVSwitch chips, each at
    its datasheet's most whatever it does; `fans` take a share of what they cool, and of all that comes in
    `conversion` is lost. `server_w` is what is not told apart. `provisioned_w` is what a data centre sets
    aside for a GPU, all in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    idle_w: Watts
    step_w: Watts = 0.0
    hbm_w: Watts
    tensor_w: Watts
    activation_nj: Annotated[float, NotBoolean, Ge(0), Le(1e3)] = 0.0
    nvlink_pj_per_bit: PicojoulesPerBit = 2.0
    max_w: Annotated[Watts, Gt(0)]
    clock_exponent: Annotated[float, NotBoolean, Ge(1), Le(3)] = CLOCK_EXPONENT
    host_w: Watts | None = None
    nic_w: Watts | None = None
    switch_w: Watts | None = None
    fans: Share = 0.0
    conversion: Share = 0.0
    server_w: Watts | None = None
    provisioned_w: Watts | None = None

    @property
    def around_w(self) -> dict[str, float]:
        """Watts around the GPU that do not depend on what it does, by what draws them; none where none are
        known.
        """
        parts = {"host": self.host_w, "nics": self.nic_w, "switches": self.switch_w, "server": self.server_w}
        return {name: watts for name, watts in parts.items() if watts is not None}

    @property
    def around_factor(self) -> float:
        """Watts that come in for a watt inside: with fans, and with what conversion loses."""
        return (1.0 + self.fans) / (1.0 - self.conversion)


class PowerLimits(BaseModel):
    """What a GPU and a rack may draw. Both become a cap of each GPU: a rack's, less what stands around its
    GPUs at their most, is shared out evenly among all GPUs that stand there, busy or not, as one sets the
    limits of GPUs by a schedule of breakers. What one leaves no other takes.

    `servers_per_rack`: where the topology does not say which servers share a rack.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu_cap_w: Annotated[Watts, Gt(0)] | None = None
    rack_cap_w: Annotated[Watts, Gt(0)] | None = None
    servers_per_rack: Annotated[int, NotBoolean, Ge(1), Le(1000)] | None = None
