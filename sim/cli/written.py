"""Where in a scenario's file a thing stands that turns out to be wrong only when the scenario is run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sim.inputs.errors import Problem
from sim.reading.yaml_lines import Document, Key, dotted, read_yaml


@dataclass(frozen=True)
class Written:
    """A scenario's file, and the keys that the command line changed: those stand in no line of it."""

    document: Document
    changed: tuple[str, ...]

    @classmethod
    def read(cls, path: str, changes: Iterable[str]) -> Written:
        return cls(read_yaml(path), tuple(change.partition("=")[0].strip() for change in changes))

    def problem(self, key: Key, what: str) -> Problem:
        """`what` is wrong with `key`, with file and line where the file says it."""
        if any(_is_within(dotted(key), change) for change in self.changed):
            return Problem(what, key=dotted(key))
        return self.document.problem(key, what)

    def named_in(self, reason: str) -> Problem:
        """The first key that the words of `reason` name, of those that the file or the command line writes;
        without one the file as a whole.
        """
        keys = {str(key[-1]): key for key in sorted(self.document.lines, key=len, reverse=True) if key}
        keys.update((change.rpartition(".")[2], tuple(change.split("."))) for change in self.changed)
        for word in re.findall(r"[a-z_]+", reason):
            if word in keys:
                return self.problem(keys[word], "")
        return Problem("", str(self.document.path))


def _is_within(key: str, change: str) -> bool:
    return key == change or key.startswith((f"{change}.", f"{change}["))
