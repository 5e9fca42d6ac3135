"""From pydantic's findings to messages a person can act on: where, what is wrong, what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sim.inputs.errors import InfeasibleError, InputError, LocatedError, Problem, UnfinishedError
from sim.reading.yaml_lines import Document, Key, dotted

__all__ = [
    "InfeasibleError",
    "InputError",
    "Problem",
    "UnfinishedError",
    "did_you_mean",
    "problems_of",
    "unknown_name",
    "validated",
]

_BOUNDS = {
    "greater_than_equal": "at least",
    "greater_than": "more than",
    "less_than_equal": "at most",
    "less_than": "less than",
}

_UNKNOWN = "is not a known key"
_MISSING = "is missing; this key is needed"
_HINT = re.compile(r"did you mean '(.*)'\?$")

Described = TypeVar("Described", bound=BaseModel)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean 'nodes'?`, or nothing where no known name is near.

    >>> did_you_mean("node", ["nodes", "name"])
    "; did you mean 'nodes'?"
    """
    known = list(known)
    by_lower = {name.lower().replace("_", "-"): name for name in known}
    begun = [name for name in known if len(str(wrong)) >= 3 and name.startswith(str(wrong))]
    if begun:
        return f"; did you mean '{begun[0]}'?"
    near = get_close_matches(str(wrong).lower().replace("_", "-"), by_lower, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{by_lower[near[0]]}'?"
    inside = [name for name in known if str(wrong).lower() in name.lower()] if len(str(wrong)) >= 3 else []
    return f"; did you mean '{inside[0]}'?" if inside else ""


def unknown_name(kind: str, name: str, known: Sequence[str]) -> str:
    """What to say where `name` is not among the known names of a kind."""
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"there is no {kind} named '{name}'; known are {listed}{did_you_mean(name, known)}"


def validated(model: type[Described], data: Any, document: Document, at: Key = ()) -> Described:
    """`data` as a `model`, where it stands at the path `at` of `document`. InputError with all problems."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InputError(problems_of(error, document, at, model)) from error


def problems_of(
    error: ValidationError,
    document: Document | None = None,
    at: Key = (),
    model: type[BaseModel] | None = None,
) -> list[Problem]:
    """One problem for each thing that pydantic found, with the line of `document` where it is."""
    problems: dict[tuple[Key, str], Problem] = {}
    written = _at(document.data, at) if document is not None else None
    errors = error.errors(include_url=False)
    told = {(details["loc"], details["type"]) for details in errors}
    for details in errors:
        # Pools inherit: what is written once, above them, is no fault of theirs.
        if details["loc"][:1] == ("pools",) and (details["loc"][2:], details["type"]) in told:
            continue
        for where, value, what in _located(details, model, written):
            key = (*at, *where)
            if document is None:
                problem = Problem(what, key=dotted(key))
            else:
                problem = document.problem(key, what)
            problems.setdefault((key, what), replace(problem, value=value))
    meant = {  # a key that is misspelt is not missing besides
        (*key[:-1], hint[1])
        for key, what in problems
        if what.startswith(_UNKNOWN) and (hint := _HINT.search(what))
    }
    return [problem for (key, what), problem in problems.items() if what != _MISSING or key not in meant]


def _located(
    details: ErrorDetails, model: type[BaseModel] | None, written: Any = None
) -> Iterator[tuple[Key, str, str]]:
    """Each key of a finding, its value where the message does not say it, and the message."""
    location = _without_branches(details, written)
    if written is not None:
        location = _without_kinds(location, written)
    inner = details.get("ctx", {}).get("error")
    if isinstance(inner, LocatedError):
        for where, what in inner.found:
            yield (*location, *where), "", what
        return
    bound = _bound(details)
    if bound:
        yield location, _shown(details["input"]), bound
    else:
        yield location, "", _sentence(details, location, model)


def _at(data: Any, location: Key) -> Any:
    for part in location:
        inside = isinstance(data, Mapping) and part in data
        listed = isinstance(data, list) and isinstance(part, int) and part < len(data)
        data = data[part] if inside or listed else None
    return data


def _without_kinds(location: Key, written: Any) -> Key:
    """`location` as in the file: pydantic adds the `kind` it chose by and what a shorthand stands for."""
    kept: Key = ()
    for part in location:
        if isinstance(written, Mapping) and part not in written and written.get("kind") == part:
            continue
        if kept and not isinstance(written, Mapping | list):
            break
        kept = (*kept, part)
        written = _at(written, (part,))
    return kept


def _without_branches(details: ErrorDetails, written: Any) -> Key:
    """The location without the branches of unions, but with keys that are written like one."""
    kept: Key = ()
    for number, part in enumerate(details["loc"], start=1):
        is_unknown_key = details["type"] == "extra_forbidden" and number == len(details["loc"])
        if _is_branch(part) and not is_unknown_key and not (isinstance(written, Mapping) and part in written):
            continue
        kept = (*kept, part)
        written = _at(written, (part,))
    return kept


def _is_branch(part: str | int) -> bool:
    """Pydantic puts the branch of a union that it tried (`tuple[...]`, `constrained-int`) among the keys."""
    return isinstance(part, str) and ("[" in part or "constrained" in part or "function-" in part)


def _bound(details: ErrorDetails) -> str:
    """What the value must be, where that can be said without the rest of the file; else nothing."""
    context = details.get("ctx", {})
    match details["type"]:
        case "literal_error" | "enum":
            expected = str(context["expected"])
            return f"must be {expected}{_choice_meant(details['input'], expected)}"
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            kind, bound = str(details["type"]), next(iter(context.values()))
            # Of whole numbers the bound itself is left out: more than 0 is at least 1.
            if isinstance(bound, int) and kind in ("greater_than", "less_than"):
                bound += 1 if kind == "greater_than" else -1
                kind += "_equal"
            return f"must be {_BOUNDS[kind]} {bound}"
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number, as in 8"
        case "float_type" | "float_parsing":
            return "must be a number, as in 0.9"
        case "finite_number":
            return "must be finite"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "string_type":
            return "must be text"
        case "dict_type" | "model_type" | "model_attributes_type" | "mapping_type":
            return "must be a mapping, with keys and values below it"
        case "list_type" | "tuple_type":
            return "must be a list, as in [1, 2]"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
    return ""


def _sentence(details: ErrorDetails, location: Key, model: type[BaseModel] | None) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            known = _fields_at(model, location[:-1])
            hint = did_you_mean(str(location[-1]), known)
            listed = f"; known are {', '.join(known)}" if known and not hint else ""
            return f"{_UNKNOWN}{listed}{hint}"
        case "missing":
            return _MISSING
        case "value_error" | "assertion_error":
            return str(context.get("error", details["msg"]))
        case "union_tag_invalid":
            expected = str(context["expected_tags"])
            hint = _choice_meant(context["tag"], expected)
            return f"kind = {context['tag']!r}: must be one of {expected}{hint}"
        case "union_tag_not_found":
            return "has no kind; say which with 'kind:'"
    return f"{_shown(details['input'])}: {details['msg'][:1].lower()}{details['msg'][1:]}"


def _choice_meant(written: Any, expected: str) -> str:
    """The nearest of the choices that pydantic lists as `'a', 'b' or 'c'`."""
    return did_you_mean(
        str(written), [name.strip(" '") for name in expected.replace(" or ", ", ").split(",")]
    )


def _shown(written: Any) -> str:
    text = repr(written)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(model: Any, location: Key) -> list[str]:
    """The keys that what stands at `location` below `model` takes; none where that is unclear."""
    candidates = [model]
    for part in location:
        candidates = [inner for candidate in candidates for inner in _step(candidate, part)]
    fields: list[str] = []
    for candidate in candidates:
        for described in _models_in(candidate):
            fields += [field.alias or name for name, field in described.model_fields.items()]
    return list(dict.fromkeys(fields))


def _step(annotation: Any, part: str | int) -> list[Any]:
    found: list[Any] = []
    for described in _models_in(annotation):
        for name, field in described.model_fields.items():
            if part in (name, field.alias):
                found.append(field.annotation)
    if not found:
        for container in _branches(annotation):
            if get_origin(container) in (dict, list, tuple) or get_origin(container) is not None:
                found += [argument for argument in get_args(container)[-1:] if argument is not Ellipsis]
                found += [
                    argument
                    for argument in get_args(container)[:1]
                    if get_args(container)[-1:] == (Ellipsis,)
                ]
    return found


def _branches(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is None or origin in (dict, list, tuple):
        return [annotation]
    if hasattr(annotation, "__metadata__"):
        return _branches(get_args(annotation)[0])
    if origin is Union or str(origin) == "<class 'types.UnionType'>":
        return [branch for argument in get_args(annotation) for branch in _branches(argument)]
    return [annotation]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    return [
        branch
        for branch in _branches(annotation)
        if isinstance(branch, type) and issubclass(branch, BaseModel)
    ]
