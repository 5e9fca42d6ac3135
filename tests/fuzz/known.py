"""Faults that broken inputs are known to lead to and that are not mended yet: a kind, and a function on the
way.

To be empty.
"""

from __future__ import annotations

from tests.fuzz.worker import Fault

KNOWN: tuple[tuple[str, str], ...] = ()


def is_known(fault: Fault) -> bool:
    """Whether a fault is one of the list."""
    return any(
        fault.kind.startswith(kind) and (not name or name in fault.place.split()) for kind, name in KNOWN
    )
