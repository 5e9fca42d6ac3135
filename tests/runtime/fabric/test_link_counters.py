"""Bytes, busy seconds and shared seconds of links, counted in groups."""

from __future__ import annotations

from sim.runtime.fabric.link_counters import LinkCounters
from sim.runtime.fabric.transfer import LinkSet


def test_a_link_is_busy_with_one_user_and_shared_with_two() -> None:
    counters, link_set = LinkCounters(1), LinkSet((0,))
    counters.begin(link_set, 1.0, 1.0)
    counters.begin(link_set, 4.0, 4.0)
    assert counters.users(0) == 2
    assert counters.until(6.0) == ([5.0], [2.0])
    counters.end(link_set, 6.0)
    counters.end(link_set, 9.0)
    assert counters.until(20.0) == ([8.0], [2.0])


def test_a_transfer_that_has_been_flowing_uncontended_was_busy_before_it_was_counted() -> None:
    counters, link_set = LinkCounters(1), LinkSet((0,))
    counters.begin(link_set, 3.0, 5.0)
    counters.begin(link_set, 1.0, 5.0)
    counters.end(link_set, 6.0)
    counters.end(link_set, 6.0)
    assert counters.until(6.0) == ([5.0], [1.0])


def test_links_used_apart_are_counted_apart_from_then_on() -> None:
    counters = LinkCounters(3)
    both, one, other = LinkSet((0, 1)), LinkSet((1,)), LinkSet((2,))
    counters.begin(both, 0.0, 0.0)
    counters.begin(one, 2.0, 2.0)
    counters.end(both, 3.0)
    counters.begin(other, 3.0, 3.0)
    counters.end(one, 7.0)
    counters.end(other, 8.0)
    assert counters.until(9.0) == ([3.0, 7.0, 5.0], [0.0, 1.0, 0.0])


def test_a_remembered_cover_is_found_anew_after_a_split() -> None:
    counters = LinkCounters(4)
    pair, single = LinkSet((0, 1)), LinkSet((0,))
    counters.begin(pair, 0.0, 0.0)
    counters.end(pair, 1.0)
    assert len(pair.groups) == 1
    counters.begin(single, 1.0, 1.0)
    counters.end(single, 2.0)
    counters.begin(pair, 2.0, 2.0)
    counters.end(pair, 4.0)
    assert len(pair.groups) == 2
    assert counters.until(4.0)[0] == [4.0, 3.0, 0.0, 0.0]


def test_carried_bytes_and_uncontended_seconds_add_up() -> None:
    counters = LinkCounters(2)
    counters.carry((0, 1), (10.0, 5.0), 3.0, 6.0)
    counters.carry((1,), (1.0,))
    assert counters.n_bytes == [30.0, 16.0]
    assert counters.until(0.0) == ([6.0, 6.0], [0.0, 0.0])
