"""Max-min fair shares: the parking lots of the textbook, and what has to hold for any traffic."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.fairshare import Flow, FlowTable, fair_levels, loads_of, max_min

LINKS = 8
amounts = st.sampled_from([1.0, 2.0, 8.0]) | st.floats(0.01, 100.0)
capacities = st.lists(
    st.sampled_from([0.0, 1.0, 5.0, 10.0]) | st.floats(0.1, 100.0), min_size=LINKS, max_size=LINKS
)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    links = draw(st.lists(st.integers(0, LINKS - 1), min_size=1, max_size=4, unique=True))
    n_bytes = [draw(amounts) for _ in links]
    weight = draw(st.sampled_from([1.0, 1.0, 2.0, 0.5]))
    cap = draw(st.sampled_from([inf, inf, 1.0, 3.0]))
    return Flow(tuple(links), loads_of(n_bytes, weight), cap, draw(st.sampled_from([1, 1, 3])))


def carried(traffic: list[Flow], levels: list[float]) -> list[float]:
    load = [0.0] * LINKS
    for flow, level in zip(traffic, levels, strict=True):
        for link, amount in zip(flow.links, flow.loads, strict=True):
            load[link] += flow.copies * level * amount
    return load


def held_back(
    flow: Flow, level: float, traffic: list[Flow], levels: list[float], capacity: list[float]
) -> bool:
    """At its cap, or on a full link on which nobody has a higher level: what makes an allocation max-min."""
    load = carried(traffic, levels)
    return level >= flow.cap * (1 - 1e-9) or any(
        load[link] >= capacity[link] * (1 - 1e-9)
        and all(
            other_level <= level * (1 + 1e-9) + 1e-12
            for other, other_level in zip(traffic, levels, strict=True)
            if link in other.links
        )
        for link in flow.links
    )


def test_three_flows_in_a_parking_lot_of_equal_links_get_half_each() -> None:
    assert max_min([((0, 1), (1, 1), 1, 0), ((0,), (1,), 1, 0), ((1,), (1,), 1, 0)], [10.0, 10.0]) == [
        5.0,
        5.0,
        5.0,
    ]


def test_the_long_flow_is_held_back_by_the_narrow_link_and_the_short_one_takes_what_it_leaves() -> None:
    assert max_min([((0, 1), (1, 1), 1, 0), ((0,), (1,), 1, 0), ((1,), (1,), 1, 0)], [10.0, 4.0]) == [
        2.0,
        8.0,
        2.0,
    ]


def test_a_weight_of_three_takes_three_shares() -> None:
    assert max_min([((0,), (1,), 3, 0), ((0,), (1,), 1, 0)], [8.0]) == [6.0, 2.0]


def test_a_transfer_that_takes_at_least_a_second_leaves_the_rest_to_the_others() -> None:
    assert max_min([((0,), (2,), 1, 1.0), ((0,), (1,), 1, 0)], [10.0]) == [1.0, 8.0]


def test_a_collective_counts_as_one_flow_as_wide_as_its_busiest_link_and_slows_as_a_whole() -> None:
    """Eight bytes on link 0 and one on link 1 for every part of it; a flow shares link 0 and gets as many
    bytes/s.
    """
    collective, flow, other = max_min(
        [((0, 1), (8, 1), 1, 0), ((0,), (1,), 1, 0), ((1,), (1,), 1, 0)], [10.0, 10.0]
    )
    assert collective * 8 == flow == 5.0
    assert other == pytest.approx(10.0 - 5.0 / 8)


def test_a_link_that_is_down_stops_whoever_needs_it_and_nobody_else() -> None:
    assert max_min([((0, 1), (1, 1), 1, 0), ((0,), (1,), 1, 0)], [10.0, 0.0]) == [0.0, 10.0]


@pytest.mark.slow
@given(st.lists(flows(), min_size=1, max_size=12), capacities)
def test_no_link_is_above_capacity_and_every_flow_is_held_back_somewhere(
    traffic: list[Flow], capacity: list[float]
) -> None:
    levels = fair_levels(traffic, capacity)
    for load, limit in zip(carried(traffic, levels), capacity, strict=True):
        assert load <= limit * (1 + 1e-9)
    for flow, level in zip(traffic, levels, strict=True):
        assert held_back(flow, level, traffic, levels, capacity)


@pytest.mark.slow
@given(st.lists(flows(), min_size=1, max_size=12), capacities)
def test_arrays_give_what_plain_python_gives(traffic: list[Flow], capacity: list[float]) -> None:
    table = FlowTable(capacity)
    for flow in traffic:
        table.add(flow)
    assert table.levels() == pytest.approx(fair_levels(traffic, capacity), rel=1e-9, abs=1e-12)


@pytest.mark.slow
@given(st.lists(flows(), min_size=2, max_size=12), capacities, st.data())
def test_a_table_from_which_flows_have_left_is_like_one_that_never_had_them(
    traffic: list[Flow], capacity: list[float], data: st.DataObject
) -> None:
    table = FlowTable(capacity)
    rows = list(traffic)
    for flow in traffic:
        table.add(flow)
    for _ in range(data.draw(st.integers(1, len(traffic) - 1))):
        row = data.draw(st.integers(0, len(rows) - 1))
        table.remove(row)
        rows[row] = rows[-1]
        rows.pop()
    rows[0] = rows[0]._replace(copies=5)
    table.recount(0, rows[0])
    assert len(table) == len(rows)
    assert table.levels() == pytest.approx(fair_levels(rows, capacity), rel=1e-9, abs=1e-12)


def test_hundreds_of_flows_with_long_paths_fit_into_a_table_that_grows() -> None:
    rng = np.random.default_rng(3)
    capacity = rng.uniform(1.0, 10.0, 60).tolist()
    traffic = []
    for width in rng.integers(1, 9, 300).tolist():
        links = tuple(rng.choice(60, width, replace=False).tolist())
        traffic.append(Flow(links, loads_of(rng.uniform(0.1, 1.0, width).tolist())))
    table = FlowTable(capacity)
    for flow in traffic:
        table.add(flow)
    assert table.levels() == pytest.approx(fair_levels(traffic, capacity), rel=1e-9)


@pytest.mark.slow
@given(st.lists(flows(), min_size=2, max_size=8), capacities)
def test_the_order_in_which_flows_are_named_changes_nothing(
    traffic: list[Flow], capacity: list[float]
) -> None:
    there = fair_levels(traffic, capacity)
    back = fair_levels(traffic[::-1], capacity)
    assert there == pytest.approx(back[::-1], rel=1e-9, abs=1e-12)


def test_a_share_that_is_not_max_min_is_seen_to_break_the_rule() -> None:
    traffic, capacity = [Flow((0,), (1.0,)), Flow((0,), (1.0,))], [10.0] * LINKS
    assert held_back(traffic[0], 5.0, traffic, [5.0, 5.0], capacity)
    assert not held_back(traffic[0], 4.0, traffic, [4.0, 6.0], capacity)
    assert not held_back(traffic[0], 4.0, traffic, [4.0, 4.0], capacity)
