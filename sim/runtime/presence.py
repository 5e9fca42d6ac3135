"""Who is on which link: transfers by their footprints, and those who watch."""

from __future__ import annotations

from collections.abc import Iterable

from sim.runtime.transfer import Footprint, Watcher


class Presence:
    """Footprints registered on links, watchers of links, and the links that are not as built.

    A footprint is registered with its links while it is in use. When it falls idle and nobody else is on the
    links it stays registered, so that the next transfer of a stage that repeats itself finds its links in one
    look; whoever comes onto one of them evicts it. Hence: registered and idle means that no other footprint
    is on these links.
    """

    def __init__(self, links: int) -> None:
        self.on: list[dict[Footprint, None]] = [{} for _ in range(links)]
        self.footprints: dict[tuple[int, ...], Footprint] = {}
        self.changed: set[int] = set()
        self._watchers: list[list[Watcher]] = [[] for _ in range(links)]
        self._resting: dict[int, tuple[tuple[int, ...], Watcher]] = {}  # by identity
        self._epoch = 0  # a new one when a link may have become less quiet for a reason other than a transfer

    def footprint(self, links: tuple[int, ...]) -> Footprint:
        footprint = self.footprints.get(links)
        if footprint is None:
            footprint = self.footprints[links] = Footprint(links)
        return footprint

    def is_quiet(self, footprint: Footprint, watcher: Watcher | None) -> bool:
        """True where no transfer and nobody but `watcher` is on the links, and they have the capacity as
        built.
        """
        if footprint.alone is not None or footprint.streams:
            return False
        if footprint.unwatched_in != self._epoch or footprint.unwatched_but_by is not watcher:
            if self._is_watched(footprint.links, watcher):
                return False
            if not self.changed.isdisjoint(footprint.links):
                return False
            footprint.unwatched_in = self._epoch
            footprint.unwatched_but_by = watcher
        if not footprint.registered:
            if any(other.in_use for link in footprint.links for other in self.on[link]):
                return False
            self.register(footprint)
        return True

    def register(self, footprint: Footprint) -> None:
        for link in footprint.links:
            here = self.on[link]
            for other in list(here):
                if other.in_use:
                    other.crowded = footprint.crowded = True
                else:
                    self.unregister(other)
            here[footprint] = None
        footprint.registered = True

    def unregister(self, footprint: Footprint) -> None:
        for link in footprint.links:
            del self.on[link][footprint]
        footprint.registered = False
        footprint.crowded = False

    def leave_alone(self, footprint: Footprint) -> None:
        """The transfer that had the footprint for itself has it no more."""
        footprint.alone = None
        if footprint.crowded and not footprint.streams:
            self.unregister(footprint)

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
        for link in links:
            self._watchers[link].append(watcher)

    def unwatch(self, links: Iterable[int], watcher: Watcher) -> None:
        for link in links:
            self._watchers[link].remove(watcher)

    def rest(self, links: tuple[int, ...], watcher: Watcher) -> None:
        """The watcher stays where it is until somebody else looks for quiet on one of its links."""
        self._resting[id(watcher)] = (links, watcher)

    def watchers(self, links: Iterable[int]) -> list[Watcher]:
        """Each once, in the order of the links and then of their coming."""
        return list({id(watcher): watcher for link in links for watcher in self._watchers[link]}.values())

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
        """Raise AssertionError unless who is registered is who should be."""
        for footprint in self.footprints.values():
            assert footprint.registered or not footprint.in_use
            for link in footprint.links:
                assert (footprint in self.on[link]) == footprint.registered
                if footprint.registered and not footprint.streams:
                    assert len(self.on[link]) == 1, f"link {link} is thought to be quiet"
