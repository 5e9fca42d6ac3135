"""How far a run has come, on standard error, where it lasts: simulated time, requests, events a second, time
left.

A thread looks at the counters of the run now and then; the run itself is not asked anything.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.runtime.interruption import Interruption, SoFar

QUIET_S = 2.0  # a run that has ended by then shows nothing
ON_A_TERMINAL_S = 0.2
IN_A_FILE_S = 10.0  # a line now and then, in a log


@contextmanager
def live(run: Interruption) -> Iterator[None]:
    """Show how far a run has come while the block lasts, on a terminal from its third second on."""
    over = threading.Event()
    show = threading.Thread(target=_show, args=(run, over), daemon=True)
    show.start()
    try:
        yield
    finally:
        over.set()
        show.join()


def _show(run: Interruption, over: threading.Event) -> None:
    began_s, terminal, width = time.monotonic(), sys.stderr.isatty(), 0
    wait_s = QUIET_S if terminal else IN_A_FILE_S
    while not over.wait(wait_s):
        wait_s = ON_A_TERMINAL_S if terminal else IN_A_FILE_S
        found = run.so_far()
        if found is None:
            continue
        text = line(found, time.monotonic() - began_s)
        print(
            f"\r{text:{width}}" if terminal else text,
            end="" if terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
        width = len(text) if terminal else 0
    if width:
        print(f"\r{'':{width}}\r", end="", file=sys.stderr, flush=True)


def line(found: SoFar, passed_s: float) -> str:
    """`12.3 s simulated, 400 requests done, 12 running, 3 waiting, 51,000 events/s, about 20 s left`."""
    from sim.studies.progress import duration

    text = (
        f"{found.now_s:.4g} s simulated, {found.ended:,} requests done, {found.running:,} running, "
        f"{found.waiting:,} waiting, {found.events / max(passed_s, 1e-9):,.0f} events/s"
    )
    if found.share is not None and 0.0 < found.share < 1.0:
        text += f", about {duration(passed_s * (1.0 - found.share) / found.share)} left"
    return text
