"""What came of every key that a scenario sets, in one of three words: it acted, it was read and did not bind,
or no cost, route or decision of the run read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Acted:
    """Some cost, route or decision of the run rests on the key."""


@dataclass(frozen=True, slots=True)
class DidNotBind:
    """The key was read, and with a somewhat other value the run would have been the same: `what` has the
    limit and how near the run came to it.
    """

    what: str


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Nothing read the key, whatever its value: `why`."""

    why: str


Word = Acted | DidNotBind | NoEffect
ACTED = Acted()


@dataclass(frozen=True)
class KeyWords:
    """The word of each key that the scenario sets, in the order in which they are written."""

    words: Mapping[Key, Word]

    @property
    def without_effect(self) -> dict[Key, str]:
        """The keys that nothing read, and why."""
        return {key: word.why for key, word in self.words.items() if isinstance(word, NoEffect)}

    @property
    def without_binding(self) -> dict[Key, str]:
        """The keys that were read and did not bind, with the limit and the peak."""
        return {key: word.what for key, word in self.words.items() if isinstance(word, DidNotBind)}

    def summary(self) -> dict[str, Any]:
        """As a block of a summary: `acted`, `did_not_bind` and `no_effect`."""
        return {
            "acted": [name_of(key) for key, word in self.words.items() if isinstance(word, Acted)],
            "did_not_bind": {name_of(key): what for key, what in self.without_binding.items()},
            "no_effect": {name_of(key): why for key, why in self.without_effect.items()},
        }


def name_of(key: Key) -> str:
    """A key as `--set` and messages write it.

    >>> name_of(("faults", 0, "link"))
    'faults[0].link'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in key).lstrip(".")


def together(without_effect: Mapping[Key, str]) -> Iterator[tuple[list[Key], str]]:
    """Keys of one block that have no effect for one reason, as one entry."""
    groups: dict[tuple[Key, str], list[Key]] = {}
    for key, why in without_effect.items():
        groups.setdefault((key[:-1], why), []).append(key)
    for (_, why), keys in groups.items():
        yield keys, why


def sentence(keys: Iterable[Key], why: str) -> str:
    """`a.b and c have no effect here: why`, the keys after the first by their last step."""
    first, *others = keys
    steps = [str(key[-1]) for key in others]
    if not steps:
        return f"{name_of(first)} has no effect here: {why}"
    listed = ", ".join([name_of(first), *steps[:-1]])
    return f"{listed} and {steps[-1]} have no effect here: {why}"
