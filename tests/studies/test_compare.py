"""Comparisons: paired by seed, with an interval on each difference."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import sim
from sim.inputs.errors import InputError
from tests.studies.scenarios import scenario


def test_paired_seeds_see_a_difference_that_separate_means_would_not() -> None:
    one, two = scenario(), scenario(engine={"frontend_s": 0.001})
    with ThreadPoolExecutor(1) as executor:
        found = sim.compare({"as it is": one, "1 ms later": two}, seeds=range(6), executor=executor)
    e2el = next(found for found in found.differences if found.metric == "mean_e2el_ms")
    assert e2el.pairs == 6
    assert e2el.is_clear
    assert e2el.difference.low < 1.0 < e2el.difference.high or e2el.difference.mean == pytest.approx(
        1.0, rel=0.1
    )
    spread = [row.summary["mean_e2el_ms"] for row in found.rows["as it is"]]
    assert max(spread) - min(spread) > e2el.difference.high - e2el.difference.low


def test_a_scenario_does_not_differ_from_itself() -> None:
    with ThreadPoolExecutor(1) as executor:
        found = sim.compare({"a": scenario(), "b": scenario()}, seeds=range(3), executor=executor)
    assert found.differences
    assert all(one.difference == (0.0, 0.0, 0.0) and not one.is_clear for one in found.differences)
    assert {"scenario", "metric", "a", "mean", "difference", "low", "high"} <= set(found.table().columns)


def test_seeds_that_only_one_scenario_can_run_are_no_pairs() -> None:
    with ThreadPoolExecutor(1) as executor:
        found = sim.compare(
            {"a": scenario(), "b": scenario(engine={"tensor_parallel_size": 3})},
            seeds=range(2),
            executor=executor,
        )
    assert not found.differences
    assert len(found.failed) == 2


def test_one_scenario_or_one_seed_is_nothing_to_compare() -> None:
    with pytest.raises(InputError, match="scenarios = 1: must be at least 2"):
        sim.compare({"a": scenario()})
    with pytest.raises(InputError, match="seeds = 1: must be at least 2"):
        sim.compare({"a": scenario(), "b": scenario()}, seeds=[0])
