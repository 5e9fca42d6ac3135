"""Which files a description was read from: every reader says so, and whatever loads a scenario listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_listening: ContextVar[set[Path] | None] = ContextVar("_listening", default=None)


@contextmanager
def files_read() -> Iterator[set[Path]]:
    """The files that are read inside the block, those of inner blocks too."""
    outer = _listening.get()
    found: set[Path] = set()
    token = _listening.set(found)
    try:
        yield found
    finally:
        _listening.reset(token)
        if outer is not None:
            outer |= found


def file_read(path: Path) -> None:
    """Say that a file is being read."""
    found = _listening.get()
    if found is not None:
        found.add(path.resolve())
