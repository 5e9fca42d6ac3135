"""Notes on keys that are set and have no effect: on standard error, the first of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sim.cli.output import note
from sim.inputs.errors import Problem
from sim.results.key_words import Key, sentence, together

MOST = 10
"""Lines; the report and the JSON have all."""


def note_keys(
    without_effect: Mapping[Key, str],
    problem: Callable[[Key, str], Problem] | None = None,
    of: str = "",
) -> None:
    """A line for each block of keys that nothing read for one reason, with the place where the first of them
    is written, as `problem` finds it. `of` says of which scenario they are.
    """
    lines = list(together(without_effect))
    for keys, why in lines[:MOST]:
        place = problem(keys[0], "") if problem is not None else None
        where = f"{place.file}:{place.line}: " if place is not None and place.line else ""
        note(f"note: {of}{where}{sentence(keys, why)}")
    if len(lines) > MOST:
        left = sum(len(keys) for keys, _ in lines[MOST:])
        note(
            f"note: {of}and {left} more keys have no effect: see the report (--out), or keys in --format json"
        )
