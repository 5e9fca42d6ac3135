"""The law of folding: a folded run leaves the records of a played one, whatever comes into its folds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cost.program import Position, Program
from sim.runtime.engine.stage import _Run
from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from tests.laws.folded_and_played import differences
from tests.laws.folding_scenarios import (
    changing_capacities,
    foreign_transfers,
    op_boundaries,
    scenarios,
    small,
    split_scenarios,
    step_boundaries,
)

pytestmark = pytest.mark.unchecked  # many runs a test, whose rows are held against each other

seeds = st.integers(0, 1000)
few = settings(max_examples=20)

THREE_GROUPS: dict[str, Any] = {
    "topology": "l40s-12",
    "model": small("llama-3-8b"),
    "placement": "strided",
    "replicas": 3,
    "engine": {"tensor_parallel_size": 4},
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 30.0},
        "prompt_tokens": {"kind": "uniform", "low": 1, "high": 400},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 60},
        "requests": 12,
    },
}

ONE_GROUP = {**THREE_GROUPS, "topology": "a100-x4", "replicas": 1}


def scenario_of(data: dict[str, Any]) -> Scenario:
    return Scenario.model_validate(data)


WINDOWS = st.tuples(st.sampled_from([1, 17, 40, 128]), st.integers(1, 4))


@pytest.mark.slow
@settings(max_examples=4)
@given(scenarios(), WINDOWS, seeds)
def test_a_folded_run_of_layers_with_windows_is_a_played_one(
    data: dict[str, Any], windows: tuple[int, int], seed: int
) -> None:
    window, layers = windows
    data["model"] |= {"sliding_window": window, "sliding_layers": layers}
    found, _ = differences(data, seed=seed)
    assert not found, found


@pytest.mark.slow
@few
@given(scenarios(), seeds)
def test_a_folded_run_has_the_records_of_a_played_one(data: dict[str, Any], seed: int) -> None:
    found, _ = differences(data, seed=seed)
    assert not found, found


@pytest.mark.slow
@few
@given(scenarios(), seeds)
def test_also_with_foreign_traffic_at_random_instants(data: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    end_s = simulate(scenario_of(data), seed=seed).end_s
    instants = sorted(rng.uniform(0.0, end_s) for _ in range(30))
    found, _ = differences(data, seed=seed, beside=[foreign_transfers(instants, seed)])
    assert not found, found


@pytest.mark.slow
@few
@given(scenarios(), seeds)
def test_also_with_foreign_traffic_at_the_instants_at_which_steps_begin_and_end(
    data: dict[str, Any], seed: int
) -> None:
    instants = step_boundaries(simulate(scenario_of(data), seed=seed), 12, seed)
    found, _ = differences(data, seed=seed, beside=[foreign_transfers(instants, seed)])
    assert not found, found


@pytest.mark.slow
@few
@given(scenarios(), seeds)
def test_also_with_foreign_traffic_at_the_instants_at_which_ops_begin_and_end(
    data: dict[str, Any], seed: int
) -> None:
    instants = op_boundaries(scenario_of(data), 12, seed)
    found, _ = differences(data, seed=seed, beside=[foreign_transfers(instants, seed)])
    assert not found, found


@pytest.mark.slow
@few
@given(scenarios(), seeds)
def test_also_while_links_change_their_capacity(data: dict[str, Any], seed: int) -> None:
    scenario = scenario_of(data)
    instants = step_boundaries(simulate(scenario, seed=seed), 4, seed) + op_boundaries(scenario, 4, seed)
    found, _ = differences(data, seed=seed, beside=[changing_capacities(sorted(instants), seed)])
    assert not found, found


@pytest.mark.slow
@few
@given(scenarios(), seeds)
def test_also_when_the_clock_stops_in_the_middle_of_a_step_or_at_its_very_end(
    data: dict[str, Any], seed: int
) -> None:
    result = simulate(scenario_of(data), seed=seed)
    limit_s = random.Random(seed).choice([*step_boundaries(result, 4, seed), result.end_s / 2])
    if limit_s > 0.0:
        found, _ = differences({**data, "time_limit_s": limit_s}, seed=seed)
        assert not found, found


@pytest.mark.slow
@few
@given(split_scenarios(), seeds)
def test_also_with_prompts_and_answers_apart_and_links_that_fail(data: dict[str, Any], seed: int) -> None:
    found, _ = differences(data, seed=seed)
    assert not found, found


@pytest.mark.slow
@settings(max_examples=150)
@given(scenarios(), seeds, st.booleans())
def test_also_with_all_of_it_together(data: dict[str, Any], seed: int, changing: bool) -> None:
    scenario = scenario_of(data)
    instants = step_boundaries(simulate(scenario, seed=seed), 6, seed) + op_boundaries(scenario, 12, seed)
    instants.sort()
    beside = [foreign_transfers(instants, seed)]
    if changing:
        beside.append(changing_capacities(instants[::3], seed))
    found, _ = differences(data, seed=seed, beside=beside)
    assert not found, found


def test_two_answers_to_one_recorded_prompt_do_not_compete_for_its_last_partial_block(tmp_path: Path) -> None:
    """A recorded prompt's last name ends with the prompt: no answer fills it, whatever the order of steps."""
    rows = [(10, 130, 340, [1000]), (310, 719, 340, [0, 1]), (320, 719, 120, [0, 1])]
    names = "timestamp", "input_length", "output_length", "hash_ids"
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    engine = {"enable_prefix_caching": True, "num_gpu_blocks_override": 80, "max_num_seqs": 7}
    found, folded = differences(
        {
            "topology": "a100-x4",
            "model": small("llama-3-8b"),
            "engine": {"tensor_parallel_size": 2, "async_scheduling": False, **engine},
            "workload": {"arrivals": {"kind": "trace", "path": str(path)}},
        }
    )
    assert found == []
    assert folded.requests["preemptions"].sum() > 0


@pytest.mark.slow
def test_groups_that_share_links_share_them_folded_or_not() -> None:
    found, folded = differences(THREE_GROUPS)
    assert not found, found
    assert folded.links["shared_s"].sum() > 0.0
    assert folded.blame["sharing"].sum() > 0.0


# ---- the law can be broken: each of these is a fold gone wrong in one place


def _locates_the_layer_only(program: Program, anchor_s: float, now_s: float) -> Position:
    return LOCATE(program, anchor_s, now_s)._replace(op=0)


def _takes_up_the_next_op(program: Program, anchor_s: float, now_s: float) -> Position:
    position = program.after(LOCATE(program, anchor_s, now_s))
    return position if position.block != len(program.blocks) else LOCATE(program, anchor_s, now_s)


def _is_not_disturbed(run: _Run, now: float) -> None:
    return None


def _gives_no_credit(run: _Run, traffic: Any, steps: int = 1) -> None:
    return None


def _cuts_a_step_late(run: _Run, more: int) -> None:
    CUT(run, more + 1)


LOCATE = Program.locate
CUT = _Run.cut


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (Program, "locate", _locates_the_layer_only),
        (Program, "locate", _takes_up_the_next_op),
        (_Run, "disturbed", _is_not_disturbed),
        (_Run, "_credit", _gives_no_credit),
        (_Run, "cut", _cuts_a_step_late),
    ],
)
def test_a_fold_that_goes_wrong_in_one_place_is_seen(
    owner: type, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = (ONE_GROUP, THREE_GROUPS)
    foreign = [[foreign_transfers(op_boundaries(scenario_of(data), 40, 0), 0)] for data in groups]
    monkeypatch.setattr(owner, name, wrong)
    try:
        found = [differences(data, beside=beside)[0] for data, beside in zip(groups, foreign, strict=True)]
    except (AssertionError, ValueError):
        return
    assert any(found)
