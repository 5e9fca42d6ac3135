"""A verdict as it is told: sentences with their numbers apart from the words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Number = float | int | str


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words with a place for every number, and the numbers. `topic`: run, load, limit, use, links,
    objectives, slowest, look, changes or help; `about` is the one thing that it names, as a word to look up.

    >>> str(Sentence("limit", "{what} take {share:.0%}.", {"what": "seats", "share": 0.5}, "seats"))
    'seats take 50%.'
    """

    topic: str
    words: str
    numbers: Mapping[str, Number] = field(default_factory=dict, hash=False)
    about: str = ""

    def __str__(self) -> str:
        return self.words.format(**self.numbers)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `text` is the whole sentence."""
        return {
            "topic": self.topic, "about": self.about, "text": str(self), "words": self.words,
            "numbers": dict(self.numbers),
        }  # fmt: skip


class Verdict(tuple[Sentence, ...]):
    """The sentences of a run. Printed, and in a notebook, a line each.

    >>> Verdict([Sentence("load", "All is well.")])
    All is well.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__

    def about(self, topic: str) -> tuple[str, ...]:
        """What the sentences of a topic name."""
        return tuple(one.about for one in self if one.topic == topic)

    def _repr_html_(self) -> str:
        from html import escape

        return "".join(f"<p>{escape(str(one))}</p>\n" for one in self)
