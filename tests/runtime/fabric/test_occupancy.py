"""Which link sets are neighbours, and when links are quiet."""

from __future__ import annotations

import pytest

from sim.runtime.fabric.occupancy import IDLE, LinkOccupancy
from sim.runtime.fabric.transfer import LinkSet


class Watching:
    def disturbed(self, now: float) -> None: ...
    def left_alone(self) -> None: ...


def registered(occupancy: LinkOccupancy, *links: int, users: int = 0) -> LinkSet:
    link_set = occupancy.link_set(links)
    occupancy.register(link_set)
    link_set.users = users
    return link_set


def test_neighbours_are_the_link_sets_with_a_link_in_common() -> None:
    occupancy = LinkOccupancy(4)
    left, middle = registered(occupancy, 0, 1), registered(occupancy, 1, 2)
    apart = registered(occupancy, 3)
    assert list(left.neighbours) == [middle]
    assert list(middle.neighbours) == [left]
    assert not apart.neighbours
    occupancy.check()


def test_links_are_quiet_until_a_neighbour_has_a_transfer() -> None:
    occupancy = LinkOccupancy(3)
    here, beside = occupancy.link_set((0, 1)), registered(occupancy, 1, 2)
    assert occupancy.is_quiet(here, None)
    beside.users = 1
    assert not occupancy.is_quiet(here, None)


def test_links_are_quiet_to_the_only_watcher_and_to_no_other() -> None:
    occupancy, mine, other = LinkOccupancy(2), Watching(), Watching()
    here = occupancy.link_set((0, 1))
    occupancy.watch((0,), mine)
    assert occupancy.is_quiet(here, mine)
    assert not occupancy.is_quiet(here, other)
    assert occupancy.is_quiet(here, mine)
    occupancy.watch((1,), other)
    assert not occupancy.is_quiet(here, mine)


def test_a_suspended_watch_ends_when_something_else_looks_for_quiet() -> None:
    occupancy, mine = LinkOccupancy(1), Watching()
    here = occupancy.link_set((0,))
    occupancy.watch((0,), mine)
    occupancy.rest((0,), mine)
    occupancy.watch((0,), mine)
    assert occupancy.watchers((0,)) == [mine]
    occupancy.rest((0,), mine)
    assert occupancy.is_quiet(here, None)
    assert occupancy.watchers((0,)) == []


def test_links_are_not_quiet_while_a_capacity_is_not_as_built() -> None:
    occupancy = LinkOccupancy(2)
    here = occupancy.link_set((0, 1))
    assert occupancy.is_quiet(here, None)
    occupancy.change(1, as_built=False)
    assert not occupancy.is_quiet(here, None)
    assert occupancy.as_built((0,))
    assert not occupancy.as_built((0, 1))
    occupancy.change(1, as_built=True)
    assert occupancy.is_quiet(here, None)


@pytest.mark.parametrize("users", [0, 1])
def test_many_idle_neighbours_are_unregistered_and_busy_ones_stay(users: int) -> None:
    occupancy = LinkOccupancy(IDLE + 3)
    neighbours = [registered(occupancy, 0, 1 + k, users=users) for k in range(IDLE + 1)]
    here = registered(occupancy, 0)
    assert [other.registered for other in neighbours] == [bool(users)] * len(neighbours)
    assert len(here.neighbours) == users * len(neighbours)


def test_a_link_set_learns_of_each_watcher_once() -> None:
    occupancy, one, other = LinkOccupancy(3), Watching(), Watching()
    here = occupancy.link_set((0, 1, 2))
    occupancy.watch((1, 2), other)
    occupancy.watch((0, 1), one)
    assert occupancy.watchers_of(here) == [one, other]
    occupancy.unwatch((0, 1), one)
    assert occupancy.watchers_of(here) == [other]


def test_what_has_a_latency_and_no_links_is_registered_nowhere() -> None:
    occupancy = LinkOccupancy(1)
    occupancy.link_set(()).users = 1
    occupancy.check()
    occupancy.link_set((0,)).users = 1
    with pytest.raises(AssertionError):
        occupancy.check()
