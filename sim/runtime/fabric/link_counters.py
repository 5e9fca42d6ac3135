"""Link counters: bytes that each link has carried, and the seconds for which it was busy and shared."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from sim.runtime.fabric.transfer import LinkGroup, LinkSet


class LinkRow(NamedTuple):
    """One link so far: bytes carried, seconds with at least one transfer flowing, seconds with at least
    two.
    """

    link: Hashable
    bytes_per_s: float
    n_bytes: float
    busy_s: float
    shared_s: float


class LinkCounters:
    """Counters of every link. A transfer counts as being on all its links from its first byte to its last.

    Links that every link set so far uses together are counted together, as one `LinkGroup`. A link set that
    uses only some of them splits the group; both parts go on from what was counted.
    """

    __slots__ = ("_group_of", "_splits", "busy_uncontended_s", "n_bytes")

    def __init__(self, links: int) -> None:
        self.n_bytes = [0.0] * links
        self.busy_uncontended_s = [0.0] * links  # of transfers that stayed uncontended
        unused = LinkGroup(links)
        self._group_of = [unused] * links
        self._splits = 0

    def begin(self, link_set: LinkSet, since: float, now: float) -> None:
        """Count in a transfer that has been flowing, uncontended so far, `since` now or an earlier
        instant.
        """
        for group in self._groups(link_set):
            group.users += 1
            if group.users == 1:
                group.busy_since = since
            else:
                if group.users == 2:
                    group.shared_since = now
                # An unfolded transfer is put in after another that began later: the link was busy before.
                if since < group.busy_since:
                    group.busy_since = since

    def end(self, link_set: LinkSet, now: float) -> None:
        for group in self._groups(link_set):
            group.users -= 1
            if group.users == 0:
                group.busy_s += now - group.busy_since
            elif group.users == 1:
                group.shared_s += now - group.shared_since

    def _groups(self, link_set: LinkSet) -> list[LinkGroup]:
        """The groups that cover a link set exactly, remembered with it until one of them is split."""
        if link_set.groups_as_of != self._splits:
            links = link_set.links
            # A split leaves the remembered groups with fewer links than the set has; otherwise they still
            # fit.
            if _links_in(link_set.groups) != len(links):
                groups = dict.fromkeys([self._group_of[link] for link in links])
                if _links_in(groups) != len(links):
                    self._split(links)
                    groups = dict.fromkeys([self._group_of[link] for link in links])
                link_set.groups = list(groups)
            link_set.groups_as_of = self._splits
        return link_set.groups

    def _split(self, links: Iterable[int]) -> None:
        """Split every group of which only some links are among these."""
        inside: dict[LinkGroup, list[int]] = {}
        for link in links:
            inside.setdefault(self._group_of[link], []).append(link)
        for group, some in inside.items():
            if len(some) < group.links:
                self._splits += 1
                part = group.split(len(some))
                for link in some:
                    self._group_of[link] = part

    def carry(
        self, links: Iterable[int], n_bytes: Iterable[float], times: float = 1.0, busy_s: float = 0.0
    ) -> None:
        """Add `times` the bytes, and `busy_s` seconds of uncontended use on each of the links."""
        carried, busy = self.n_bytes, self.busy_uncontended_s
        for link, amount in zip(links, n_bytes, strict=True):
            carried[link] += times * amount
            busy[link] += busy_s

    def users(self, link: int) -> int:
        """Transfers counted in on a link."""
        return self._group_of[link].users

    def until(self, now: float) -> tuple[list[float], list[float]]:
        """Busy and shared seconds of every link, uses that go on counted up to `now`."""
        busy_s, shared_s = list(self.busy_uncontended_s), [0.0] * len(self._group_of)
        for link, group in enumerate(self._group_of):
            busy_s[link] += group.busy_s + (now - group.busy_since if group.users else 0.0)
            shared_s[link] += group.shared_s + (now - group.shared_since if group.users > 1 else 0.0)
        return busy_s, shared_s


def _links_in(groups: Iterable[LinkGroup]) -> int:
    return sum([part.links for part in groups])
