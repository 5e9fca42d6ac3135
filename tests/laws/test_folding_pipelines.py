"""The law of folding for pipelines whose batches go round unchanged: rounds that were folded as a whole leave
the records of rounds that were played, whatever comes into them.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.inputs.errors import UnfinishedError
from sim.runtime.engine.pipeline_fold import FoldedBatch, PipelineFold
from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from tests.laws.folded_and_played import differences
from tests.laws.folding_scenarios import foreign_transfers, op_boundaries, scenarios, small
from tests.laws.instants import holds

pytestmark = pytest.mark.unchecked  # many runs a test, whose rows are held against each other

seeds = st.integers(0, 10**6)

ONE_BATCH = ("nd-h100-v5", 1, 2, 4)
OWN_LINKS = ("nd-h100-v5", 2, 1, 4)
PLACES = (
    ONE_BATCH, OWN_LINKS, ("a100-x4", 1, 1, 4), ("a100-x4", 2, 1, 2), ("l40s-12", 3, 1, 3),
    ("a100-x4-no-p2p", 1, 1, 4),
)  # fmt: skip


@st.composite
def pipelines(draw: st.DrawFn) -> dict[str, Any]:
    """Pipelines with and without links of their own for all stages and ways."""
    data = draw(scenarios())
    topology, replicas, tensor, stages = draw(st.sampled_from(PLACES))
    closed = data["workload"]["arrivals"]["kind"] == "closed_loop"  # whose users may come at one instant
    engine = {
        **data["engine"],
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": stages,
        "pipeline_split": draw(st.sampled_from(["vllm", "even"])),
    }
    engine.pop("async_scheduling", None)
    engine.pop("speculation", None)
    data |= {
        "topology": topology, "nodes": 1, "placement": "packed", "replicas": 1 if closed else replicas,
        "model": small("llama-3-8b", 5), "engine": engine,
        "router": draw(st.sampled_from(["round_robin", "shortest_tokens", "prefix_aware", "central_queue"])),
    }  # fmt: skip
    data["workload"]["output_tokens"] = draw(
        st.sampled_from([40, {"kind": "uniform", "low": 1, "high": 200}])
    )
    return data


def decoding(topology: str, tensor: int, stages: int, users: int) -> dict[str, Any]:
    """Users who get answers of different lengths from one replica, again and again."""
    return {
        "topology": topology,
        "model": small("llama-3-8b", 8),
        "engine": {
            "tensor_parallel_size": tensor,
            "pipeline_parallel_size": stages,
            "pipeline_split": "even",
        },
        "workload": {
            "arrivals": {"kind": "closed_loop", "users": users},
            "prompt_tokens": {"kind": "uniform", "low": 50, "high": 700},
            "output_tokens": {"kind": "uniform", "low": 1, "high": 300},
            "requests": 3 * users,
        },
    }


@pytest.mark.slow
@settings(max_examples=10)
@given(pipelines(), seeds)
def test_rounds_are_the_same_folded_and_played_whatever_comes_at_their_own_instants(
    data: dict[str, Any], seed: int
) -> None:
    holds(data, seed)


@pytest.mark.slow
@settings(max_examples=60)
@given(pipelines(), seeds)
def test_also_on_many_more(data: dict[str, Any], seed: int) -> None:
    holds(data, seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "tensor", "stages", "users", "batches"),
    [("nd-h100-v5", 2, 4, 1, 1), ("nd-h100-v5", 1, 4, 8, 4), ("l40s-12", 1, 3, 6, 3)],
)
def test_pipelines_fold_with_one_batch_in_flight_or_links_of_their_own(
    topology: str, tensor: int, stages: int, users: int, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    settle = PipelineFold.settle

    def noted(rounds: PipelineFold, **how: bool) -> Any:
        went = settle(rounds, **how)
        turns.extend(
            [0, *(one.begun for one in went)] if len(went) < batches else [one.begun for one in went]
        )
        return went

    monkeypatch.setattr(PipelineFold, "settle", noted)
    data = decoding(topology, tensor, stages, users)
    found, folded = differences(data)
    assert not found, found
    played_turns = folded.steps.filter(folded.steps["stage"] == 0)["steps"].sum()
    assert sum(turns) > 0.8 * played_turns


@pytest.mark.slow
def test_batches_that_meet_on_a_link_are_not_folded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two stages gathers what it is sent over the links of its all-reduces."""
    together: list[int] = []
    plan = PipelineFold._plan

    def noted(rounds: PipelineFold, began_s: Any) -> float:
        together.append(len(rounds.folded))
        return plan(rounds, began_s)

    monkeypatch.setattr(PipelineFold, "_plan", noted)
    found, _ = differences(decoding("nd-h100-v5", 4, 2, 6))
    assert not found, found
    assert set(together) <= {1}


# ---- the law can be broken


def _begins_when_it_comes(rounds: PipelineFold, one: FoldedBatch, began_s: Any, free_s: list[float]) -> Any:
    return TURN(rounds, one, began_s, [-1.0] * len(free_s))


def _is_not_disturbed(rounds: PipelineFold, now: float) -> None:
    return None


def _counts_one_too_few(rounds: PipelineFold, one: FoldedBatch, stage: int, came: int) -> None:
    COUNT_SENT(rounds, one, stage, max(1, came - 1))


def _begins_a_turn_late(one: FoldedBatch, now: float, at_this_instant: bool = False) -> int:
    return max(1, BEGUN(one, now, at_this_instant) - 1)


TURN, COUNT_SENT, BEGUN = PipelineFold._turn, PipelineFold._count_sent, FoldedBatch.begun


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (PipelineFold, "_turn", _begins_when_it_comes),
        (PipelineFold, "disturbed", _is_not_disturbed),
        (PipelineFold, "_count_sent", _counts_one_too_few),
        (FoldedBatch, "begun", _begins_a_turn_late),
    ],
)
def test_rounds_that_go_wrong_in_one_place_are_seen(
    owner: type, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = (decoding("nd-h100-v5", 2, 2, 1), decoding("a100-x4", 1, 4, 8))
    foreign = [foreign_transfers(op_boundaries(Scenario.model_validate(one), 40, 0), 0, 3e7) for one in cases]
    monkeypatch.setattr(owner, name, wrong)
    found: list[str] = []
    try:
        for data, transfers in zip(cases, foreign, strict=True):
            found += differences(data)[0] + differences(data, beside=[transfers])[0]
    except (AssertionError, ValueError, UnfinishedError):
        return
    assert found


def test_a_pipelines_rounds_grow_no_events_with_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[int] = []
    plan = PipelineFold._plan

    def noted(rounds: PipelineFold, began_s: Any) -> float:
        plans.append(1)
        return plan(rounds, began_s)

    monkeypatch.setattr(PipelineFold, "_plan", noted)
    data = decoding("nd-h100-v5", 2, 4, 1)
    data["workload"] |= {"output_tokens": 4000, "requests": 1}
    simulate(Scenario.model_validate(data))
    assert len(plans) < 12
