"""Collectives between servers on systems, servers and operations that no fit saw."""

from __future__ import annotations

from statistics import median

import pytest

from sim.calibration.collectives import shipped
from sim.calibration.held_out_multinode import held_out_multinode, multinode_errors
from sim.calibration.multinode_points import MultinodePoint, multinode_points
from sim.reading.data_files import measured

SAMPLE = measured() / "collectives" / "h100_cluster.csv"


def test_send_recv_that_gave_the_rate_of_its_fabric_is_not_judged() -> None:
    points = [
        MultinodePoint("a100_dgx", op, 2, 1, 1e6 * n, 1e-4 * n)
        for op in ("send_recv", "all_reduce")
        for n in (1, 2)
    ]
    assert {one.op for one in multinode_errors(points, shipped(), "shipped")} == {"all_reduce"}


def test_the_shipped_numbers_meet_the_cluster_that_they_were_fitted_to() -> None:
    found = multinode_errors(multinode_points([SAMPLE]), shipped(), "shipped")
    assert median(one.errors.median for one in found) < 0.10
    assert all(one.errors.median < 0.20 for one in found)


@pytest.mark.slow
def test_held_out_servers_and_operations_are_within_20_percent_and_nearer_than_alpha_beta() -> None:
    found = held_out_multinode(multinode_points([SAMPLE]), shipped())
    for how in ("servers", "op"):
        own = [one for one in found if one.how == how]
        middle = median(one.errors.median for one in own)
        assert middle < 0.20
        assert middle < 0.5 * median(one.alpha_beta.median for one in own if one.alpha_beta)
