"""Sends played with their dependencies: an arithmetic that can be done by hand."""

from __future__ import annotations

import pytest
from simpy import Environment

from sim.cost.collectives.send_graphs import Send
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.play_sends import play


def send(*links: int, n_bytes: float, after: tuple[int, ...] = (), latency_s: float = 0.0) -> Send:
    return Send("source", "target", n_bytes, after, links, latency_s)


def arrivals(capacities: dict[object, float], sends: list[Send]) -> list[float]:
    env = Environment()
    process = play(env, Fabric(env, capacities), sends)
    return env.run(process)  # type: ignore[no-any-return]


def test_a_send_starts_when_all_sends_before_it_have_arrived() -> None:
    sends = [
        send(0, n_bytes=10.0),
        send(1, n_bytes=30.0),
        send(2, n_bytes=10.0, after=(0, 1), latency_s=0.5),
        send(0, n_bytes=20.0, after=(0,)),
    ]
    assert arrivals({"a": 10.0, "b": 10.0, "c": 10.0}, sends) == [1.0, 3.0, 4.5, 3.0]


def test_sends_at_once_share_their_link() -> None:
    assert arrivals({"a": 10.0}, [send(0, n_bytes=10.0), send(0, n_bytes=10.0)]) == [2.0, 2.0]


def test_a_send_that_crosses_a_link_twice_loads_it_twice() -> None:
    assert arrivals({"a": 10.0, "b": 10.0}, [send(0, 1, 0, n_bytes=10.0)]) == pytest.approx([2.0])
