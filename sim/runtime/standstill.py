"""Time that does not pass: events that bring each other about at one instant, for ever.

A run looks at its clock every `LOOK_EVERY` events, which costs nothing in between. Where the clock has not
moved for more events than the requests so far can give reason to, the run ends, and says what goes round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import repeat
from operator import length_hint

import simpy
from simpy.core import EmptySchedule, StopSimulation
from simpy.events import URGENT, Event

from sim.inputs.errors import UnfinishedError
from sim.runtime.clock import Alarm

LOOK_EVERY = 1_000_000
EVENTS_OF_A_REQUEST = 100
"""So many events at one instant are no loop, for every request so far: a burst comes, is rejected, leaves."""
SAMPLED = 1_000
NAMED = 4


class EventCount:
    """How many events have begun: turns of a loop over `next_events`, which cost no more for being counted.

    >>> count = EventCount()
    >>> [count.so_far for _ in count.next_events(3)]
    [1, 2, 3]
    """

    def __init__(self) -> None:
        self._turns = 0, repeat(None, 0)

    def next_events(self, n: int) -> Iterator[None]:
        """`n` turns more; those that were left are not taken."""
        turns = repeat(None, n)
        self._turns = self.so_far + n, turns
        return turns

    @property
    def so_far(self) -> int:
        """May be asked from another thread."""
        given, left = self._turns
        return given - length_hint(left)


def let_time_pass(
    env: simpy.Environment, limit: float | None, requests: Callable[[], int], events: EventCount
) -> None:
    """Run to the end of all events, to `limit`, or to StopSimulation. `requests` says how many have come.

    UnfinishedError where the clock stands still.
    """
    if limit is not None:
        stop = Event(env)
        stop._ok, stop._value = True, None
        stop.callbacks = [StopSimulation.callback]
        env.schedule(stop, URGENT, limit - env.now)
    step, at_once = env.step, 0
    try:
        while True:
            before_s = env.now
            for _ in events.next_events(LOOK_EVERY):
                step()
            at_once = at_once + LOOK_EVERY if env.now == before_s else 0
            if at_once > EVENTS_OF_A_REQUEST * requests():
                _refuse(env, at_once)
    except (StopSimulation, EmptySchedule):
        return


def _refuse(env: simpy.Environment, at_once: int) -> None:
    """UnfinishedError with the events that go round; they may leave the instant after all."""
    now, names = env.now, Counter[str]()
    for _ in range(SAMPLED):
        if env.peek() > now:
            return
        names.update(_names(env._queue[0][-1]))
        env.step()
    shares = [f"{name} ({count / names.total():.0%})" for name, count in names.most_common(NAMED)]
    raise UnfinishedError(
        f"the clock stands still at {now:g} s: {at_once + SAMPLED} events in a row, no time between them; "
        f"they are {', '.join(shares)}",
        ("something takes no time and causes itself: a step, a delay or a transfer of no length",),
    )


def _names(event: Event) -> list[str]:
    """What an event calls."""
    called = [event._callback] if isinstance(event, Alarm) else list(event.callbacks or ())
    return [str(getattr(one, "__qualname__", type(one).__name__)) for one in called]
