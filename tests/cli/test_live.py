"""How far a run has come, on standard error, without a change of its rows."""

from __future__ import annotations

import io
import time

import pytest

import sim
from sim.cli import live
from sim.runtime.interruption import Interruption, SoFar
from tests.results.verdict_scenarios import described, poisson


class Stream(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def shown(monkeypatch: pytest.MonkeyPatch, found: SoFar | None, *, terminal: bool) -> str:
    stream, run = Stream(terminal=terminal), Interruption()
    monkeypatch.setattr(live.sys, "stderr", stream)
    for name in ("QUIET_S", "ON_A_TERMINAL_S", "IN_A_FILE_S"):
        monkeypatch.setattr(live, name, 0.01)
    monkeypatch.setattr(run, "so_far", lambda: found)
    with live.live(run):
        time.sleep(0.08)
    return stream.getvalue()


FOUND = SoFar(12.345, 4000, 12, 3, 60_000, 0.25)


def test_the_line_has_time_requests_events_and_the_time_left() -> None:
    assert live.line(FOUND, 10.0) == (
        "12.35 s simulated, 4,000 requests done, 12 running, 3 waiting, 6,000 events/s, about 30 s left"
    )
    assert "left" not in live.line(FOUND._replace(share=None), 10.0)


def test_on_a_terminal_one_line_is_written_over_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, FOUND, terminal=True)
    assert "\n" not in text
    assert text.startswith("\r12.35 s simulated")
    assert text.endswith(" \r")


def test_elsewhere_a_line_is_written_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, FOUND, terminal=False).splitlines()
    assert all(line.startswith("12.35 s simulated") for line in lines)
    assert lines


def test_nothing_is_shown_where_no_run_is_under_way_or_it_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, None, terminal=True) == ""
    stream = Stream(terminal=True)
    monkeypatch.undo()
    monkeypatch.setattr(live.sys, "stderr", stream)
    with live.live(Interruption()):
        pass
    assert stream.getvalue() == ""


def test_a_run_says_how_far_it_has_come_and_its_rows_do_not_change() -> None:
    described_run, found, interruption = described(workload=poisson(50, 40)), [], Interruption()

    def looks(env, fabric):  # type: ignore[no-untyped-def]
        while env.now < 0.5:
            yield env.timeout(0.05)
            found.append(interruption.so_far())

    watched = sim.simulate(described_run, beside=[looks], interruption=interruption)
    assert watched.requests.equals(sim.simulate(described_run).requests)
    assert interruption.so_far() is None
    first, last = found[0], found[-1]
    assert 0.0 < first.now_s < last.now_s
    assert 0 < last.ended <= 40
    assert last.share == last.ended / 40
    assert last.events > first.events > 0
    assert last.running >= 0 <= last.waiting
