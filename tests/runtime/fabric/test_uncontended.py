"""Without contention every transfer takes the time that it takes in isolation."""

from __future__ import annotations

import pytest
from simpy import Environment

from sim.runtime.fabric.transfer import Bytes
from sim.runtime.fabric.uncontended import UncontendedFabric


@pytest.fixture
def env() -> Environment:
    return Environment()


def test_every_transfer_has_its_links_to_itself(env: Environment) -> None:
    fabric = UncontendedFabric(env, {"a": 10.0})
    one, other = fabric.transfer({"a": 100.0}), fabric.transfer({"a": 100.0}, latency_s=1.0)
    env.run()
    assert (one.end_s, other.end_s) == (10.0, 11.0)
    assert (one.excess_flow_s, other.excess_flow_s) == (0.0, 0.0)
    fabric.check()


def test_rows_count_each_transfer_s_own_time_and_what_an_aborted_one_has_moved(env: Environment) -> None:
    fabric = UncontendedFabric(env, {"a": 10.0})
    for _ in range(2):
        fabric.transfer({"a": 100.0})
    aborted = fabric.start(Bytes((0,), (100.0,)))
    env.run(5.0)
    assert fabric.abort(aborted) == 0.5
    assert fabric.rows()[0][2:] == (150.0, 15.0, 0.0)
    env.run()
    assert fabric.rows()[0][2:] == (250.0, 25.0, 0.0)
    assert not aborted.triggered


def test_links_are_always_quiet_and_no_watcher_is_disturbed(env: Environment) -> None:
    class Watching:
        def disturbed(self, now: float) -> None:
            raise AssertionError

        def left_alone(self) -> None:
            raise AssertionError

    fabric = UncontendedFabric(env, {"a": 10.0})
    fabric.watch((0,), Watching())
    fabric.transfer({"a": 100.0})
    fabric.set_capacity("a", 5.0)
    env.run(1.0)
    assert fabric.is_quiet((0,))
    env.run()
    assert env.now == 10.0
