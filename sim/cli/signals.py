"""Ctrl-C and SIGTERM: what is under way comes to a clean end, and what there is is kept.

A run stops between two events, with its books closed. Everything else stops where it is, as Python does at
Ctrl-C. A second signal does not wait for the run.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
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
        self._run: Interruption | None = None
        self._waits = False

    def listen(self) -> None:
        """Handle Ctrl-C and SIGTERM from now on; one that is ignored already (nohup) stays so."""
        for number in MESSAGES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._came)

    def _came(self, number: int, _frame: Any) -> None:
        is_first, self.number = not self.number, number
        if is_first and (self._waits or (self._run is not None and self._run.ask())):
            return
        raise Interrupted(number)

    @contextmanager
    def ends(self, run: Interruption) -> Iterator[None]:
        """Inside the block a signal asks a run to end."""
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
        raise Interrupted(self.number or signal.SIGINT, what)


signals = Signals()  # one, as a process has its signals once
