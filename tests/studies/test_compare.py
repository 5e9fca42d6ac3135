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


def test_an_order_is_stable_where_no_seed_turns_it_and_causes_say_why() -> None:
    scenarios = {"slow": scenario(engine={"frontend_s": 0.005}), "quick": scenario(), "same": scenario()}
    with ThreadPoolExecutor(1) as executor:
        found = sim.compare(scenarios, seeds=range(3), executor=executor)
        tied = sim.compare({"a": scenario(), "b": scenario()}, seeds=range(3), executor=executor)
    rank = found.ranking("mean_e2el_ms")
    assert (rank.names[-1], rank.seeds) == ("slow", 3)
    assert (rank.is_stable, rank.agreeing) == (False, 0)  # two are the same
    assert not tied.ranking("mean_e2el_ms").is_stable
    assert found.explanation("quick").startswith("quick: host -5 ms a request")
    assert tied.explanation("b") == "b: no cause and no link differs clearly over these seeds"
    with pytest.raises(InputError, match="no seed has a number of it"):
        found.ranking("mean_tttf_ms")


def test_a_link_that_is_busier_is_named() -> None:
    one, two = (scenario(engine={"tensor_parallel_size": ranks}) for ranks in (2, 4))
    with ThreadPoolExecutor(1) as executor:
        found = sim.compare({"TP2": one, "TP4": two}, seeds=range(3), executor=executor)
    assert "points of the run" in found.explanation("TP4")
