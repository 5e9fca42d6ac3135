"""The bulk solver: streams in rows, of which only those that change are reported."""

from __future__ import annotations

from math import inf

import pytest
from simpy import Environment

from sim.runtime.fabric.bulk_solver import BulkSolver
from sim.runtime.fabric.transfer import Bytes, CompiledDemand, LinkSet, Stream, Transfer


def stream(link: int, copies: int = 1) -> Stream:
    made = Stream((link,), (1.0,), inf)
    for _ in range(copies):
        add_transfer(made)
    return made


def add_transfer(to: Stream) -> None:
    demand = CompiledDemand(Bytes(to.links, (1.0,)), LinkSet(to.links), (1.0,), [1.0] * 4)
    to.transfers[Transfer(Environment(), demand, 1.0, 0.0, None, None, None)] = None


def test_only_streams_whose_level_has_changed_are_reported() -> None:
    bulk = BulkSolver([10.0, 6.0])
    here, there = stream(0), stream(1, copies=2)
    bulk.add(here)
    bulk.add(there)
    assert bulk.settle() == [(here, 10.0), (there, 3.0)]
    assert bulk.settle() == []
    add_transfer(here)
    bulk.recount(here)
    assert bulk.settle() == [(here, 5.0)]
    assert (bulk.level(here), bulk.level(there)) == (5.0, 3.0)


def test_a_stream_without_transfers_leaves_and_the_last_one_takes_its_row() -> None:
    bulk = BulkSolver([10.0, 6.0, 8.0])
    streams = [stream(link) for link in range(3)]
    for one in streams:
        bulk.add(one)
    bulk.settle()
    streams[0].transfers.clear()
    bulk.recount(streams[0])
    assert (len(bulk), streams[0].row, streams[2].row) == (2, -1, 0)
    assert bulk.settle() == []
    assert [bulk.level(one) for one in streams[1:]] == [6.0, 8.0]


def test_the_levels_grow_with_the_streams() -> None:
    bulk = BulkSolver([200.0])
    streams = [stream(0) for _ in range(200)]
    for one in streams:
        bulk.add(one)
    assert dict(bulk.settle()) == dict.fromkeys(streams, pytest.approx(1.0))


def test_dissolved_the_bulk_is_empty_and_its_streams_are_outside() -> None:
    bulk = BulkSolver([10.0])
    one = stream(0)
    bulk.add(one)
    bulk.dissolve()
    assert (len(bulk), one.row) == (0, -1)
    bulk.add(one)
    assert bulk.settle() == [(one, 10.0)]
