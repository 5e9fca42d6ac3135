"""Watchers: a program that is folded away, and unfolded when other traffic comes, ends at the floats of one
that is played.
"""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simpy import Environment

from sim.runtime.clock import COMPLETION, at
from sim.runtime.fabric.fabric import Fabric, Transfer
from sim.runtime.fabric.transfer import Bytes

TEETH = (
    Bytes((0, 1), (3.0, 1.0), 0.25),
    Bytes((1, 2), (1.0, 2.0)),
    Bytes((0, 1, 2), (1.0, 1.0, 1.0), 0.0, 0.7),
)
CAPACITY = {0: 3.0, 1: 2.5, 2: 7.0, 3: 1.0}


class Saw:
    """Transfers one after the other with pauses between them; folded, one event until it is disturbed."""

    def __init__(self, env: Environment, fabric: Fabric, teeth: int, fold: bool) -> None:
        self.env, self.fabric, self.fold = env, fabric, fold
        self.flow_s = [
            demand.latency_s
            + max(
                demand.min_flow_s,
                *(n / CAPACITY[link] for link, n in zip(demand.links, demand.n_bytes, strict=True)),
            )
            for demand in TEETH
        ]
        self.teeth = teeth
        self.next = 0
        self.anchor_s = 0.0
        self.ends: list[float] = []
        self.events = 0
        self.version = 0
        self.folded = False
        fabric.watch((0, 1, 2), self)
        self.go_on()

    def begins_s(self, tooth: int) -> float:
        rounds, at_tooth = divmod(tooth, len(TEETH))
        return rounds * (sum(self.flow_s) + 0.3) + (sum(self.flow_s[:at_tooth]) + 0.1 * at_tooth)

    def ends_s(self, tooth: int) -> float:
        return self.anchor_s + (self.begins_s(tooth) + self.flow_s[tooth % len(TEETH)])

    def go_on(self) -> None:
        if self.next == self.teeth:
            return
        if self.fold and self.fabric.is_quiet((0, 1, 2), self):
            self.folded = True
            self.version += 1
            at(self.env, self.ends_s(self.teeth - 1), self.fold_ends, COMPLETION, self.version)
        else:
            self.play()

    def play(self) -> None:
        begins_s = self.anchor_s + self.begins_s(self.next)
        if begins_s > self.env.now:
            at(self.env, begins_s, self.begin, COMPLETION)
        else:
            self.begin(None)

    def begin(self, _: None) -> None:
        self.events += 1
        tooth = self.next
        self.fabric.start(
            TEETH[tooth % len(TEETH)],
            began_at=self.anchor_s + self.begins_s(tooth),
            planned_end=self.ends_s(tooth),
            on_done=self.ended,
            owner=self,
        )

    def ended(self, transfer: Transfer) -> None:
        if self.env.now != self.ends_s(self.next):
            self.anchor_s = self.env.now - (self.ends_s(self.next) - self.anchor_s)
        self.ends.append(self.env.now)
        self.next += 1
        self.go_on()

    def fold_ends(self, version: int) -> None:
        if version == self.version:
            self.folded = False
            self.pass_until(inf)

    def pass_until(self, now: float) -> None:
        while self.next < self.teeth and self.ends_s(self.next) <= now:
            self.ends.append(self.ends_s(self.next))
            self.next += 1

    def disturbed(self, now: float) -> None:
        if self.folded:
            self.folded = False
            self.version += 1
            self.pass_until(now)
            if self.next < self.teeth:
                self.play()

    def left_alone(self) -> None:
        pass


def run(
    fold: bool, foreign: list[tuple[float, int, float]], changes: list[tuple[float, int, float]]
) -> tuple[object, Saw]:
    env = Environment()
    fabric = Fabric(env, CAPACITY)
    saw = Saw(env, fabric, 60, fold)
    ends: list[tuple[int, float, float]] = []
    for number, (time, link, n_bytes) in enumerate(foreign):
        demand = Bytes((link, 3), (n_bytes, n_bytes / 9))

        def go(_: None, number: int = number, demand: Bytes = demand) -> None:
            fabric.start(
                demand, on_done=lambda transfer: ends.append((number, env.now, transfer.excess_flow_s))
            )

        at(env, time, go)
    for time, link, bytes_per_s in changes:
        at(env, time, lambda _, link=link, bytes_per_s=bytes_per_s: fabric.set_capacity(link, bytes_per_s))
    while env.peek() < inf:
        now = env.peek()
        while env.peek() == now:
            env.step()
        fabric.check()
    return (saw.ends, ends), saw


SAW = Saw(Environment(), Fabric(Environment(), CAPACITY), 1, False)
instants = st.floats(0.0, 60.0) | st.integers(0, 50).map(SAW.ends_s) | st.integers(0, 50).map(SAW.begins_s)
traffic = st.lists(st.tuples(instants, st.integers(0, 2), st.floats(0.1, 4.0)), max_size=12)
wobbles = st.lists(
    st.tuples(instants, st.integers(0, 2), st.sampled_from([0.5, 2.0, CAPACITY[0]])), max_size=2
)


@pytest.mark.slow
@settings(max_examples=200)
@given(traffic, wobbles)
def test_folded_or_played_every_instant_is_the_same_float(
    foreign: list[tuple[float, int, float]], changes: list[tuple[float, int, float]]
) -> None:
    played, _ = run(False, foreign, changes)
    folded, _ = run(True, foreign, changes)
    assert folded == played


def test_folding_leaves_out_the_events_it_is_meant_to_leave_out() -> None:
    foreign = [(10.0, 0, 1.0)]
    _, played = run(False, foreign, [])
    _, folded = run(True, foreign, [])
    assert played.events == 60
    assert 1 <= folded.events <= 3


class Counter:
    def __init__(self, fabric: Fabric) -> None:
        self.calls: list[float] = []
        self.quiet: list[bool] = []
        self.quiet_s: list[float] = []
        self.fabric = fabric

    def disturbed(self, now: float) -> None:
        self.calls.append(now)

    def left_alone(self) -> None:
        self.quiet_s.append(self.fabric.env.now)


@pytest.fixture
def env() -> Environment:
    return Environment()


def test_a_watcher_is_called_when_bytes_begin_to_flow_not_when_their_latency_begins(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    watcher = Counter(fabric)
    fabric.watch((0,), watcher)
    fabric.transfer({"a": 10.0}, latency_s=3.0)
    fabric.transfer({"b": 10.0})
    env.run()
    assert watcher.calls == [3.0]


def test_a_watcher_is_called_once_an_instant_and_not_after_it_has_stopped(
    env: Environment,
) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    watcher = Counter(fabric)
    fabric.watch((0, 1), watcher)
    fabric.transfer({"a": 10.0, "b": 10.0})
    env.run()
    assert watcher.calls == [0.0]
    fabric.set_capacity("b", 5.0)
    env.run()
    assert watcher.calls == [0.0, 1.0]
    fabric.unwatch((0, 1), watcher)
    fabric.transfer({"a": 10.0})
    fabric.transfer({"a": 10.0, "b": 10.0})
    env.run()
    assert watcher.calls == [0.0, 1.0]


def test_a_watcher_is_called_when_the_last_foreign_transfer_has_left_it_alone(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    watcher = Counter(fabric)
    fabric.watch((0,), watcher)
    fabric.transfer({"a": 10.0, "b": 10.0})
    fabric.transfer({"a": 15.0})
    fabric.transfer({"b": 50.0})
    env.run()
    assert watcher.quiet_s == [2.5]
    fabric.start(Bytes((0,), (10.0,)), owner=watcher)
    fabric.unwatch((0,), watcher)
    fabric.transfer({"a": 10.0})
    env.run()
    assert watcher.quiet_s == [2.5]


def test_an_owner_is_not_disturbed_by_its_own_transfers(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    watcher, other = Counter(fabric), Counter(fabric)
    fabric.watch((0,), watcher)
    fabric.watch((0,), other)
    fabric.start(Bytes((0,), (10.0,)), owner=watcher)
    env.run()
    assert (watcher.calls, other.calls) == ([], [0.0])


def test_links_are_quiet_without_transfers_other_watchers_or_changed_capacities(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    watcher = Counter(fabric)
    assert fabric.is_quiet((0, 1), watcher)
    fabric.watch((0,), watcher)
    assert fabric.is_quiet((0, 1), watcher)
    assert not fabric.is_quiet((0, 1))
    fabric.unwatch((0,), watcher)
    transfer = fabric.transfer({"b": 10.0})
    assert not fabric.is_quiet((0, 1))
    assert fabric.is_quiet((0,))
    env.run(transfer)
    assert fabric.is_quiet((0, 1))
    fabric.set_capacity("a", 5.0)
    env.run()
    assert not fabric.is_quiet((0, 1))
    fabric.set_capacity("a", 10.0)
    env.run()
    assert fabric.is_quiet((0, 1))


def test_a_half_done_transfer_put_in_later_ends_as_if_it_had_been_there(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    late: list[Transfer] = []
    at(env, 4.0, lambda _: late.append(fabric.start(Bytes((0,), (100.0,), 1.0), began_at=0.0)))
    at(env, 4.0, lambda _: fabric.transfer({"a": 35.0}))
    env.run()
    assert late[0].flows_s == 1.0
    assert late[0].end_s == 1.0 + 10.0 + 3.5
    assert fabric.rows()[0][2:] == (135.0, 13.5, 7.0)


def test_a_transfer_that_would_be_over_already_is_refused(env: Environment) -> None:
    fabric = Fabric(env, {"a": 10.0})
    at(env, 40.0, lambda _: fabric.start(Bytes((0,), (100.0,)), began_at=0.0))
    with pytest.raises(ValueError, match="the clock shows 40"):
        env.run()
