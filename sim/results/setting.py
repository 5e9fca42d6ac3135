"""What a verdict must know of a run beside its rows: the machine, its pools and their limits, the kind of
every link, the faults. Frozen words and numbers, so that a saved run can have them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


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

    def as_dict(self) -> dict[str, Any]:
        """The form that a saved run keeps."""
        return asdict(self)

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Setting:
        """The setting of a saved run. KeyError or TypeError for what no run has written."""
        return cls(
            **{
                **written,
                "gpu_kinds": tuple(written["gpu_kinds"]),
                "pools": tuple(PoolSetting(**pool) for pool in written["pools"]),
                "faults": tuple(FaultSetting(**fault) for fault in written["faults"]),
            }
        )


@dataclass(frozen=True)
class Surroundings:
    """What the report of a run shows beside its rows: the setting, with the kinds of those links alone that
    carried anything; the objectives by class; what put its bytes on each link (numbers of `traffic`); and
    the machine, part by part (`sim.views.machine_map`).
    """

    setting: Setting
    objectives: Mapping[str, Mapping[str, float]]
    traffic: tuple[Traffic, ...]
    traffic_on: Mapping[str, tuple[int, ...]]
    machine: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The form that a saved run keeps."""
        return {**asdict(self), "machine": dict(self.machine)}

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Surroundings:
        """The surroundings of a saved run. KeyError or TypeError for what no run has written."""
        return cls(
            Setting.from_dict(written["setting"]),
            written["objectives"],
            tuple(Traffic(**one) for one in written["traffic"]),
            {link: tuple(numbers) for link, numbers in written["traffic_on"].items()},
            written["machine"],
        )


@dataclass(frozen=True, slots=True)
class Traffic:
    """What puts bytes on links: the collectives of a stage (`steps`), its sends to the next one (`sends`), or
    the KV caches that go from one engine to another (`hand-overs`).
    """

    kind: Literal["steps", "sends", "hand-overs"]
    replica: int
    stage: int = 0
    to: int = -1
