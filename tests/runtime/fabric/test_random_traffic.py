"""Random traffic, held against the fluid worked out the slow way."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simpy import Environment

from sim.runtime.clock import at
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.transfer import Bytes
from tests.runtime.fabric.fluid_by_hand import Arrival, Change, ends, in_use_s

LINKS = 6
times = st.integers(0, 12).map(float) | st.floats(0.0, 12.0)
sizes = st.sampled_from([1.0, 2.0, 4.0]) | st.floats(0.1, 5.0)


@st.composite
def arrivals(draw: st.DrawFn) -> Arrival:
    links = tuple(draw(st.lists(st.integers(0, LINKS - 1), min_size=1, max_size=3, unique=True)))
    return Arrival(
        draw(times),
        links,
        tuple(draw(sizes) for _ in links),
        draw(st.sampled_from([0.0, 0.0, 0.5])),
        draw(st.sampled_from([0.0, 0.0, 1.0])),
        draw(st.sampled_from([1.0, 1.0, 2.0])),
    )


@st.composite
def repeated_arrivals(draw: st.DrawFn) -> list[Arrival]:
    """A few demands that come again and again."""
    few = draw(st.lists(arrivals(), min_size=1, max_size=4))
    again = draw(st.lists(st.tuples(st.sampled_from(few), times), max_size=30))
    return few + [demand._replace(time=time) for demand, time in again]


capacities = st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=LINKS, max_size=LINKS)
changes = st.lists(
    st.builds(Change, times, st.integers(0, LINKS - 1), st.sampled_from([0.0, 1.0, 3.0])), max_size=4
)


# Six transfers on one link are a bulk; at 6 s two come in one instant that are connected to it and to each
# other.
JOINED_BY_TWO = [
    *(Arrival(0.0, (0,), (n_bytes,)) for n_bytes in (1.0, 1.0, 1.0, 1.0, 0.5, 0.25)),
    Arrival(10.0, (0,), (1.0,)),
    Arrival(0.0, (1,), (1.0,)),
    Arrival(0.0, (0, 1), (1.0, 1.0)),
    Arrival(0.0, (0, 1), (1.0, 4.0)),
    Arrival(6.0, (0, 1), (1.0, 1.0)),
    Arrival(6.0, (0, 1), (2.0, 1.0)),
]


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 3, 48])
@settings(max_examples=80)
@given(st.lists(arrivals(), min_size=1, max_size=25) | repeated_arrivals(), capacities, changes)
@example(JOINED_BY_TWO, [1.0] * LINKS, [])
def test_every_transfer_ends_when_the_slow_way_says_and_every_byte_is_counted(
    few: int, traffic: list[Arrival], capacity: list[float], wobbles: list[Change]
) -> None:
    wobbles = wobbles + [Change(20.0 + link, link, capacity[link]) for link in range(LINKS)]
    env = Environment()
    fabric = Fabric(env, dict(enumerate(capacity)))
    done: dict[int, float] = {}
    known: dict[Bytes, Bytes] = {}
    for number, arrival in enumerate(traffic):
        demand = Bytes(arrival.links, arrival.n_bytes, arrival.latency_s, arrival.min_flow_s)
        demand = known.setdefault(demand, demand)

        def go(_: None, number: int = number, demand: Bytes = demand, weight: float = arrival.weight) -> None:
            fabric.start(demand, weight=weight, on_done=lambda _: done.__setitem__(number, env.now))

        at(env, arrival.time, go)
    for change in wobbles:
        at(env, change.time, lambda _, change=change: fabric.set_capacity(change.link, change.bytes_per_s))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sim.runtime.fabric.fair_rates.MAX_IN_PYTHON", few
        )  # from how many on they are solved as arrays
        while env.peek() < inf:
            now = env.peek()
            while env.peek() == now:
                env.step()
            fabric.check()

    assert done == pytest.approx(ends(capacity, traffic, wobbles), rel=1e-9)
    for link, row in enumerate(fabric.rows()):
        sent = sum(dict(zip(a.links, a.n_bytes, strict=True)).get(row.link, 0.0) for a in traffic)
        assert row.n_bytes == pytest.approx(sent, rel=1e-9)
        assert row.busy_s == pytest.approx(in_use_s(link, traffic, done), rel=1e-9, abs=1e-9)
        assert row.shared_s == pytest.approx(in_use_s(link, traffic, done, at_once=2), rel=1e-9, abs=1e-9)
