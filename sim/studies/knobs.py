"""The numbers of a scenario that can be more or less: constants of its machine and knobs of its engines.

Each has a dotted key. Two fields that say the same thing are one knob: peaks of all formats of a GPU, and the
memory that its datasheet and its driver state. How many of a thing there are, and over how many GPUs a model
is split, are no knobs: a tenth more of them is another machine or layout (`sweep`, `recommend`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sim.cost.network import Network
from sim.deployment import deployment_of
from sim.inputs.errors import InfeasibleError, InputError
from sim.reading.problems import did_you_mean
from sim.scenario import Scenario

COUNTS = frozenset(
    "nodes count wires of switch_ports down_ports rails pcie_generation tensor_parallel_size "
    "pipeline_parallel_size data_parallel_size decode_context_parallel_size domain domain_tiers nics_per_gpu "
    "trays replicas redundant_experts layers priority weights".split()
)
APART = frozenset(("provenance", "kernels"))  # of kernels: hundreds, for a pattern that names them
USUAL = ("topology", "engine", "pools", "router", "router_staleness_s", "kv_reload", "hand_over")


@dataclass(frozen=True)
class Knob:
    """`key` names it, `value` is what it is; `paths` are the fields that change together, with values."""

    key: str
    value: float
    paths: tuple[tuple[tuple[str, ...], float], ...]

    def times(self, factor: float, scenario: Scenario) -> tuple[dict[str, Any], float] | None:
        """Changes that make it so many times what it is, and the factor that whole numbers leave of that.
        None where no whole number is near: a tenth more of 2 is 2.
        """
        changes: dict[str, Any] = {}
        reached = factor
        for path, value in self.paths:
            new: float = value * factor
            if isinstance(value, int):
                new = round(new)
                if new == value:
                    return None
                reached = new / value
            changes |= _change(scenario, path, new)
        return changes, reached


def knobs_of(scenario: Scenario, keys: tuple[str, ...] = ()) -> list[Knob]:
    """The knobs of a scenario that are not zero. `keys` are patterns (`topology.links.*`) that choose among
    them, and among the constants of kernels and of the workload where they name these; InputError for one
    that fits none.
    """
    data = scenario.model_dump()
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    tops = (*USUAL, *(top for top in data if top not in USUAL and any(key.startswith(top) for key in keys)))
    apart = APART if not any("kernels" in key for key in keys) else APART - {"kernels"}
    written = [
        leaf for top in tops for leaf in _numbers(data.get(top), (top,)) if _is_one(leaf[0], apart, scenario)
    ]
    for path, value in [*written, *_by_default(scenario)]:
        key = ".".join(path)
        if "flops" in path:
            key = ".".join(path[: path.index("flops") + 1])
        elif path[-1] == "visible_hbm_bytes":
            key = ".".join((*path[:-1], "hbm_bytes"))
        found.setdefault(key, []).append((path, value))
    every = [Knob(key, paths[0][1], tuple(paths)) for key, paths in found.items()]
    if not keys:
        return every
    for pattern in keys:
        if not any(fnmatchcase(knob.key, pattern) for knob in every):
            known = [knob.key for knob in every]
            hint = did_you_mean(pattern, known) or f"; {known[0]} is one" if known else ""
            raise InputError(f"keys: {pattern!r} fits no number above 0 that can be changed{hint}")
    return [knob for knob in every if any(fnmatchcase(knob.key, pattern) for pattern in keys)]


def _numbers(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, (*path, str(name)))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _numbers(inner, (*path, str(number)))
    elif isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        yield path, value


def _is_one(path: tuple[str, ...], apart: frozenset[str], scenario: Scenario) -> bool:
    if COUNTS & set(path) or apart & set(path) or path[:2] == ("topology", "own_graph"):
        return False
    if path[0] == "pools":
        # What a pool has from the scenario is changed there, for all pools that have it.
        return path[2] == "engine" and _at(scenario, ("engine", *path[3:])) != _at(scenario, path)
    return path[:2] != ("topology", "transports") or path[2] == scenario.wired.inter_node


def _by_default(scenario: Scenario) -> Iterator[tuple[tuple[str, ...], float]]:
    """Limits of the scheduler that the scenario leaves to the engine's defaults."""
    with suppress(InfeasibleError):
        plans = deployment_of(scenario, Network(scenario.wired.graph)).replicas
        limits = {plan.limits for plan in plans if plan.memory is not None}
        for name in ("max_num_batched_tokens", "max_num_seqs"):
            values = {getattr(one, name) for one in limits}
            unwritten = all(getattr(pool.engine, name) is None for pool in scenario.all_pools.values())
            if len(values) == 1 and unwritten:
                yield ("engine", name), values.pop()


def _at(scenario: Scenario, path: tuple[str, ...]) -> Any:
    value: Any = scenario
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else getattr(value, step, None)
    return value


def _change(scenario: Scenario, path: tuple[str, ...], new: float) -> dict[str, Any]:
    """The change of one field; one inside a list is a change of the list."""
    place = next((depth for depth, step in enumerate(path) if step.isdigit()), None)
    if place is None:
        return {".".join(path): new}
    above = path[:place]
    block: Any = scenario.model_dump(by_alias=True)
    for step in above:
        block = block[step]
    whole = inner = copy.deepcopy(list(block))
    for step in path[place:-1]:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
        # A tuple inside is left alone: no knob lies there.
    inner[path[-1] if isinstance(inner, dict) else int(path[-1])] = new
    return {".".join(above): whole}
