"""Who is on which link: transfers by their footprints, and those who watch."""

from __future__ import annotations

from collections.abc import Iterable

from sim.runtime.fabric.transfer import Footprint, Watcher

IDLE = 4
"""Neighbours without a transfer that a footprint puts up with."""


class Presence:
    """Footprints registered on links, watchers of links, and the links that are not as built.

    A footprint is registered with its links when it is first used. From then on it knows who else is there:
    `near` are the others that are registered on one of its links. It stays when it falls idle, so that
    traffic that repeats itself is looked after from neighbour to neighbour, and not link by link. Whoever
    finds many idle neighbours sends them off.
    """

    def __init__(self, links: int) -> None:
        self.on: list[dict[Footprint, None]] = [{} for _ in range(links)]
        self.footprints: dict[tuple[int, ...], Footprint] = {}
        self.changed: set[int] = set()
        self._watchers: list[list[Watcher]] = [[] for _ in range(links)]
        self._resting: dict[int, tuple[tuple[int, ...], Watcher]] = {}  # by identity
        self._epoch = 0  # a new one when a link may have become less quiet for a reason other than a transfer
        self._watch_epoch = 0  # a new one when somebody begins or ceases to watch

    def footprint(self, links: tuple[int, ...]) -> Footprint:
        footprint = self.footprints.get(links)
        if footprint is None:
            footprint = self.footprints[links] = Footprint(links)
        return footprint

    def is_quiet(self, footprint: Footprint, watcher: Watcher | None) -> bool:
        """True where no transfer and nobody but `watcher` is on the links, and they have the capacity as
        built.
        """
        if footprint.users:
            return False
        if footprint.unwatched_in != self._epoch or footprint.unwatched_but_by is not watcher:
            if self._is_watched(footprint.links, watcher):
                return False
            if not self.changed.isdisjoint(footprint.links):
                return False
            footprint.unwatched_in = self._epoch
            footprint.unwatched_but_by = watcher
        if not footprint.registered:
            self.register(footprint)
        for other in footprint.near:  # a loop: mostly there are none, or one  # noqa: SIM110
            if other.users:
                return False
        return True

    def register(self, footprint: Footprint) -> None:
        near = footprint.near
        for link in footprint.links:
            here = self.on[link]
            for other in here:
                if other not in near:
                    near[other] = None
                    other.near[footprint] = None
            here[footprint] = None
        footprint.registered = True
        if len(near) > IDLE:
            self._send_off_idle(near)

    def _send_off_idle(self, near: Iterable[Footprint]) -> None:
        idle = [other for other in near if not other.users]
        if len(idle) > IDLE:
            for other in idle:
                self._unregister(other)

    def _unregister(self, footprint: Footprint) -> None:
        for link in footprint.links:
            del self.on[link][footprint]
        for other in footprint.near:
            del other.near[footprint]
        footprint.near.clear()
        footprint.registered = False

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

    def watchers_of(self, footprint: Footprint) -> list[Watcher]:
        if footprint.watched_in != self._watch_epoch:
            footprint.watched_in = self._watch_epoch
            footprint.watchers = self.watchers(footprint.links)
        return footprint.watchers

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
        for footprint in self.footprints.values():
            flowing = sum(len(stream.transfers) for stream in footprint.flowing)
            if footprint.links:
                assert footprint.users == flowing + (footprint.alone is not None)
            assert footprint.registered or not footprint.users
            for stream in footprint.flowing:
                assert footprint.streams[stream.loads, stream.cap] is stream
            there = {other for link in footprint.links for other in self.on[link]} - {footprint}
            assert set(footprint.near) == (there if footprint.registered else set())
            for link in footprint.links:
                assert (footprint in self.on[link]) == footprint.registered
