"""Calls at exact instants, in a fixed order within one instant.

SimPy schedules by delay, and `now + (time - now)` is not always `time` in floating point. A program played op
by op and the same program folded into one event have to end at the same float, so `at` picks the delay that
lands on it.

Within one instant, events happen in the order of six priorities, whatever the order in which they were
scheduled:

0. `FAILURE`: engines stop, and steps that would have ended at this instant do not;
1. `COMPLETION`: ops, transfers and steps end (SimPy's own NORMAL, so plain timeouts and processes belong
   here);
2. `ARRIVAL`: requests arrive and are routed, after everything that ends now;
3. `SCHEDULE`: engines choose batches, after everything that arrives now;
4. `FLUSH`: the fabric settles its rates once, after every transfer that begins or ends now;
5. `OVER`: the run ends, where the last request has left and none will come.

Within one priority, the first scheduled is the first called. An event scheduled without delay still takes its
place by priority: it happens at the same instant, before every waiting event of a later priority.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nextafter
from typing import Any

from simpy import Environment
from simpy.events import NORMAL, URGENT, Event, EventPriority

FAILURE = URGENT
COMPLETION = NORMAL
ARRIVAL = EventPriority(2)
SCHEDULE = EventPriority(3)
FLUSH = EventPriority(4)
OVER = EventPriority(5)


class Alarm(Event):
    """An event that calls `callback(argument)` at its time: triggered from the start, so it is certain to
    happen.

    A SimPy event in every respect (a process may wait for it), at two thirds of the price of a `Timeout`.
    SimPy cannot unschedule an event: an owner that no longer needs it ignores the call, for example by
    passing a version number as the argument.
    """

    __slots__ = ("_argument", "_callback", "_ok", "_value", "callbacks", "env")

    def __init__(self, env: Environment, callback: Callable[[Any], None], argument: Any = None) -> None:
        self.env = env
        self.callbacks = [self._ring]
        self._ok = True
        self._value = None
        self._callback = callback
        self._argument = argument

    def _ring(self, _event: Event) -> None:
        self._callback(self._argument)


def at(
    env: Environment,
    time: float,
    callback: Callable[[Any], None],
    priority: EventPriority = COMPLETION,
    argument: Any = None,
) -> Alarm:
    """Call `callback(argument)` when the clock shows exactly `time`. Raises ValueError for a time in the
    past.

    Example:
        >>> env = Environment(initial_time=0.2)
        >>> seen = []
        >>> alarm = at(env, 0.9, lambda _: seen.append(env.now))
        >>> env.run()
        >>> seen, 0.2 + (0.9 - 0.2) == 0.9
        ([0.9], False)
    """
    alarm = Alarm(env, callback, argument)
    now = env.now
    delay = time - now
    if now + delay == time and 0.0 <= delay < inf:
        env.schedule(alarm, priority, delay)
    else:
        _schedule_exactly(env, time, alarm, priority)
    return alarm


def _schedule_exactly(env: Environment, time: float, alarm: Alarm, priority: EventPriority) -> None:
    now = env.now
    if not now <= time < inf:
        raise ValueError(
            f"cannot call at {time} s, the clock shows {now} s; a finite time from now on is needed"
        )
    # The delay is off by half a unit in its last place at most, so one of its neighbours lands on `time` if
    # any float does.
    delay = time - now
    for nudged in (nextafter(delay, inf), nextafter(delay, -inf)):
        if now + nudged == time:
            env.schedule(alarm, priority, nudged)
            return

    # No delay lands on `time`: both neighbours round away from it, to even. That happens only beyond twice
    # `now`. From `0.75 * time` on, both instants are within a factor of two of each other, and their
    # difference is exact (Sterbenz's lemma).
    def go_on(_: Any) -> None:
        env.schedule(alarm, priority, time - env.now)

    env.schedule(Alarm(env, go_on), COMPLETION, 0.75 * time - now)
