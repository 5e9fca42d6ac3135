"""Ctrl-C and SIGTERM: what is under way comes to a clean end, and what there is is kept.

A run stops between two events, with its books closed. Everything else stops where it is, as Python does at
Ctrl-C. A second signal does not wait for the run. Before a command has begun and after it has ended, a signal
ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress

TYPE_CHECKING = False  # as type checkers know it: this module is imported while no signal is handled
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from sim.runtime.interruption import Interruption

MESSAGES = {signal.SIGINT: "interrupted (Ctrl-C)", signal.SIGTERM: "terminated (SIGTERM)"}


class Interrupted(KeyboardInterrupt):
    """A signal has ended the command; `what` says what there is of its results."""

    def __init__(self, number: int, what: str = "") -> None:
        self.number = number
        self.what = what
        super().__init__()

    def __str__(self) -> str:
        return "; ".join(filter(None, (MESSAGES[signal.Signals(self.number)], self.what)))


class Signals:
    """The signals that this process has had, and what they are to do now."""

    def __init__(self) -> None:
        self.number = 0
        self._process = 0  # that listens: a fork of it has the handlers too, until it sets its own
        self._at_once = False
        self._run: Interruption | None = None
        self._waits = False

    def listen(self) -> None:
        """Handle Ctrl-C and SIGTERM from now on; one that is ignored already (nohup) stays so."""
        self._process, self._at_once = os.getpid(), True
        for number in MESSAGES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._came)
        sys.unraisablehook = _unraisable

    def _came(self, number: int, _frame: Any) -> None:
        is_first, self.number = not self.number, number
        if self._process and os.getpid() != self._process:
            os._exit(128 + number)
        if self._at_once:
            if is_first:
                with suppress(OSError):
                    os.write(2, f"sim: {Interrupted(number)}\n".encode())
            os._exit(128 + number)
        if is_first and (self._waits or (self._run is not None and self._run.ask())):
            return
        raise Interrupted(number)

    @contextmanager
    def raise_inside(self) -> Iterator[None]:
        """Inside the block a signal is an exception, so that what is held is let go."""
        before, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = before

    @contextmanager
    def ends(self, run: Interruption) -> Iterator[None]:
        """Inside the block a signal asks a run to end. One that came before, and was lost, counts."""
        if self.number:
            raise self.interrupted()
        self._run = run
        try:
            yield
        finally:
            self._run = None

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Inside the block a signal waits for the end of the block: a result that is there is saved."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def end(self, what: str) -> NoReturn:
        """End the command as interrupted, after its results have been printed and saved."""
        raise self.interrupted(what)

    def interrupted(self, what: str = "") -> Interrupted:
        """By the signal that came."""
        return Interrupted(self.number or signal.SIGINT, what)


def _unraisable(lost: Any) -> None:
    """A signal within a destructor or a callback of the garbage collector is not said twice: its number is
    known, and the command looks at that.
    """
    if not isinstance(lost.exc_value, Interrupted):
        sys.__unraisablehook__(lost)


signals = Signals()  # one, as a process has its signals once
