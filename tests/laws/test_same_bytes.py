"""The same bytes whatever the hash seed of the process: every table, blame and links among them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import hashlib
from sim.scenario import Scenario
from sim.simulate import simulate
from tests.laws.test_work_conservation import drawn

tables = ("requests", "steps", "gaps", "links", "gpus", "blame", "hand_overs", "kv_tiers")
for seed in (2, 3, 5, 8, 13, 21, 309, 622):
    scenario, fold, _ = drawn(seed)
    try:
        result = simulate(scenario, seed=seed, fold=fold)
    except Exception as refused:
        print(seed, type(refused).__name__, str(refused))
        continue
    for table in tables:
        frame = getattr(result, table)
        rows = [[x.hex() if isinstance(x, float) else x for x in row] for row in frame.iter_rows()]
        print(seed, table, frame.height, hashlib.sha256(repr(rows).encode()).hexdigest())
"""


def written(hash_seed: str) -> str:
    """What a process of its own writes about its tables."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.slow
def test_two_hash_seeds_give_the_same_tables_to_the_last_bit() -> None:
    first, second = written("1"), written("4242")
    assert first.count("blame") >= 6
    assert first == second
