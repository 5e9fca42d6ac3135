"""A scenario: which system serves which model to which traffic, and how. Everything a run depends on but the
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from sim.catalog import load_model, load_topology, load_workload, system_of
from sim.inputs.engine import Engine, Precision
from sim.inputs.errors import InfeasibleError, InputError, LocatedError, Problem
from sim.inputs.faults import Fault
from sim.inputs.model import Model
from sim.inputs.quantities import Fraction, Seconds
from sim.inputs.topology import MAX_NODES, Topology
from sim.inputs.workload import Workload
from sim.policy.placement import Packed
from sim.policy.reloading import ByCost
from sim.policy.routing import LeastConnections
from sim.reading.expert_counts import read_expert_counts
from sim.reading.problems import did_you_mean, problems_of
from sim.reading.yaml_lines import Document, read_yaml
from sim.scenario.policy_fields import KernelRule, PlacementRule, ReloadingRule, RouterRule
from sim.scenario.references import faults_of_nothing, gpus_of_nothing

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
        raise ValueError(
            f"{written!r} is no warm-up; a share from 0 to below 1 is, as in 0.1, or 'mser5'{hint}"
        )
    return share


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
    scenario's. `gpu`: the kind of GPU that it is placed on, where the topology has several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    replicas: PositiveInt = Field(1, le=MAX_REPLICAS)
    role: Literal["both", "prefill", "decode"] = "both"
    gpu: str | None = None
    model: Model
    precision: Precision = Precision()
    engine: Engine = Engine.model_validate({})


class Scenario(BaseModel):
    """What is simulated. Frozen: `with_changes` makes another one.

    `topology`, `model` and `workload` may be written as names or paths. `nodes` sets the topology's. `pools`
    describes several kinds of replicas beside each other; without it there is one pool of `replicas`
    replicas. What a replica had when it failed (`faults`) goes back to the router, with the text that had
    come (`on_failure: resubmit`), or ends there with an error (`abort`).
    `warmup`: the requests that come first are served and left out of the summary, a share of them,
    or as many as `mser5` finds in their latencies (White's rule on means of five).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    topology: Topology
    model: Model
    precision: Precision = Precision()
    engine: Engine = Engine.model_validate({})
    replicas: PositiveInt = Field(1, le=MAX_REPLICAS)
    pools: dict[str, Pool] = {}
    default_model: str = ""
    router: RouterRule = Field(default_factory=LeastConnections, validate_default=True)
    router_staleness_s: Seconds = 0.0
    hand_over: HandOverRule = HandOverRule()
    kv_reload: ReloadingRule = Field(default_factory=ByCost, validate_default=True)
    kernels: KernelRule = Field(default="formula", validate_default=True)
    placement: PlacementRule = Field(default_factory=Packed, validate_default=True)
    workload: Workload
    faults: tuple[Fault, ...] = ()
    on_failure: Literal["resubmit", "abort"] = "resubmit"
    time_limit_s: Seconds | None = None
    warmup: Annotated[float | Literal["mser5"], BeforeValidator(_share_or_rule)] | None = None
    without: tuple[
        Literal["sharing", "collective_latency", "collective_bytes", "host", "kernel_latency"], ...
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _named_things_are_loaded(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        near = (info.context or {}).get("near")
        nodes = data.pop("nodes", None)
        if nodes is not None and (type(nodes) is not int or not 1 <= nodes <= MAX_NODES):
            what = f"{nodes!r} is not a number of servers; a whole number from 1 to {MAX_NODES} is"
            raise LocatedError([(("nodes",), what)])
        topology = data.get("topology")
        if isinstance(topology, str | Path):
            data["topology"] = load_topology(topology, near=near)
        elif isinstance(topology, Mapping) and isinstance(topology.get("systems"), Mapping):
            systems = _loaded_systems(topology["systems"], near)
            data["topology"] = {"name": " and ".join(map(str, systems)), **topology, "systems": systems}
        elif (
            topology is not None
            and hasattr(topology, "nodes")
            and not isinstance(topology, Topology | Mapping)
        ):
            data["topology"] = load_topology(topology)
        if nodes is not None and data.get("topology") is not None:
            written = data["topology"]
            data["topology"] = {
                **(dict(written) if isinstance(written, Topology) else written),
                "nodes": nodes,
            }
        if isinstance(data.get("model"), str | Path):
            data["model"] = load_model(data["model"], near=near)
        if isinstance(data.get("workload"), str | Path):
            data["workload"] = load_workload(data["workload"], near=near)
        if isinstance(data.get("engine"), Mapping):
            data["engine"] = _with_expert_counts(data["engine"], near)
        if isinstance(data.get("pools"), Mapping):
            data["pools"] = {name: _inherited(name, pool, data, near) for name, pool in data["pools"].items()}
        return data

    @model_validator(mode="after")
    def _what_it_names_is_there(self) -> Self:
        found: list[tuple[tuple[str | int, ...], str]] = []
        kinds = {name: pool.gpu for name, pool in self.pools.items() if pool.gpu is not None}
        if kinds:
            found += gpus_of_nothing(self.topology.graph, kinds)
        if self.faults:
            replicas = sum(pool.replicas for pool in self.all_pools.values())
            found += faults_of_nothing(self.wired.graph, self.faults, replicas)
        if found:
            raise LocatedError(found)
        return self

    @property
    def nodes(self) -> int:
        return self.topology.servers

    @cached_property
    def wired(self) -> Topology:
        """The topology with the transport between nodes that the engine names (one for all traffic)."""
        named = {pool.engine.inter_node for pool in self.all_pools.values()} - {None}
        if len(named) > 1:
            raise InfeasibleError(
                f"engines name different transports between nodes ({', '.join(sorted(map(str, named)))})",
                "one run has one; name the same in every pool",
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


def _loaded_systems(written: Mapping[str, Any], near: Path | None) -> dict[str, Topology]:
    """Systems beside each other in one topology, each by the name of its own."""
    systems, problems = {}, []
    for name, block in written.items():
        try:
            systems[name] = system_of(block, near=near)
        except InputError as error:
            if any(problem.line for problem in error.problems):
                raise
            problems += [(("topology", "systems", name), problem.what) for problem in error.problems]
    if problems:
        raise LocatedError(problems)
    return systems


def _with_expert_counts(engine: Mapping[str, Any], near: Path | None) -> Mapping[str, Any]:
    """An engine's settings with the popularity of its experts read, where they name a file of counts."""
    routing = engine.get("expert_routing")
    if not isinstance(routing, Mapping) or not isinstance(routing.get("weights"), str):
        return engine
    path = (near or Path()) / routing["weights"]
    counted = {"popularity": "given", **routing, "weights": read_expert_counts(path)}
    return {**engine, "expert_routing": counted}


def _inherited(name: str, pool: Any, scenario: Mapping[str, Any], near: Path | None) -> Any:
    """A pool with what it leaves out taken from the scenario, key by key inside `engine` and `precision`."""
    if not isinstance(pool, Mapping):
        return pool
    pool = dict(pool)
    if name in ("prefill", "decode"):
        pool.setdefault("role", name)
    if isinstance(pool.get("model"), str | Path):
        pool["model"] = load_model(pool["model"], near=near)
    if "model" not in pool and "model" in scenario:
        pool["model"] = scenario["model"]
    for block in ("engine", "precision"):
        above, own = scenario.get(block), pool.get(block, {})
        if isinstance(above, BaseModel):
            above = above.model_dump(exclude_unset=True)
        if isinstance(above, Mapping) and isinstance(own, Mapping):
            pool[block] = {**above, **own}
    if isinstance(pool.get("engine"), Mapping):
        pool["engine"] = _with_expert_counts(pool["engine"], near)
    return pool


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario from a YAML file. Paths in it are relative to the file. InputError names every problem
    at once.
    """
    document = read_yaml(Path(path))
    data = dict(document.data)
    near = document.path.parent
    problems: list[Problem] = []
    for key, load in (("topology", load_topology), ("model", load_model), ("workload", load_workload)):
        if isinstance(data.get(key), str):
            data[key] = _loaded(load, data[key], near, document, (key,), problems)
    pools = data.get("pools")
    if isinstance(pools, Mapping):
        for name, pool in pools.items():
            if isinstance(pool, dict) and isinstance(pool.get("model"), str):
                pool["model"] = _loaded(
                    load_model, pool["model"], near, document, ("pools", name, "model"), problems
                )
    data.setdefault("name", document.path.stem)
    kernels = data.get("kernels")
    if isinstance(kernels, Mapping) and isinstance(kernels.get("path"), str):
        data["kernels"] = {**kernels, "path": str(near / kernels["path"])}
    try:
        scenario = Scenario.model_validate(data, context={"near": near})
    except ValidationError as error:
        unloaded = {problem.key for problem in problems}
        problems += [
            found for found in problems_of(error, document, (), Scenario) if found.key not in unloaded
        ]
    except InputError as error:
        problems += error.problems
    if problems:
        in_order: list[Problem] = sorted(problems, key=lambda problem: problem.line or 0)
        raise InputError(in_order)
    return scenario


def _loaded(
    load: Callable[..., Any],
    name: str,
    near: Path,
    document: Document,
    key: tuple[str, ...],
    problems: list[Problem],
) -> Any:
    """What a name stands for; its problems are those of the line that names it, or of the file that it
    names.
    """
    try:
        return load(name, near=near)
    except InputError as error:
        problems += [
            problem if problem.line is not None else document.problem(key, problem.what)
            for problem in error.problems
        ]
        return None


def with_changes(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """The same scenario with some values changed, by dotted path; `"x2"` multiplies a number, text may carry
    a unit.

    With pools, a change of `engine`, `precision` or `model` reaches every pool that has the scenario's value
    there; a pool with another one is changed by its own path, as in `pools.decode.engine.max_num_seqs`.

    Raises InputError for a path that does not exist (with the nearest one that does) or a value that does not
    fit.

    >>> # with_changes(scenario, {"engine.tensor_parallel_size": 4, "topology.links.nvlink4.bytes_per_s":
    "x2"})
    """
    data = scenario.model_dump()
    for key in ("router", "placement", "kernels", "hand_over.router"):
        if not any(path.startswith(f"{key}.") for path in changes):  # a script's callable stays what it is
            _set(data, key, reduce(getattr, key.split("."), scenario))
    if not scenario.pools:
        data.pop("pools")
    for path, value in changes.items():
        if path == "nodes":  # of whatever topology there is in the end
            data["nodes"] = _changed(scenario.topology.nodes, value, path)
            continue
        if path.endswith("router.kind") or path == "placement.kind":  # knobs of another kind do not stay
            path, value = path.removesuffix(".kind"), _NotYetThere(kind=value)
        if scenario.pools:
            _set_in_pools(data, path, value)
        _set(data, path, value)
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise InputError(problems_of(error, None, (), Scenario)) from error


def _set_in_pools(data: dict[str, Any], path: str, value: Any) -> None:
    """Pass a change of what pools inherit on to those that have the scenario's value; somebody must."""
    pools: dict[str, Any] = data["pools"]
    key = path.partition(".")[0]
    if key not in ("engine", "precision", "model", "replicas"):
        return
    heirs = [] if key == "replicas" else [p for p in pools.values() if _at(p, path) == _at(data, path)]
    if not heirs:
        own = f"every pool has {key} of its own; set pools.{next(iter(pools))}.{path}"
        raise InputError(Problem(own, key=path))
    for pool in heirs:
        _set(pool, path, value)


def _at(data: Any, path: str) -> Any:
    """What a dotted path leads to, None where it leads nowhere."""
    for step in path.split("."):
        data = data.get(step) if isinstance(data, Mapping) else None
    return data


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    *way, last = path.split(".")
    at: Any = data
    for i, step in enumerate([*way, last]):
        if isinstance(at, list | tuple):
            if not step.isdigit() or int(step) >= len(at):
                raise InputError(Problem(f"there is no element {step!r} among {len(at)}", key=path))
            if isinstance(at, tuple):
                raise InputError(
                    Problem("elements of a list cannot be set one by one; set the list", key=path)
                )
            at = at[int(step)]
            continue
        if at is None or not isinstance(at, dict):
            if i and isinstance(at, BaseModel):
                raise InputError(Problem("cannot be changed from here", key=path))
            raise InputError(Problem(f"there is nothing below {'.'.join([*way, last][:i])}", key=path))
        if step not in at and not isinstance(at, _NotYetThere):
            known = [str(name) for name in at]
            raise InputError(Problem(f"{step!r} is not known here{did_you_mean(step, known)}; known are "
                                     f"{', '.join(known[:25])}", key=path))  # fmt: skip
        if i == len(way):
            at[step] = _changed(at.get(step), value, path)
            return
        if at.get(step) is None:
            at[step] = _NotYetThere()
        at = at[step]


class _NotYetThere(dict[str, Any]):
    """A block that the scenario left out, and changes fill key by key; what belongs there is checked at the
    end.
    """


def _changed(old: Any, value: Any, path: str) -> Any:
    """`xF` times the old number, or the value as it is."""
    if isinstance(value, str) and value[:1] in ("x", "×") and not isinstance(old, str):
        try:
            factor = float(value[1:])
        except ValueError:
            return value
        if isinstance(old, bool) or not isinstance(old, int | float):
            raise InputError(Problem(f"{value!r} multiplies a number, and this is {old!r}", key=path))
        product = old * factor
        return round(product) if isinstance(old, int) and product == round(product) else product
    return value
