"""The page docs/keys.md: every key of a scenario and of the files that it names, with what it takes, its
unit, its default and its effect. `sim schema keys` prints it.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types as bounds
from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo

from sim.inputs.quantities import QuantityKind
from sim.policy.placement import PLACEMENTS
from sim.policy.reloading import RELOADS
from sim.policy.routing import ROUTERS
from sim.scenario.key_effects import ENGINE, KERNELS, MACHINE, MODEL, RULES, SCENARIO, WORKLOAD
from sim.scenario.scenario import Scenario

HEAD = """# Keys of a scenario

Every key that a scenario, or a topology, model or workload that it names, may have; `sim schema keys` prints
this page. A key is set in the file, by `--set engine.max_num_seqs=64`, or by
`sim.with_changes(scenario, {"engine.max_num_seqs": 64})`. After a run, `summary()["keys"]` and the report say
of each key that was set whether it acted, did not bind, or had no effect, and why ([Results](results.md)).

Numbers with a unit take a bare number in that unit or text: `900 GB/s`, `400 Gbit/s`, `2.5 us`, `80 GB`.
Every block of a machine takes `provenance` beside its keys: by key, a `tag` and a `source`.
"""

CHAPTERS = (
    ("The scenario", SCENARIO),
    ("The engine", ENGINE),
    ("The workload", WORKLOAD),
    ("The model", MODEL),
    ("The machine", MACHINE),
    ("Kernels of a GPU", KERNELS),
)
RULE_KINDS: dict[str, dict[str, Any]] = {"router": ROUTERS, "placement": PLACEMENTS, "kv_reload": RELOADS}
UNITS_BY_NAME = {"_ms": "ms", "tokens": "tokens", "_seqs": "sequences", "blocks_override": "blocks"}


def keys_page() -> str:
    """The whole page, in Markdown."""
    places = dict(_places())
    text = [HEAD]
    for title, effects in CHAPTERS:
        text.append(f"\n## {title}\n")
        for described, where in places.items():
            if described.__name__ in effects and described.model_fields:
                text += _block(described, where)
        if effects is SCENARIO:
            text += _rules()
    return "\n".join(text) + "\n"


def effect_of(described: type[BaseModel], key: str) -> str | None:
    """What a key does, by the class that describes its block, or one that it is made from."""
    for one in described.__mro__:
        for _, effects in CHAPTERS:
            if key in effects.get(one.__name__, {}):
                return effects[one.__name__][key]
    return None


def _places() -> Iterator[tuple[type[BaseModel], str]]:
    """Every described block once, with the first place where it stands."""
    seen: set[type[BaseModel]] = set()
    todo: list[tuple[type[BaseModel], str]] = [(Scenario, "")]
    while todo:
        described, where = todo.pop(0)
        if described in seen:
            continue
        seen.add(described)
        yield described, where
        for name, field in described.model_fields.items():
            for one, below in _blocks_in(field.annotation, f"{where}.{name}".lstrip(".")):
                todo.append((one, below))


def _blocks_in(annotation: Any, where: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, where
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is dict:
        yield from _blocks_in(of[1], f"{where}.NAME")
    elif origin in (tuple, list):
        yield from _blocks_in(of[0], f"{where}[]")
    elif origin in (Union, types.UnionType, Annotated):
        for one in of:
            yield from _blocks_in(one, where)


def _block(described: type[BaseModel], where: str) -> list[str]:
    kind = _kind_of(described)
    title = f"`{where}`" if where else "At the top"
    if kind:
        title = f"`{where}`, `kind: {kind}`"
    rows = [
        _row(described, name, field)
        for name, field in described.model_fields.items()
        if not (name == "kind" and kind) and name != "provenance"
    ]
    return [f"\n### {title}\n", *_table(rows)] if rows else []


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    head = ("key", "takes", "unit", "default", "effect")
    return [_line(head), _line(("---",) * len(head)), *map(_line, rows)]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _row(described: type[BaseModel], name: str, field: FieldInfo) -> tuple[str, ...]:
    written = field.alias or name
    default = "" if field.is_required() else field.get_default(call_default_factory=True)
    return (
        f"`{written}`",
        _takes(field, name),
        _unit(field, name),
        "required" if field.is_required() else _default(default),
        effect_of(described, name) or "",
    )


def _kind_of(described: type[BaseModel]) -> str:
    kind = described.model_fields.get("kind")
    words = get_args(kind.annotation) if kind is not None and get_origin(kind.annotation) is Literal else ()
    return str(words[0]) if len(words) == 1 else ""


def _metadata(annotation: Any) -> Iterator[Any]:
    """All that annotations say of a value, whether it may be left out or not."""
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _metadata(of[0])
        for one in of[1:]:
            yield from one.metadata if isinstance(one, FieldInfo) else [one]
    elif origin in (Union, types.UnionType):
        for one in of:
            yield from _metadata(one)
    elif origin is dict:
        yield from _metadata(of[1])


def _all_metadata(field: FieldInfo) -> list[Any]:
    return [*_metadata(field.annotation), *field.metadata]


def _takes(field: FieldInfo, name: str) -> str:
    if field.annotation is Any and (name in RULE_KINDS or name == "kernels"):
        return "a [rule](#rules-by-their-kind)"
    found = [*dict.fromkeys(_kinds(field.annotation))] or [_words(field)]
    limits = _limits(_all_metadata(field), whole=float not in set(_numbers(field.annotation)))
    return ", ".join(found) + (f", {limits}" if limits else "")


def _words(field: FieldInfo) -> str:
    """The words that a field takes beside a script's callable."""
    for one in field.metadata:
        if isinstance(one, WithJsonSchema):
            return " or ".join(f"`{word}`" for word in (one.json_schema or {}).get("enum", ()))
    return ""


def _kinds(annotation: Any) -> Iterator[str]:
    """What a value may be, in words."""
    origin, of = get_origin(annotation), get_args(annotation)
    if annotation in (type(None), Any):
        return
    if origin is Annotated:
        yield from _kinds(of[0])
    elif origin in (Union, types.UnionType):
        blocks = [one for one in of if _kind_of_any(one)]
        if blocks:
            yield "a block with `kind`: " + ", ".join(f"`{_kind_of_any(one)}`" for one in blocks)
        for one in of:
            if one not in blocks:
                yield from _kinds(one)
    elif origin is Literal:
        yield " or ".join(f"`{word}`" for word in of)
    elif origin is dict:
        inner = ", ".join(dict.fromkeys(_kinds(of[1])))
        yield f"by name: {inner}"
    elif origin in (tuple, list):
        inner = ", ".join(dict.fromkeys(_kinds(of[0])))
        yield f"a list: {inner}"
    else:
        yield _SIMPLE.get(annotation, "a block")


_SIMPLE: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _kind_of_any(annotation: Any) -> str:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    is_block = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return _kind_of(annotation) if is_block else ""


def _limits(metadata: list[Any], whole: bool = False) -> str:
    """The bounds of a number, in words."""
    least: list[str] = []
    most: list[str] = []
    for one in metadata:
        if isinstance(one, bounds.Gt):
            least.append(f"from {int(str(one.gt)) + 1}" if whole else f"above {_number(one.gt)}")
        elif isinstance(one, bounds.Ge):
            least.append(f"from {_number(one.ge)}")
        elif isinstance(one, bounds.Lt):
            most.append(f"below {_number(one.lt)}")
        elif isinstance(one, bounds.Le):
            most.append(f"to {_number(one.le)}")
    return " ".join([*least[-1:], *most[-1:]])


def _unit(field: FieldInfo, name: str) -> str:
    for one in _all_metadata(field):
        kind = getattr(one, "func", None)
        if isinstance(kind, QuantityKind):
            return kind.base
    if {int, float} & set(_numbers(field.annotation)):
        for end, unit in UNITS_BY_NAME.items():
            if name.endswith(end):
                return unit
    return ""


def _numbers(annotation: Any) -> Iterator[Any]:
    yield annotation
    for one in get_args(annotation):
        yield from _numbers(one)


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"`{_number(value)}`"
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    if isinstance(value, tuple | dict):
        return "none" if not value else f"`{value}`"
    if isinstance(value, BaseModel):
        kind = _kind_of(type(value))
        inner = {name: one for name, one in value.model_dump().items() if name != "kind"}
        if kind:
            return f"`{kind}` {', '.join(_number(one) for one in inner.values())}".strip()
        return "its defaults"
    names = {rule: name for kinds in RULE_KINDS.values() for name, rule in kinds.items()}
    return f"`{names[type(value)]}`" if type(value) in names else "`formula`"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) or abs(value) >= 1e7 else str(value)


def _rules() -> list[str]:
    """The rules that are chosen by name, with their knobs."""
    text = [
        "\n### Rules by their kind\n",
        "Written by name, `router: round_robin`, or with knobs,",
        "`router: {kind: power_of_choices, choices: 3}`; a script gives any callable.\n",
    ]
    rows: list[tuple[str, ...]] = []
    for place, kinds in RULE_KINDS.items():
        for kind, rule in kinds.items():
            says = " ".join((rule.__doc__ or "").split("\n\n")[0].split())
            rows.append((f"`{place}`", f"`{kind}`", ", ".join(_knobs(place, rule)), says))
    rows.append(("`kernels`", "`formula`", "", "Formulas with the parameters of the GPU."))
    rows.append(
        (
            "`kernels`",
            "`measured`",
            f"`path`: {RULES['kernels']['path']}",
            "Times from a table, between its points.",
        )
    )
    head = ("key", "kind", "knobs (default)", "what it does")
    return [*text, _line(head), _line(("---",) * len(head)), *map(_line, rows)]


def _knobs(place: str, rule: Any) -> Iterator[str]:
    hints = get_type_hints(rule, include_extras=True)
    for knob in dataclasses.fields(rule):
        limits = _limits(list(_metadata(hints[knob.name])))
        default = "required" if knob.default is dataclasses.MISSING else f"`{knob.default}`"
        effect = RULES[place].get(knob.name, "")
        yield f"`{knob.name}` ({default}{', ' + limits if limits else ''}){': ' + effect if effect else ''}"
