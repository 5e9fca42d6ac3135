"""Whole services whose engines count those who decode as one leave the rows of engines that do not, to the
last bit and in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.results.columns import TextColumn
from sim.runtime.engine.cohort import Cohort
from sim.runtime.engine.queue import RequestQueue
from sim.scenario.scenario import Scenario
from sim.simulate import Result, simulate
from tests.laws.folding_scenarios import scenarios, small, split_scenarios
from tests.laws.test_scheduler_invariants import services

pytestmark = pytest.mark.unchecked  # many runs a test, whose rows are held against each other


def rows(result: Result) -> dict[str, Any]:
    """All that a run leaves, in the order in which it came."""
    records = result.records
    tables = {
        "requests": records.requests,
        "steps": records.steps,
        "gaps": records.gaps,
        "hand_overs": records.hand_overs,
        "blame": result.blame_records,
        "links": result.link_rows,
        "gpus": result.gpu_rows,
        "tiers": result.kv_tier_rows,
    }
    return {
        f"{name}.{column}": list(map(values.texts.__getitem__, values.codes))
        if isinstance(values, TextColumn)
        else values.tobytes()
        for name, table in tables.items()
        for column, values in table.columns.items()
    }


def run(data: dict[str, Any], seed: int, *, fold: bool, counts: bool) -> tuple[dict[str, Any], int]:
    """The rows of a run, and how often somebody joined a cohort in it."""
    joined = 0
    join = Cohort.join

    def noted(cohort: Cohort, sequence: Any) -> None:
        nonlocal joined
        joined += 1
        join(cohort, sequence)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Cohort, "join", noted)
        if not counts:
            patched.setattr(RequestQueue, "allocate_together", lambda queue, most: [])
        return rows(simulate(Scenario.model_validate(data), seed=seed, fold=fold)), joined


def differences(data: dict[str, Any], seed: int = 0, *, fold: bool = True) -> tuple[list[str], int]:
    """Columns in which a service with cohorts differs from one without, and how often somebody joined one."""
    (with_cohorts, joined), (without, nobody) = (
        run(data, seed, fold=fold, counts=counts) for counts in (True, False)
    )
    assert nobody == 0
    return [column for column, values in without.items() if with_cohorts[column] != values], joined


def engine(**settings: Any) -> dict[str, Any]:
    """Four GPUs, lengths of all kinds, classes of three priorities."""
    classes = {"urgent": {"priority": 0}, "plain": {"priority": 3}, "patient": {"priority": 7}}
    return {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "engine": {
            "tensor_parallel_size": 2, "max_num_seqs": 16, "max_num_batched_tokens": 200,
            "num_gpu_blocks_override": 100, **settings,
        },
        "workload": {
            "arrivals": {"kind": "poisson", "rate_per_s": 200.0},
            "prompt_tokens": {"kind": "uniform", "low": 1, "high": 300},
            "output_tokens": {"kind": "uniform", "low": 1, "high": 150},
            "requests": 60,
            "classes": classes,
        },
    }  # fmt: skip


def of(data: dict[str, Any], **workload: Any) -> dict[str, Any]:
    return {**data, "workload": {**data["workload"], **workload}}


RANKS = {"tensor_parallel_size": 1, "data_parallel_size": 2, "enable_expert_parallel": True}
HOST = {"host": {"capacity_bytes": "2 GB"}}
TURNS = {"kind": "sessions", "starts": {"kind": "poisson", "rate_per_s": 20.0}, "turns": 4}
WAITS = {"kind": "uniform", "low_s": 0.05, "high_s": 0.8}
FAULTS = [{"at_s": 0.1, "until_s": 0.3, "replica": 1}, {"at_s": 0.35, "until_s": 0.5, "replica": 0}]
POOL = {"tensor_parallel_size": 1, "max_num_seqs": 16, "num_gpu_blocks_override": 250}

SERVICES: dict[str, dict[str, Any]] = {
    "short of blocks": engine(),
    "by priority, short of blocks": engine(scheduling_policy="priority"),
    "a budget that one prompt uses up": engine(max_num_batched_tokens=16),
    "prompts in small pieces": engine(max_num_batched_tokens=100, long_prefill_token_threshold=40),
    "prefixes": of(engine(num_gpu_blocks_override=70), prefix={"groups": 3, "tokens": 64}),
    "conversations": of(engine(max_num_seqs=64, num_gpu_blocks_override=900), arrivals=TURNS, classes={}),
    "clients that give up": of(engine(), patience_s=WAITS, timeout_s=WAITS),
    "two that fail": {**engine(), "replicas": 2, "faults": FAULTS},
    "prompts first": engine(scheduler="continuous", max_num_batched_tokens=2048),
    "static batches": engine(scheduler="static", max_num_batched_tokens=2048),
    "no eviction": engine(backend="trtllm", capacity_scheduler_policy="guaranteed_no_evict"),
    "lower tiers": of(engine(kv_tiers=HOST), prefix={"groups": 3, "tokens": 64}),
    "ranks in lock-step": {**engine(**RANKS), "model": small("qwen3-30b-a3b")},
    "a router that counts tokens": {**engine(), "replicas": 2, "router": "shortest_tokens"},
    "pools": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "workload": engine()["workload"],
        "pools": {
            "prompts": {"role": "prefill", "replicas": 1, "engine": POOL},
            "answers": {"role": "decode", "replicas": 2, "engine": POOL},
        },
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_with_cohorts_leaves_the_rows_of_one_without(service: str) -> None:
    found, joined = differences(SERVICES[service])
    assert found == []
    assert joined > 30


@pytest.mark.parametrize(
    "service",
    [
        engine(tensor_parallel_size=1, pipeline_parallel_size=2),
        engine(speculation={"num_speculative_tokens": 2, "acceptance_rate": 0.6}),
    ],
)
def test_batches_that_overlap_and_drafts_go_without_cohorts(service: dict[str, Any]) -> None:
    assert run(service, 0, fold=True, counts=True)[1] == 0


@pytest.mark.slow
@settings(max_examples=60)
@given(st.one_of(services(), scenarios(), split_scenarios()), st.integers(0, 1000), st.booleans())
def test_random_services_with_cohorts_leave_the_rows_of_those_without(
    data: dict[str, Any], seed: int, fold: bool
) -> None:
    assert differences(data, seed, fold=fold)[0] == []


def test_a_run_that_is_stopped_has_given_what_its_cohorts_have_got() -> None:
    data = {**engine(num_gpu_blocks_override=400), "time_limit_s": 0.3}
    found, joined = differences(data)
    assert found == []
    assert joined > 10
    result = simulate(Scenario.model_validate(data))
    unfinished = result.records.requests["status"] == "unfinished"
    assert np.sum(result.records.requests["generated_tokens"][unfinished]) > 50
