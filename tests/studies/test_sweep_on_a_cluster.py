"""Sweeps on several machines: any executor serves, rows that have come stay, what goes wrong is said."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import CancelledError, Executor, Future
from importlib.util import find_spec
from typing import Any

import pytest

import sim
from tests.studies.test_sweep import scenario

needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="needs the extra `sweep`")


class Fails(Executor):
    """Gives two points their rows, then fails every further one."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.points = 0

    def submit(self, run: Any, *what: Any, **named: Any) -> Future[Any]:  # type: ignore[override]
        self.points += 1
        future: Future[Any] = Future()
        if self.points <= 2:
            future.set_result(run(*what, **named))
        else:
            future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (CancelledError(), "the executor cancelled it"),
        (ModuleNotFoundError("No module named 'sim'", name="sim"), "a worker has no module sim"),
        (OSError("the wire broke"), "OSError: the wire broke"),
    ],
)
def test_rows_that_had_come_stay_when_the_cluster_is_lost(error: BaseException, said: str) -> None:
    found = sim.sweep(scenario(), {}, seeds=range(5), executor=Fails(error), progress=False)
    assert [row.status for row in found.rows] == ["done"] * 2 + ["failed"] * 3
    assert all(said in row.reason for row in found.failed)
    assert found.table()["completed"].null_count() == 3


class Elsewhere(Fails):
    """A machine with another release."""

    def submit(self, run: Any, *what: Any, **named: Any) -> Future[Any]:  # type: ignore[override]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sim, "__version__", "0.0.1")
            return super().submit(run, *what, **named)


def test_a_worker_with_another_version_gives_no_numbers() -> None:
    found = sim.sweep(scenario(), {}, executor=Elsewhere(OSError()), progress=False)
    assert found.rows[0].status == "failed"
    assert f"a worker has fabricsim 0.0.1 and the sweep {sim.__version__}" in found.rows[0].reason


CLUSTER = """
import json, os, signal, sys, threading
import sim
from distributed import Client, LocalCluster

if __name__ == "__main__":
    scenario = sim.load_scenario("experiments/one_server.yaml")
    scenario = sim.with_changes(scenario, {"workload.requests": 1000})
    grid = {"workload.arrivals.rate_per_s": [0.2, 0.4, 0.6, -1.0]}
    options = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        executor = client.get_executor(pure=False, retries=2)
        first = list(client.run(os.getpid).values())[0]
        killer = threading.Timer(1.0, os.kill, (first, signal.SIGKILL))
        killer.start()
        found = sim.sweep(scenario, grid, seeds=range(6), executor=executor, progress=False)
        killer.join()
    here = sim.sweep(scenario, grid, seeds=range(6), progress=False)
    print(json.dumps({
        "statuses": [row.status for row in found.rows],
        "same": [row.summary for row in found.rows] == [row.summary for row in here.rows],
    }))
"""


@needs_dask
@pytest.mark.slow
def test_a_dask_cluster_gives_the_rows_of_this_machine_though_a_worker_is_killed() -> None:
    run = subprocess.run([sys.executable, "-c", CLUSTER], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert said == {"statuses": ["done"] * 18 + ["wrong input"] * 6, "same": True}


@needs_dask
@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_named() -> None:
    command = [sys.executable, "-m", "sim", "sweep", "experiments/one_server.yaml"]
    command += ["--over", "workload.requests=10", "--scheduler"]
    for address in ("tcp://127.0.0.1:9", "nowhere"):
        run = subprocess.run([*command, address], capture_output=True, text=True, timeout=120)
        assert run.returncode == 2
        assert f"there is no dask scheduler at {address}" in run.stderr
        assert "Traceback" not in run.stderr
