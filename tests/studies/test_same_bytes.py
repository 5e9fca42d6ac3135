"""The rows of a study are the same whatever runs them: workers, executors, processes, hash seeds."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

import sim
from sim.scenario import Scenario

DESCRIBED = {
    "topology": "a100-x4",
    "model": "llama-3-8b",
    "replicas": 2,
    "router": "power_of_choices",
    "engine": {"max_num_seqs": 4},
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 40},
        "prompt_tokens": {"kind": "uniform", "low": 10, "high": 300},
        "output_tokens": 8,
        "requests": 12,
    },
}
GRID = {"engine.max_num_seqs": [2, 4], "engine.tensor_parallel_size": [1, 2]}
TABLES = ("requests", "steps", "gaps", "links", "gpus", "blame", "blame_ttft", "blame_itl", "kv_blocks")
DIGEST = """
import hashlib, sim
from sim.scenario import Scenario
from tests.studies.test_same_bytes import DESCRIBED, digest
print(digest())
"""


def digest() -> str:
    """Of every table of a run, to the last bit."""
    result = sim.simulate(Scenario.model_validate(DESCRIBED), seed=1)
    whole = hashlib.sha256()
    for name in TABLES:
        frame = getattr(result, name)
        for column in frame.columns:
            whole.update(repr([column, [repr(value) for value in frame[column].to_list()]]).encode())
    return whole.hexdigest()


def studied(executor: Executor | None) -> tuple[list[str], list[str], list[str]]:
    """What a sweep, a comparison and a search for capacity leave, but for how long they took."""
    scenario = Scenario.model_validate(DESCRIBED)
    swept = sim.sweep(scenario, GRID, seeds=range(2), executor=executor, progress=False)
    other = sim.with_changes(scenario, {"engine.max_num_seqs": 1})
    compared = sim.compare({"a": scenario, "b": other}, seeds=range(3), executor=executor)
    found = sim.capacity(scenario, {"p99_ttft_ms": 200}, tolerance=0.3, executor=executor)
    tables = swept.table().drop("wall_s"), compared.table(), found.table()
    return tuple([repr(row) for row in table.rows()] for table in tables)  # type: ignore[return-value]


@pytest.mark.slow
def test_studies_are_the_same_on_threads_and_on_any_number_of_processes() -> None:
    with ThreadPoolExecutor(3) as threads:
        expected = studied(threads)
    assert all(expected)
    for workers in (1, 2, 4):
        with ProcessPoolExecutor(workers, get_context("spawn")) as processes:
            assert studied(processes) == expected
    assert studied(None) == expected


@pytest.mark.slow
def test_studies_are_the_same_on_dask() -> None:
    distributed = pytest.importorskip("distributed")
    with ThreadPoolExecutor(1) as thread:
        expected = studied(thread)
    with distributed.Client(processes=False, dashboard_address=None, n_workers=2) as client:
        assert studied(client.get_executor(pure=False)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_a_run_is_the_same_in_another_process_with_another_hash_seed(hash_seed: str) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ended = subprocess.run(
        [sys.executable, "-c", DIGEST], capture_output=True, text=True, cwd=root, env=environment, check=True
    )
    assert ended.stdout.strip() == digest()
