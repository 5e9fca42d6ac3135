"""What each link has carried, and for how long it was busy and shared."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from sim.runtime.fabric.transfer import Alike, LinkSet


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
    """Counters of every link. A transfer counts as being on all its links from its first byte to its last.

    Links that all link_sets so far use together are counted together, as one `Alike`. A link_set that uses
    some of them and not others splits them, and both parts go on from what was counted.
    """

    __slots__ = ("_alike", "_splits", "busy_alone_s", "n_bytes")

    def __init__(self, links: int) -> None:
        self.n_bytes = [0.0] * links
        self.busy_alone_s = [0.0] * links  # of transfers that began and ended alone
        nobody = Alike(links)
        self._alike = [nobody] * links
        self._splits = 0

    def begin(self, link_set: LinkSet, since: float, now: float) -> None:
        """A transfer is known from `now` on, and has been flowing alone `since` then or before."""
        for alike in self._parts(link_set):
            alike.users += 1
            if alike.users == 1:
                alike.busy_since = since
            else:
                if alike.users == 2:
                    alike.shared_since = now
                if since < alike.busy_since:
                    alike.busy_since = since

    def end(self, link_set: LinkSet, now: float) -> None:
        for alike in self._parts(link_set):
            alike.users -= 1
            if alike.users == 0:
                alike.busy_s += now - alike.busy_since
            elif alike.users == 1:
                alike.shared_s += now - alike.shared_since

    def _parts(self, link_set: LinkSet) -> list[Alike]:
        """The links of a link_set as they are counted."""
        if link_set.parts_as_of != self._splits:
            links = link_set.links
            if _links_in(link_set.parts) != len(links):  # one of them has been split, or it is new
                parts = dict.fromkeys([self._alike[link] for link in links])
                if _links_in(parts) != len(links):
                    self._split(links)
                    parts = dict.fromkeys([self._alike[link] for link in links])
                link_set.parts = list(parts)
            link_set.parts_as_of = self._splits
        return link_set.parts

    def _split(self, links: Iterable[int]) -> None:
        """Tell apart links that were alike until now, where only some of them are among these."""
        inside: dict[Alike, list[int]] = {}
        for link in links:
            inside.setdefault(self._alike[link], []).append(link)
        for alike, some in inside.items():
            if len(some) < alike.links:
                self._splits += 1
                part = alike.split(len(some))
                for link in some:
                    self._alike[link] = part

    def carry(
        self, links: Iterable[int], n_bytes: Iterable[float], times: float = 1.0, busy_s: float = 0.0
    ) -> None:
        """Add `times` the bytes, and `busy_s` seconds on each of the links that nobody shared."""
        carried, busy = self.n_bytes, self.busy_alone_s
        for link, amount in zip(links, n_bytes, strict=True):
            carried[link] += times * amount
            busy[link] += busy_s

    def users(self, link: int) -> int:
        """Transfers flowing on a link, as far as they have been counted in."""
        return self._alike[link].users

    def until(self, now: float) -> tuple[list[float], list[float]]:
        """Busy and shared seconds of every link with what is going on counted up to `now`."""
        busy_s, shared_s = list(self.busy_alone_s), [0.0] * len(self._alike)
        for link, alike in enumerate(self._alike):
            busy_s[link] += alike.busy_s + (now - alike.busy_since if alike.users else 0.0)
            shared_s[link] += alike.shared_s + (now - alike.shared_since if alike.users > 1 else 0.0)
        return busy_s, shared_s


def _links_in(parts: Iterable[Alike]) -> int:
    return sum([part.links for part in parts])
