"""Ctrl-C, SIGTERM and SIGKILL: statuses, what is kept, and that no process stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.cli.signals import Interrupted, Signals
from sim.runtime.interruption import Interruption
from tests.cli.conftest import Sim

LONG = """
topology: a100-x4
model: llama-3-8b
engine: {scheduler: one_at_a_time, service_time: {token_s: 10 us}}
workload:
  arrivals: {kind: poisson, rate_per_s: 1}
  prompt_tokens: 100000
  output_tokens: 1
  requests: 1000000
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def long(tmp_path: Path) -> Path:
    path = tmp_path / "long.yaml"
    path.write_text(LONG)
    return path


def started(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sim", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(holds: object, seconds: float = 60.0) -> None:
    begun = time.monotonic()
    while not holds():  # type: ignore[operator]
        assert time.monotonic() - begun < seconds
        time.sleep(0.05)


def test_a_signal_ends_a_run_between_two_events_and_its_books_are_closed(
    monkeypatch: pytest.MonkeyPatch, sim: Sim, tmp_path: Path
) -> None:
    """In this process: the signal comes with the hundredth arrival."""
    import sim as package
    from sim.runtime.service import Service

    path, out, had = tmp_path / "s.yaml", tmp_path / "out", Signals()
    path.write_text(LONG.replace("1000000", "500"))
    monkeypatch.setattr("sim.cli.run.signals", had)
    arrived = Service._arrived

    def arrives(self: Service, request: object) -> None:
        arrived(self, request)  # type: ignore[arg-type]
        if request.request_id == 100:  # type: ignore[attr-defined]
            had._came(signal.SIGTERM, None)

    monkeypatch.setattr(Service, "_arrived", arrives)
    status, printed, err = sim("run", path, "--out", out, "--no-fold")  # folded, it has no arrivals
    assert status == 143
    assert "time to first token" in printed
    assert f"saved in {out}, marked incomplete\n" in err
    assert "sim: terminated (SIGTERM); the run stopped at " in err
    read = package.load_result(out)
    assert (read.is_complete, read.ended, read.requests.height) == (False, "interrupted", 101)


def test_a_second_signal_does_not_wait_and_one_outside_a_run_ends_at_once() -> None:
    had, run = Signals(), Interruption()
    with pytest.raises(Interrupted, match=r"interrupted \(Ctrl-C\)"):
        had._came(signal.SIGINT, None)
    again = Signals()
    with again.waits():
        again._came(signal.SIGTERM, None)
        with pytest.raises(Interrupted):
            again._came(signal.SIGTERM, None)
    assert not run.ask()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_under_a_signal_has_its_status_and_message(
    long: Path, number: signal.Signals, status: int
) -> None:
    process = started("run", long, "--out", long.parent / "out")
    wait_until((long.parent / ".out.lock").exists)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "sim: " in err
    assert "Traceback" not in err
    assert not (long.parent / ".out.lock").exists()


IMPORTS = """
import signal, sys
class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            try:
                signal.raise_signal({number})
            except BaseException as error:
                {then}
sys.meta_path.insert(0, AtImport())
from sim.cli import main
main({words!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "then"),
    [
        ("typer", "raise"),  # before anything of a command runs
        ("pydantic", "raise"),  # within a command
        ("sim.runtime.service", "raise RuntimeError('its import failed') from error"),
        ("sim.runtime.service", "pass"),  # the import goes on as if nothing had been
    ],
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_within_an_import_ends_with_its_status_and_one_line(
    long: Path, module: str, then: str, number: signal.Signals, status: int
) -> None:
    code = IMPORTS.format(module=module, then=then, number=int(number), words=["run", str(long)])
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr.count("\n")) == (status, 1), ended.stderr
    assert ended.stderr.startswith("sim: interrupted" if status == 130 else "sim: terminated")


def test_little_is_imported_before_signals_are_handled() -> None:
    code = "import sys; from sim.cli import main; import sim.cli.signals; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"typing", "dataclasses", "inspect", "typer", "numpy"} & set(ended.stdout.split())


def test_a_fork_that_has_no_handlers_of_its_own_yet_ends_in_silence() -> None:
    had = Signals()
    had._process = os.getpid()
    child = os.fork()
    if not child:
        had._came(signal.SIGTERM, None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


def test_a_signal_within_a_destructor_is_not_lost_and_leaves_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from types import SimpleNamespace

    from sim.cli.signals import _unraisable

    had = Signals()
    with pytest.raises(Interrupted) as lost:
        had._came(signal.SIGINT, None)
    _unraisable(SimpleNamespace(exc_value=lost.value))
    assert not capsys.readouterr().err
    with pytest.raises(Interrupted), had.ends(Interruption()):
        pass


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_die_with_their_parent_within_two_seconds_and_what_has_ended_is_kept(
    long: Path, number: signal.Signals
) -> None:
    table, rows = long.parent / "t.csv", long.parent / "t.csv.rows"
    over = "workload.requests=10,1000000"
    process = started("sweep", long, "--over", over, "--seeds", 2, "--out", table)
    wait_until(lambda: rows.exists() and rows.read_text().count("\n") > 1)
    children = [
        int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    assert children
    process.send_signal(number)
    begun = time.monotonic()
    wait_until(lambda: not any(map(alive, children)), 20.0)
    assert time.monotonic() - begun < 2.0
    process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    assert rows.read_text().count("\n") > 1
    assert table.exists() == (number != signal.SIGKILL)


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_where_the_system_does_not_tell_of_the_parents_end_a_thread_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sim import workers

    monkeypatch.setattr(workers.os, "getppid", lambda: 1)
    ended: list[int] = []
    monkeypatch.setattr(workers.os, "_exit", ended.append)
    workers._watch(os.getpid())
    assert ended == [1]
