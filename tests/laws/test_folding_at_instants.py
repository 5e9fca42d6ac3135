"""The law of folding under attack: everything that can happen, at the very instants at which ops and steps of
the run itself begin and end.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.laws.folding_scenarios import small
from tests.laws.instants import Attack, attacked, holds

pytestmark = pytest.mark.unchecked  # hundreds of runs a test, whose rows are held against each other
seeds = st.integers(0, 10**6)


@pytest.mark.slow
@settings(max_examples=10, phases=[Phase.generate])
@given(attacked(), seeds)
def test_a_folded_run_is_a_played_one_whatever_comes_at_its_own_instants(
    data: dict[str, Any], seed: int
) -> None:
    holds(data, seed)


@pytest.mark.slow
@settings(max_examples=80, phases=[Phase.generate])
@given(attacked(), seeds)
def test_also_on_many_more(data: dict[str, Any], seed: int) -> None:
    holds(data, seed)


DECODING: dict[str, Any] = {
    "topology": "a100-x4",
    "model": small("llama-3-8b"),
    "replicas": 2,
    "engine": {"tensor_parallel_size": 2},
    "workload": {
        "arrivals": {"kind": "constant", "rate_per_s": 50.0},
        "prompt_tokens": 100,
        "output_tokens": 60,
        "requests": 4,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("router", ["round_robin", "shortest_tokens", "least_connections", "central_queue"])
@pytest.mark.parametrize("engine", [{}, {"async_scheduling": False}, {"batch_wait_timeout_iters": 3}])
def test_an_arrival_at_the_very_end_of_a_folded_step_is_seen_by_the_next_one(
    router: str, engine: dict[str, Any]
) -> None:
    data = {**DECODING, "router": router, "engine": {**DECODING["engine"], **engine}}
    arrivals: tuple[float, ...] = ()
    for _ in range(3):
        steps = [
            instant
            for instant in Attack(data, arrivals).instants().steps
            if instant > max(arrivals, default=0.03)
        ]
        arrivals = (*arrivals, steps[len(steps) // 5])
    found, _ = Attack(data, arrivals).differences()
    assert not found, found
