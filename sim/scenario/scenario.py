"""A scenario: which system serves which model to which traffic, and how. Everything a run depends on but the
seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError, LocatedError
from sim.inputs.faults import Fault
from sim.inputs.hedging import Hedge
from sim.inputs.model import Model
from sim.inputs.outages import Outages
from sim.inputs.power import PowerLimits
from sim.inputs.precision import Precision
from sim.inputs.prices import Prices
from sim.inputs.quantities import Fraction, NotBoolean, Seconds
from sim.inputs.recovery import Recovery
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.policy.placement import Packed
from sim.policy.reloading import ByCost
from sim.policy.routing import LeastConnections
from sim.reading.problems import did_you_mean
from sim.scenario.named_parts import named_parts_loaded
from sim.scenario.outages import problems_of_outages
from sim.scenario.policy_fields import KernelRule, PlacementRule, ReloadingRule, RouterRule
from sim.scenario.precision import precision_of
from sim.scenario.references import faults_of_nothing, gpus_of_nothing, unknown
from sim.scenario.written_keys import Key, keys_written

MAX_REPLICAS = 1_000_000  # more than GPUs in the largest topology; each is an object in memory


_WARMUP_SHARE: TypeAdapter[float] = TypeAdapter(Fraction)


def _share_or_rule(written: Any) -> float | str:
    """A warm-up: a share below 1, or `mser5`."""
    if written == "mser5":
        return "mser5"
    try:
        share = _WARMUP_SHARE.validate_python(written)
    except ValidationError:
        share = 1.0
    if share >= 1.0:
        hint = did_you_mean(written, ["mser5"]) if isinstance(written, str) else ""
        raise ValueError(f"{written!r}: must be a share from 0 to below 1, as in 0.1, or 'mser5'{hint}")
    return share


def _share(written: Any) -> float:
    """A cool-down: a share below 1."""
    try:
        share = _WARMUP_SHARE.validate_python(written)
    except ValidationError:
        share = 1.0
    if share >= 1.0:
        raise ValueError(f"{written!r}: must be a share from 0 to below 1, as in 0.1")
    return share


def _with_precision(data: Any) -> Any:
    """A scenario or pool as written, with what its model's checkpoint says of the precision."""
    if not isinstance(data, Mapping):
        return data
    precision = precision_of(data.get("precision"), data.get("model"))
    return data if precision is None else {**data, "precision": precision}


class HandOverRule(BaseModel):
    """How KV caches get from `prefill` pools to `decode` pools.

    `kv` whole: after the prefill; layerwise: behind it, all but the last layer. `first_token` says which side
    shows it: the decode replica (vLLM's connectors) or the prefill replica (DistServe, Splitwise). `router`
    picks the decode replica.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kv: Literal["whole", "layerwise"] = "whole"
    first_token: Literal["decode", "prefill"] = "decode"
    router: RouterRule = Field(default_factory=LeastConnections, validate_default=True)


class Pool(BaseModel):
    """Replicas of one kind: a model, an engine, how many of them. What a pool leaves out is the
    scenario's. `gpu`: the kind of GPU that it is placed on, where the topology has several. What nothing
    says of the precision, the quantisation of the model's checkpoint does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    replicas: Annotated[PositiveInt, NotBoolean] = Field(1, le=MAX_REPLICAS)
    role: Literal["both", "prefill", "decode"] = "both"
    gpu: str | None = None
    model: Model
    precision: Precision = Precision()
    engine: Engine = Engine.model_validate({})

    @model_validator(mode="before")
    @classmethod
    def _checkpoint_gives_the_precision(cls, data: Any) -> Any:
        return _with_precision(data)

    @property
    def ranks_apart(self) -> int:
        """Engines that one replica is made of: its data-parallel ranks, where these are not in lock-step."""
        in_step = self.engine.data_parallel_lock_step
        if in_step is None:
            in_step = self.model.is_moe
        return 1 if in_step else self.engine.data_parallel_size


class Scenario(BaseModel):
    """What is simulated. Frozen: `with_changes` makes another one.

    `topology`, `model` and `workload` may be written as names or paths. `nodes` sets the topology's. `pools`
    describes several kinds of replicas beside each other; without it there is one pool of `replicas`
    replicas. What a replica had when it failed (`faults`, `outages`) goes back to the router, with the text
    that had come (`on_failure: resubmit`), or ends there with an error (`abort`).
    `hedge`: a second copy of a request that waits for its first token (`sim.inputs.hedging`).
    `warmup`: the requests that come first are served and left out of the summary, a share of them,
    or as many as `mser5` finds in their latencies (White's rule on means of five). `cooldown`: a share of
    the requests, those that come last, is left out as well: they end when traffic has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    topology: Topology
    model: Model
    precision: Precision = Precision()
    engine: Engine = Engine.model_validate({})
    replicas: Annotated[PositiveInt, NotBoolean] = Field(1, le=MAX_REPLICAS)
    pools: dict[str, Pool] = {}
    default_model: str = ""
    router: RouterRule = Field(default_factory=LeastConnections, validate_default=True)
    router_staleness_s: Seconds = 0.0
    hedge: Hedge | None = None
    hand_over: HandOverRule = HandOverRule()
    kv_reload: ReloadingRule = Field(default_factory=ByCost, validate_default=True)
    kernels: KernelRule = Field(default="formula", validate_default=True)
    placement: PlacementRule = Field(default_factory=Packed, validate_default=True)
    workload: Workload
    prices: Prices | None = None
    power: PowerLimits | None = None
    faults: tuple[Fault, ...] = ()
    outages: Outages | None = None
    on_failure: Literal["resubmit", "abort"] = "resubmit"
    recovery: Recovery = Recovery()
    time_limit_s: Seconds | None = None
    warmup: Annotated[float | Literal["mser5"], BeforeValidator(_share_or_rule)] | None = None
    cooldown: Annotated[float, BeforeValidator(_share)] | None = None
    without: tuple[
        Literal["sharing", "collective_latency", "collective_bytes", "host", "kernel_latency"], ...
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _named_things_are_loaded(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping):
            return data
        return _with_precision(named_parts_loaded(data, (info.context or {}).get("near")))

    @model_validator(mode="wrap")
    @classmethod
    def _knows_what_was_written(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        scenario = handler(data)
        if isinstance(data, Mapping):  # the model is frozen, and this is no field of it
            near = (info.context or {}).get("near")
            scenario.__dict__["keys_written"] = keys_written(data, near)
        return scenario

    @model_validator(mode="after")
    def _some_requests_are_counted(self) -> Self:
        if isinstance(self.warmup, float) and (self.cooldown or 0.0) + self.warmup >= 1.0:
            what = (
                f"{self.cooldown:g} and warmup = {self.warmup:g} leave out every request; together they must "
                "be below 1"
            )
            raise LocatedError([(("cooldown",), what)])
        return self

    @model_validator(mode="after")
    def _what_it_names_is_there(self) -> Self:
        found: list[tuple[tuple[str | int, ...], str]] = []
        kinds = {name: pool.gpu for name, pool in self.pools.items() if pool.gpu is not None}
        if kinds:
            found += gpus_of_nothing(self.topology.graph, kinds)
        for name, pool in self.all_pools.items():
            weights, experts = pool.engine.expert_routing.weights, pool.model.experts
            if pool.model.is_moe and len(weights) > experts:
                where = (*(("pools", name) if name else ()), "engine", "expert_routing", "weights")
                what = f"{len(weights)} numbers: must be at most {experts}, the experts of {pool.model.name}"
                found.append((where, what))
        if self.faults:
            replicas = sum(pool.replicas * pool.ranks_apart for pool in self.all_pools.values())
            found += faults_of_nothing(self.wired.graph, self.faults, replicas)
        if self.outages is not None:
            found += problems_of_outages(self)
        place = self.recovery.weights_from
        if place and place not in self.wired.graph:
            found.append((("recovery", "weights_from"), unknown("place", place, sorted(self.wired.graph))))
        if self.hedge is not None and any(pool.role != "both" for pool in self.all_pools.values()):
            what = "a second copy has no way from prefill to decode; leave it out, or let all have role: both"
            found.append((("hedge", "after_s"), what))
        if found:
            raise LocatedError(found)
        return self

    @cached_property
    def files_read(self) -> frozenset[Path]:
        """The files that this was read from; whatever loads a scenario puts them here."""
        return frozenset()

    @cached_property
    def keys_written(self) -> tuple[Key, ...]:
        """The keys that were set, also to their defaults; whatever makes a scenario puts them here."""
        return ()

    @property
    def nodes(self) -> int:
        return self.topology.servers

    @cached_property
    def wired(self) -> Topology:
        """The topology with the transport between nodes that the engine names (one for all traffic)."""
        named = {pool.engine.inter_node for pool in self.all_pools.values()} - {None}
        if len(named) > 1:
            raise InfeasibleError(
                f"inter_node differs between pools ({', '.join(sorted(map(str, named)))})",
                "one run has one transport between nodes; name the same in every pool",
            )
        return self.topology.with_inter_node(named.pop() or "") if named else self.topology

    @property
    def all_pools(self) -> dict[str, Pool]:
        """The pools by name; without any written, one of all replicas under the empty name."""
        if self.pools:
            return self.pools
        return {
            "": Pool(replicas=self.replicas, model=self.model, precision=self.precision, engine=self.engine)
        }
