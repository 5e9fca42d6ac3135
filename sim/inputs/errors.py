"""The three ways in which a run can be refused, each with the exit status of the command `sim`.

`InputError` (2): what was written is wrong. `InfeasibleError` (3): what was written is clear but cannot
be. `UnfinishedError` (4): the run began and did not come to its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input, and where.

    Prints as `file:line: key.path = value: what must be`.

    >>> print(Problem("must be at least 1", "rack.yaml", 7, "links.nvlink5.count", "0"))
    rack.yaml:7: links.nvlink5.count = 0: must be at least 1
    """

    what: str
    file: str = ""
    line: int | None = None
    key: str = ""
    value: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(part for part in (where, self.statement) if part)

    @property
    def statement(self) -> str:
        """Key, value and what is wrong, without the place: for a message about another place."""
        named = " = ".join(part for part in (self.key, self.value) if part)
        return ": ".join(part for part in (named, self.what) if part)


class InputError(Exception):
    """The input is wrong. Carries every problem that was found; its text has one problem per line."""

    exit_status: ClassVar[int] = 2

    def __init__(self, problems: Problem | str | Iterable[Problem | str]) -> None:
        if isinstance(problems, Problem | str):
            problems = (problems,)
        self.problems: tuple[Problem, ...] = tuple(
            Problem(problem) if isinstance(problem, str) else problem for problem in problems
        )
        super().__init__("\n".join(map(str, self.problems)))


class InfeasibleError(Exception):
    """The scenario cannot be: it does not fit, is unreachable or indivisible. `nearest` is what can be.

    >>> print(InfeasibleError("two GPUs cannot hold 405 GB", "six can"))
    two GPUs cannot hold 405 GB; six can
    """

    exit_status: ClassVar[int] = 3

    def __init__(self, reason: str, nearest: str = "") -> None:
        self.reason = reason
        self.nearest = nearest
        super().__init__(f"{reason}; {nearest}" if nearest else reason)

    def at(self, where: Problem) -> InfeasibleError:
        """The same, with the file, line and key of `where` before it."""
        return InfeasibleError(str(replace(where, what=self.reason)), self.nearest)


class UnfinishedError(Exception):
    """The run did not finish (time limit, starvation). `waiting` says what was waiting for what."""

    exit_status: ClassVar[int] = 4

    def __init__(self, reason: str, waiting: Iterable[str] = ()) -> None:
        self.reason = reason
        self.waiting: tuple[str, ...] = tuple(waiting)
        super().__init__("\n".join((reason, *self.waiting)))


class LocatedError(ValueError):
    """Several things wrong with one description, each with the path of keys that it is about."""

    def __init__(self, found: Iterable[tuple[tuple[str | int, ...], str]]) -> None:
        self.found = tuple(found)
        super().__init__("\n".join(f"{'.'.join(map(str, where))}: {what}" for where, what in self.found))
