"""Rates are solved anew in the connected components that have changed, and nowhere else."""

from __future__ import annotations

import pytest
from simpy import Environment

from sim.runtime.fabric import fair_rates
from sim.runtime.fabric.fair_rates import FairRates
from sim.runtime.fabric.occupancy import LinkOccupancy
from sim.runtime.fabric.transfer import Bytes, CompiledDemand, LinkSet, Transfer

CAPACITY = [10.0, 6.0, 8.0]


class Traffic:
    """Transfers put on links by hand."""

    def __init__(self) -> None:
        self.capacity = list(CAPACITY)
        self.occupancy = LinkOccupancy(len(CAPACITY))
        self.rates = FairRates(self.capacity, lambda demand: demand.flow_s_at(self.capacity))

    def put(self, *links: int) -> Transfer:
        link_set = self.occupancy.link_set(links)
        demand = CompiledDemand(Bytes(links, (1.0,) * len(links)), link_set, (1.0,) * len(links), CAPACITY)
        transfer = Transfer(Environment(), demand, 1.0, 0.0, None, None, None)
        if not link_set.registered:
            self.occupancy.register(link_set)
        transfer.begin_flowing(demand.flow_s, 0)
        self.rates.recount(transfer.stream)
        return transfer

    def levels(self, unsettled: list[LinkSet], began: list[Transfer]) -> dict[Transfer, float]:
        levels = dict(self.rates.of(unsettled, began))
        for transfer, level in levels.items():
            transfer.level = level
        return levels


def test_a_change_reaches_its_component_and_no_other() -> None:
    traffic = Traffic()
    long, short, apart = traffic.put(0, 1), traffic.put(1), traffic.put(2)
    assert traffic.levels([short.demand.link_set], [short]) == {long: 3.0, short: 3.0}
    assert traffic.levels([apart.demand.link_set], [apart]) == {apart: 8.0}


def test_remembered_levels_end_with_the_capacities_that_they_were_solved_for() -> None:
    traffic = Traffic()
    demand = traffic.put(0).demand
    for _ in range(2):
        transfer = Transfer(Environment(), demand, 1.0, 0.0, None, None, None)
        transfer.begin_flowing(demand.flow_s, 0)
    (stream,) = demand.link_set.flowing
    assert stream.recurs
    assert set(traffic.levels([demand.link_set], []).values()) == {10.0 / 3}
    traffic.capacity[0] = 30.0
    traffic.rates.forget()
    assert set(traffic.levels([demand.link_set], []).values()) == {10.0}


@pytest.mark.parametrize("few", [1, 48])
def test_many_streams_get_from_the_bulk_what_few_get_in_plain_python(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_rates, "MAX_IN_PYTHON", few)
    traffic = Traffic()
    first = [traffic.put(0, 1), traffic.put(0), traffic.put(1)]
    found = traffic.levels([transfer.demand.link_set for transfer in first], first)
    assert [found[transfer] for transfer in first] == pytest.approx([3.0, 7.0, 3.0])
    more = traffic.put(0, 2)
    found = traffic.levels([more.demand.link_set], [more])
    assert found[more] == pytest.approx(3.5)
    assert first[1].level == pytest.approx(3.5)
    assert (first[0].level, first[2].level) == pytest.approx((3.0, 3.0))


def test_one_that_joins_a_stream_of_the_bulk_at_the_same_level_is_given_that_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_rates, "MAX_IN_PYTHON", 1)
    traffic = Traffic()
    first = [traffic.put(0, 1), traffic.put(1)]
    traffic.levels([first[0].demand.link_set], first)
    again = traffic.put(1)
    first[1].stop_flowing()
    traffic.rates.recount(first[1].stream)
    assert again.stream is first[1].stream
    assert traffic.levels([again.demand.link_set], [again])[again] == pytest.approx(3.0)
