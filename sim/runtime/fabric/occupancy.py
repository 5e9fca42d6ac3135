"""Who is on which link: transfers by their link_sets, and those who watch."""

from __future__ import annotations

from collections.abc import Iterable

from sim.runtime.fabric.transfer import LinkSet, Watcher

IDLE = 4
"""Neighbours without a transfer that a link_set puts up with."""


class LinkOccupancy:
    """Footprints registered on links, watchers of links, and the links that are not as built.

    A link_set is registered with its links when it is first used. From then on it knows who else is there:
    `neighbours` are the others that are registered on one of its links. It stays when it falls idle, so that
    traffic that repeats itself is looked after from neighbour to neighbour, and not link by link. Whoever
    finds many idle neighbours sends them off.
    """

    def __init__(self, links: int) -> None:
        self.on: list[dict[LinkSet, None]] = [{} for _ in range(links)]
        self.link_sets: dict[tuple[int, ...], LinkSet] = {}
        self.changed: set[int] = set()
        self._watchers: list[list[Watcher]] = [[] for _ in range(links)]
        self._resting: dict[int, tuple[tuple[int, ...], Watcher]] = {}  # by identity
        self._epoch = 0  # a new one when a link may have become less quiet for a reason other than a transfer
        self._watch_epoch = 0  # a new one when somebody begins or ceases to watch

    def link_set(self, links: tuple[int, ...]) -> LinkSet:
        link_set = self.link_sets.get(links)
        if link_set is None:
            link_set = self.link_sets[links] = LinkSet(links)
        return link_set

    def is_quiet(self, link_set: LinkSet, watcher: Watcher | None) -> bool:
        """True where no transfer and nobody but `watcher` is on the links, and they have the capacity as
        built.
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
        """True where somebody else watches and has plans; who rests there is sent off."""
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
                return
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
        """The watcher stays where it is until somebody else looks for quiet on one of its links."""
        self._resting[id(watcher)] = (links, watcher)

    def watchers(self, links: Iterable[int]) -> list[Watcher]:
        """Each once, in the order of the links and then of their coming."""
        return list({id(watcher): watcher for link in links for watcher in self._watchers[link]}.values())

    def watchers_of(self, link_set: LinkSet) -> list[Watcher]:
        if link_set.watched_in != self._watch_epoch:
            link_set.watched_in = self._watch_epoch
            link_set.watchers = self.watchers(link_set.links)
        return link_set.watchers

    def change(self, link: int, *, as_built: bool) -> None:
        """A link has another capacity."""
        self._epoch += 1
        if as_built:
            self.changed.discard(link)
        else:
            self.changed.add(link)

    def as_built(self, links: Iterable[int]) -> bool:
        return not self.changed or self.changed.isdisjoint(links)

    def check(self) -> None:
        """Raise AssertionError unless who is registered is who should be, and they know each other."""
        for link_set in self.link_sets.values():
            flowing = sum(len(stream.transfers) for stream in link_set.flowing)
            if link_set.links:
                assert link_set.users == flowing + (link_set.uncontended is not None)
            assert link_set.registered or not link_set.users
            for stream in link_set.flowing:
                assert link_set.streams[stream.loads, stream.cap] is stream
            there = {other for link in link_set.links for other in self.on[link]} - {link_set}
            assert set(link_set.neighbours) == (there if link_set.registered else set())
            for link in link_set.links:
                assert (link_set in self.on[link]) == link_set.registered
