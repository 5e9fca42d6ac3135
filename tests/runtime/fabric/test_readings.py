"""Readings of a fabric half way, and the invariants that they hold it to."""

from __future__ import annotations

import pytest
from simpy import Environment

from sim.runtime.fabric.fabric import Fabric


@pytest.fixture
def fabric() -> Fabric:
    """At 5 s one transfer is uncontended on c, two share a, and b is down under a third."""
    fabric = Fabric(Environment(), {"a": 10.0, "b": 10.0, "c": 4.0})
    for link in ("a", "a", "b", "c"):
        fabric.transfer({link: 100.0})
    fabric.set_capacity("b", 0.0)
    fabric.env.run(5.0)
    return fabric


def test_rows_count_what_is_under_way_up_to_now(fabric: Fabric) -> None:
    a, b, c = fabric.rows()
    assert (a.n_bytes, a.busy_s, a.shared_s) == pytest.approx((50.0, 5.0, 5.0))
    assert (b.n_bytes, b.busy_s, b.shared_s) == (0.0, 5.0, 0.0)
    assert (c.n_bytes, c.busy_s, c.shared_s) == (20.0, 5.0, 0.0)


def test_the_load_is_the_rate_of_all_transfers_on_a_link(fabric: Fabric) -> None:
    assert fabric.load() == pytest.approx([10.0, 0.0, 4.0])


def test_a_stalled_transfer_comes_with_the_links_that_are_down(fabric: Fabric) -> None:
    ((transfer, down),) = fabric.stalled()
    assert (transfer.level, down) == (0.0, ("b",))


@pytest.mark.parametrize(("factor", "message"), [(1.1, "a carries"), (0.9, "could be faster")])
def test_rates_above_capacity_or_below_the_fair_ones_break_the_invariants(
    fabric: Fabric, factor: float, message: str
) -> None:
    fabric.check()
    for link_set in fabric._occupancy.link_sets.values():
        for transfer in link_set.transfers():
            transfer.level *= factor
    with pytest.raises(AssertionError, match=message):
        fabric.check()
