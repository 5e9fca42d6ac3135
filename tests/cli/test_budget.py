from __future__ import annotations

import time

import pytest

from sim.cli import status_of
from sim.cli.budget import memory_budget, most_numerous, resident_bytes
from sim.inputs.errors import InfeasibleError
from sim.workload.request import Request


def wait_for_the_look() -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        pass


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


def test_a_budget_that_is_no_size_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["run", "x.yaml", "--max-memory", "4 bananas"]) == 2
    assert "--max-memory 'bananas' is not a unit" in capsys.readouterr().err
