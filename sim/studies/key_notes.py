"""What a study says of the keys that its scenarios set: a key that no run of them read, and a swept key whose
values all give the same numbers. Each is said once, not once a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sim.results.key_words import Key, name_of, sentence, together
from sim.results.kv_capacity import KEYS
from sim.studies.points import Row

MOST = 10
"""Notes; the summaries of the runs have all."""


def without_effect(rows: Iterable[Row]) -> dict[Key, str]:
    """The keys that no run read, and why not in the first of them."""
    blocks = [row.summary["keys"]["no_effect"] for row in rows if row.summary.get("keys")]
    if not blocks:
        return {}
    return {_key(name): why for name, why in blocks[0].items() if all(name in block for block in blocks)}


def notes_of(rows: Sequence[Row], swept: Iterable[str] = (), of: str = "") -> tuple[str, ...]:
    """One line for each block of keys without effect, and for each swept key that changes no number."""
    unread = without_effect(rows)
    lines = [f"{of}{sentence(keys, why)}" for keys, why in together(unread)]
    if len(lines) > MOST:
        lines[MOST:] = [f"{of}and {len(lines) - MOST} more notes: see keys in the summaries of the runs"]
    for path in swept:
        key = tuple(int(step) if step.isdigit() else step for step in path.split("."))
        if any(other[: len(key)] == key for other in unread) or not _all_equal(rows, path):
            continue
        bound = _bounds(rows, name_of(key))
        told = f" (it did not bind: {'; '.join(bound)})" if bound else ""
        lines.append(f"{of}{name_of(key)}: all of its values give the same numbers{told}")
    return tuple(lines)


def _all_equal(rows: Sequence[Row], path: str) -> bool:
    """Whether runs that differ in one key only have the same numbers."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.status == "done":
            rest = [change for change in row.point.changes if change[0] != path]
            groups.setdefault(repr((row.point.scenario, rest, row.point.seed)), []).append(row)
    several = [group for group in groups.values() if len(group) > 1]
    return bool(several) and all(_numbers(row) == _numbers(group[0]) for group in several for row in group)


def _numbers(row: Row) -> dict[str, Any]:
    """What was measured: the KV capacity is a property of the engine, and the words are of the keys."""
    left_out = (*KEYS, "engines", "keys")
    return {name: repr(value) for name, value in row.summary.items() if name not in left_out}


def _bounds(rows: Sequence[Row], name: str) -> list[str]:
    blocks: Iterator[Mapping[str, str]] = (
        row.summary["keys"]["did_not_bind"] for row in rows if row.status == "done"
    )
    return list(dict.fromkeys(block[name] for block in blocks if name in block))


def _key(name: str) -> Key:
    """`faults[0].at_s` as ('faults', 0, 'at_s')."""
    steps = re.findall(r"\[(\d+)\]|([^.\[\]]+)", name)
    return tuple(int(place) if place else step for place, step in steps)
