"""Text of files that a user names: never more than a description needs, and nothing of what is no file."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path

from sim.inputs.errors import InputError, Problem
from sim.reading.files_read import file_read


def text_of(path: Path, kind: str, max_bytes: int) -> str:
    """The whole of a UTF-8 file; `kind` is what messages ask for, as in `a YAML file`.

    InputError where the file cannot be read, is longer than `max_bytes` or is no text. Its size is not
    asked for: a pipe has none, and what is read is bounded either way.
    """
    name = str(path)
    refuse_what_is_no_file(path, kind)
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        file_read(path)
    except OSError as error:
        raise InputError(
            Problem(f"cannot be read: {error.strerror or error}; {kind} is needed", name)
        ) from error
    if len(content) > max_bytes:
        raise InputError(Problem(f"is larger than {kind} is; of bytes at most {max_bytes} are read", name))
    if b"\0" in content:
        raise InputError(Problem(f"is a binary file; {kind} is needed", name))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(Problem("is not UTF-8 text; save it as UTF-8", name, line)) from error


def refuse_what_is_no_file(path: Path, kind: str) -> None:
    """InputError for a path that does not exist, and for a folder or a device, which has no end."""
    name = str(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(Problem("there is no such file; it cannot be read", name)) from error
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte
        why = getattr(error, "strerror", None) or error
        shown = name if len(name) <= 60 else f"{name[:57]}..."
        raise InputError(Problem(f"cannot be read: {why}; {kind} is needed", shown)) from error
    if stat.S_ISDIR(mode):
        raise InputError(Problem(f"cannot be read: is a directory; {kind} is needed", name))
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise InputError(Problem(f"cannot be read: is a device; {kind} is needed", name))


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ ./%()-]{0,30}")


def shown_header(columns: Iterable[str]) -> str:
    """The columns of a table as a message may name them.

    The first line of a file that is no table is not repeated: it may be of a file that was never meant to
    be read, one of passwords among them.
    """
    names = [column.strip() for column in columns]
    if len(names) < 2 or not all(_NAME.fullmatch(name) for name in names):
        return "none (its first line is no header of a table)"
    return ", ".join(names)[:300]
