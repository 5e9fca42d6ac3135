"""Fields of a scenario that hold a rule: written by name, with its knobs, or given by a script as any
callable.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError, WithJsonSchema

from sim.cost.kernels.kernels import formula
from sim.cost.kernels.measured import MeasuredKernels
from sim.policy.placement import PLACEMENTS
from sim.policy.reloading import RELOADS
from sim.policy.routing import ROUTERS
from sim.reading.measurements import read_measurements
from sim.reading.problems import did_you_mean, problems_of


def _chosen(kinds: Mapping[str, Callable[..., Any]], what: str) -> Callable[[Any], Any]:
    """Turns `name` or `{kind: name, knob: value}` into the rule of that name; a script's callable passes as
    it is.
    """

    def choose(written: Any) -> Any:
        if isinstance(written, str):
            written = {"kind": written}
        if not isinstance(written, Mapping):
            if callable(written):
                return written
            raise ValueError(f"{written!r}: must be the name of a {what}, as in {next(iter(kinds))}")
        knobs = {str(name): value for name, value in written.items() if name != "kind"}
        kind = str(written.get("kind"))
        if kind not in kinds:
            raise ValueError(f"kind = {kind!r}: must be one of {', '.join(kinds)}{did_you_mean(kind, kinds)}")
        rule = kinds[kind]
        known = [one.name for one in dataclasses.fields(rule)]  # type: ignore[arg-type]
        for name in knobs:
            if name not in known:
                takes = ", ".join(known) or "no knobs"
                raise ValueError(
                    f"{name!r} is not a knob of {kind}; known are {takes}{did_you_mean(name, known)}"
                )
        types = {one.name: str(one.type) for one in dataclasses.fields(rule)}  # type: ignore[arg-type]
        for name, value in knobs.items():
            if isinstance(value, bool) and "bool" not in types[name]:
                raise ValueError(f"{name} = {str(value).lower()}: must be a number, as in 1")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} = {value}: must be finite")
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(rule)  # type: ignore[arg-type]  # a dataclass, by the registries
            return adapter.validate_python(knobs)
        except ValidationError as error:
            raise ValueError("; ".join(str(problem) for problem in problems_of(error))) from error

    return choose


def _written(kinds: Mapping[str, Callable[..., Any]]) -> Callable[[Any], Any]:
    def write(rule: Any) -> Any:
        names = {known: name for name, known in kinds.items()}
        if type(rule) in names:
            return {"kind": names[type(rule)], **dataclasses.asdict(rule)}
        return {"kind": _of_a_script(rule)}

    return write


def _of_a_script(rule: Any) -> str:
    return f"a script's {getattr(rule, '__qualname__', type(rule).__qualname__)}"


def _schema(kinds: Mapping[str, Callable[..., Any]]) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "object"], "properties": {"kind": {"enum": list(kinds)}}})


def _kernel_model(written: Any) -> Any:
    """`formula`, or `{kind: measured, path: table.csv}`, or a script's own `KernelModel`."""
    if written in ("formula", {"kind": "formula"}):
        return formula
    if callable(written):
        return written
    is_table = isinstance(written, Mapping) and written.get("kind") == "measured"
    if is_table and set(written) == {"kind", "path"} and isinstance(written["path"], str | Path):
        return MeasuredKernels(read_measurements(written["path"]), source=str(written["path"]))
    raise ValueError(f"{written!r}: must be formula, or {{kind: measured, path: table.csv}}")


def _kernel_model_written(model: Any) -> Any:
    if model is formula:
        return "formula"
    return (
        {"kind": "measured", "path": model.source}
        if isinstance(model, MeasuredKernels)
        else _of_a_script(model)
    )


RouterRule = Annotated[
    Any, BeforeValidator(_chosen(ROUTERS, "router")), PlainSerializer(_written(ROUTERS)), _schema(ROUTERS)
]
PlacementRule = Annotated[
    Any,
    BeforeValidator(_chosen(PLACEMENTS, "placement")),
    PlainSerializer(_written(PLACEMENTS)),
    _schema(PLACEMENTS),
]
ReloadingRule = Annotated[
    Any,
    BeforeValidator(_chosen(RELOADS, "rule for reloading")),
    PlainSerializer(_written(RELOADS)),
    _schema(RELOADS),
]
KernelRule = Annotated[
    Any,
    BeforeValidator(_kernel_model),
    PlainSerializer(_kernel_model_written),
    WithJsonSchema({"type": ["string", "object"], "description": "formula, or a measured table"}),
]
