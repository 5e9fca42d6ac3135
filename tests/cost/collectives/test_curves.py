from __future__ import annotations

import pytest

from sim.cost.collectives.curves import Curve, quickest
from sim.reading.data_files import measured

DATA = measured() / "collectives"
KIB, MIB, GIB = 2**10, 2**20, 2**30


def test_a_curve_is_its_formula() -> None:
    curve = Curve("ring", "LL", (0,), (2.0,), 2e-9, 5e-6, 3e-9, 4e-6, 1e6, 8e-6, 1e6)
    assert curve.total_s(1e6) == pytest.approx(5e-6 + 2e-6 + 4e-6 + 3e-3)
    corrected = Curve("tree", "LL", (0,), (2.0,), 2e-9, 5e-6, 3e-9, corrections=(1.0, 0.5))
    assert [corrected.min_flow_s(n) for n in (64.0, 128.0, 256.0)] == pytest.approx([192e-9, 768e-9, 768e-9])


def test_the_demand_of_a_curve_takes_the_curve_s_time() -> None:
    curve = Curve("ring", "LL", (0, 1), (2.0, 1.0), 2e-9, 5e-6, 3e-9, 4e-6, 1e6, 8e-6, 1e6)
    for n_bytes in (1.0, 1e6, 1e9):
        assert curve.demand(n_bytes).isolated_s([1e9, 1e9]) == pytest.approx(curve.total_s(n_bytes))


def test_small_messages_go_by_the_least_latency_and_large_ones_by_the_best_pace() -> None:
    low = Curve("tree", "LL", (0,), (2.0,), 2e-9, 5e-6, 4e-9)
    high = Curve("ring", "Simple", (0,), (1.0,), 1e-9, 20e-6, 1e-9)
    assert quickest((low, high), 1e3) is low
    assert quickest((low, high), 1e6) is high
    assert quickest((low, low), 1e3) is low


def test_past_its_plateau_a_curve_starts_later() -> None:
    curve = Curve("tree", "LL", (0,), (2.0,), 2e-9, 5e-6, plateau=3.0, plateau_bytes=1e6)
    assert curve.latency_s(1e6 - 1) == 5e-6
    assert curve.latency_s(1e6) == pytest.approx(15e-6)
