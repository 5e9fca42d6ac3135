"""A transfer's own arithmetic, without a fabric."""

from __future__ import annotations

from math import inf

import pytest
from simpy import Environment

from sim.runtime.fabric.transfer import (
    REMEMBERED_STREAMS,
    Bytes,
    CompiledDemand,
    LinkGroup,
    LinkSet,
    State,
    Transfer,
)


def compiled(demand: Bytes, built: tuple[float, ...] = (10.0, 4.0)) -> CompiledDemand:
    return CompiledDemand(demand, LinkSet(demand.links), demand.n_bytes, built)


def flowing(demand: CompiledDemand, planned_end: float | None = None, weight: float = 1.0) -> Transfer:
    transfer = Transfer(Environment(), demand, weight, 2.0, planned_end, None, None)
    transfer.begin_flowing(demand.flow_s, 0)
    return transfer


@pytest.mark.parametrize(("min_flow_s", "flow_s"), [(0.0, 10.0), (12.0, 12.0)])
def test_flow_s_is_the_time_of_the_tightest_link_or_the_shortest_allowed(min_flow_s: float, flow_s: float):
    demand = compiled(Bytes((0, 1), (50.0, 40.0), 3.0, min_flow_s))
    assert demand.flow_s == flow_s
    assert demand.flow_s_at((10.0, 2.0)) == 20.0
    assert demand.flow_s_at((10.0, 0.0)) == inf


def test_a_new_rate_counts_for_what_is_left_and_from_its_own_instant_on() -> None:
    transfer = flowing(compiled(Bytes((0,), (100.0,))))
    assert (transfer.level, transfer.end_s) == (10.0, 12.0)
    transfer.set_level(5.0, 6.0)
    assert (transfer.left, transfer.end_s, transfer.version) == (60.0, 18.0, 1)
    assert transfer.done_part(6.0) == pytest.approx(0.4)
    assert transfer.done_part(12.0) == pytest.approx(0.7)
    transfer.set_level(0.0, 12.0)
    assert transfer.end_s == inf


def test_the_planned_end_holds_only_at_the_uncontended_rate() -> None:
    demand = compiled(Bytes((0,), (100.0,)))
    assert flowing(demand, planned_end=12.0 + 2**-40).end_s == 12.0 + 2**-40
    slower = Transfer(Environment(), demand, 1.0, 2.0, 12.0, None, None)
    slower.begin_flowing(20.0, 0)
    assert slower.end_s == 22.0


def test_transfers_of_one_demand_are_one_stream_and_another_weight_is_another() -> None:
    demand = compiled(Bytes((0, 1), (50.0, 25.0)))
    first, second, heavy = flowing(demand), flowing(demand), flowing(demand, weight=2.0)
    assert first.stream is second.stream
    assert first.stream.copies == 2
    assert first.stream.loads == (1.0, 0.5)
    assert heavy.stream.loads == (2.0, 1.0)
    assert demand.link_set.users == 3
    for transfer in (first, second, heavy):
        transfer.stop_flowing()
    assert demand.link_set.users == 0
    assert not demand.link_set.flowing


def test_a_link_set_keeps_few_idle_streams_and_drops_none_that_flows() -> None:
    link_set = LinkSet((0,))
    busy = link_set.stream((1.0,), inf)
    busy.transfers[flowing(compiled(Bytes((0,), (1.0,))))] = None
    for number in range(3 * REMEMBERED_STREAMS):
        link_set.stream((1.0,), 1.0 + number)
    assert len(link_set.streams) <= REMEMBERED_STREAMS + 2
    assert link_set.stream((1.0,), inf) is busy


def test_a_split_group_takes_what_was_counted_to_both_parts() -> None:
    group = LinkGroup(5)
    group.users, group.busy_s, group.shared_since = 2, 7.0, 3.0
    part = group.split(2)
    assert (group.links, part.links) == (3, 2)
    assert (part.users, part.busy_s, part.shared_since) == (2, 7.0, 3.0)


def test_a_transfer_that_waits_or_is_aborted_has_moved_nothing() -> None:
    transfer = Transfer(Environment(), compiled(Bytes((0,), (100.0,))), 1.0, 2.0, None, None, None)
    assert transfer.done_part(1.0) == 0.0
    transfer.state = State.ABORTED
    assert transfer.done_part(9.0) == 0.0
