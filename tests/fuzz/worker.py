"""Runs cases one after the other in a process of its own, whose time and memory are watched.

`Worker.run` says what became of a case: nothing wrong, or a traceback, a hang, too much memory, or an exit
status that is not documented. A process that had to be killed is replaced.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.cases import LOAD, STUDY, Case, as_bytes

DOCUMENTED = (0, 2, 3, 4, 130)
SECONDS = 20.0
BYTES = 2e9
WORKING = 0.02  # share of a processor that a process on a busy machine still gets
REQUESTS_PER_S = 200  # a run that gets through so many is long because it was asked to be
ADDRESS_SPACE = (
    1 << 42
)  # V8, which draws charts, reserves a terabyte and uses little; what is used is seen from outside


@dataclass(frozen=True)
class Fault:
    """What went wrong: `kind` and `place` are the same for the same fault."""

    kind: str
    place: str
    text: str

    @property
    def signature(self) -> tuple[str, str]:
        return self.kind, self.place


class _HangError(BaseException):
    """Raised by the timer, and no Exception, so that nothing in between takes it for its own."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise _HangError


def _place_of(error: BaseException) -> str:
    """The innermost place in the simulator, and the one where it came from."""
    own = [one for one in traceback.extract_tb(error.__traceback__) if "/sim/" in one.filename]
    return " < ".join(
        f"sim/{one.filename.rpartition('/sim/')[2]}:{one.lineno} {one.name}" for one in own[:-4:-1]
    )


def _told(error: BaseException) -> str:
    """The way through the simulator and the last words; frames of libraries are left out."""
    own = [one for one in traceback.extract_tb(error.__traceback__) if "/sim/" in one.filename]
    said = traceback.format_exception_only(error)[-1][:2000]
    return (
        "".join(f"  sim/{one.filename.rpartition('/sim/')[2]}:{one.lineno} {one.line}\n" for one in own)
        + said
    )


def _run(case: Case, seconds: float) -> tuple[str, str, str] | None:
    fault, _ = _once(case, seconds)
    if fault is not None and fault[0] == "hang" and case.words[:1] == ("run",):
        # Traffic by the million takes its time: in half of the time it must get on, and end when it is told.
        half_s = seconds / 2
        again, said = _once(Case((*case.words, "--max-cpu", f"{half_s:g} s"), case.files), seconds)
        came = re.search(r"(\d+) requests had come", said)
        if again is None and came and int(came[1]) >= REQUESTS_PER_S * half_s:
            return None
        return fault[0], fault[1], f"{fault[2]}with --max-cpu {half_s:g} s: {said[-500:]}"
    return fault


def _once(case: Case, seconds: float) -> tuple[tuple[str, str, str] | None, str]:
    """What goes wrong in a case, if anything, and what it says on standard error."""
    from sim.cli import status_of

    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            for name, text in case.files:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_bytes(as_bytes(text))
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    status: Any = _loaded(case) if case.words[:1] == (LOAD,) else status_of(list(case.words))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0.0)
        except _HangError as error:
            what = f"more than {seconds:g} s of processor time\n{_told(error)}"
            return ("hang", _place_of(error), what), err.getvalue()
        except MemoryError as error:
            return ("memory", _place_of(error), _told(error)), err.getvalue()
        except SystemExit as error:
            status = error.code
        except Exception as error:
            return (f"traceback {type(error).__name__}", _place_of(error), _told(error)), err.getvalue()
        finally:
            os.chdir(before)
    said = err.getvalue()
    fault = None
    if status not in DOCUMENTED:
        fault = "exit status", str(status), said
    elif "Traceback (most recent call last)" in said:
        fault = "traceback printed", said.rstrip().rpartition("\n")[2][:80], said
    elif status and not said.strip():
        fault = "nothing said", " ".join(case.words[:2]), f"exit status {status} and no message"
    return fault, said


def _loaded(case: Case) -> int:
    """Read a saved run back, with all that it has."""
    import sim
    from sim.results.saved import TABLES

    try:
        result = sim.load_result(case.words[1])
        result.summary()
        for table in TABLES:
            getattr(result, table)
    except sim.InputError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_status
    return 0


def _bug_as_it_is(error: Exception) -> int:
    """In place of the one paragraph that a user gets: it says too little of where the bug is."""
    raise error


def _of_this_study() -> None:
    """Kept rows may say that they are of the study that takes them up, whichever it is."""
    from sim.studies import kept

    digest = kept._digest

    def with_it(scenarios: Any) -> str:
        study = digest(scenarios)
        for path in Path().glob("*.rows"):
            path.write_bytes(path.read_bytes().replace(STUDY.encode(), study.encode()))
        return study

    kept._digest = with_it


def _serve(pipe: Connection, seconds: float) -> None:
    from sim import cli

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGPROF, _too_long)
    sys.stdin = io.StringIO()
    _of_this_study()
    cli._bug = _bug_as_it_is
    while True:
        try:
            case = Case.of_json(pipe.recv())
        except EOFError:
            return
        pipe.send(_run(case, seconds))


class Worker:
    """A process that runs cases, and is replaced when it has to be killed."""

    def __init__(self, seconds: float = SECONDS, n_bytes: float = BYTES) -> None:
        self.seconds, self.n_bytes = seconds, n_bytes
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, self.seconds)
        )  # not daemonic: sweeps have children
        self._process.start()
        other.close()

    def run(self, case: Case) -> Fault | None:
        """What goes wrong in a case, if anything."""
        self._pipe.send(case.json())
        waited_s = 6 * self.seconds + 60
        deadline, worked_s = time.monotonic() + waited_s, _processor_s(self._process.pid)
        while not self._pipe.poll(0.05):
            used = _resident_bytes(self._process.pid)
            if used > self.n_bytes:
                self._replace()
                return Fault(
                    "memory", " ".join(case.words[:2]), f"{used / 1e9:.1f} GB and growing when it was killed"
                )
            if not self._process.is_alive():
                return self._died(case)
            if time.monotonic() > deadline:
                before, worked_s = worked_s, _processor_s(self._process.pid)
                if worked_s - before > WORKING * waited_s:  # it waits for a processor; its timer ends it
                    deadline += waited_s
                    continue
                self._replace()
                return Fault("hang", "outside of Python, or waiting", f"no answer after {waited_s:g} s")
        try:
            found = self._pipe.recv()
        except (EOFError, ConnectionError):
            return self._died(case)
        return None if found is None else Fault(*found)

    def _died(self, case: Case) -> Fault:
        self._process.join()
        code = self._process.exitcode
        self._replace()
        return Fault("died", " ".join(case.words[:2]), f"the process ended with {code}")

    def _replace(self) -> None:
        self.close()
        self._begin()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _processor_s(pid: int | None) -> float:
    """Processor time that a process and its children have had; 0.0 where the system does not say."""
    place = Path(f"/proc/{pid}")
    try:
        ticks = sum(map(int, (place / "stat").read_text().rpartition(")")[2].split()[11:15]))
        children = [child for thread in place.glob("task/*/children") for child in thread.read_text().split()]
    except OSError:
        return 0.0
    return ticks / os.sysconf("SC_CLK_TCK") + sum(_processor_s(int(child)) for child in children)


def _resident_bytes(pid: int | None) -> float:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:  # it has just ended, or this is no Linux
        return 0.0
    return int(pages) * resource.getpagesize()
