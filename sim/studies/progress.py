"""How far a study has come and how long the rest will take, on one line of standard error."""

from __future__ import annotations

import sys
import time

BETWEEN_S = 0.2


def is_shown(progress: bool | None) -> bool:
    """Whether a study says how far it has come: as asked for, else where standard error is a terminal."""
    return sys.stderr.isatty() if progress is None else progress


class Progress:
    """`12 of 40 points, about 2 min left`: at the pace of those that have run here. Without a total, how many
    there are so far and how long they took.
    """

    def __init__(self, total: int | None, show: bool, of: str = "points") -> None:
        self.total = total
        self.show = show
        self.of = of
        self.done = 0
        self._ran = 0
        self._began_s = self._shown_s = time.monotonic()
        self._width = 0

    def one_more(self, *, ran: bool = True) -> None:
        """One has ended; `ran` is off for one that was there already, which says nothing of the pace."""
        self.done += 1
        self._ran += ran
        now_s = time.monotonic()
        if self.show and (now_s - self._shown_s > BETWEEN_S or self.done == self.total):
            self._shown_s = now_s
            text = self.line(now_s - self._began_s)
            print(f"\r{text:{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)

    def line(self, passed_s: float) -> str:
        if self.total is None:
            return f"{self.done} {self.of}, {duration(passed_s)}"
        left = self.total - self.done
        if not left:
            return f"{self.done} of {self.total} {self.of}, {duration(passed_s)}"
        if not self._ran:
            return f"{self.done} of {self.total} {self.of}"
        return f"{self.done} of {self.total} {self.of}, about {duration(passed_s / self._ran * left)} left"

    def end(self) -> None:
        if self.show:
            print(file=sys.stderr)


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(3.2), duration(200), duration(7500)
    ('3 s', '3 min', '2 h 5 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
