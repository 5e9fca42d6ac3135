"""The keys of one `config.json`, read by name, with what is wrong about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sim.inputs.errors import Problem


class Config:
    """The keys of one config.json; remembers what is missing or no number, so that all of it is reported at
    once.
    """

    def __init__(self, keys: Mapping[str, Any], file: str, text: str) -> None:
        self.keys, self.file, self.text = keys, file, text
        self.problems: list[Problem] = []

    def problem(self, key: str, what: str) -> None:
        found = re.search(rf'"{re.escape(key)}"\s*:', self.text)
        line = self.text.count("\n", 0, found.start()) + 1 if found else None
        self.problems.append(Problem(what, self.file, line, key))

    def count(self, *names: str, default: int | None = None, most: int = 10**9) -> int:
        """A whole number from 0 to `most` under the first of `names` that is there."""
        for name in names:
            value = self.keys.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                given = str(value)[:40] if isinstance(value, bool | float | str) else shown(value)
                self.problem(name, f"{given!r} is not a count; a whole number from 0 to {most} is")
                return 1
            return value
        if default is None:
            self.problem(names[0], f"is missing; a config.json of {self.keys.get('model_type')!r} has it")
            return 1
        return default

    def like(self, keys: Mapping[str, Any]) -> Config:
        """Other keys of the same file, those without a value left out; their problems are told together."""
        other = Config({key: value for key, value in keys.items() if value is not None}, self.file, self.text)
        other.problems = self.problems
        return other

    def with_defaults(self, keys: Mapping[str, Any]) -> Config:
        """The same keys, and those of `keys` that the file leaves out."""
        return self.like({**keys, **{key: value for key, value in self.keys.items() if value is not None}})

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.keys.get(name)
        return default if value is None else bool(value)


def shown(given: object) -> str:
    """The beginning of a value: one of a million digits cannot be written out whole."""
    if isinstance(given, int) and abs(given) > 10**60:
        return "a number of more than 60 digits"
    return str(given)[:60]
