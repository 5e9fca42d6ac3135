"""Outages: which parts of a machine fail, and when; at a time, from a list, or at random.

A part is named by its kind and its name on the topology. What an outage takes (GPUs, links, speed) is worked
out before the run begins, into faults of single things (`sim.inputs.faults`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, model_validator

from sim.inputs.faults import Fault
from sim.inputs.quantities import Count, Fraction, NotBoolean, Seconds

PartKind = Literal[
    "gpu", "hbm_stack", "nvswitch_chip", "nvlink", "switch_tray", "compute_tray", "host", "noisy_host", "nic",
    "cable", "rail", "leaf", "spine", "power_shelf", "rack", "replica",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(PartKind)
LOSE_CAPACITY = ("nvswitch_chip", "nvlink", "switch_tray", "nic", "cable", "rail", "leaf", "spine")
SLOWED = ("gpu", "hbm_stack", "host", "noisy_host", "compute_tray")
MAX_SLOWER = 1000.0

Slower = Annotated[float, NotBoolean, Gt(1), Le(MAX_SLOWER)]
Enclosing = Literal["compute_tray", "host", "rail", "rack"]


class PartOutage(BaseModel):
    """A part that fails at `at_s` and is back at `until_s`, or never.

    `name` may be a pattern (`node0.gpu*`): all parts that it names fail. Of links and switches `capacity` is
    left, by default nothing. With `slower`, GPUs do not stop: their kernels take so many times as long. A
    noisy host needs it; an HBM stack has it from the number of stacks. `warned_s` is when a warning came.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: PartKind
    name: str
    at_s: Seconds
    until_s: Seconds | None = None
    capacity: Annotated[float, NotBoolean, Ge(0), Le(1)] | None = None
    slower: Slower | None = None
    warned_s: Seconds | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> PartOutage:
        if self.until_s is not None and self.until_s <= self.at_s:
            raise ValueError(f"until_s = {self.until_s:g}: must be above at_s = {self.at_s:g}")
        if self.capacity is not None and self.kind not in LOSE_CAPACITY:
            raise ValueError(
                f"capacity is for {', '.join(LOSE_CAPACITY)}; a {self.kind} that fails stops or is slower"
            )
        if self.slower is not None and self.kind not in SLOWED:
            raise ValueError(f"slower is for {', '.join(SLOWED)}; a {self.kind} has capacity")
        if self.kind == "noisy_host" and self.slower is None:
            raise ValueError("a noisy_host needs slower: by how much longer its GPUs take, as in 1.2")
        if self.warned_s is not None and self.warned_s > self.at_s:
            raise ValueError(f"warned_s = {self.warned_s:g}: must be at most at_s = {self.at_s:g}")
        return self


class RandomOutages(BaseModel):
    """Outages drawn at random, until `until_s` or the end that the run states.

    `rates` names a shipped set, or has the mean time between failures of one part by kind. The time up of
    each part is Weibull with a falling hazard, or exponential; `repair` is lognormal by its mean and median.
    `acceleration` makes failures so many times as frequent, for runs shorter than months, and repairs
    shorter by `repair_acceleration`, by default as much, so that the share of time that a part is down stays
    true. `together` is the chance that a failure takes the whole tray, host, rail or rack that the part is
    in. A share `warned` of failures has a warning, `warned_before_s` before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rates: str | dict[PartKind, Annotated[Seconds, Gt(0)]]
    kinds: tuple[PartKind, ...] = ()
    gpu_time_between_failures_s: Annotated[Seconds, Gt(0)] | None = None
    gaps: Literal["weibull", "exponential"] = "weibull"
    weibull_shape: Annotated[float, NotBoolean, Ge(0.2), Le(5)] | None = None
    repair_mean_s: Annotated[Seconds, Gt(0)] | None = None
    repair_median_s: Annotated[Seconds, Gt(0)] | None = None
    acceleration: Annotated[float, NotBoolean, Ge(1), Le(1e9)] = 1.0
    repair_acceleration: Annotated[float, NotBoolean, Ge(1), Le(1e9)] | None = None
    together: dict[Enclosing, Fraction] = {}
    warned: Fraction = 0.0
    warned_before_s: Seconds = 0.0
    until_s: Seconds | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> RandomOutages:
        if (self.repair_mean_s is None) != (self.repair_median_s is None):
            raise ValueError("repair_mean_s and repair_median_s go together; write both")
        if (self.repair_median_s or 0.0) > (self.repair_mean_s or 0.0):
            raise ValueError(
                f"repair_median_s = {self.repair_median_s:g}: must be at most repair_mean_s = "
                f"{self.repair_mean_s:g}, as of every lognormal distribution"
            )
        if self.weibull_shape is not None and self.gaps == "exponential":
            raise ValueError("weibull_shape is for gaps: weibull; exponential gaps have none")
        if not self.rates:
            raise ValueError("rates is empty; name a shipped set, or a time between failures by kind")
        return self


class Outages(BaseModel):
    """What fails, and when: `at` stated times, as `recorded` in a list (a CSV or JSONL file), at `random`.

    `seed` draws the random ones; left out, the run's seed does. Neither changes any other draw of the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: tuple[PartOutage, ...] = ()
    recorded: str = ""
    random: RandomOutages | None = None
    seed: Count | None = None


@dataclass(frozen=True, slots=True)
class Slowed:
    """A GPU whose kernels take `factor` times as long from `at_s` to `until_s`, or for ever."""

    gpu: str
    factor: float
    at_s: float
    until_s: float | None


@dataclass(frozen=True, slots=True)
class Outage:
    """One part that fails, and what goes with it. `cause` is `stated`, `recorded`, or the class of failures
    that it was drawn from.
    """

    kind: str
    name: str
    at_s: float
    until_s: float | None
    cause: str
    warned_s: float | None = None
    faults: tuple[Fault, ...] = ()
    slowed: tuple[Slowed, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether engines stop."""
        return any(fault.stops_engines for fault in self.faults)
