"""Laws of clients that give up, and of engines that fail: who is served follows from arrivals, services and
patience; nobody is lost from the books, and causes add up to the time that each was there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sim.inputs.errors import InfeasibleError, UnfinishedError
from sim.results.blame import CAUSES
from sim.results.laws import little, violations
from sim.scenario import Scenario, with_changes
from sim.simulate import Result, simulate
from sim.theory import queueing
from tests.laws.folded_and_played import differences
from tests.laws.folding_scenarios import small
from tests.laws.instants import attack, attacked
from tests.laws.test_serving import assert_causes_of_parts_add_up

TOKEN_S = 1e-3


def impatient(rate_per_s: float, patience: Any, requests: int, servers: int = 1) -> Scenario:
    """Exponential answers of a second in the mean, one at a time; the first of a thousand tokens ends the
    wait.
    """
    return Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": "llama-3-8b",
            "replicas": servers,
            "router": "central_queue",
            "engine": {"scheduler": "one_at_a_time", "service_time": {"token_s": TOKEN_S}},
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
                "prompt_tokens": 1,
                "output_tokens": {"kind": "geometric", "mean": 1000},
                "patience_s": patience,
                "requests": requests,
            },
        }
    )


def assert_causes_add_up(result: Result) -> None:
    rows = result.requests.filter(result.requests["status"].is_in(["finished", "aborted"]))
    gone_s = rows.select(polars.coalesce("finished_s", "aborted_s")).to_series()
    causes = result.blame.select(CAUSES).to_numpy()
    assert result.blame["request_id"].to_list() == rows["request_id"].to_list()
    off = np.abs(causes.sum(axis=1) - (gone_s - rows["arrival_s"]).to_numpy())
    assert_causes_of_parts_add_up(result)
    assert off.max(initial=0.0) <= 1e-9 * max(1.0, result.end_s)


@pytest.mark.slow
@pytest.mark.parametrize("patience", [{"kind": "exponential", "mean_s": 1.0}, 0.5])
def test_who_is_served_and_when_follows_from_arrivals_services_and_patience(patience: Any) -> None:
    """The virtual wait of a server whose customers renege, customer by customer."""
    result = simulate(impatient(1.2, patience, 2000))
    waits_s = patience_of(impatient(1.2, patience, 2000))
    free_s = 0.0
    for row, patience_s in zip(result.requests.iter_rows(named=True), waits_s, strict=True):
        begins_s = max(row["arrival_s"], free_s)
        gone_s = row["arrival_s"] + patience_s
        if begins_s + TOKEN_S <= gone_s:
            assert row["status"] == "finished"
            assert row["admitted_s"] == pytest.approx(begins_s, rel=1e-9)
            free_s = row["finished_s"]
            assert free_s == pytest.approx(begins_s + TOKEN_S * row["output_tokens"], rel=1e-9)
        else:
            assert row["status"] == "aborted"
            assert row["first_token_s"] is None
            if begins_s < gone_s:  # just begun: it goes with the end of that step
                free_s = begins_s + TOKEN_S
                gone_s = free_s
            assert row["aborted_s"] == pytest.approx(gone_s, rel=1e-9)
    assert violations(result.records) == []
    assert_causes_add_up(result)


def patience_of(scenario: Scenario) -> list[float]:
    from sim.workload.generator import request_generator

    return [request.patience_s for request in request_generator(scenario.workload, 0)]


@pytest.mark.unchecked  # tens of thousands of customers
@pytest.mark.slow
@pytest.mark.parametrize(("servers", "rho"), [(1, 0.8), (1, 1.5), (4, 1.0)])
def test_impatient_customers_are_erlang_a(servers: int, rho: float) -> None:
    requests = 20_000
    result = simulate(impatient(rho * servers, {"kind": "exponential", "mean_s": 2.0}, requests, servers))
    rows = result.requests.tail(requests - 1000)
    exact = queueing.erlang_a(rho * servers, 1.0, servers, 2.0)
    lost = (rows["status"] == "aborted").mean()
    waited_s = rows.select(polars.coalesce("admitted_s", "aborted_s")).to_series() - rows["arrival_s"]
    assert lost == pytest.approx(exact.lost, rel=0.08)
    assert waited_s.mean() == pytest.approx(exact.Wq, rel=0.08)
    assert (waited_s > 1e-9).mean() == pytest.approx(exact.delayed, rel=0.04)
    assert waited_s.mean() != pytest.approx(exact.Wq * 0.8, rel=0.08)
    if rho < 1.0:  # and it is another queue than that of the patient
        assert waited_s.mean() != pytest.approx(queueing.mmc(rho * servers, 1.0, servers).Wq, rel=0.08)


CHAT: dict[str, Any] = {
    "topology": "a100-x4",
    "model": small("llama-3-8b"),
    "engine": {"num_gpu_blocks_override": 60, "max_num_seqs": 16, "max_num_batched_tokens": 256},
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 200.0},
        "prompt_tokens": {"kind": "uniform", "low": 10, "high": 300},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 200},
        "patience_s": {"kind": "exponential", "mean_s": 1.0},
        "timeout_s": {"kind": "uniform", "low_s": 0.05, "high_s": 2.0},
        "requests": 40,
    },
}
ENGINES: list[dict[str, Any]] = [
    {},
    {"pipeline_parallel_size": 2},
    {"async_scheduling": False},
    {"scheduling_policy": "priority"},
    {"scheduler": "static", "num_gpu_blocks_override": 200, "max_num_seqs": 8},
    {"speculation": {"num_speculative_tokens": 2, "acceptance_rate": 0.7}},
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_who_gives_up_leaves_nothing_behind_and_is_in_every_count(engine: dict[str, Any]) -> None:
    found, result = differences({**CHAT, "engine": {**CHAT["engine"], **engine}})
    assert not found, found
    rows, numbers = result.requests, result.summary()
    aborted = rows.filter(rows["status"] == "aborted")
    assert numbers["aborted"] == aborted.height > 3
    assert numbers["completed"] == rows.height - aborted.height > 3
    assert numbers["unfinished"] == 0
    assert numbers["censored_e2el"] == aborted.height
    assert numbers["p99_e2el_ms"] == math.inf
    assert aborted["finished_s"].null_count() == aborted.height
    law = little(result.records)
    assert law is not None
    assert law.concurrency == pytest.approx(law.rate_per_s * law.sojourn_s, rel=1e-9)
    assert_causes_add_up(result)
    if "speculation" not in engine:
        assert violations(result.records) == []


def test_a_running_request_goes_with_the_step_in_progress_and_the_next_one_is_without_it() -> None:
    steps_of_a_second = {
        **CHAT,
        "engine": {"service_time": {"step_s": 1.0}, "max_num_seqs": 1},
        "workload": {
            "arrivals": {"kind": "constant", "rate_per_s": 1000.0},
            "prompt_tokens": 1,
            "output_tokens": 10,
            "timeout_s": 3.25,
            "requests": 2,
        },
    }
    first, second = simulate(Scenario.model_validate(steps_of_a_second)).requests.iter_rows(named=True)
    assert first["aborted_s"] == 4.0
    assert first["generated_tokens"] == 4
    assert second["admitted_s"] is None
    assert second["aborted_s"] == 3.251


def test_a_user_who_gives_up_goes_on_at_once() -> None:
    loop = {
        **CHAT,
        "engine": {"service_time": {"step_s": 1.0}},
        "workload": {
            "arrivals": {"kind": "closed_loop", "users": 1, "think_time_s": 0.5},
            "prompt_tokens": 1,
            "output_tokens": 10,
            "timeout_s": 2.25,
            "requests": 3,
        },
    }
    rows = simulate(Scenario.model_validate(loop)).requests
    assert rows["arrival_s"].to_list() == [0.0, 2.75, 5.5]
    assert rows["status"].to_list() == ["aborted"] * 3


def test_a_conversation_goes_on_from_what_there_is_of_an_answer_given_up() -> None:
    sessions = {
        **CHAT,
        "engine": {"service_time": {"step_s": 1.0}},
        "workload": {
            "arrivals": {"kind": "sessions", "starts": {"kind": "burst"}, "turns": 3},
            "prompt_tokens": 100,
            "output_tokens": 50,
            "timeout_s": 20.5,
            "requests": 3,
        },
    }
    rows = simulate(Scenario.model_validate(sessions)).requests
    assert rows["prompt_tokens"].to_list() == [100, 220, 340]  # 20 tokens of each answer had come
    patient = with_changes(Scenario.model_validate(sessions), {"workload.timeout_s": None})
    assert simulate(patient).requests["prompt_tokens"].to_list() == [100, 250, 400]


def test_a_class_has_a_patience_of_its_own_and_changes_nothing_for_others() -> None:
    some = {**CHAT["workload"], "classes": {"hasty": {"timeout_s": 0.001}, "calm": {}}}
    some = {**some, "timeout_s": None, "patience_s": None}
    rows = simulate(Scenario.model_validate({**CHAT, "workload": some})).requests
    assert set(rows.filter(rows["request_class"] == "hasty")["status"]) == {"aborted"}
    assert set(rows.filter(rows["request_class"] == "calm")["status"]) == {"finished"}
    without = {**some, "classes": {"hasty": {}, "calm": {}}}
    same = simulate(Scenario.model_validate({**CHAT, "workload": without})).requests
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert rows[column].equals(same[column])


# ---- engines that fail

TWO: dict[str, Any] = {
    **CHAT,
    "replicas": 2,
    "engine": {"tensor_parallel_size": 2},
    "workload": {**CHAT["workload"], "patience_s": None, "timeout_s": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("what", [{"replica": 0}, {"gpu": "node0.gpu1"}])
def test_what_a_failed_engine_had_is_computed_again_elsewhere(what: dict[str, Any]) -> None:
    fault = {"at_s": 0.1, "until_s": 0.5, **what}
    found, result = differences({**TWO, "faults": [fault]})
    assert not found, found
    rows = result.requests
    assert set(rows["status"]) == {"finished"}
    moved = rows.filter(rows["resubmissions"] > 0)
    assert moved.height > 3
    assert result.summary()["resubmissions"] == moved.height
    begun = moved.filter(moved["admitted_s"] < 0.1)["request_id"]
    assert result.blame.filter(result.blame["request_id"].is_in(begun.to_list()))["recompute"].min() > 0.0
    steps = result.steps.filter(result.steps["replica"] == 0)
    assert steps.filter((steps["end_s"] > 0.1) & (steps["start_s"] < 0.5)).is_empty()
    assert set(rows.filter(rows["admitted_s"].is_between(0.1, 0.5))["replica"]) == {1}
    assert_causes_add_up(result)
    assert violations(result.records) == []


@pytest.mark.slow
def test_or_it_is_aborted() -> None:
    found, result = differences({**TWO, "faults": [{"at_s": 0.1, "replica": 0}], "on_failure": "abort"})
    assert not found, found
    aborted = result.requests.filter(result.requests["status"] == "aborted")
    assert set(aborted["aborted_s"]) == {0.1}
    assert set(aborted["replica"]) == {0}
    assert_causes_add_up(result)


def test_a_step_that_would_end_at_the_instant_of_a_failure_does_not() -> None:
    served = {
        **CHAT,
        "engine": {"service_time": {"step_s": 1.0}},
        "workload": {
            "arrivals": {"kind": "burst"},
            "prompt_tokens": 1,
            "output_tokens": 10,
            "requests": 1,
        },
        "faults": [{"at_s": 3.0, "replica": 0}],
        "on_failure": "abort",
    }
    found, result = differences(served)
    assert not found, found
    assert result.requests["generated_tokens"].to_list() == [2]
    assert result.blame["recompute"].to_list() == [1.0]  # the step that was cut off


def test_without_an_engine_requests_wait_at_the_router_until_one_is_there_again() -> None:
    one = {**TWO, "replicas": 1, "faults": [{"at_s": 0.0, "until_s": 1.0, "node": "node0"}]}
    rows = simulate(Scenario.model_validate(one)).requests
    assert set(rows["status"]) == {"finished"}
    assert rows["routed_s"].min() == 1.0
    with pytest.raises(UnfinishedError, match="replica 0 has failed"):
        simulate(Scenario.model_validate({**one, "faults": [{"at_s": 0.0, "replica": 0}]}))


POOLS: dict[str, Any] = {
    "topology": "l40s-12",
    "model": small("llama-3-8b"),
    "pools": {
        "prefill": {"replicas": 2, "engine": {"tensor_parallel_size": 2}},
        "decode": {
            "replicas": 2,
            "engine": {"tensor_parallel_size": 2, "num_gpu_blocks_override": 130},
        },
    },
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 300.0},
        "prompt_tokens": {"kind": "uniform", "low": 100, "high": 1500},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 60},
        "requests": 40,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("failed", range(4))
@pytest.mark.parametrize("hand_over", [{}, {"kv": "layerwise"}, {"first_token": "prefill"}], ids=str)
def test_a_failure_takes_transfers_with_it_and_the_blocks_that_were_kept_for_them(
    failed: int, hand_over: dict[str, Any]
) -> None:
    fault = {"at_s": 0.08, "until_s": 0.3, "replica": failed}
    workload = {**POOLS["workload"], "timeout_s": {"kind": "exponential", "mean_s": 0.4}}
    found, result = differences({**POOLS, "hand_over": hand_over, "faults": [fault], "workload": workload})
    assert not found, found
    assert {"finished", "aborted"} == set(result.requests["status"])
    assert result.requests["resubmissions"].sum() > 0
    assert_causes_add_up(result)
    assert violations(result.records) == []


@pytest.mark.slow
@settings(max_examples=15, phases=[Phase.generate])
@given(attacked(), st.integers(0, 10**6))
def test_of_every_run_that_ends_nothing_is_left_in_an_engine(data: dict[str, Any], seed: int) -> None:
    from sim.runtime.engine import queue as engine_queue

    kept: list[engine_queue.RequestQueue] = []
    build = engine_queue.RequestQueue.__init__

    def noted(queue: engine_queue.RequestQueue, *args: Any, **how: Any) -> None:
        build(queue, *args, **how)
        kept.append(queue)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine_queue.RequestQueue, "__init__", noted)
        try:
            found = attack(data, seed)
            kept.clear()
            result = found.run()
        except (InfeasibleError, UnfinishedError):
            return
    assert_causes_add_up(result)
    for queue in kept:
        queue.block_pool.check()
        if "time_limit_s" not in found.data:
            assert queue.block_pool.free_blocks == queue.block_pool.blocks
            assert not queue.running
            assert not queue.waiting


# ---- replicas of unlike lengths, and what comes of what nobody takes


def unlike(shortest: int = 300, longest: int = 4000, **more: Any) -> dict[str, Any]:
    return {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "router": "round_robin",
        "pools": {
            "big": {"engine": {"max_model_len": longest}},
            "small": {"engine": {"max_model_len": shortest}},
        },
        "workload": {
            "arrivals": {"kind": "constant", "rate_per_s": 20.0},
            "prompt_tokens": 500,
            "output_tokens": 20,
            "requests": 10,
        },
        **more,
    }


def test_a_prompt_goes_to_a_replica_that_takes_it() -> None:
    rows = simulate(Scenario.model_validate(unlike())).requests
    assert set(rows["status"]) == {"finished"}
    assert set(rows["replica"]) == {0}


def test_a_text_that_comes_back_ends_where_the_replica_that_is_left_must_end_it() -> None:
    scenario = unlike(shortest=700, faults=[{"at_s": 0.12, "replica": 0}])
    scenario["workload"] |= {"output_tokens": 2000, "requests": 2}
    rows = simulate(Scenario.model_validate(scenario)).requests
    assert rows["status"].to_list() == ["finished"] * 2
    assert rows["generated_tokens"].to_list() == [200, 200]


def test_a_scenario_with_a_failure_can_be_changed() -> None:
    scenario = Scenario.model_validate(unlike(faults=[{"at_s": 0.1, "until_s": 0.2, "replica": 0}]))
    assert with_changes(scenario, {"workload.requests": 3}).faults == scenario.faults
    assert simulate(scenario, without=["host"]).requests.height == 10


def test_after_a_turn_that_was_refused_the_conversation_goes_on_without_its_answer() -> None:
    scenario = unlike(longest=3000)
    scenario["workload"] = {
        "arrivals": {"kind": "sessions", "starts": {"kind": "burst"}, "turns": 3},
        "prompt_tokens": 4000, "output_tokens": 50, "requests": 3,
    }  # fmt: skip
    rows = simulate(Scenario.model_validate(scenario)).requests
    assert set(rows["status"]) == {"rejected"}
    assert rows["prompt_tokens"].to_list() == [4000, 8000, 12000]


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_nothing_is_busy_after_every_request_has_left(stages: int, fold: bool) -> None:
    """All give up in the middle of the first step; a pipeline lets them go at once."""
    scenario = Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "model": "llama-3-8b",
            "engine": {"pipeline_parallel_size": stages},
            "workload": {
                "arrivals": {"kind": "burst"},
                "prompt_tokens": 64,
                "output_tokens": 32,
                "requests": 4,
                "timeout_s": 0.001,
            },
        }
    )
    result = simulate(scenario, fold=fold)
    assert result.requests["status"].to_list() == ["aborted"] * 4
    assert result.gpus["busy_s"].max() <= result.end_s
    assert (result.steps["end_s"] <= result.end_s).all()
    assert result.is_complete
    # Others to come: the step goes on for none, as that of an engine does.
    arrivals = {"workload.arrivals": {"kind": "constant", "rate_per_s": 500}, "workload.timeout_s": 0.0019}
    later = simulate(with_changes(scenario, arrivals), fold=fold)
    assert later.requests.height == 4
    assert later.gpus["busy_s"].max() <= later.end_s


def test_the_next_turn_of_a_session_has_what_came_of_an_answer_that_was_cut() -> None:
    result = simulate(
        Scenario.model_validate(
            {
                "topology": "a100-x4",
                "model": "llama-3-8b",
                "engine": {"max_model_len": 256},
                "workload": {
                    "arrivals": {
                        "kind": "sessions",
                        "starts": {"kind": "constant", "rate_per_s": 1},
                        "turns": 2,
                    },
                    "prompt_tokens": 50,
                    "output_tokens": 300,
                    "requests": 2,
                },
            }
        )
    )
    rows = result.requests
    assert rows["output_tokens"].to_list() == [300, 300]
    assert rows["generated_tokens"].to_list() == [256 - 50, 0]
    assert rows["prompt_tokens"].to_list() == [50, 256 + 50]
    assert violations(result.records, longest_text=256) == []
    assert violations(result.records) == ["1 finished without all their tokens, request 0 for one"]
