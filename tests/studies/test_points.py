"""Points: each comes back as a row, whatever happens to it, its worker or the study."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import sim
from sim.inputs.errors import InputError
from sim.studies import points as points_module
from sim.studies.points import Point, run_points
from tests.studies.scenarios import scenario


def dies_with_seed_two(pickled: bytes, point: Point, version: str) -> points_module.Row:
    if point.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return points_module.Row(point, "done")


def test_a_worker_that_dies_costs_only_the_row_that_killed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_module, "run_point", dies_with_seed_two)
    rows = run_points([scenario()], [Point(0, (), seed) for seed in range(12)], progress=False)
    assert [row.point.seed for row in rows] == list(range(12))
    assert [row.point.seed for row in rows if row.status != "done"] == [2]
    assert "worker process died" in rows[2].reason


class Interrupted(ThreadPoolExecutor):
    """Ctrl-C at the fourth point."""

    def submit(self, *call: Any, **named: Any) -> Future[Any]:
        if call[2].seed == 3:
            raise KeyboardInterrupt
        future: Future[Any] = Future()
        future.set_result(call[0](*call[1:], **named))
        return future


def test_an_interrupt_keeps_the_rows_that_are_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(points_module, "WAITING_PER_WORKER", 1)
    monkeypatch.setattr(points_module, "AHEAD_ON_A_CLUSTER", 1)
    found = sim.sweep(scenario(), {"engine.max_num_seqs": [4]}, seeds=range(6), executor=Interrupted(1))
    assert [row.status for row in found.rows] == ["done"] * 3 + ["not run"] * 3
    assert "interrupted: 3 of 6" in capsys.readouterr().err


def test_a_rule_that_no_other_process_can_read_is_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="top of a module"):
        sim.sweep(scenario(router=lambda request, replicas, random: 0), {}, progress=False)
