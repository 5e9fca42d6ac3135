"""YAML with line numbers, which refuses what is ambiguous (duplicate keys) or hostile (bombs)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sim.inputs.errors import InputError, Problem
from sim.reading.text_files import text_of

MAX_BYTES = 4_000_000
MAX_VALUES = 200_000
DEEPEST = 40

Key = tuple[str | int, ...]
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TAGS = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "map", "seq")}
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Document:
    """The contents of a file, and the line on which each key stands. `data` is a mapping of plain values."""

    path: Path
    data: dict[str, Any]
    lines: dict[Key, int]

    def line_of(self, key: Key) -> int | None:
        """The line of `key` (a path of keys and list positions), else of the nearest key around it."""
        for end in range(len(key), -1, -1):
            line = self.lines.get(key[:end])
            if line is not None:
                return line
        return None

    def problem(self, key: Key, what: str) -> Problem:
        """`what` is wrong with `key`, with file and line."""
        return Problem(what, str(self.path), self.line_of(key), dotted(key))


def dotted(key: Key) -> str:
    """`('wires', 2, 'link')` as `wires[2].link`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def read_yaml(path: str | Path) -> Document:
    """The file as plain data with line numbers. InputError where it cannot be read."""
    path = Path(path)
    text = text_of(path, "a YAML file", MAX_BYTES)
    try:
        document = parse_yaml(text, path)
    except InputError:
        _refuse_by_kind(text, path)
        raise
    if text.lstrip().startswith("{"):  # JSON, which is YAML too
        _refuse_by_kind(text, path)
    return document


def _refuse_by_kind(text: str, path: Path) -> None:
    """InputError for a file of another kind, with what it is and what reads it."""
    from sim.reading.known_files import known_kind

    other = known_kind(text)
    if other:
        raise InputError(Problem(f"is no YAML file: {other.replace('FILE', path.name)}", str(path))) from None


def parse_yaml(text: str, path: str | Path = "<text>") -> Document:
    """Like `read_yaml`, from text; `path` is what messages call it."""
    path = Path(path)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise InputError(_syntax_problem(error, text, path)) from error
    except RecursionError as error:
        raise InputError(_too_deep(path, None)) from error
    if root is None:
        raise InputError(
            Problem("is empty; a mapping of keys to values is needed, as in 'name: my-system'", str(path))
        )
    if not isinstance(root, yaml.MappingNode):
        what = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise InputError(
            Problem(f"is {what} at its top level; a mapping is needed, as in 'name: my-system'", str(path), 1)
        )
    builder = _Builder(path)
    data = builder.value(root, (), 0)
    if builder.problems:
        raise InputError(builder.problems)
    return Document(path, data, builder.lines)


def _syntax_problem(error: yaml.YAMLError, text: str, path: Path) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else None
    lines = text.splitlines()
    written = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return Problem("a tab cannot indent YAML; use spaces", str(path), line)
    what = str(getattr(error, "problem", None) or error).strip()
    if "nesting depth" in what:  # PyYAML's own limit, from 6.0.4 on; earlier ones run out of stack
        return _too_deep(path, line)
    opened = _left_open(text)
    if opened is not None:
        sign, line = opened
        closing = _CLOSING.get(sign, sign)
        return Problem(
            f"the {sign} of this line is never closed; write {closing} where it ends", str(path), line
        )
    hint = "check the indentation, the colons and the brackets here and just above"
    return Problem(f"is not valid YAML: {what}; {hint}", str(path), line)


_CLOSING = {"{": "}", "[": "]"}
_SIGNS = re.compile(r"""\n|'(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|(?<!\S)\#[^\n]*|[][{}'"]""", re.DOTALL)
_BEFORE_A_VALUE = "\n,:[{-"  # a quote or a bracket after anything else is part of a text, as in Don't


def _left_open(text: str) -> tuple[str, int] | None:
    """The bracket or quote that no later line of a text closes, and the line that it stands on."""
    opened: list[tuple[str, int]] = []
    line, at = 1, 0
    while found := _SIGNS.search(text, at):
        sign, at = found[0], found.end()
        first = sign[0]
        before = text[max(0, found.start() - 200) : found.start()].rstrip(" ")[-1:] or "\n"
        if first in "'\"" and before not in _BEFORE_A_VALUE:
            at = found.start() + 1  # an apostrophe
        elif sign in ("'", '"'):
            return sign, line
        elif first in "[{" and (opened or before in _BEFORE_A_VALUE):
            opened.append((first, line))
        elif first in "]}" and opened:
            if _CLOSING[opened[-1][0]] != first:
                return opened[-1]
            opened.pop()
        line += text.count("\n", found.start(), at)
    return opened[-1] if opened else None


def _too_deep(path: Path, line: int | None) -> Problem:
    return Problem(f"is nested too deeply; at most {DEEPEST} levels are read", str(path), line)


class _Builder:
    """Plain values from YAML nodes, with lines. Aliases are expanded, and count each time that they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Key, int] = {}
        self.problems: list[Problem] = []
        self.values = 0

    def value(self, node: yaml.Node, key: Key, depth: int) -> Any:
        self.values += 1
        line = node.start_mark.line + 1
        if self.values > MAX_VALUES:
            raise InputError(
                Problem(
                    f"expands to more than {MAX_VALUES} values; aliases multiply, so write fewer of them",
                    str(self.path),
                )
            )
        if depth > DEEPEST:
            raise InputError(_too_deep(self.path, line))
        self.lines.setdefault(key, line)
        if node.tag not in _TAGS:
            self._problem(line, key, f"tag {node.tag!r} is not read; write plain values")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*key, i), depth + 1) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, key: Key, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for name_node, value_node in self._entries(node, key):
            name = name_node.value
            line = name_node.start_mark.line + 1
            if name in mapping:
                first = self.lines[(*key, name)]
                self._problem(line, (*key, name), f"is given twice, first on line {first}; keep one of them")
                continue
            self.lines[(*key, name)] = line
            mapping[name] = self.value(value_node, (*key, name), depth + 1)
        return mapping

    def _entries(self, node: yaml.MappingNode, key: Key) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode):
                self._problem(line, key, "a key is a list or a mapping; a plain word is needed")
            elif name_node.tag == "tag:yaml.org,2002:merge":
                self._problem(
                    line, key, "'<<' merges are not read; write the keys out, or use an alias for the value"
                )
            else:
                yield name_node, value_node

    def _problem(self, line: int, key: Key, what: str) -> None:
        self.problems.append(Problem(what, str(self.path), line, dotted(key)))


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() in ("true", "yes", "on")
        case "int":
            return _integer(text)
        case "float":
            return _float(text)
    # YAML 1.1 takes 1e6 for text, because it has no dot
    return float(text.replace("_", "")) if not node.style and _NUMBER.fullmatch(text) else text


def _integer(text: str) -> int | str:
    digits = text.replace("_", "")
    if len(digits) > 40:
        return text
    try:
        # 010 is eight to YAML 1.1 and ten to its readers; 1:30 is ninety to it and text to them.
        return (
            text
            if ":" in digits
            else int(digits, 0 if digits.lstrip("+-")[:2].lower() in ("0x", "0b") else 10)
        )
    except ValueError:
        return text


def _float(text: str) -> float | str:
    if text.lower().lstrip("+-") in (".inf", ".nan"):
        return math.nan if "nan" in text.lower() else math.copysign(math.inf, -1 if text[0] == "-" else 1)
    try:
        return float(text.replace("_", ""))
    except ValueError:
        return text
