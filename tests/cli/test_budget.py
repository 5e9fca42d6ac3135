from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sim.cli import status_of
from sim.cli.budget import CpuBudget, _place, memory_budget, most_numerous, resident_bytes
from sim.inputs.errors import InfeasibleError, UnfinishedError
from sim.runtime.interruption import Interruption
from sim.views.saved import load_result
from sim.workload.request import Request
from tests.cli.conftest import Sim


def wait_for_the_look() -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        pass


@pytest.mark.slow
@pytest.mark.skipif(not resident_bytes(), reason="the system does not say how much memory a process has")
def test_a_run_that_outgrows_its_budget_ends_with_what_grew() -> None:
    grown = [Request(number, 0.0, 1, 1, (number,)) for number in range(50_000)]
    with (
        pytest.raises(InfeasibleError, match=r"its budget is 0.0 GB; most are .*Request \(\d"),
        memory_budget(1e6),
    ):
        wait_for_the_look()
    assert len(grown) == 50_000


def test_within_its_budget_nothing_happens() -> None:
    with memory_budget(None):
        assert most_numerous()


def test_memory_that_runs_out_is_no_traceback() -> None:
    with pytest.raises(InfeasibleError, match="no more memory for this run"), memory_budget(None):
        raise MemoryError


def test_the_place_of_a_signal_is_a_function_with_a_name() -> None:
    made: dict[str, Any] = {"sys": sys, "place": _place}
    source = "def admit():\n    return next(place(sys._getframe()) for _ in range(1))\n"
    exec(compile(source, f"{os.sep}sim{os.sep}runtime{os.sep}queue.py", "exec"), made)
    assert made["admit"]() == "admit (sim/runtime/queue.py:2)"


LONG = """
topology: a100-x4
model: llama-3-8b
engine: {scheduler: one_at_a_time, service_time: {token_s: 10 us}}
workload: {arrivals: {kind: poisson, rate_per_s: 1}, prompt_tokens: 50000, output_tokens: 1, requests: 100000}
"""


@pytest.mark.slow
def test_a_run_without_processor_time_left_keeps_its_numbers(
    sim: Sim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.views.report_page.vega", lambda: "")  # V8 takes longer than the run
    (tmp_path / "s.yaml").write_text(LONG)
    status, printed, err = sim(
        "run", tmp_path / "s.yaml", "--no-fold", "--max-cpu", "0.3 s", "--out", tmp_path / "out"
    )
    assert status == 4
    assert "time to first token" in printed
    assert "marked incomplete" in err
    assert re.search(r"processor time, and its budget is 0.3 s; it was in \w+ \(.*\.py:\d+\); most are", err)
    saved = load_result(tmp_path / "out")
    assert (saved.ended, saved.is_complete) == ("CPU budget", False)


@pytest.mark.slow
def test_processor_time_that_is_spent_within_one_event_or_before_the_first_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = CpuBudget(0.05)
    with (
        pytest.raises(UnfinishedError, match=r"its budget is 0.05 s; it was in "),
        budget.held(Interruption()),
    ):
        wait_for_the_look()
    in_an_event = Interruption()
    in_an_event.ask = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sim.cli.budget.TO_COME_TO_AN_END_S", 0.05)
    with pytest.raises(UnfinishedError), CpuBudget(0.05).held(in_an_event):
        wait_for_the_look()


@pytest.mark.slow
def test_no_look_comes_while_another_counts_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def long_count() -> str:
        looks.append(time.process_time())
        while time.process_time() < looks[-1] + 0.2:
            pass
        return "Request (3)"

    in_an_event = Interruption()
    in_an_event.ask = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sim.cli.budget.most_numerous", long_count)
    monkeypatch.setattr("sim.cli.budget.TO_COME_TO_AN_END_S", 0.02)
    with pytest.raises(UnfinishedError), CpuBudget(0.02).held(in_an_event):
        wait_for_the_look()
    assert len(looks) == 2
    assert looks[1] - looks[0] >= 0.2  # the second began behind the first


def test_a_run_within_its_processor_time_is_left_alone() -> None:
    with CpuBudget(30.0).held(Interruption()), CpuBudget(None).held(Interruption()):
        assert sum(range(10)) == 45


def test_a_budget_that_is_no_size_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["run", "x.yaml", "--max-memory", "4 bananas"]) == 2
    assert "--max-memory 'bananas' is not a unit" in capsys.readouterr().err
    assert status_of(["run", "x.yaml", "--max-cpu", "4 bananas"]) == 2
    assert "--max-cpu 'bananas' is not a unit" in capsys.readouterr().err
