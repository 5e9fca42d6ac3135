"""The run of a textbook queue as one fold has the rows of the clock, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sim
from sim.runtime.folded_queue import begins
from sim.simulate import simulate

PLAIN = {
    "topology": "a100-x4",
    "model": "llama-3-8b",
    "router": "central_queue",
    "engine": {"scheduler": "one_at_a_time", "service_time": {"token_s": 1e-5}},
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 0.8},
        "prompt_tokens": {"kind": "geometric", "mean": 100000, "high": 6400000},
        "output_tokens": 1,
        "requests": 300,
    },
}
MIXED = {
    "workload.prompt_tokens": {"kind": "uniform", "low": 1, "high": 3},
    "engine.service_time": {"step_s": 0.1, "token_s": 0.31, "sequence_s": 0.07},
}
TABLES = ("requests", "steps", "gaps", "blame", "blame_ttft", "links", "gpus", "kv_blocks", "hand_overs")


def queue(changes: dict[str, Any]) -> sim.Scenario:
    return sim.with_changes(sim.Scenario.model_validate(PLAIN), changes)


def is_folded(scenario: sim.Scenario, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether no event happens on the clock."""
    events: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr("sim.runtime.service.at", lambda *how: events.append(how))
        try:
            simulate(scenario, seed=3, check=False)
        except sim.UnfinishedError:
            return False
    return not events


FOLDED = {
    "M/M/1": {},
    "a router without a line": {"router": "least_connections"},
    "M/D/1 of decodes": {"workload.prompt_tokens": 1, "engine.service_time": {"step_s": 1.0}},
    "prompts and decodes": MIXED,
    "M/G/4": {**MIXED, "replicas": 4, "workload.arrivals.rate_per_s": 4.0},
    "all at once": {"workload.arrivals": {"kind": "burst"}, "replicas": 2},
    "two classes": {"workload.classes": {"a": {"share": 1}, "b": {"share": 2, "prompt_tokens": 50000}}},
    "for some time": {"workload.requests": None, "workload.duration_s": 200},
}


@pytest.mark.parametrize("changes", FOLDED.values(), ids=FOLDED)
def test_the_rows_are_those_of_the_clock(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = queue(changes)
    folded, played = (sim.simulate(scenario, seed=3, fold=fold, check=False) for fold in (True, False))
    for table in TABLES:
        assert getattr(folded, table).equals(getattr(played, table)), table
    assert folded.summary() == played.summary()
    assert (folded.end_s, folded.ended, folded.theory()) == (played.end_s, played.ended, played.theory())
    assert is_folded(scenario, monkeypatch)


UNUSUAL = {
    "answers of two tokens": {"workload.output_tokens": 2},
    "a customer comes as another leaves": {
        "workload.arrivals": {"kind": "constant", "rate_per_s": 1.0},
        "workload.prompt_tokens": 1,
        "engine.service_time": {"step_s": 1.0},
    },
    "impatient clients": {"workload.patience_s": 1.0},
    "a time limit": {"time_limit_s": 100.0},
    "jitter": {"engine.jitter": {"cv": 1.0}},
    "a fault": {"faults": [{"replica": 0, "at_s": 5.0, "until_s": 6.0}]},
    "a choice of servers": {"replicas": 2, "router": "least_connections"},
    "shared prefixes": {"workload.prefix": {"tokens": 64, "share": 0.5}},
    "texts that are too long": {"engine.max_model_len": 100_000},
    "a service without length": {"engine.service_time": {"token_s": 0.0}},
    "a closed loop": {"workload.arrivals": {"kind": "closed_loop", "users": 2}},
    "seats for a batch": {"engine.scheduler": "continuous"},
}


@pytest.mark.parametrize("changes", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_left_to_the_clock(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_folded(queue({"workload.requests": 50, **changes}), monkeypatch)


def test_the_first_free_server_takes_the_next_customer() -> None:
    found = begins(np.array([0.0, 0.5, 0.6]), np.array([2.0, 1.0, 1.0]), 2)
    assert found is not None
    start_s, server = found
    assert start_s.tolist() == [0.0, 0.5, 1.5]
    assert server.tolist() == [0, 1, 1]
    assert begins(np.array([0.0, 0.0]), np.array([1.0, 1.0]), 2) is None
