"""The end of a run from outside the clock: between two events, so that the books can be closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import simpy
from simpy.core import StopSimulation
from simpy.events import URGENT, Event

from sim.runtime.standstill import EventCount, let_time_pass


class SoFar(NamedTuple):
    """How far a run has come: simulated time, requests that have ended, run and wait, events, and the share
    that is done (None: it cannot be known).
    """

    now_s: float
    ended: int
    running: int
    waiting: int
    events: int
    share: float | None


class Interruption:
    """Ends the run that is under way when it is asked to, as by a signal handler in the run's own thread."""

    def __init__(self) -> None:
        self.is_asked_for = False
        self.why = "interrupted"  # how the run has ended, where it was asked for
        self._came_before = False
        self._env: simpy.Environment | None = None
        self._events = EventCount()
        self._looks: Callable[[int], SoFar] | None = None

    def watch(self, looks: Callable[[int], SoFar]) -> None:
        """`looks` says how far the run has come, given its events so far. It is asked from another thread: it
        reads counters alone.
        """
        self._looks = looks

    def so_far(self) -> SoFar | None:
        """How far the run under way has come; None where none is."""
        return None if self._env is None or self._looks is None else self._looks(self._events.so_far)

    def run(self, env: simpy.Environment, limit: float | None, requests: Callable[[], int]) -> None:
        """Let time pass to its end, to `limit`, or to an interruption. KeyboardInterrupt where one was asked
        for before, and what the asking raised was lost in a library (some do so while they are imported).
        `requests` says how many have come.
        """
        if self._came_before:
            raise KeyboardInterrupt
        self._env = env
        try:
            let_time_pass(env, limit, requests, self._events)
        finally:
            self._env = None

    def ask(self) -> bool:
        """End the run before anything else happens on its clock; False where none is under way."""
        env = self._env
        if env is None:
            self._came_before = True
            return False
        self.is_asked_for = True
        # No work for the events of a run: the stop is one more event, the first of this instant.
        stop = Event(env)
        stop._ok, stop._value = True, None
        stop.callbacks = [_stop]
        env.schedule(stop, URGENT)
        return True


def _stop(event: Event) -> None:
    raise StopSimulation(None)
