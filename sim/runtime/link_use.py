"""What each link has carried, and for how long it was busy and shared."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple


class LinkRow(NamedTuple):
    """One link so far: bytes carried, seconds with at least one transfer flowing, seconds with at least
    two.
    """

    link: Hashable
    bytes_per_s: float
    n_bytes: float
    busy_s: float
    shared_s: float


class LinkUse:
    """Counters of every link. A transfer counts as being on all its links from its first byte to its last."""

    __slots__ = ("_busy_since", "_shared_since", "_users", "busy_s", "n_bytes", "shared_s")

    def __init__(self, links: int) -> None:
        self.n_bytes = [0.0] * links
        self.busy_s = [0.0] * links
        self.shared_s = [0.0] * links
        self._users = [0] * links
        self._busy_since = [0.0] * links
        self._shared_since = [0.0] * links

    def begin(self, links: Iterable[int], since: float, now: float) -> None:
        """A transfer is known from `now` on, and has been flowing alone `since` then or before."""
        users = self._users
        for link in links:
            users[link] += 1
            if users[link] == 1:
                self._busy_since[link] = since
            else:
                if users[link] == 2:
                    self._shared_since[link] = now
                if since < self._busy_since[link]:
                    self._busy_since[link] = since

    def end(self, links: Iterable[int], now: float) -> None:
        users = self._users
        for link in links:
            users[link] -= 1
            if users[link] == 0:
                self.busy_s[link] += now - self._busy_since[link]
            elif users[link] == 1:
                self.shared_s[link] += now - self._shared_since[link]

    def carry(
        self, links: Iterable[int], n_bytes: Iterable[float], times: float = 1.0, busy_s: float = 0.0
    ) -> None:
        """Add `times` the bytes, and `busy_s` seconds on each of the links that nobody shared."""
        carried, busy = self.n_bytes, self.busy_s
        for link, amount in zip(links, n_bytes, strict=True):
            carried[link] += times * amount
            busy[link] += busy_s

    def users(self, link: int) -> int:
        """Transfers flowing on a link, as far as they have been counted in."""
        return self._users[link]

    def until(self, now: float) -> tuple[list[float], list[float]]:
        """Busy and shared seconds of every link with what is going on counted up to `now`."""
        busy_s, shared_s = list(self.busy_s), list(self.shared_s)
        for link, users in enumerate(self._users):
            if users:
                busy_s[link] += now - self._busy_since[link]
            if users > 1:
                shared_s[link] += now - self._shared_since[link]
        return busy_s, shared_s
