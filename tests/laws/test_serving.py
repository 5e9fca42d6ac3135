"""What must hold of every run, whatever the scenario: causes add up, tokens, order, Little, bytes, blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cost.batch import Batch
from sim.results.blame import CAUSES
from sim.results.laws import little, violations
from sim.runtime.engine import engine_core as engine_loop
from sim.runtime.engine import queue as engine_queue
from sim.runtime.engine.attribution import REQUEST_PREEMPTED
from sim.runtime.engine.flight import Part
from sim.runtime.engine.speculation import Speculator
from sim.scenario import Scenario, with_changes
from sim.simulate import Result, simulate
from tests.laws.folded_and_played import differences
from tests.laws.folding_scenarios import scenarios, small

seeds = st.integers(0, 1000)
some = settings(max_examples=40)


def blame_and_latency(result: Result) -> tuple[np.ndarray, np.ndarray]:
    rows = result.requests.filter(result.requests["status"] == "finished").sort("request_id")
    blame = result.blame.sort("request_id")
    assert blame["request_id"].to_list() == rows["request_id"].to_list()
    causes = blame.select(CAUSES).to_numpy()
    return causes, (rows["finished_s"] - rows["arrival_s"]).to_numpy()


def assert_causes_of_parts_add_up(result: Result) -> None:
    """To the first token, and from there to the last; an aborted request has waited until it left."""
    slack_s = 1e-9 * max(1.0, result.end_s)
    rows = result.requests.with_columns(
        left_s=polars.coalesce("first_token_s", "aborted_s"),
        end_s=polars.coalesce("finished_s", "aborted_s"),
    )
    rows = rows.with_columns(
        ttft=rows["left_s"] - rows["arrival_s"], itl=rows["end_s"] - rows["first_token_s"]
    )
    lasted = {
        "ttft": rows.filter(rows["ttft"].is_not_null()),
        "itl": rows.filter(rows["itl"].is_not_null() & (rows["generated_tokens"] > 1)),
    }
    for metric, known in lasted.items():
        causes = result.blame_of(metric)
        assert causes["request_id"].to_list() == known["request_id"].to_list()
        seconds = causes.select(CAUSES).to_numpy()
        assert np.abs(seconds.sum(axis=1) - known[metric].to_numpy()).max(initial=0.0) <= slack_s
        assert seconds.min(initial=0.0) >= -slack_s


def assert_causes_add_up(result: Result) -> None:
    causes, latency_s = blame_and_latency(result)
    assert np.abs(causes.sum(axis=1) - latency_s).max(initial=0.0) <= 1e-9 * max(1.0, result.end_s)
    assert causes.min(initial=0.0) >= -1e-9 * max(1.0, result.end_s)
    assert_causes_of_parts_add_up(result)


@pytest.mark.slow
@some
@given(scenarios(), seeds)
def test_the_causes_of_every_request_add_up_to_its_latency(data: dict[str, Any], seed: int) -> None:
    assert_causes_add_up(simulate(Scenario.model_validate(data), seed=seed))


@pytest.mark.slow
@some
@given(scenarios(), seeds)
def test_every_request_gets_its_tokens_in_order_and_little_and_blocks_hold(
    data: dict[str, Any], seed: int
) -> None:
    kept: list[engine_queue.RequestQueue] = []
    build = engine_queue.RequestQueue.__init__

    def noted(queue: engine_queue.RequestQueue, *args: Any, **how: Any) -> None:
        build(queue, *args, **how)
        kept.append(queue)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine_queue.RequestQueue, "__init__", noted)
        result = simulate(Scenario.model_validate(data), seed=seed)
    assert violations(result.records, one_token_a_step="speculation" not in data["engine"]) == []
    law = little(result.records)
    assert law is None or law.concurrency == pytest.approx(law.rate_per_s * law.sojourn_s, rel=1e-9)
    for queue in kept:
        queue.block_pool.check()
        if "time_limit_s" not in data:
            assert queue.block_pool.free_blocks == queue.block_pool.blocks
            assert not queue.running
            assert not queue.waiting
    if "time_limit_s" not in data:
        assert set(result.requests["status"]) <= {"finished", "rejected"}


@pytest.mark.slow
@some
@given(scenarios(), seeds)
def test_no_step_exceeds_its_budget_or_its_seats_and_first_come_is_first_admitted(
    data: dict[str, Any], seed: int
) -> None:
    batches: list[Batch] = []
    make = engine_loop.begun

    def noted(queue: engine_queue.RequestQueue, grants: Any, answers: Speculator) -> tuple[Part, Batch]:
        part, batch = make(queue, grants, answers)
        if data["engine"]["scheduler"] == "vllm":
            assert sum(tokens for _, tokens in grants) <= queue.token_budget
        assert len(grants) <= queue.max_running
        batches.append(batch)
        return part, batch

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine_loop, "begun", noted)
        result = simulate(Scenario.model_validate(data), seed=seed)
    for _, rows in result.requests.filter(result.requests["admitted_s"].is_not_nan()).group_by("replica"):
        admitted = rows.sort(["routed_s", "arrival_s", "request_id"])["admitted_s"].to_list()
        assert admitted == sorted(admitted)


SCARCE: dict[str, Any] = {
    "topology": "a100-x4",
    "model": small("llama-3-8b"),
    "engine": {"num_gpu_blocks_override": 60, "max_num_seqs": 16, "max_num_batched_tokens": 256},
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 200.0},
        "prompt_tokens": {"kind": "uniform", "low": 10, "high": 300},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 200},
        "requests": 40,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"pipeline_parallel_size": 2},
        {"pipeline_parallel_size": 2, "pipeline_split": "even"},
        {"enable_prefix_caching": False, "async_scheduling": False},
        {"scheduling_policy": "priority"},
    ],
)
def test_causes_add_up_through_preemption_chunks_and_pipelines(engine: dict[str, Any]) -> None:
    data = {**SCARCE, "engine": {**SCARCE["engine"], **engine}}
    result = simulate(Scenario.model_validate(data))
    assert result.requests["preemptions"].sum() > 0
    assert result.blame["recompute"].sum() > 0
    assert result.blame["preempted"].sum() > 0
    assert violations(result.records) == []
    assert_causes_add_up(result)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "engine",
    [
        {"scheduling_policy": "priority"},
        {"scheduling_policy": "priority", "async_scheduling": False},
        {"scheduler_reserve_full_isl": False},
        {"capacity_scheduler_policy": "guaranteed_no_evict"},
        {"watermark": 0.1},
        {"long_prefill_token_threshold": 50},
    ],
)
def test_admission_where_blocks_are_few_folds_as_it_plays(engine: dict[str, Any], seed: int) -> None:
    limits = {"num_gpu_blocks_override": 70, "max_num_seqs": 16, "max_num_batched_tokens": 128}
    classes = {"urgent": {"priority": 0}, "plain": {"priority": 3}, "patient": {"priority": 7}}
    data = {
        **SCARCE,
        "engine": {**limits, **engine},
        "workload": {
            **SCARCE["workload"],
            "arrivals": {"kind": "poisson", "rate_per_s": 150.0},
            "classes": classes,
        },
    }
    found, result = differences(data, seed=seed)
    assert not found, found
    preempts = "capacity_scheduler_policy" not in engine
    assert (result.requests["preemptions"].sum() > 0) == preempts
    assert violations(result.records) == []


def test_a_request_that_is_alone_waits_for_nothing() -> None:
    data = {**SCARCE, "workload": {**SCARCE["workload"], "requests": 1, "output_tokens": 30}}
    row = simulate(Scenario.model_validate(data)).blame.row(0, named=True)
    for cause in ("sharing", "pipeline", "routing", "admission", "preempted", "recompute", "hand_over"):
        assert row[cause] == 0.0


TWO_SERVICES: dict[str, Any] = {
    "topology": "l40s-12",
    "model": small("llama-3-8b"),
    "placement": "strided",
    "replicas": 3,
    "engine": {"tensor_parallel_size": 4, "host": {"step_s": 1e-3}, "async_scheduling": False},
    "workload": {
        "arrivals": {"kind": "burst"},
        "prompt_tokens": {"kind": "uniform", "low": 100, "high": 900},
        "output_tokens": {"kind": "uniform", "low": 5, "high": 40},
        "requests": 12,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "cause", ["sharing", "collective_latency", "collective_bytes", "host", "kernel_latency"]
)
def test_a_run_without_a_cause_has_none_of_it_and_ends_no_later(cause: str) -> None:
    scenario = Scenario.model_validate(TWO_SERVICES)
    full, without = simulate(scenario), simulate(scenario, without=[cause])
    assert full.blame[cause].sum() > 0
    assert without.blame[cause].sum() == pytest.approx(0.0, abs=1e-12)
    assert without.requests["finished_s"].max() < full.requests["finished_s"].max()
    assert_causes_add_up(without)


def test_leaving_out_more_causes_is_never_slower() -> None:
    scenario = Scenario.model_validate(TWO_SERVICES)
    left_out: list[str] = []
    ends_s = [simulate(scenario).end_s]
    for cause in ("sharing", "collective_bytes", "collective_latency", "host", "kernel_latency"):
        left_out.append(cause)
        ends_s.append(simulate(scenario, without=left_out).end_s)
    assert ends_s == sorted(ends_s, reverse=True)


def test_bytes_on_the_links_are_those_of_the_steps_whatever_the_traffic() -> None:
    """Two placements of one load move the same all-reduce bytes in all; only where differs."""
    scenario = Scenario.model_validate(
        {**TWO_SERVICES, "workload": {**TWO_SERVICES["workload"], "requests": 3}}
    )
    unshared = simulate(scenario, without=["sharing"])
    shared = simulate(scenario)
    assert shared.links["n_bytes"].sum() == pytest.approx(unshared.links["n_bytes"].sum(), rel=1e-9)


def test_a_lost_second_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law of causes fails when waiting after a preemption is charged to nobody."""
    wait = engine_queue.Sequence.wait

    def forgetful(self: engine_queue.Sequence, cause: int, until_s: float) -> None:
        if cause == REQUEST_PREEMPTED:
            self.charged_s = until_s
        else:
            wait(self, cause, until_s)

    monkeypatch.setattr(engine_queue.Sequence, "wait", forgetful)
    with pytest.raises(AssertionError):
        assert_causes_add_up(simulate(Scenario.model_validate(SCARCE)))


def test_more_blocks_never_preempt_more() -> None:
    scenario = Scenario.model_validate(SCARCE)
    preemptions = [
        simulate(with_changes(scenario, {"engine.num_gpu_blocks_override": blocks})).summary()["preemptions"]
        for blocks in (60, 120, 1000)
    ]
    assert preemptions == sorted(preemptions, reverse=True)
    assert preemptions[-1] == 0
