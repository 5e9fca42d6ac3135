"""The fabric, transfer by transfer."""

from __future__ import annotations

import pytest
from simpy import Environment

from sim.cost.collectives.demands import Demand
from sim.cost.program import Traffic
from sim.runtime.clock import COMPLETION, at
from sim.runtime.fabric.compiled_demands import REMEMBERED
from sim.runtime.fabric.fabric import MANY_ENDS, Fabric, Transfer
from sim.runtime.fabric.transfer import REMEMBERED_STREAMS, Bytes


@pytest.fixture
def env() -> Environment:
    return Environment()


def settle(env: Environment, fabric: Fabric) -> None:
    """Run to the end, with the invariants checked after every instant."""
    while env.peek() < float("inf"):
        now = env.peek()
        while env.peek() == now:
            env.step()
        fabric.check()


def test_uncontended_a_transfer_takes_latency_plus_bytes_over_the_tightest_link(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 4.0})
    done = fabric.transfer({"a": 100.0, "b": 20.0}, latency_s=2.0)
    env.run(done)
    assert env.now == done.end_s == 2.0 + max(100.0 / 10.0, 20.0 / 4.0)
    assert done.excess_flow_s == 0.0


def test_a_link_may_be_named_by_an_edge_or_by_its_number(env: Environment) -> None:
    fabric = Fabric(env, {("gpu0", "switch"): 10.0, ("switch", "gpu1"): 5.0})
    by_edge = fabric.transfer({("gpu0", "switch"): 100.0})
    by_number = fabric.transfer({1: 100.0})
    settle(env, fabric)
    assert (by_edge.end_s, by_number.end_s) == (10.0, 20.0)


def test_a_compiled_network_gives_its_links_and_capacities(env: Environment) -> None:
    class Compiled:
        links = ("a->b", "b->a")
        capacity = (10.0, 20.0)

    fabric = Fabric(env, Compiled())
    done = fabric.start(Bytes((1,), (100.0,)))
    env.run(done)
    assert env.now == 5.0


def test_two_that_share_take_twice_as_long_and_report_the_excess(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    first, second = fabric.transfer({"a": 100.0}), fabric.transfer({"a": 100.0})
    settle(env, fabric)
    assert (first.end_s, second.end_s) == (20.0, 20.0)
    assert (first.excess_flow_s, second.excess_flow_s) == (10.0, 10.0)


def test_latency_is_no_traffic_so_only_the_flowing_is_shared(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    early = fabric.transfer({"a": 100.0})
    late = fabric.transfer({"a": 100.0}, latency_s=5.0)
    settle(env, fabric)
    assert (early.end_s, late.end_s) == (15.0, 20.0)


def test_a_weight_of_two_gets_two_shares(env: Environment) -> None:
    fabric = Fabric(env, {"a": 9.0})
    heavy, light = fabric.transfer({"a": 60.0}, weight=2.0), fabric.transfer({"a": 60.0})
    settle(env, fabric)
    assert (heavy.end_s, light.end_s) == (10.0, 10.0 + 30.0 / 9.0)


def test_a_transfer_that_takes_at_least_so_long_leaves_room_for_others(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    slow, other = fabric.transfer({"a": 40.0}, min_flow_s=10.0), fabric.transfer({"a": 60.0})
    settle(env, fabric)
    assert (slow.end_s, other.end_s) == (10.0, 10.0)
    assert slow.excess_flow_s == 0.0


@pytest.mark.parametrize(
    ("n_bytes", "latency_s", "min_flow_s", "end_s"),
    [
        ({}, 0.0, 0.0, 0.0),
        ({}, 3.0, 2.0, 5.0),
        ({"a": 0.0}, 1.0, 0.0, 1.0),
        ({"a": 0.0, "b": 5.0}, 0.0, 0.0, 1.0),
    ],
)
def test_without_bytes_only_time_passes(
    env: Environment, n_bytes: dict[str, float], latency_s: float, min_flow_s: float, end_s: float
) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 5.0})
    two = [fabric.transfer(n_bytes, latency_s, min_flow_s) for _ in range(1 if "b" in n_bytes else 2)]
    busy = fabric.transfer({"a": 100.0})
    settle(env, fabric)
    assert [done.end_s for done in two] == [end_s] * len(two)
    assert busy.excess_flow_s == 0.0


def test_a_call_back_may_start_the_next_transfer_at_the_same_instant(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    demand, ends = Bytes((0,), (10.0,), 0.5), []

    def again(transfer: Transfer) -> None:
        ends.append(transfer.end_s)
        if len(ends) < 4:
            fabric.start(demand, on_done=again)

    fabric.start(demand, on_done=again)
    settle(env, fabric)
    assert ends == [1.5, 3.0, 4.5, 6.0]
    assert fabric.rows()[0][2:] == (40.0, 4.0, 0.0)


def test_a_process_can_wait_for_several_and_for_one_that_is_over(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    seen = []

    def story() -> object:
        first, second = fabric.transfer({"a": 10.0}), fabric.transfer({"b": 30.0})
        yield first & second
        seen.append(env.now)
        yield first
        seen.append(env.now)

    env.process(story())
    settle(env, fabric)
    assert seen == [3.0, 3.0]


def test_never_disturbed_it_ends_at_the_planned_instant_to_the_last_bit(env: Environment) -> None:
    fabric = Fabric(env, {"a": 3.0, "b": 3.0})
    planned = 0.1 + 1.0 / 3.0 + 2**-50
    done = fabric.start(Bytes((0,), (1.0,)), began_at=0.0, planned_end=planned)
    fabric.start(Bytes((1,), (50.0,)))
    settle(env, fabric)
    assert done.end_s == planned


def test_a_neighbour_that_takes_nothing_from_it_does_not_move_its_planned_end(env: Environment) -> None:
    fabric = Fabric(env, {"a": 3.0, "wide": 100.0})
    planned = 1.0 / 3.0 + 2**-50
    done = fabric.start(Bytes((0, 1), (1.0, 1.0)), planned_end=planned)
    fabric.start(Bytes((1,), (7.0,)))
    settle(env, fabric)
    assert done.end_s == planned
    assert done.excess_flow_s == 0.0


def test_once_slowed_down_it_ends_later_than_planned(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    done = fabric.start(Bytes((0,), (100.0,)), planned_end=10.0)
    at(env, 4.0, lambda _: fabric.transfer({"a": 10.0}))
    settle(env, fabric)
    assert done.end_s == 11.0
    assert done.excess_flow_s == 1.0


def test_a_slower_link_delays_from_the_instant_of_the_change(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    done = fabric.start(Bytes((0,), (100.0,)), planned_end=10.0)
    at(env, 5.0, lambda _: fabric.set_capacity("a", 5.0))
    settle(env, fabric)
    assert (done.end_s, done.excess_flow_s) == (15.0, 5.0)
    after = fabric.start(Bytes((0,), (10.0,)), planned_end=env.now + 1.0)
    settle(env, fabric)
    assert after.end_s == 17.0, "a plan made for the link as built does not hold on a slower one"


def test_a_link_that_is_down_keeps_its_transfers_until_it_is_up(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    waiting = fabric.transfer({"a": 100.0})
    at(env, 4.0, lambda _: fabric.set_capacity("a", 0.0))
    env.run()
    assert not waiting.triggered
    late = fabric.transfer({"a": 10.0, "b": 10.0})
    settle(env, fabric)
    assert fabric.stalled() == [(waiting, ("a",)), (late, ("a",))]
    at(env, 20.0, lambda _: fabric.set_capacity("a", 10.0))
    settle(env, fabric)
    assert (late.end_s, waiting.end_s) == (22.0, 27.0)
    assert fabric.stalled() == []


def test_an_aborted_transfer_frees_its_link_and_has_carried_its_part(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    kept, aborted = fabric.transfer({"a": 100.0}), fabric.transfer({"a": 100.0})
    parts: list[float] = []
    at(env, 10.0, lambda _: parts.append(fabric.abort(aborted)))
    settle(env, fabric)
    assert parts == [0.5]
    assert kept.end_s == 15.0
    assert not aborted.triggered
    assert fabric.rows()[0].n_bytes == 150.0


@pytest.mark.parametrize(("time", "part"), [(1.0, 0.0), (2.0, 0.0), (7.0, 0.5)])
def test_aborting_an_uncontended_transfer_in_its_latency_or_half_way(
    env: Environment, time: float, part: float
) -> None:
    fabric = Fabric(env, {"a": 10.0})
    transfer = fabric.transfer({"a": 100.0}, latency_s=2.0)
    parts: list[float] = []
    at(env, time, lambda _: parts.append(fabric.abort(transfer)))
    settle(env, fabric)
    assert parts == [part]
    assert fabric.rows()[0].n_bytes == 100.0 * part
    assert fabric.abort(transfer) == 0.0
    assert fabric.is_quiet((0,))


def test_aborting_one_that_waits_for_its_latency_beside_others(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    other = fabric.transfer({"a": 100.0})
    waiting = fabric.transfer({"a": 100.0}, latency_s=2.0)
    at(env, 1.0, lambda _: fabric.abort(waiting))
    settle(env, fabric)
    assert other.end_s == 10.0


def test_links_count_bytes_and_the_seconds_they_were_busy_and_shared(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    fabric.transfer({"a": 100.0, "b": 50.0})
    at(env, 5.0, lambda _: fabric.transfer({"a": 20.0}))
    settle(env, fabric)
    a, b = fabric.rows()
    assert (a.n_bytes, a.busy_s, a.shared_s) == (120.0, 12.0, 4.0)
    assert (b.n_bytes, b.busy_s, b.shared_s) == (50.0, 12.0, 0.0)


def test_what_is_on_its_way_is_counted_up_to_now(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    fabric.transfer({"a": 100.0}, latency_s=1.0)
    fabric.transfer({"b": 100.0})
    fabric.transfer({"b": 100.0})
    env.run(6.0)
    a, b = fabric.rows()
    assert (a.n_bytes, a.busy_s, a.shared_s) == (50.0, 5.0, 0.0)
    assert b[2:] == pytest.approx((60.0, 6.0, 6.0))
    env.run()
    assert [row.n_bytes for row in fabric.rows()] == [100.0, 200.0]


def test_equal_transfers_flow_as_one_stream_though_their_link_set_has_seen_many_others(
    env: Environment,
) -> None:
    fabric = Fabric(env, {"a": 10.0})
    demand = Bytes((0,), (10.0,), 0.0, 1.5)
    fabric.start(demand)
    fabric.start(demand)
    for other in range(2 * REMEMBERED_STREAMS):
        for _ in range(2):
            fabric.start(Bytes((0,), (1.0,), 0.0, 0.1 + other))
        settle(env, fabric)
    for one in (demand, Bytes(*demand), demand):
        fabric.start(one)
    settle(env, fabric)
    (link_set,) = fabric._occupancy.link_sets.values()
    assert len(link_set.streams) <= REMEMBERED_STREAMS + 1


def test_folded_traffic_is_credited_in_closed_form(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    short, long = Bytes((1,), (50.0,)), Demand((0, 1), (50.0, 100.0), 2.0)
    fabric.carried(short, 10, 50.0)
    fabric.carried_steps(Traffic(((long, 3, 30.0),), (0, 1)), 2)
    fabric.carried_steps(Traffic(((long, 3, 30.0),), (0, 1)), 5)
    a, b = fabric.rows()
    assert a[2:] == (7 * 3 * 50.0, 7 * 30.0, 0.0)
    assert b[2:] == (500.0 + 7 * 3 * 100.0, 50.0 + 7 * 30.0, 0.0)


def test_more_folded_steps_than_plans_are_remembered_are_all_counted(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    steps = [Traffic(((Demand((0, 1), (10.0, 0.0)), 1, 1.0),), (0,)) for _ in range(REMEMBERED + 10)]
    for traffic in steps:
        fabric.carried_steps(traffic, 2)
    for _ in range(REMEMBERED + 10):
        fabric.start(Bytes((1,), (10.0,)))
    env.run()
    a, b = fabric.rows()
    assert a[2:] == (2 * 10.0 * len(steps), 2 * 1.0 * len(steps), 0.0)
    assert b[2:] == pytest.approx((10.0 * len(steps), env.now, env.now))


def test_ends_of_one_instant_free_the_link_before_starts_of_that_instant_share_it(env: Environment) -> None:
    """A transfer that begins where another ends was never beside it, whichever of the two is called first."""
    for order in (0, 1):
        env = Environment()
        fabric = Fabric(env, {"a": 10.0})
        if order:
            at(env, 10.0, lambda _, fabric=fabric: fabric.transfer({"a": 10.0}))
        first = fabric.transfer({"a": 100.0})
        if not order:
            at(env, 10.0, lambda _, fabric=fabric: fabric.transfer({"a": 10.0}), COMPLETION)
        settle(env, fabric)
        assert (first.end_s, first.excess_flow_s, env.now) == (10.0, 0.0, 11.0)
        assert fabric.rows()[0].shared_s == 0.0


def test_the_capacity_of_a_row_is_the_mean_up_to_now(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    at(env, 2.0, lambda _: fabric.set_capacity("a", 0.0))
    at(env, 5.0, lambda _: fabric.set_capacity("a", 4.0))
    fabric.transfer({"a": 40.0})
    settle(env, fabric)
    a, b = fabric.rows()
    assert (env.now, a.n_bytes, b.bytes_per_s) == (10.0, 40.0, 10.0)
    assert a.bytes_per_s == (2.0 * 10.0 + 5.0 * 4.0) / 10.0  # what was carried, and not more


def test_an_unknown_link_and_an_impossible_capacity_are_refused(env: Environment) -> None:
    with pytest.raises(KeyError, match=r"no link 'b'.*the nearest name is a"):
        Fabric(env, {"a": 1.0}).transfer({"b": 1.0})
    with pytest.raises(KeyError, match="no link 1; the fabric has 1, numbered from 0"):
        Fabric(env, {"a": 1.0}).transfer({1: 1.0})
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        Fabric(env, {"a": float("inf")})
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        Fabric(env, {"a": 1.0}).set_capacity("a", -1.0)


def test_more_kinds_of_demand_than_are_remembered_lose_no_bytes(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.runtime.fabric.compiled_demands.REMEMBERED", 8)
    fabric = Fabric(env, {"a": 10.0})
    for number in range(50):
        at(env, 1.0 * number, lambda _: fabric.start(Bytes((0,), (5.0,))))
    settle(env, fabric)
    assert fabric.rows()[0][2:] == (250.0, 25.0, 0.0)


@pytest.mark.parametrize("many", [40, 60])
def test_one_that_begins_where_another_of_many_ends_gets_its_share_and_no_more(
    env: Environment, many: int
) -> None:
    """Equal shares of a link of 100 bytes/s, few enough to be solved one by one or a bulk."""
    fabric = Fabric(env, {"shared": 100.0, **{f"own {i}": 1e9 for i in range(many)}})
    for i in range(1, many):
        fabric.transfer({"shared": 1000.0, f"own {i}": 1000.0})
    first = fabric.transfer({"shared": 10.0, "own 0": 10.0})
    again: list[Transfer] = []
    first.on_done = lambda _: again.append(fabric.transfer({"shared": 10.0, "own 0": 10.0}))
    settle(env, fabric)
    assert (first.end_s, again[0].end_s) == pytest.approx((many / 10.0, many / 5.0))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_a_finite_number_above_zero(env: Environment, weight: float) -> None:
    fabric = Fabric(env, {"a": 10.0})
    with pytest.raises(ValueError, match="must be finite and above 0"):
        fabric.transfer({"a": 10.0}, weight=weight)


def test_a_long_transfer_beside_many_short_ones_leaves_nothing_behind_for_each(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    fabric.transfer({"a": 1e9})
    for _ in range(3 * MANY_ENDS):
        env.run(fabric.transfer({"a": 10.0}))
    assert len(fabric._ends) <= MANY_ENDS + 1
    assert len(env._queue) <= 4


@pytest.mark.parametrize("flows", [3, 80])
def test_what_goes_by_a_link_s_rate_goes_slower_where_the_link_does(flows: int) -> None:
    """At 0.8 of the rate; few transfers and many, which another solver takes."""
    env = Environment()
    fabric = Fabric(env, dict.fromkeys(range(flows + 1), 10.0))
    # Each has a link of its own on which it is bound by its rate, and all meet on a wide one.
    fabric.set_capacity(flows, 1e3 * flows)
    sent = [
        fabric.start(Bytes((link, flows), (100.0 + link, 1.0), 0.0, (100.0 + link) / 8.0, 0.8))
        for link in range(flows)
    ]
    env.run(until=5.0)
    fabric.check()
    fabric.set_capacity(0, 5.0)
    fabric.set_capacity(1, 0.0)
    env.run(until=6.0)
    fabric.check()
    fabric.set_capacity(1, 10.0)
    env.run()
    assert sent[0].end_s == pytest.approx(5.0 + 60.0 / 4.0)
    assert sent[1].end_s == pytest.approx(1.0 + 101.0 / 8.0)
    assert sent[2].end_s == pytest.approx(102.0 / 8.0)
