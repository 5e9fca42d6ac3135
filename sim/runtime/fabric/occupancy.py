"""Link occupancy: the link sets of transfers on each link, their neighbours, and the watchers."""

from __future__ import annotations

from collections.abc import Iterable

from sim.runtime.fabric.transfer import LinkSet, Watcher

IDLE = 4
"""Neighbours without a transfer that a link set keeps before they are unregistered."""


class LinkOccupancy:
    """Link sets registered on links, watchers of links, and the links whose capacity is not as built.

    A link set is registered on its links when it is first used, and knows its neighbours from then on: the
    other link sets that are registered on one of its links. It stays registered when it falls idle, so that
    repeated traffic is handled from neighbour to neighbour instead of link by link. Registering beside many
    idle neighbours unregisters these: one-time traffic leaves nothing behind.
    """

    def __init__(self, links: int) -> None:
        self.on: list[dict[LinkSet, None]] = [{} for _ in range(links)]
        self.link_sets: dict[tuple[int, ...], LinkSet] = {}
        self.changed: set[int] = set()
        self._watchers: list[list[Watcher]] = [[] for _ in range(links)]
        self._resting: dict[int, tuple[tuple[int, ...], Watcher]] = {}  # by identity
        self._epoch = 0  # raised when links may be less quiet for a reason other than a transfer
        self._watch_epoch = 0  # raised when a watch begins or ends

    def link_set(self, links: tuple[int, ...]) -> LinkSet:
        link_set = self.link_sets.get(links)
        if link_set is None:
            link_set = self.link_sets[links] = LinkSet(links)
        return link_set

    def is_quiet(self, link_set: LinkSet, watcher: Watcher | None) -> bool:
        """True if no transfer and no watcher but `watcher` is on the links, and all have the capacity as
        built.

        The answer about watchers and capacities is remembered per link set until the epoch changes; ending a
        watch can only make links quieter, so it does not change the epoch.
        """
        if link_set.users:
            return False
        if link_set.unwatched_in != self._epoch or link_set.unwatched_but_by is not watcher:
            if self._is_watched(link_set.links, watcher):
                return False
            if not self.changed.isdisjoint(link_set.links):
                return False
            link_set.unwatched_in = self._epoch
            link_set.unwatched_but_by = watcher
        if not link_set.registered:
            self.register(link_set)
        for other in link_set.neighbours:  # a loop: mostly there are none, or one  # noqa: SIM110
            if other.users:
                return False
        return True

    def register(self, link_set: LinkSet) -> None:
        neighbours = link_set.neighbours
        for link in link_set.links:
            here = self.on[link]
            for other in here:
                if other not in neighbours:
                    neighbours[other] = None
                    other.neighbours[link_set] = None
            here[link_set] = None
        link_set.registered = True
        if len(neighbours) > IDLE:
            self._unregister_idle(neighbours)

    def _unregister_idle(self, neighbours: Iterable[LinkSet]) -> None:
        idle = [other for other in neighbours if not other.users]
        if len(idle) > IDLE:
            for other in idle:
                self._unregister(other)

    def _unregister(self, link_set: LinkSet) -> None:
        for link in link_set.links:
            del self.on[link][link_set]
        for other in link_set.neighbours:
            del other.neighbours[link_set]
        link_set.neighbours.clear()
        link_set.registered = False

    def _is_watched(self, links: tuple[int, ...], watcher: Watcher | None) -> bool:
        """True if another watcher is active on the links; suspended watches there are ended."""
        resting: dict[int, None] = {}
        for link in links:
            for other in self._watchers[link]:
                if other is not watcher:
                    if id(other) not in self._resting:
                        return True
                    resting[id(other)] = None
        for identity in resting:
            self.unwatch(*self._resting.pop(identity))
        return False

    def watch(self, links: Iterable[int], watcher: Watcher) -> None:
        rested = self._resting.pop(id(watcher), None)
        if rested is not None:
            if rested[0] == links:
                return  # still entered there: nothing has looked for quiet in the meantime
            self.unwatch(*rested)
        self._epoch += 1
        self._watch_epoch += 1
        for link in links:
            self._watchers[link].append(watcher)

    def unwatch(self, links: Iterable[int], watcher: Watcher) -> None:
        self._watch_epoch += 1
        for link in links:
            self._watchers[link].remove(watcher)

    def rest(self, links: tuple[int, ...], watcher: Watcher) -> None:
        """Suspend a watch. It stays entered until something else looks for quiet on one of its links."""
        self._resting[id(watcher)] = (links, watcher)

    def watchers(self, links: Iterable[int]) -> list[Watcher]:
        """Each once, in the order of the links and then of the beginnings of their watches."""
        return list({id(watcher): watcher for link in links for watcher in self._watchers[link]}.values())

    def watchers_of(self, link_set: LinkSet) -> list[Watcher]:
        if link_set.watched_in != self._watch_epoch:
            link_set.watched_in = self._watch_epoch
            link_set.watchers = self.watchers(link_set.links)
        return link_set.watchers

    def change(self, link: int, *, as_built: bool) -> None:
        """Note that a link has another capacity, which may be the one as built again."""
        self._epoch += 1
        if as_built:
            self.changed.discard(link)
        else:
            self.changed.add(link)

    def as_built(self, links: Iterable[int]) -> bool:
        return not self.changed or self.changed.isdisjoint(links)

    def check(self) -> None:
        """Raise AssertionError unless the used link sets are registered, with the right users and
        neighbours.
        """
        for link_set in self.link_sets.values():
            flowing = sum(len(stream.transfers) for stream in link_set.flowing)
            if link_set.links:
                assert link_set.users == flowing + (link_set.uncontended is not None)
                assert link_set.registered or not link_set.users
            for stream in link_set.flowing:
                assert link_set.streams[stream.loads, stream.built_cap] is stream
            there = {other for link in link_set.links for other in self.on[link]} - {link_set}
            assert set(link_set.neighbours) == (there if link_set.registered else set())
            for link in link_set.links:
                assert (link_set in self.on[link]) == link_set.registered
