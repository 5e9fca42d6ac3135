"""Worker processes that do not outlive their parent, however it ends, and that can be ended at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import parent_process
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

T = TypeVar("T")

LOOKS_PER_S = 2.0  # at the parent, where the system does not tell of its end: well within two seconds
PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


@contextmanager
def worker_pool(workers: int, context: BaseContext | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes. An interruption of the block ends them at once, with what they have under way."""
    _libc()  # before any fork: a child that loads a library may wait for a lock that a lost thread held
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(os.getpid(),))
    try:
        with pool:
            try:
                yield pool
            except KeyboardInterrupt:
                _end_now(pool)
                raise
    finally:
        _end_now(pool)


def first_done(running: Collection[Future[T]]) -> set[Future[T]]:
    """Wait until some of the futures are done; those.

    The wait is cut into pieces: where a library has set a signal handler that restarts system calls (polars
    does), Ctrl-C does not end a wait, and is seen after it.
    """
    done: set[Future[T]] = set()
    while running and not done:
        done = wait(running, timeout=1.0 / LOOKS_PER_S, return_when=FIRST_COMPLETED).done
    return done


def _end_now(pool: ProcessPoolExecutor) -> None:
    # Before Python 3.14 a pool has no public way to end its processes, and forgets them at its shutdown.
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        with suppress(ValueError, OSError):
            process.kill()
    pool.shutdown(wait=False, cancel_futures=True)


def _begin(parent: int) -> None:
    """What a worker does first. Ctrl-C goes to it and to its parent, which decides; a parent that is gone
    ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not (sys.platform.startswith("linux") and _dies_with_parent()):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if _is_gone(parent):  # before this was asked for
        os._exit(1)


def _dies_with_parent() -> bool:
    failed: int = _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return failed == 0


@cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def _watch(parent: int) -> None:
    while not _is_gone(parent):
        time.sleep(1.0 / LOOKS_PER_S)
    os._exit(1)


def _is_gone(parent: int) -> bool:
    if sys.platform != "win32":
        return os.getppid() != parent
    above = parent_process()
    return above is not None and not above.is_alive()
