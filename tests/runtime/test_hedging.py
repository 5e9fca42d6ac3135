"""Second copies of requests: the first answer counts, and every request has one row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sim
from sim.theory import queueing
from sim.theory.queueing.laws import exponential

FAULTS = [{"replica": 1, "at_s": 0.3, "until_s": 0.8}, {"replica": 0, "at_s": 0.5, "until_s": 0.9}]
SMALL = {**sim.load_model("llama-3-8b").model_dump(), "layers": 4, "name": "four layers"}


def service(requests: int = 40, **more: Any) -> sim.Scenario:
    workload = {
        "arrivals": {"kind": "poisson", "rate_per_s": 200},
        "prompt_tokens": {"kind": "uniform", "low": 30, "high": 3000},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 30},
        "requests": requests,
    }
    described = {"topology": "a100-x4", "model": SMALL, "replicas": 3, "hedge": {"after_s": 0.02}}
    return sim.with_changes(sim.Scenario.model_validate({**described, "workload": workload}), more)


def test_the_earlier_of_two_copies_answers() -> None:
    textbook = {
        "engine": {
            "scheduler": "one_at_a_time",
            "service_time": {"step_s": 1.0},
            "jitter": {"kind": "gamma", "cv": 1.0},
        },
        "replicas": 8,
        "hedge": {"after_s": 1.5},
        "workload.arrivals.rate_per_s": 0.1,
        "workload.prompt_tokens": 1,
        "workload.output_tokens": 1,
    }
    result = sim.simulate(service(2000, **textbook), check=False)
    rows = result.records.requests
    took_s = np.asarray(rows["finished_s"] - rows["arrival_s"])
    theory = queueing.hedged(exponential(1.0), 1.5)
    assert took_s.mean() == pytest.approx(theory.mean_s, rel=0.06)
    assert np.percentile(took_s, 99) == pytest.approx(theory.p99_s, rel=0.1)
    numbers = result.summary()
    assert 1.0 + numbers["hedged_requests"] / 2000 == pytest.approx(theory.copies, rel=0.03)
    assert 0 < numbers["hedges_won"] < numbers["hedged_requests"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"engine.frontend_s": 0.01},
        {"faults": FAULTS},
        {"faults": FAULTS, "on_failure": "abort"},
        {"workload.timeout_s": 0.4, "workload.patience_s": 0.15},
        {"router": "central_queue", "engine.max_num_seqs": 4},
        {"engine.pipeline_parallel_size": 2, "replicas": 2},
        {"workload.arrivals": {"kind": "closed_loop", "users": 20}, "hedge.after_s": 0.0},
    ],
    ids=lambda changes: ", ".join(changes) or "plain",
)
def test_every_request_has_one_row_that_is_the_same_played(changes: dict[str, Any]) -> None:
    scenario = service(**changes)
    checked, played = sim.simulate(scenario, check=True), sim.simulate(scenario, fold=False, check=False)
    assert checked.requests["request_id"].to_list() == list(range(40))
    assert checked.requests.equals(played.requests)
    assert checked.hedges == played.hedges
    assert checked.hedges is not None
    assert checked.hedges[0] > 0


def test_a_copy_whose_engine_fails_leaves_the_answer_to_the_other() -> None:
    """Without a resubmission: the other copy is under way already."""
    faults = [{"replica": 0, "at_s": 0.05}]
    workload = {
        "workload.arrivals": {"kind": "burst"},
        "workload.requests": 1,
        "workload.prompt_tokens": 8000,
    }
    scenario = service(faults=faults, on_failure="abort", **workload, **{"hedge.after_s": 0.01})
    row = sim.simulate(scenario).requests.row(0, named=True)
    assert (row["status"], row["replica"], row["resubmissions"]) == ("finished", 1, 0)


def test_the_key_has_its_word() -> None:
    one = sim.simulate(service(2, replicas=1)).key_words.summary()
    assert "other to go to" in one["no_effect"]["hedge.after_s"]
    never = sim.simulate(service(2, **{"hedge.after_s": 9.0})).key_words.summary()
    assert "hedge.after_s" in never["did_not_bind"]


def test_pools_that_are_apart_are_refused() -> None:
    pools = {"prefill": {"role": "prefill"}, "decode": {"role": "decode"}}
    with pytest.raises(Exception, match="no way from prefill to decode"):
        service(pools=pools)
