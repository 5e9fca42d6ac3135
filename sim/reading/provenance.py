"""Constants with their origin: `{value: 80 GB, tag: datasheet, source: ...}` becomes value and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sim.inputs.errors import Problem
from sim.inputs.provenance import TAGS
from sim.inputs.quantities import DTYPE_BYTES
from sim.reading.problems import did_you_mean
from sim.reading.yaml_lines import Document, Key

_SOURCED = {"value", "tag", "source"}
_CONSTANTS = {"efficiency", "sms", "pcie_generation", *DTYPE_BYTES}


def separated(block: Any, document: Document, at: Key, problems: list[Problem]) -> Any:
    """`block` with plain values, and their origins in its `provenance`. What is wrong is added to `problems`.

    A constant that is written plainly, as users may, is `assumed`, and its source is its file and line,
    unless the block's own `provenance` speaks for it.
    """
    if not isinstance(block, Mapping):
        return block
    stated = block.get("provenance", {})
    if not isinstance(stated, Mapping):
        return block
    origins: dict[str, Any] = {}
    plain = _without_origins(block, document, at, "", origins, problems)
    unspoken = {} if "*" in stated else _plain_constants(plain, document, at, "", {*stated, *origins})
    if origins or unspoken or stated:
        plain["provenance"] = {**unspoken, **origins, **stated}
    return plain


def _without_origins(
    block: Mapping[str, Any],
    document: Document,
    at: Key,
    prefix: str,
    origins: dict[str, Any],
    problems: list[Problem],
) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in block.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and "value" in value and value.keys() <= _SOURCED:
            plain[name] = value["value"]
            missing = sorted(_SOURCED - value.keys())
            if missing:
                what = f"a value with its origin also needs {' and '.join(missing)}"
                problems.append(document.problem((*at, name), what))
            elif value["tag"] not in TAGS:
                tag, (*most, last) = value["tag"], map(repr, TAGS)
                what = f"must be {', '.join(most)} or {last}{did_you_mean(str(tag), TAGS)}"
                wrong = document.problem((*at, name, "tag"), what)
                problems.append(replace(wrong, value=repr(tag)[:60]))
            else:
                origins[path] = {"tag": value["tag"], "source": value["source"]}
        elif isinstance(value, Mapping) and name != "provenance":
            plain[name] = _without_origins(value, document, (*at, name), f"{path}.", origins, problems)
        else:
            plain[name] = value
    return plain


def _plain_constants(
    block: Mapping[str, Any], document: Document, at: Key, prefix: str, known: set[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in block.items():
        path = f"{prefix}{name}"
        if path in known or name == "provenance":
            continue
        if isinstance(value, Mapping):
            found |= _plain_constants(value, document, (*at, name), f"{path}.", known)
        elif name in _CONSTANTS or name.endswith(("_s", "_bytes")):
            line = document.line_of((*at, name))
            here = document.path.name if line is None else f"{document.path.name}:{line}"
            found[path] = {"tag": "assumed", "source": here}
    return found
