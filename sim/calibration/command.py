"""How commands of `python -m sim.studies.NAME` begin and end: files are there, what is wrong is one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from sim.inputs.errors import InputError, Problem


def existing(path: str) -> Path:
    """A file or folder that is named on the command line. InputError where there is none."""
    found = Path(path)
    if not found.exists():
        raise InputError(Problem("there is no such file or folder", path))
    return found


def run(main: Callable[[], None]) -> None:
    """Run it, and leave with the status that the command line has for a refusal."""
    try:
        main()
    except InputError as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(refusal.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
