"""Bytes are conserved and no link is above capacity, seen from outside; and more bandwidth is never slower
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simpy import Environment

import sim.runtime.fabric.fair_rates
from sim.cost.fairshare import FlowLike, fair_levels
from sim.runtime.clock import at
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.link_counters import LinkCounters
from sim.runtime.fabric.transfer import Bytes

LINKS = 5
BYTES_PER_S = [4.0, 1.0, 2.0, 8.0, 3.0]
Traffic = list[tuple[float, Bytes]]


@st.composite
def transfers(draw: st.DrawFn) -> tuple[float, Bytes]:
    links = draw(st.lists(st.integers(0, LINKS - 1), min_size=1, max_size=3, unique=True))
    demand = Bytes(
        tuple(links), tuple(draw(st.floats(0.1, 9.0)) for _ in links), draw(st.sampled_from([0.0, 0.4]))
    )
    return draw(st.floats(0.0, 10.0)), demand


def broken_laws_of_traffic(traffic: Traffic) -> list[str]:
    """What speaks against a fluid: measured by reading the load between events and adding it up."""
    env = Environment()
    fabric = Fabric(env, dict(enumerate(BYTES_PER_S)))
    for time, demand in traffic:
        at(env, time, fabric.start, argument=demand)
        at(env, time + demand.latency_s, lambda _: None)  # a look at the meter where the flowing begins
    broken = []
    metered = [0.0] * LINKS
    while env.peek() < inf:
        now = env.peek()
        while env.peek() == now:
            env.step()
        later = env.peek()
        for link, load in enumerate(fabric.load()):
            if load > BYTES_PER_S[link] * (1 + 1e-9):
                broken.append(f"link {link} carries {load} of {BYTES_PER_S[link]} bytes/s at {now} s")
            if load:
                metered[link] += load * (later - now)
    for row, seen in zip(fabric.rows(), metered, strict=True):
        asked = sum(
            dict(zip(d.links, d.n_bytes, strict=True)).get(int(str(row.link)), 0.0) for _, d in traffic
        )
        if seen != pytest.approx(asked, rel=1e-9) or row.n_bytes != pytest.approx(asked, rel=1e-9):
            broken.append(f"link {row.link}: {asked} bytes asked for, {seen} seen, {row.n_bytes} counted")
    return broken


CROSSING: Traffic = [(0.1 * k, Bytes((k % LINKS, (k + 2) % LINKS), (2.0 + k, 1.0))) for k in range(12)]


@pytest.mark.slow
@given(st.lists(transfers(), min_size=1, max_size=20))
def test_every_byte_asked_for_flows_once_and_no_link_is_ever_above_capacity(traffic: Traffic) -> None:
    assert broken_laws_of_traffic(traffic) == []


def test_a_solver_that_gives_too_much_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(flows: Sequence[FlowLike], capacity: Sequence[float]) -> list[float]:
        return [1.001 * level for level in fair_levels(flows, capacity)]

    monkeypatch.setattr(sim.runtime.fabric.fair_rates, "fair_levels", generous)
    assert any("carries" in broken for broken in broken_laws_of_traffic(CROSSING))


def test_a_solver_that_gives_too_little_is_found_out_by_the_check_of_the_books(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mean(flows: Sequence[FlowLike], capacity: Sequence[float]) -> list[float]:
        return [0.999 * level for level in fair_levels(flows, capacity)]

    monkeypatch.setattr(sim.runtime.fabric.fair_rates, "fair_levels", mean)
    env = Environment()
    fabric = Fabric(env, {0: 1.0})
    fabric.transfer({0: 10.0})
    fabric.transfer({0: 10.0})
    env.run(1.0)
    with pytest.raises(AssertionError, match="could be faster"):
        fabric.check()


def test_counters_that_lose_a_byte_in_a_thousand_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    carry = LinkCounters.carry

    def leaky(use: LinkCounters, links: Iterable[int], n_bytes: Iterable[float], *more: float) -> None:
        carry(use, links, [0.999 * amount for amount in n_bytes], *more)

    monkeypatch.setattr(LinkCounters, "carry", leaky)
    assert any("counted" in broken for broken in broken_laws_of_traffic(CROSSING))


def slower_with_more(
    seconds: Callable[[list[float]], float], capacity: list[float], factor: float
) -> list[int]:
    """Links of which more bandwidth makes it slower."""
    before = seconds(capacity)
    return [
        link
        for link in range(LINKS)
        if seconds([c * factor if other == link else c for other, c in enumerate(capacity)]) > before
    ]


@pytest.mark.slow
@given(transfers(), st.floats(1.0, 10.0))
def test_more_bandwidth_never_makes_a_transfer_slower_when_it_is_alone(
    transfer: tuple[float, Bytes], factor: float
) -> None:
    def seconds(capacity: list[float]) -> float:
        env = Environment()
        done = Fabric(env, dict(enumerate(capacity))).start(transfer[1])
        env.run(done)
        return env.now

    assert slower_with_more(seconds, BYTES_PER_S, factor) == []


def test_a_bandwidth_that_is_added_as_a_cost_is_found_out() -> None:
    assert slower_with_more(lambda capacity: sum(capacity), BYTES_PER_S, 1.5) == list(range(LINKS))
