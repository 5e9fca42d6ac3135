"""Three ways to serve the same requests, checked where the answer is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import sim

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "when_does_disaggregation_pay.py"


@pytest.fixture(scope="module")
def pools() -> ModuleType:
    spec = importlib.util.spec_from_file_location(EXPERIMENT.stem, EXPERIMENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[EXPERIMENT.stem] = module
    spec.loader.exec_module(module)
    return module


def test_all_three_ways_serve_the_same_requests(pools):
    case = pools.CASES[0]
    ways = (pools.Way(pools.WHOLE), pools.Way(pools.CHUNKED), pools.Way(pools.APART, 2))
    arrivals = [
        sim.simulate(pools.scenario(case, way, 2.0, 20)).requests.select(
            "request_id", "arrival_s", "prompt_tokens", "output_tokens"
        )
        for way in ways
    ]
    assert arrivals[0].equals(arrivals[1])
    assert arrivals[0].equals(arrivals[2])


def test_pools_have_the_engines_of_the_others_and_no_more(pools):
    for prefill in (1, 2, 3):
        apart = pools.scenario(pools.CASES[0], pools.Way(pools.APART, prefill), 1.0, 5)
        assert sum(pool.replicas for pool in apart.all_pools.values()) == pools.ENGINES


@pytest.mark.slow
def test_steady_tokens_are_promised_more_requests_apart_and_slow_nics_take_that_back(pools):
    case = pools.CASES[0]
    apart = [pools.in_time(case, pools.Way(pools.APART, 3, network), 5.0, True) for network in (1.0, 1 / 64)]
    together = max(pools.in_time(case, pools.Way(name), 5.0, True) for name in (pools.WHOLE, pools.CHUNKED))
    assert apart[0] >= pools.SHARE_IN_TIME > together
    assert apart[1] < pools.SHARE_IN_TIME
