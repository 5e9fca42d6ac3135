"""What vLLM logs at start-up, and what the memory plan of the same server says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.cost.memory import GIB, plan
from sim.inputs.errors import InfeasibleError
from sim.validation.memory import StartUp, memory_rows, start_ups

LOGS = start_ups()


def gib_left(one: StartUp) -> float:
    try:
        return one.planned().kv_bytes / GIB
    except InfeasibleError:  # less than nothing: as many blocks are given as make it a plan
        shards = [
            replace(shard, engine=shard.engine.model_copy(update={"gpu_memory_utilization": 1.0}))
            for shard in one.shards
        ]
        visible = plan(shards, *one.limits)
        share = one.shards[0].engine.gpu_memory_utilization
        return (visible.kv_bytes - (1.0 - share) * visible.usable_bytes) / GIB


@pytest.mark.parametrize("log", LOGS, ids=lambda one: one.case)
def test_a_gpu_has_what_vllm_logs_within_5_percent_or_1_percent_of_the_memory(log: StartUp) -> None:
    assert gib_left(log) == pytest.approx(log.kv_gib, abs=log.tolerance_gib)


@pytest.mark.parametrize("log", [log for log in LOGS if log.kv_tokens], ids=lambda one: one.case)
def test_logged_gib_are_the_logged_tokens_in_blocks_and_groups(log: StartUp) -> None:
    """Bytes of a token, by layers, heads, formats and groups: a rounding of the logged GiB is all between; of
    several GPUs, one that has less than the one that logs.
    """
    memory = log.planned()
    blocks = int(log.kv_gib * GIB // memory.block_bytes)
    rounded = 0.006 / log.kv_gib + (0.001 if len(log.shards[0].ranks) * len(log.shards) == 1 else 0.015)
    assert blocks // memory.groups.groups * 16 == pytest.approx(log.kv_tokens, rel=rounded)
    if log.max_model_len and log.max_concurrency:
        needed = memory.groups.longest(log.max_model_len, log.limits[1])
        assert blocks / needed == pytest.approx(
            log.max_concurrency, rel=rounded + 0.005 / log.max_concurrency
        )


def test_rows_that_nothing_was_fitted_on_are_as_close_as_the_others() -> None:
    errors = {
        fitted: np.abs([gib_left(log) - log.kv_gib for log in LOGS if log.fitted is fitted])
        for fitted in (True, False)
    }
    assert len(errors[False]) > len(errors[True])
    assert np.median(errors[False]) < 0.3
    assert np.mean(errors[False]) < 0.4


def test_the_ledger_has_a_row_for_every_server_that_had_a_cache() -> None:
    rows = list(memory_rows())
    assert len(rows) == sum(log.kv_gib > 0.0 for log in LOGS) >= 15
    assert {row.kind for row in rows} == {"fitted", "predicted"}
