from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import sim

Rule = Callable[[Any], Any]


def simulated(rule: Rule) -> sim.Result:
    described = {"topology": "a100-x4", "model": "llama-3-8b", "engine": {"scheduler": rule}, "workload": {
        "arrivals": {"kind": "burst"}, "prompt_tokens": 20, "output_tokens": 3, "requests": 2}}  # fmt: skip
    return sim.simulate(sim.Scenario.model_validate(described))


def one_by_one(engine: Any) -> Any:
    """The first running sequence, or else the first waiting one."""
    if engine.running:
        sequence = engine.running[0]
        return (
            [(sequence, sequence.pending_tokens)]
            if engine.allocate(sequence, sequence.pending_tokens)
            else []
        )
    sequence = engine.next_waiting()
    if sequence is None:
        return []
    cached = engine.cached_tokens(sequence)
    tokens = sequence.known_tokens - cached
    return [(sequence, tokens)] if engine.admit(sequence, cached, tokens) else []


def test_a_script_s_rule_serves_requests() -> None:
    result = simulated(one_by_one)
    assert result.requests["status"].to_list() == ["finished", "finished"]


@pytest.mark.parametrize(
    "rule",
    [
        lambda engine: [(engine.next_waiting(), 5)],  # granted without blocks
        lambda engine: [("request", 1)],
        lambda engine: 7,
        lambda engine: engine.secret,
    ],
    ids=["no blocks", "no sequence", "no grants", "no such reading"],
)
def test_a_rule_that_grants_what_is_not_there_is_refused_by_name(rule: Rule) -> None:
    with pytest.raises((sim.InputError, AttributeError), match=r"lambda|no attribute"):
        simulated(rule)


def too_many(engine: Any) -> Any:
    """Every waiting sequence, whatever may run."""
    granted = []
    while (sequence := engine.next_waiting()) is not None:
        cached = engine.cached_tokens(sequence)
        engine.admit(sequence, cached, sequence.known_tokens - cached)
        granted.append((sequence, sequence.known_tokens - cached))
    return granted


def test_a_rule_that_admits_more_than_may_run_is_refused() -> None:
    described = {"topology": "a100-x4", "model": "llama-3-8b", "workload": {
        "arrivals": {"kind": "burst"}, "prompt_tokens": 64, "output_tokens": 3, "requests": 2}}  # fmt: skip
    engine = {"scheduler": too_many, "max_num_seqs": 1}
    with pytest.raises(sim.InputError, match="admits request 1 beside 1 that run"):
        sim.simulate(sim.Scenario.model_validate({**described, "engine": engine}))
