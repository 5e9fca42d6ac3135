"""Calls at exact instants, in a fixed order within one instant.

SimPy schedules by delay, and `now + (time - now)` is not always `time` in floating point. Whoever plays a
program op by op and whoever folds it into one event have to meet on the same float, so `at` picks the delay
that lands on it.

Within one instant things happen in the order of the five priorities, whatever the order they were scheduled
in:

0. `FAILURE`: engines stop, and what would have ended just now does not;
1. `COMPLETION`: ops, transfers and steps end (SimPy's own NORMAL, so plain timeouts and processes belong
   here);
2. `ARRIVAL`: requests arrive and are routed, seeing everything that has ended by now;
3. `SCHEDULE`: engines choose batches, seeing everything that has arrived by now;
4. `FLUSH`: the fabric shares its links once, seeing every transfer that begins or has ended now.

Within one priority, first scheduled is first called. A follow-up without delay keeps the priority of its
kind: what it starts runs at the same instant, before anything of a later priority that is still waiting.
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


class Alarm(Event):
    """An event that is certain to happen: triggered from the start, calls `callback(argument)` when its time
    has come.

    A SimPy event in every respect (a process may wait for it), at two thirds of the price of a `Timeout`.
    SimPy cannot unschedule an event: an owner that has changed its mind ignores the call, say by a version
    number as the argument.
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
    delay = time - now
    for nudged in (nextafter(delay, inf), nextafter(delay, -inf)):
        if now + nudged == time:
            env.schedule(alarm, priority, nudged)
            return

    # No delay lands on `time`: both neighbours round away from it, to even. That takes a time beyond twice
    # `now`, and three quarters of the way there the difference of the two instants has no rounding error at
    # all.
    def go_on(_: Any) -> None:
        env.schedule(alarm, priority, time - env.now)

    env.schedule(Alarm(env, go_on), COMPLETION, 0.75 * time - now)
