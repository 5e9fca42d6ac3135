"""Budgets of memory and processor time for one run: a run that outgrows one ends with what it is that grew,
or what it was doing.

The simulation itself is not asked anything: an interval timer looks at the process.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError

if TYPE_CHECKING:
    from sim.runtime.interruption import Interruption

SHARE_OF_THE_MACHINE = 0.8  # the rest is the system's and other programs'
EVERY_S = 0.5
SHOWN = 3
TO_COME_TO_AN_END_S = 5.0  # processor time, after its budget, for the event that is under way
CPU_BUDGET = "CPU budget"  # how a run has ended that had none left


@contextmanager
def memory_budget(max_bytes: float | None) -> Iterator[None]:
    """Hold what runs inside to `max_bytes` of resident memory; None is a share of the machine's.

    InfeasibleError names the kinds of things of which there were most. Without effect where there is no
    timer or no /proc (Windows), and outside the main thread.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not hasattr(signal, "setitimer") or resident_bytes() == 0:
        yield
        return
    limit = SHARE_OF_THE_MACHINE * _of_the_machine() if max_bytes is None else max_bytes

    def look(number: int, frame: FrameType | None) -> None:
        used = resident_bytes()
        if used > limit:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            raise InfeasibleError(
                f"the run has {used / 1e9:.1f} GB, and its budget is {limit / 1e9:.1f} GB; most are "
                f"{most_numerous()}",
                "ask for fewer requests or a shorter time, or raise --max-memory",
            )

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, EVERY_S, EVERY_S)
    try:
        yield
    except MemoryError as error:
        raise InfeasibleError(
            f"the machine has no more memory for this run; most are {most_numerous()}",
            "ask for fewer requests or a shorter time",
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


class CpuBudget:
    """Processor time for what runs inside `held`. A run is asked to end between two events, so that its
    numbers are kept; `spent` then says what it was doing.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.spent = ""

    @contextmanager
    def held(self, run: Interruption) -> Iterator[None]:
        """InputError where the system has no timer of processor time, UnfinishedError where the run cannot
        end between two events: it has not begun, or an event goes on and on.
        """
        if self.seconds is None:
            yield
            return
        if not hasattr(signal, "setitimer"):
            raise InputError("--max-cpu: this system has no timer of processor time; leave it out")
        limit, began_s = self.seconds, time.process_time()

        def look(number: int, frame: FrameType | None) -> None:
            # No look comes while this one counts objects, which takes seconds where there are many.
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            used_s = time.process_time() - began_s
            again = bool(self.spent)
            self.spent = (
                f"the run has had {used_s:.3g} s of processor time, and its budget is {limit:g} s; it was in "
                f"{_place(frame)}; most are {most_numerous()}"
            )
            run.why = CPU_BUDGET
            if again or not run.ask():
                raise UnfinishedError(self.spent)
            signal.setitimer(signal.ITIMER_PROF, TO_COME_TO_AN_END_S)

        before = signal.signal(signal.SIGPROF, look)
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            signal.signal(signal.SIGPROF, before)


def _place(frame: FrameType | None) -> str:
    """The innermost function of the simulator that has a name: `admit (runtime/engine/queue.py:120)`."""
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if f"{os.sep}sim{os.sep}" in path and name.isidentifier():
            return f"{name} ({'/'.join(path.split(os.sep)[-3:])}:{frame.f_lineno})"
        frame = frame.f_back
    return "a library"


def most_numerous() -> str:
    """The simulator's own things of which there are most: `Request (12,000,000), Sequence (3,000)`."""
    kinds = Counter(type(thing) for thing in gc.get_objects())
    own = [
        (kind.__name__, count)
        for kind, count in kinds.most_common()
        if str(kind.__module__).startswith("sim.")
    ]
    return ", ".join(f"{name} ({count:,})" for name, count in own[:SHOWN]) or "rows of results"


def resident_bytes() -> float:
    """Memory that the process has now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0.0


def _of_the_machine() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
