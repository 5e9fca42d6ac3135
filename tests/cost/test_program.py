"""Programs: when each op begins, which one is in progress, and what a part of them puts on the links."""

from __future__ import annotations

from math import nextafter

from hypothesis import given
from hypothesis import strategies as st

from sim.cost.collectives.demands import Demand
from sim.cost.program import Op, Position, Program

DEMAND = Demand((3, 1), (10.0, 5.0), latency_s=0.5)
OTHER = Demand((2,), (1.0,), latency_s=0.0)

programs = st.lists(
    st.tuples(
        st.lists(
            st.tuples(st.floats(0.5, 2.0), st.sampled_from([None, DEMAND, OTHER])), min_size=1, max_size=4
        ),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=3,
).map(
    lambda blocks: Program(
        (
            tuple(Op("op", seconds, demand) for seconds, demand in ops),
            repeat,
            sum(seconds for seconds, _ in ops),
        )
        for ops, repeat in blocks
    )
)


def positions(program: Program) -> list[Position]:
    """All positions in order, the end included."""
    found = [Position(0, 0, 0)]
    while found[-1].block < len(program.blocks):
        found.append(program.after(found[-1]))
    return found


@given(programs, st.floats(0.0, 1e6))
def test_the_op_in_progress_is_the_last_that_has_begun(program: Program, anchor_s: float) -> None:
    *ops, end = positions(program)
    assert program.start_s(end) == program.total_s
    for position, following in zip(ops, [*ops[1:], end], strict=True):
        begin_s = anchor_s + program.start_s(position)
        end_s = anchor_s + program.start_s(following)
        if end_s > begin_s:
            assert program.locate(anchor_s, begin_s) == position
            middle_s = begin_s + (end_s - begin_s) / 2
            if begin_s < middle_s < end_s:
                assert program.locate(anchor_s, middle_s) == position


@given(programs, st.data())
def test_the_traffic_of_two_parts_is_that_of_the_whole(program: Program, data: st.DataObject) -> None:
    cut = data.draw(st.sampled_from(positions(program)))
    parts = [program.traffic(end=cut), program.traffic(first=cut)]
    whole = {demand: times for demand, times, _ in program.traffic().demands}
    both: dict[Demand, int] = {}
    for part in parts:
        for demand, times, _ in part.demands:
            both[demand] = both.get(demand, 0) + times
    assert both == whole


def test_the_links_of_a_program_are_those_of_its_transfers_in_one_order() -> None:
    program = Program([((Op("a", 1.0, DEMAND), Op("b", 1.0), Op("c", 1.0, OTHER)), 2, 3.0)])
    assert program.links == (1, 2, 3)
    assert program.traffic().demands == ((DEMAND, 2, 1.0), (OTHER, 2, 2.0))


def test_blocks_of_nothing_are_left_out() -> None:
    assert Program([((), 1, 0.0), ((Op("a", 1.0),), 0, 1.0), ((Op("b", 2.0),), 3, 2.0)]).total_s == 6.0


@given(programs, st.floats(0.0, 1e3))
def test_just_before_its_end_an_op_is_still_in_progress(program: Program, anchor_s: float) -> None:
    *ops, end = positions(program)
    for position, following in zip(ops, [*ops[1:], end], strict=True):
        begin_s = anchor_s + program.start_s(position)
        before_s = nextafter(anchor_s + program.start_s(following), 0.0)
        if before_s > begin_s:
            assert program.locate(anchor_s, before_s) == position


def test_after_its_end_a_program_is_at_its_last_op() -> None:
    program = Program([((Op("a", 1.0), Op("b", 1.0)), 3, 2.0)])
    assert program.locate(1.0, 100.0) == Position(0, 2, 1)


def test_ops_that_take_no_time_have_all_begun() -> None:
    program = Program([((Op("a", 0.0), Op("b", 0.0)), 3, 0.0)])
    assert program.locate(1.0, 1.0) == Position(0, 2, 1)
