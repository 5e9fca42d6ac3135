"""Exact instants, and the order of things within one."""

from __future__ import annotations

from math import inf, nan, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simpy import Environment

from sim.runtime.clock import ARRIVAL, COMPLETION, FLUSH, SCHEDULE, at

instants = st.floats(0.0, 1e5, allow_subnormal=False)


@given(instants, instants)
def test_a_call_comes_at_exactly_the_instant_asked_for(first: float, second: float) -> None:
    now, time = sorted((first, second))
    env = Environment(initial_time=now)
    seen: list[float] = []
    at(env, time, lambda _: seen.append(env.now))
    env.run()
    assert seen == [time]


def test_an_instant_that_no_delay_reaches_is_reached_in_two() -> None:
    """Seen from half a unit in the last place, every delay to this odd float rounds to one of its even
    neighbours.
    """
    now, time = 2.0**-53, nextafter(1.0, inf)
    assert all(
        now + delay != time for delay in (time - now, time, nextafter(time, 0.0), nextafter(time, inf))
    )
    env = Environment(initial_time=now)
    seen: list[float] = []
    at(env, time, lambda _: seen.append(env.now), SCHEDULE)
    env.run()
    assert seen == [time]


def test_within_one_instant_things_end_then_arrive_then_are_scheduled_then_share_the_links() -> None:
    env = Environment()
    seen: list[object] = []
    for priority in (FLUSH, SCHEDULE, ARRIVAL, COMPLETION):
        at(env, 1.0, seen.append, priority, priority)
    env.run()
    assert seen == [COMPLETION, ARRIVAL, SCHEDULE, FLUSH]


def test_a_process_may_wait_for_an_alarm() -> None:
    env = Environment()
    alarm = at(env, 2.5, lambda _: None)
    env.run(until=alarm)
    assert env.now == 2.5


@pytest.mark.parametrize("time", [0.5, inf, nan])
def test_the_past_and_the_infinite_are_refused(time: float) -> None:
    with pytest.raises(ValueError, match=r"the clock shows 1\.0 s"):
        at(Environment(initial_time=1.0), time, lambda _: None)
