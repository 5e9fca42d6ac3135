"""The experiment on KV tiers meets its arithmetic, and its break-even is the closed form's."""

from __future__ import annotations

from functools import cache

import pytest

from experiments import does_kv_reload_beat_recompute as experiment
from sim.views.answer import Answer, Row

pytestmark = pytest.mark.slow


@cache
def answered() -> Answer:
    return experiment.answer(True)


def rows(case: str, quantity: str) -> list[Row]:
    return [row for row in answered().rows if case in row.case and row.quantity == quantity]


def test_every_estimate_by_hand_is_within_its_stated_factor() -> None:
    estimated = [row for row in answered().rows if row.estimate is not None]
    assert len(estimated) == 6 * 3 + 5
    for found in estimated:
        assert found.estimate is not None
        ratio = found.simulated / found.estimate
        assert 1.0 / experiment.ESTIMATE_WITHIN < ratio < experiment.ESTIMATE_WITHIN, found


def test_a_reload_takes_what_its_links_carry_within_1_percent() -> None:
    for quantity in ("bandwidth of a reload", "first token, reloaded"):
        found = rows("", quantity)
        assert len(found) == 6
        for row in found:
            assert row.simulated == pytest.approx(row.estimate, rel=0.01), row


def test_the_swept_curve_crosses_where_bytes_and_prefill_say_within_10_percent() -> None:
    (crossed,) = rows("where the curve", "bandwidth")
    assert crossed.simulated == pytest.approx(crossed.estimate, rel=0.1)


def test_every_tier_beats_computing_and_the_faster_the_tier_the_more() -> None:
    gain = [row.simulated for row in rows("nd-h100-v5", "computing over reloading")]
    assert gain == sorted(gain)
    assert gain[0] > 5.0


def test_under_load_tiers_shorten_the_wait_and_a_slow_store_that_is_always_read_does_not() -> None:
    waits = {row.case.removeprefix("conversations: "): row.simulated
             for row in rows("conversations: ", "mean time to first token")}  # fmt: skip
    assert waits["host memory of 1 TB"] < 0.5 * waits["HBM alone"]
    assert waits["the same, and NVMe"] < 1.01 * waits["host of 100 GB, on eviction"]
    assert waits["store at 3 GB/s, by cost"] == pytest.approx(waits["HBM alone"], rel=0.01)
    assert waits["store at 2 GB/s, always"] > 1.2 * waits["HBM alone"]
