"""What a verdict must know of a run beside its rows: the machine, its pools and their limits, the kind of
every link, the faults. Frozen words and numbers, so that a saved run can have them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class PoolSetting:
    """The engines of one pool: those from number `first` on, `engines` of them. `layout` is how one of them
    lies over its GPUs: `TP 8`. Limits are of one engine: sequences (`seats`), tokens of a step
    (`step_tokens`).

    `waits_for_batch`: a batch ends before the next begins. `reserves_all`: a request is admitted where there
    is room for all that it may still generate. `is_given`: service times are given, no GPU is at work.
    """

    name: str
    role: Literal["both", "prefill", "decode"]
    model: str
    layout: str
    first: int
    engines: int
    gpus: int
    stages: int
    seats: int
    step_tokens: int
    is_moe: bool = False
    waits_for_batch: bool = False
    reserves_all: bool = False
    is_given: bool = False
    eager: bool = False

    @property
    def replicas(self) -> range:
        """The numbers of its engines."""
        return range(self.first, self.first + self.engines)


@dataclass(frozen=True, slots=True)
class FaultSetting:
    """What fails, when, and when it is back (None: never). `stops` an engine, or takes capacity from links,
    all of it unless it `slows` them.
    """

    what: str
    at_s: float
    until_s: float | None
    stops: bool = False
    slows: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """A machine with its pools. `link_kinds` has the kind of every link that a run may name."""

    machine: str
    servers: int
    gpus: int
    gpu_kinds: tuple[str, ...]
    pools: tuple[PoolSetting, ...]
    link_kinds: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[FaultSetting, ...] = ()
    users: int | None = None
