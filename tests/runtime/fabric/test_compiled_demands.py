"""Demands are compiled once, and what their transfers carry reaches the link counters exactly once."""

from __future__ import annotations

import pytest

from sim.cost.program import Traffic
from sim.runtime.fabric import compiled_demands
from sim.runtime.fabric.compiled_demands import CompiledDemands
from sim.runtime.fabric.link_counters import LinkCounters
from sim.runtime.fabric.occupancy import LinkOccupancy
from sim.runtime.fabric.transfer import Bytes


def demands_and_counters() -> tuple[CompiledDemands, LinkCounters]:
    counters = LinkCounters(2)
    return CompiledDemands(("a", "b"), (10.0, 5.0), LinkOccupancy(2), counters), counters


def test_a_demand_is_compiled_once_and_an_equal_one_only_where_asked_for() -> None:
    demands, _ = demands_and_counters()
    one, equal = Bytes((0,), (10.0,)), Bytes((0,), (10.0,))
    assert demands.of(one) is demands.of(one)
    assert demands.of(equal) is not demands.of(one)
    assert demands.of_equal(Bytes((1,), (1.0,))) is demands.of_equal(Bytes((1,), (1.0,)))


def test_links_without_bytes_are_left_out() -> None:
    demands, _ = demands_and_counters()
    assert demands.of(Bytes((0, 1), (0.0, 10.0))).links == (1,)


def test_what_is_uncounted_reaches_the_counters_once() -> None:
    demands, counters = demands_and_counters()
    compiled = demands.of(Bytes((0, 1), (10.0, 5.0)))
    compiled.uncounted, compiled.uncounted_busy_s = 3, 3.0
    for _ in range(2):
        demands.settle()
        assert counters.n_bytes == [30.0, 15.0]
        assert counters.busy_uncontended_s == [3.0, 3.0]


def test_the_demands_of_a_folded_step_count_as_often_as_its_steps() -> None:
    demands, counters = demands_and_counters()
    step = Traffic(((Bytes((0,), (10.0,)), 3, 3.0),), (0,))  # type: ignore[arg-type]
    demands.carried_steps(step, 2)
    demands.carried_steps(step, 5)
    demands.settle()
    assert (counters.n_bytes[0], counters.busy_uncontended_s[0]) == (7 * 30.0, 7 * 3.0)


def test_a_dropped_demand_is_counted_first_and_no_longer_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_demands, "REMEMBERED", 2)
    demands, counters = demands_and_counters()
    kept = [Bytes((0,), (10.0 + k,)) for k in range(3)]
    first = demands.of(kept[0])
    first.uncounted = 1
    for demand in kept[1:]:
        demands.of(demand)
    assert not first.kept
    assert counters.n_bytes[0] == 10.0
    assert demands.of(kept[2]).kept


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        (Bytes((0, 0), (1.0, 1.0)), "each must appear once"),
        (Bytes((7,), (1.0,)), "link = 7: must be from 0 to 1"),
        (Bytes((0,), (-1.0,)), r"n_bytes = \(-1.0,\) on \['a'\]: must be finite and at least 0"),
        (Bytes((0,), (1.0, 2.0)), "n_bytes has 2 entries for 1 links"),
        (Bytes((0,), (1.0,), -1.0), "latency_s = -1.0"),
    ],
)
def test_an_impossible_demand_is_refused(demand: Bytes, message: str) -> None:
    demands, _ = demands_and_counters()
    with pytest.raises(ValueError, match=message):
        demands.of(demand)
