"""Arrival times of each open process, held against what the process is."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from sim.inputs.arrivals import OpenProcess
from sim.workload.arrival_times import BLOCK, arrival_times
from sim.workload.random_streams import Floats

PROCESSES: list[dict[str, Any]] = [
    {"kind": "poisson", "rate_per_s": 5.0},
    {"kind": "constant", "rate_per_s": 5.0},
    {"kind": "gamma", "rate_per_s": 5.0, "cv": 2.0},
    {"kind": "on_off", "on_rate_per_s": 10.0, "mean_on_s": 3.0, "mean_off_s": 3.0},
    {
        "kind": "mmpp",
        "states": [{"rate_per_s": 1, "mean_stay_s": 2}, {"rate_per_s": 9, "mean_stay_s": 2}],
    },
    {
        "kind": "time_varying",
        "pieces": [{"duration_s": 4, "rate_per_s": 10}, {"duration_s": 4, "rate_per_s": 0}],
    },
]


def times(process: dict[str, Any], n: int, seed: int = 0) -> Floats:
    described: OpenProcess = TypeAdapter(OpenProcess).validate_python(process)
    blocks = islice(arrival_times(described, seed), -(-n // BLOCK) + 1)
    return np.concatenate(list(blocks))[:n]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: str(process["kind"]))
def test_an_open_process_has_its_rate_and_never_goes_back(process: dict[str, Any]) -> None:
    times_s = times(process, 40_000)
    assert len(times_s) == 40_000
    assert np.all(np.diff(times_s) >= 0)
    # modulated arrivals count like 1 + 2 r tau of Poisson's variance: below 5 % at 4 standard deviations
    assert 40_000 / times_s[-1] == pytest.approx(5.0, rel=0.06)


@pytest.mark.parametrize(
    ("shape", "cv"), [({"cv": 0.5}, 0.5), ({"cv": 3.0}, 3.0), ({"burstiness": 0.25}, 2.0)]
)
def test_gamma_gaps_have_the_stated_variation(shape: dict[str, float], cv: float) -> None:
    gaps_s = np.diff(times({"kind": "gamma", "rate_per_s": 5.0, **shape}, 100_000))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.04)


def test_constant_arrivals_are_on_the_grid_to_the_last_bit() -> None:
    assert times({"kind": "constant", "rate_per_s": 3.0}, 9000).tolist() == [k / 3.0 for k in range(9000)]


def test_a_time_varying_rate_sends_nothing_while_it_is_zero() -> None:
    times_s = times(PROCESSES[-1], 5000)
    assert np.all(times_s % 8 <= 4)
    first = np.histogram(times_s, bins=[0, 4, 8])[0]
    assert first[1] == 0
    assert first[0] == pytest.approx(40, abs=4 * 40**0.5)


def test_a_rate_that_ends_at_zero_ends_the_arrivals_and_one_that_ends_above_goes_on() -> None:
    pieces = [{"duration_s": 2, "rate_per_s": 500}, {"duration_s": 1, "rate_per_s": 0}]
    ending = {"kind": "time_varying", "repeat": False, "pieces": pieces}
    assert times(ending, 50_000).max() <= 2
    assert len(times({**ending, "pieces": pieces[::-1]}, 50_000)) == 50_000


@pytest.mark.slow
def test_an_on_off_process_is_as_often_on_at_its_start_as_later() -> None:
    on_off = {"kind": "on_off", "on_rate_per_s": 1000.0, "mean_on_s": 2.0, "mean_off_s": 6.0}
    started_on = [times(on_off, 1, seed)[0] < 0.05 for seed in range(400)]
    assert sum(started_on) / 400 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)


def test_a_burst_comes_at_once() -> None:
    assert times({"kind": "burst", "at_s": 2.0}, 3).tolist() == [2.0, 2.0, 2.0]
