"""Which keys a scenario sets: in its file, inline, by `--set` or from a script; at their defaults too.

What a name stands for (a shipped topology, model or workload) sets none: its keys are those of a file that
comes with fabricsim. A topology or workload of one's own, named by its path, sets those of its file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sim.catalog import find
from sim.inputs.errors import InputError
from sim.inputs.model import Model
from sim.inputs.topology import Topology
from sim.reading.data_files import topologies, workloads
from sim.reading.files_read import files_read
from sim.reading.yaml_lines import read_yaml

Key = tuple[str | int, ...]
LABELS = ("name", "description", "provenance", "basis", "trays")
"""Keys of blocks that say what a thing is called, where a number is from or how it is drawn: none acts."""


def keys_written(data: Mapping[str, Any], near: Path | None = None) -> tuple[Key, ...]:
    """The keys that a scenario as written sets, in their order. A shipped thing by name is one key."""
    found: list[Key] = []
    for name, value in data.items():
        if name == "topology":
            found += _of_topology(value, near)
        elif name == "workload" and isinstance(value, str | Path):
            found += [("workload",), *(("workload", *key) for key in _of_own_file("workload", value, near))]
        elif name == "model" and not isinstance(value, Mapping):
            found.append(("model",))
        else:
            found += _leaves(value, (str(name),))
    return tuple(dict.fromkeys(found))


def keys_changed(
    before: Iterable[Key], changes: Mapping[str, Any], near: Path | None = None
) -> tuple[Key, ...]:
    """The keys that are set after some changes: a change of a block takes away what was set below it."""
    found = list(before)
    for path, value in changes.items():
        steps = tuple(int(step) if step.isdigit() else step for step in path.split("."))
        if path.endswith(("router.kind", "placement.kind")):  # the whole rule is another one
            found = [key for key in found if key[: len(steps) - 1] != steps[:-1]]
        found = [key for key in found if key[: len(steps)] != steps]
        if steps == ("nodes",):
            found.append(steps)
            continue
        nested: Any = value
        for step in reversed(steps):
            nested = {step: nested}
        found += keys_written(nested, near)
    return tuple(dict.fromkeys(found))


def _of_topology(value: Any, near: Path | None) -> Iterator[Key]:
    if isinstance(value, str | Path):
        yield ("topology",)
        yield from (("topology", *key) for key in _of_own_file("topology", value, near))
    elif isinstance(value, Mapping):
        for name, block in value.items():
            if name == "systems" and isinstance(block, Mapping):
                for system, written in block.items():
                    if isinstance(written, Mapping):
                        yield from _leaves(written, ("topology", "systems", str(system)))
            elif name != "own_graph":
                yield from _leaves(block, ("topology", str(name)))
    elif value is not None:
        yield ("topology",)


def _of_own_file(kind: Any, name: str | Path, near: Path | None) -> Iterator[Key]:
    """The keys that a file of one's own sets; none of one that is shipped, or cannot be read."""
    data: Mapping[str, Any] = {}
    with suppress(InputError), files_read():
        path = find(kind, name, near)
        if not any(path.resolve().is_relative_to(shipped().resolve()) for shipped in (topologies, workloads)):
            data = read_yaml(path).data
    if kind == "topology" and isinstance(data.get("node"), Mapping):  # what is repeated, at the top
        data = {**{key: block for key, block in data.items() if key != "node"}, **data["node"]}
    if kind == "topology" and isinstance(data.get("scale_out"), Mapping):
        data = {**data, "scale_out": [data["scale_out"]]}
    yield from _leaves(data, ())


def _leaves(value: Any, key: Key) -> Iterator[Key]:
    """The keys of the values in a block; what is null or empty is left out, as if it were not written."""
    if value is None or value == "" or (key and key[-1] in LABELS):
        return
    if isinstance(value, Topology | Model):
        yield key
    elif isinstance(value, BaseModel):
        fields = type(value).model_fields
        for name in fields:
            if name in value.model_fields_set:
                yield from _leaves(getattr(value, name), (*key, name))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield (*key, "kind")
        for one in dataclasses.fields(value):
            yield from _leaves(getattr(value, one.name), (*key, one.name))
    elif isinstance(value, Mapping):
        if "value" in value and set(value) <= {"value", "tag", "source", "note"}:  # a number with its source
            yield key
            return
        for name, entry in value.items():
            yield from _leaves(entry, (*key, name if isinstance(name, int) else str(name)))
    elif isinstance(value, list | tuple):
        if any(isinstance(entry, Mapping | BaseModel) for entry in value):
            for place, entry in enumerate(value):
                yield from _leaves(entry, (*key, place))
        elif value:
            yield key
    else:
        yield key
