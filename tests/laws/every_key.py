"""The keys that a scenario has, and those of the schema: which there are, and what they are called.

A key is named as `--set` names it. What stands once per name in the scenario (pools, classes, kinds of GPU,
formats of kernels) is one key with a `*`; types of links, parts and transports are keys of their own, for
they are different machines. A law or rule that is chosen by its `kind` has it in braces:
`workload.arrivals{gamma}.cv`. The elements of a list are one key with a `[]`.

`walk` lists the numbers that a scenario sets or may set, `schema_keys` all numbers that there are, `all_keys`
all keys.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

import sim
from sim.scenario.written_keys import LABELS

BY_NAME = ("topology.links", "topology.parts", "topology.transports")
KERNELS = "topology.gpus.*.kernels."
RULES = ("router", "hand_over.router", "placement", "kv_reload")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Key:
    """One number of a scenario: the key it belongs to, where it stands, what it is (None: left out)."""

    name: str
    path: Path
    value: float | None
    whole: bool
    also: tuple[Path, ...] = ()
    """Where the same number stands for other formats and engines; all of them are changed."""


def walk(scenario: sim.Scenario) -> Iterator[Key]:
    """Every number that the scenario has, or has left out where one could stand."""
    for key in _walk(scenario, "", ()):
        if (
            scenario.pools
            and key.name.startswith(("engine.", "model.", "replicas"))
            and key.path[0] != "pools"
        ):
            continue  # what pools leave out was handed down to them
        if key.name.startswith("topology.transports.") and key.path[2] != scenario.wired.inter_node:
            continue  # one transport carries a run, and the others are there to be chosen
        yield key


def _walk(value: Any, name: str, path: Path, annotation: Any = None) -> Iterator[Key]:
    if isinstance(value, bool | str):
        return
    if isinstance(value, int | float):
        yield Key(name, path, value, isinstance(value, int))
    elif value is None:
        numbers = _numbers_in(annotation)
        if numbers:
            yield Key(name, path, None, float not in numbers)
    elif isinstance(value, BaseModel):
        for one, described in type(value).model_fields.items():
            if one in LABELS:
                continue
            below = _below(name, value, one)
            yield from _walk(getattr(value, one), below, (*path, one), described.annotation)
    elif dataclasses.is_dataclass(value):
        kind = _kind_of_rule(value)
        for one in dataclasses.fields(value):
            yield from _walk(getattr(value, one.name), f"{name}{{{kind}}}.{one.name}", (*path, one.name))
    elif isinstance(value, Mapping):
        for one, entry in value.items():
            yield from _walk(entry, _entry(name, one), (*path, one))
    elif isinstance(value, tuple | list):
        for at, entry in enumerate(value):
            yield from _walk(entry, f"{name}[]", (*path, at))


def _below(name: str, owner: BaseModel, one: str) -> str:
    return _folded(f"{name}{_braces(type(owner))}.{one}".lstrip("."))


def _entry(name: str, one: str) -> str:
    return _folded(f"{name}.{one}" if name in BY_NAME else f"{name}.*")


def _folded(name: str) -> str:
    """What is the same description in several places is one key: a pool's engine, a system among systems."""
    if name.startswith("pools.*.") and name.split(".")[2] in ("engine", "model", "precision"):
        name = name.removeprefix("pools.*.")
    if name.startswith("topology.systems.*."):
        name = "topology." + name.removeprefix("topology.systems.*.")
    return name.replace(".kernels.engines.*.", ".kernels.")


def _braces(owner: type[BaseModel]) -> str:
    kind = owner.model_fields.get("kind")
    names = get_args(kind.annotation) if kind is not None and get_origin(kind.annotation) is Literal else ()
    return f"{{{names[0]}}}" if len(names) == 1 else ""


@cache
def _rules() -> dict[type, str]:
    """The rules that a scenario names by kind, with their names, as the schema of a scenario lists them."""
    found: dict[type, str] = {}
    at_all = sim.Scenario.model_validate(
        {"topology": "a100-x4", "model": "llama-3-8b", "workload": "single-user"}
    )
    for place, properties in _rule_schemas():
        for kind in properties["kind"]["enum"]:
            try:
                rule: Any = sim.with_changes(at_all, {place: kind})
            except sim.InputError:
                continue  # a rule with a knob that has to be given
            for step in place.split("."):
                rule = getattr(rule, step)
            found[type(rule)] = kind
    return found


def _rule_schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    schema = sim.Scenario.model_json_schema()
    yield from ((place, schema["properties"][place]["properties"]) for place in RULES if "." not in place)
    yield "hand_over.router", schema["$defs"]["HandOverRule"]["properties"]["router"]["properties"]


def _kind_of_rule(rule: Any) -> str:
    return _rules().get(type(rule), "explicit")


def _numbers_in(annotation: Any) -> set[type]:
    """Which numbers an annotation takes; those inside of containers and models are not among them."""
    if annotation in (int, float):
        return {annotation}
    if get_origin(annotation) is Annotated:
        return _numbers_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return {number for one in get_args(annotation) for number in _numbers_in(one)}
    return set()


def schema_keys() -> set[str]:
    """Every number that any scenario could have; below `links`, `parts` and `transports` with a `*`."""
    found: set[str] = set()
    _schema_keys(sim.Scenario, "", found, ())
    for place, properties in _rule_schemas():
        for rule, kind in _rules().items():
            if kind in properties["kind"]["enum"]:
                hints = get_type_hints(rule)
                found |= {f"{place}{{{kind}}}.{knob}" for knob, hint in hints.items() if _numbers_in(hint)}
    return found


def all_keys() -> set[str]:
    """Every key that any scenario could have, whatever its kind."""
    found = schema_keys()
    _schema_keys(sim.Scenario, "", found, (), numbers_only=False)
    return found | {f"{place}.kind" for place, _ in _rule_schemas()}


def _schema_keys(
    annotation: Any, name: str, found: set[str], inside: tuple[Any, ...], *, numbers_only: bool = True
) -> None:
    into = partial(_schema_keys, found=found, numbers_only=numbers_only)
    if annotation in (int, float):
        found.add(_folded(name))
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation in inside:
            return
        for one, described in annotation.model_fields.items():
            if numbers_only and one in LABELS:
                continue
            below = f"{name}{_braces(annotation)}.{one}".lstrip(".")
            into(described.annotation, below, inside=(*inside, annotation))
        return
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        into(of[0], name, inside=inside)
    elif origin in (Union, types.UnionType):
        for one in of:
            into(one, name, inside=inside)
    elif origin is dict:
        into(of[1], f"{name}.*", inside=inside)
    elif origin in (tuple, list):
        for one in of:
            if one is not Ellipsis:
                into(one, f"{name}[]", inside=inside)
    elif not numbers_only and annotation is not type(None):
        found.add(_folded(name))


def starred(name: str) -> str:
    """The name of a key with a `*` for the name of a link, part or transport, as `schema_keys` has it."""
    for place in BY_NAME:
        if name.startswith(f"{place}."):
            return ".".join([place, "*", *name.removeprefix(f"{place}.").split(".")[1:]])
    return name
