"""A run whose clock stands still ends, and says which events go round."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import simpy

import sim
from sim.inputs.errors import InfeasibleError
from sim.runtime import standstill
from sim.runtime.clock import at
from sim.runtime.fabric import Fabric
from sim.scenario import Scenario

SMALL = {
    "topology": "a100-x4",
    "model": "llama-3-8b",
    "engine": {"service_time": {"step_s": 0.01}},
    "workload": {"arrivals": {"kind": "burst"}, "prompt_tokens": 8, "output_tokens": 2, "requests": 3},
}


def test_events_that_bring_each_other_about_at_one_instant_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "LOOK_EVERY", 1000)

    def round_and_round(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
        yield env.timeout(0.015)

        def again(_: object) -> None:
            at(env, env.now, again)

        at(env, env.now, again)

    with pytest.raises(sim.UnfinishedError) as stuck:
        sim.simulate(Scenario.model_validate(SMALL), beside=[round_and_round])
    assert stuck.value.exit_status == 4
    text = str(stuck.value)
    assert "the clock stands still at 0.015 s: 2000 events in a row, no time between them" in text
    assert "round_and_round.<locals>.again (100%)" in text


def test_many_events_at_one_instant_that_end_are_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "LOOK_EVERY", 2)
    monkeypatch.setattr(standstill, "EVENTS_OF_A_REQUEST", 0)
    monkeypatch.setattr(standstill, "SAMPLED", 100_000)
    result = sim.simulate(Scenario.model_validate(SMALL))
    assert result.requests["status"].to_list() == ["finished"] * 3


@pytest.mark.parametrize("more", [{"timeout_s": 0}, {"timeout_s": 1e-9}, {"patience_s": 0}])
def test_a_closed_loop_whose_clients_give_up_at_once_is_refused(
    more: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.workload.generator.MAX_AT_ONCE", 300)
    loop = {"arrivals": {"kind": "closed_loop", "users": 3}, "requests": None, "duration_s": 10.0, **more}
    with pytest.raises(InfeasibleError, match=r"in a row ended as they came or .*cancelled by a patience_s"):
        sim.simulate(Scenario.model_validate({**SMALL, "workload": {**SMALL["workload"], **loop}}))


def test_a_kv_cache_has_no_way_between_engines_without_gpus() -> None:
    apart = {"pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}}}
    with pytest.raises(InfeasibleError, match="the prefill pool has a service_time and so no GPUs"):
        sim.simulate(Scenario.model_validate({**SMALL, **apart}))
