"""Kernels with jitter and slow ranks: what steps take, and what stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sim
from sim.cost.batch import Batch
from sim.cost.step_cost import GivenCost
from sim.cost.uneven_cost import UnevenCost
from sim.inputs.unevenness import Jitter
from sim.runtime.engine.pace import Pace
from sim.theory import queueing

ONE = {
    "arrivals": {"kind": "constant", "rate_per_s": 5},
    "prompt_tokens": {"kind": "uniform", "low": 30, "high": 900},
    "output_tokens": 12,
    "requests": 8,
}
ALONE = {"topology": "nd-h100-v5", "model": "llama-3-8b", "workload": ONE}


def run(engine: dict[str, Any], **how: Any) -> sim.Result:
    return sim.simulate(sim.Scenario.model_validate({**ALONE, "engine": engine}), **how)


def kernels_and_transfers_s(result: sim.Result) -> tuple[float, float]:
    sums = result.blame.sum().to_dicts()[0]
    kernels = sums["prefill_compute"] + sums["decode_compute"] + sums["memory"] + sums["kernel_latency"]
    return kernels, sums["collective_latency"] + sums["collective_bytes"]


@pytest.mark.slow
def test_a_straggler_slows_all_kernels_and_no_transfer() -> None:
    engine = {"tensor_parallel_size": 8}
    even, slowed = run(engine), run({**engine, "stragglers": [{"rank": 3, "factor": 1.5}]}, check=True)
    kernels_s, transfers_s = kernels_and_transfers_s(even)
    longer_s, same_s = kernels_and_transfers_s(slowed)
    assert longer_s == pytest.approx(1.5 * kernels_s)
    assert same_s == pytest.approx(transfers_s)
    assert slowed.key_words.summary()["did_not_bind"] == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        {"tensor_parallel_size": 2, "enforce_eager": True},
        {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    ],
    ids=["kernel by kernel", "two stages"],
)
def test_steps_with_jitter_are_the_same_folded_and_played(engine: dict[str, Any]) -> None:
    engine = {**engine, "jitter": {"cv": 0.5}}
    folded, played = run(engine, check=True), run(engine, fold=False)
    assert folded.requests.equals(played.requests)
    assert np.allclose(folded.blame.to_numpy(), played.blame.to_numpy(), atol=1e-12)


@pytest.mark.slow
def test_jitter_draws_from_streams_of_its_own() -> None:
    even, uneven = run({}), run({"jitter": {"cv": 0.5}})
    for column in ("arrival_s", "prompt_tokens"):
        assert even.requests[column].equals(uneven.requests[column])
    assert not even.requests["finished_s"].equals(uneven.requests["finished_s"])


def test_a_step_of_exponential_ranks_is_their_barrier() -> None:
    pace = Pace([1.0] * 8, Jitter(kind="gamma", cv=1.0), np.random.default_rng(1))
    batch, cost = Batch(chunks=((1, 0),)), GivenCost(step_s=1.0)
    steps_s = [pace.next(cost, 0.0).step(batch)[0] for _ in range(20_000)]
    assert np.mean(steps_s) == pytest.approx(queueing.barrier(8), rel=0.01)
    slower = Pace([1.0, 3.0], Jitter(cv=0.1), np.random.default_rng(1))
    assert np.mean([slower.next(cost, 0.0).step(batch)[0] for _ in range(5000)]) == pytest.approx(
        3.0, rel=0.01
    )


def test_many_steps_at_one_pace_are_the_steps_one_by_one() -> None:
    cost, batch = UnevenCost(GivenCost(step_s=1.0, sequence_s=0.5), 3.0), Batch((), 2, 8)
    seconds, causes_of = cost.decode_steps(batch, 3)
    assert seconds.tolist() == [6.0, 6.0, 6.0]
    assert causes_of(2).compute == 12.0
    assert cost.traffic(batch).links == ()


@pytest.mark.slow
def test_a_server_with_exponential_jitter_is_mm1() -> None:
    engine = {
        "scheduler": "one_at_a_time",
        "service_time": {"step_s": 1.0},
        "jitter": {"kind": "gamma", "cv": 1.0},
    }
    workload = {"arrivals": {"kind": "poisson", "rate_per_s": 0.5}, "prompt_tokens": 1, "output_tokens": 1}
    scenario = {**ALONE, "engine": engine, "workload": {**workload, "requests": 4000}}
    rows = sim.simulate(sim.Scenario.model_validate(scenario), check=False).records.requests
    waits_s = rows["admitted_s"] - rows["arrival_s"]
    assert float(waits_s.mean()) == pytest.approx(queueing.mm1(0.5, 1.0).Wq, rel=0.1)


@pytest.mark.parametrize(
    ("engine", "why"),
    [
        ({"stragglers": [{"rank": 1, "factor": 2}]}, r"stragglers\[0\].rank = 1: must be from 0 to 0"),
        ({"tensor_parallel_size": 2, "stragglers": [{"rank": 1, "factor": 2}] * 2}, "stands there twice"),
        ({"jitter": {"cv": 0}}, "greater than 0"),
    ],
)
def test_what_cannot_be_is_refused(engine: dict[str, Any], why: str) -> None:
    with pytest.raises(Exception, match=why):
        sim.Scenario.model_validate({**ALONE, "engine": engine})


@pytest.mark.slow
def test_a_straggler_beside_a_slower_one_does_not_bind() -> None:
    slow = [{"rank": 0, "factor": 1.2}, {"rank": 1, "factor": 1.5}]
    words = run({"tensor_parallel_size": 2, "stragglers": slow}).key_words.summary()
    assert "engine.stragglers[0].factor" in words["did_not_bind"]
    assert "engine.stragglers[1].factor" in words["acted"]
