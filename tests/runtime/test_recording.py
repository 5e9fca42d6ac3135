"""Folded steps, expanded for a timeline, are the steps of a played run: every op at the same instant."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sim.results.recorded import Recorded, Windows
from sim.runtime.engine.stage import _Run
from sim.runtime.recording import Recorder
from sim.scenario.scenario import Scenario
from sim.simulate import Result, simulate
from tests.laws.folding_scenarios import small

WINDOW = (0.05, 0.2)
BURST = {"kind": "poisson", "rate_per_s": 300.0}
LENGTHS = {"prompt_tokens": 900, "output_tokens": 30, "requests": 24}
SERVICES: dict[str, dict[str, Any]] = {
    # KV caches cross the links of both engines' collectives.
    "prefill and decode apart": {
        "topology": "a100-x4-no-p2p",
        "placement": "strided",
        "model": small("llama-3-8b"),
        "pools": {
            "prefill": {"engine": {"tensor_parallel_size": 2}},
            "decode": {"engine": {"tensor_parallel_size": 2}},
        },
        "workload": {"arrivals": BURST, **LENGTHS},
    },
    # Batches go round in a folded pipeline.
    "a pipeline": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "engine": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
        "workload": {"arrivals": BURST, **LENGTHS},
        "faults": [{"at_s": 0.08, "until_s": 0.09, "replica": 0}],
    },
}


def recorded(scenario: Scenario, *, fold: bool) -> tuple[Result, Recorded]:
    result = simulate(scenario, fold=fold, recorder=Recorder(Windows.of([WINDOW])))
    assert result.recorded is not None
    return result, result.recorded


def steps_of(rows: Recorded) -> list[tuple[Any, ...]]:
    return [
        (
            one.replica,
            one.stage,
            one.begin_s,
            one.end_s,
            one.decodes,
            one.chunks,
            one.is_whole,
            list(one.ops()),
        )
        for one in rows.steps
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVICES)
def test_what_is_recorded_of_a_folded_run_is_what_a_played_one_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario.model_validate(SERVICES[name])
    folded, rows = recorded(scenario, fold=True)
    plain = simulate(scenario)
    assert folded.requests.equals(plain.requests), "recording changes no row"
    assert folded.links.equals(plain.links)

    begun: set[tuple[int, int, str, float]] = set()
    begin_op = _Run._begin_op

    def noting(run: _Run) -> None:
        assert isinstance(run.on_passed, partial)
        replica = run.on_passed.func.__self__.rows.replica  # type: ignore[attr-defined]
        op = run.block.ops[run.op]
        begun.add((replica, run.on_passed.args[0], op.name, run.stage.env.now))
        begin_op(run)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_begin_op", noting)
        _, of_played = recorded(scenario, fold=False)

    assert steps_of(rows) == steps_of(of_played)
    assert rows.transfers == of_played.transfers
    expanded = {(step.replica, step.stage, op.name, op.begin_s) for step in rows.steps for op in step.ops()}
    assert len(expanded) > 900
    assert expanded <= begun, "each op begins when it is played"
    shared = [op for step in rows.steps for op in step.ops() if op.transfer and len(op.transfer.shares) > 1]
    if name == "prefill and decode apart":
        assert shared, "no collective met a KV cache: this service says nothing about that"
        assert {one.name for one in rows.transfers} == {"KV cache to another replica"}
    else:
        assert any(not step.is_whole for step in rows.steps), "the fault cut a step off"


@pytest.mark.slow
def test_bytes_of_a_recorded_transfer_are_those_that_flowed() -> None:
    _, rows = recorded(Scenario.model_validate(SERVICES["prefill and decode apart"]), fold=True)
    ops = [op.transfer for step in rows.steps for op in step.ops() if op.transfer is not None]
    for one in [*ops, *rows.transfers]:
        ends = [*(since_s for since_s, _ in one.shares[1:]), one.end_s]
        flowed = sum(
            share * (until_s - since_s) for (since_s, share), until_s in zip(one.shares, ends, strict=True)
        )
        assert flowed == pytest.approx(1.0, rel=1e-6), one
