"""The same scenario with some values changed, each named by its dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from math import isfinite
from typing import Any

from pydantic import BaseModel, ValidationError

from sim.inputs.errors import InputError, Problem
from sim.reading.files_read import files_read
from sim.reading.problems import did_you_mean, problems_of
from sim.scenario.scenario import Scenario
from sim.scenario.written_keys import keys_changed


def with_changes(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """The same scenario with some values changed, by dotted path; `"x2"` multiplies a number, text may carry
    a unit.

    With pools, a change of `engine`, `precision` or `model` reaches every pool that has the scenario's value
    there; a pool with another one is changed by its own path, as in `pools.decode.engine.max_num_seqs`.

    Raises InputError for a path that does not exist (with the nearest one that does) or a value that does not
    fit.

    >>> from sim.catalog import load_model, load_topology, load_workload
    >>> from sim.scenario import Scenario
    >>> parts = load_topology("nd-h100-v5"), load_model("llama-3-8b"), load_workload("single-user")
    >>> one = Scenario(topology=parts[0], model=parts[1], workload=parts[2])
    >>> with_changes(one, {"engine.tensor_parallel_size": 4, "engine.block_size": "x2"}).engine.block_size
    32
    """
    data = scenario.model_dump()
    # A dump writes a script's callable as text, which could not be read back. The rule itself goes in, unless
    # a change reaches one of its knobs.
    for key in ("router", "placement", "kernels", "kv_reload", "hand_over.router", "engine.scheduler"):
        if not any(path.startswith(f"{key}.") for path in changes):
            _set(data, key, reduce(getattr, key.split("."), scenario))
    for name, pool in scenario.pools.items():
        data["pools"][name]["engine"]["scheduler"] = pool.engine.scheduler
    if not scenario.pools and "pools" not in changes:
        data.pop("pools")
        of_pools = next((path for path in changes if path == "pools" or path.startswith("pools.")), None)
        if of_pools is not None:
            raise InputError(Problem(_without_pools(of_pools, data), key=of_pools))
    blocks = [(data["precision"], scenario.precision)]
    blocks += [(data["pools"][name]["precision"], pool.precision) for name, pool in scenario.pools.items()]
    before = [dict(block) for block, _ in blocks]
    for path, value in changes.items():
        # `nodes` is applied at validation, after a change of `topology` wherever it stands among the changes.
        if path == "nodes":
            data["nodes"] = _changed(scenario.topology.nodes, value, path)
            continue
        # Another kind of rule has other knobs: the whole block is replaced.
        if path.endswith("router.kind") or path == "placement.kind":
            path, value = path.removesuffix(".kind"), _NotYetThere(kind=value)
        if scenario.pools:
            _set_in_pools(data, path, value)
        _set(data, path, value)
    # What a checkpoint decided is decided anew, by the model that is served after the changes.
    reached = {path.rpartition(".")[2] for path in changes if "precision." in path}
    for (block, precision), old in zip(blocks, before, strict=True):
        for key in [key for key in block if key not in precision.model_fields_set | reached]:
            if block[key] == old[key]:
                del block[key]
    try:
        with files_read() as found:
            changed = Scenario.model_validate(data)
        changed.__dict__["files_read"] = scenario.files_read | found
        changed.__dict__["keys_written"] = keys_changed(scenario.keys_written, changes)
        return changed
    except ValidationError as error:
        raise InputError(problems_of(error, None, (), Scenario)) from error


def _without_pools(path: str, data: Mapping[str, Any]) -> str:
    below = path.split(".")[2:]
    instead = ".".join(below) if below and below[0] in data else ""
    return "the scenario has no pools" + (f"; set {instead}" if instead else ", and a change makes none")


def _set_in_pools(data: dict[str, Any], path: str, value: Any) -> None:
    """Pass a change of what pools inherit on to those that have the scenario's value; at least one must."""
    pools: dict[str, Any] = data["pools"]
    key = path.partition(".")[0]
    if key not in ("engine", "precision", "model", "replicas"):
        return
    heirs = [] if key == "replicas" else [p for p in pools.values() if _at(p, path) == _at(data, path)]
    if not heirs:
        own = f"every pool has its own {key}; set pools.{next(iter(pools))}.{path}"
        raise InputError(Problem(own, key=path))
    for pool in heirs:
        _set(pool, path, value)


def _at(data: Any, path: str) -> Any:
    """What a dotted path leads to, None where it leads nowhere."""
    for step in path.split("."):
        data = data.get(step) if isinstance(data, Mapping) else None
    return data


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    """Set what a dotted path leads to. Blocks that are left out come into being on the way; a key that no
    block has is refused.
    """
    *way, last = path.split(".")
    block: Any = data
    for depth, step in enumerate([*way, last]):
        if isinstance(block, list | tuple):
            block = _element(block, step, path)
            continue
        if not isinstance(block, dict):
            raise InputError(Problem(_why_not_below(block, [*way, last][:depth]), key=path))
        if step not in block and not isinstance(block, _NotYetThere):
            known = [str(name) for name in block]
            raise InputError(Problem(f"{step!r} is not known here{did_you_mean(step, known)}; known are "
                                     f"{', '.join(known[:25])}", key=path))  # fmt: skip
        if depth == len(way):
            block[step] = _changed(block.get(step), value, path)
            return
        if block.get(step) is None:
            block[step] = _NotYetThere()
        block = block[step]


def _element(elements: list[Any] | tuple[Any, ...], step: str, path: str) -> Any:
    if not (step.isascii() and step.isdigit() and len(step) < 10) or int(step) >= len(elements):
        raise InputError(
            Problem(f"there is no element {step!r}; there are {len(elements)}, from 0", key=path)
        )
    if isinstance(elements, tuple):
        raise InputError(Problem("elements of a list cannot be set one by one; set the list", key=path))
    return elements[int(step)]


def _why_not_below(block: Any, above: list[str]) -> str:
    # A rule of a script went in as it is: it has no keys that a path could name.
    if isinstance(block, BaseModel):
        return "cannot be changed by a path: it is an object of a script"
    return f"there is nothing below {'.'.join(above)}"


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
            raise InputError(Problem(f"{value!r} multiplies a number, and the value is {old!r}", key=path))
        if not isfinite(factor):
            raise InputError(Problem(f"{value!r} multiplies by no number; write one, as in x2", key=path))
        product = old * factor
        return round(product) if isinstance(old, int) and product == round(product) else product
    return value
