"""Parts that fail and are repaired, at random, against the laws of renewal processes."""

from __future__ import annotations

import numpy as np
import pytest

from sim.workload.outage_times import Lifetimes, outage_times


def down_s(parts: int, lives: Lifetimes, until_s: float, seed: int) -> np.ndarray:
    """The seconds that each part is down before `until_s`."""
    found = np.zeros(parts)
    for part, at_s, back_s, _ in outage_times(parts, lives, until_s, seed, "test"):
        found[part] += min(back_s, until_s) - at_s
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shape", [0.7, 1.0])
def test_the_availability_of_a_repairable_part_is_mtbf_over_mtbf_and_mttr(shape: float) -> None:
    lives = Lifetimes(mean_up_s=9.0, shape=shape, repair_mean_s=1.0, repair_median_s=0.6)
    until_s, parts = 1_000.0, 100
    up = 1.0 - down_s(parts, lives, until_s, seed=3) / until_s
    error = up.std(ddof=1) / parts**0.5
    assert lives.availability == 0.9
    assert abs(up.mean() - 0.9) < 3.0 * error < 0.006


@pytest.mark.slow
def test_failures_come_at_their_rate_from_the_first_second_on() -> None:
    """Whatever the shape: a falling hazard makes no burst at the begin of a run, far shorter than a gap."""
    parts, until_s = 200_000, 1.0
    for shape in (0.5, 1.0, 2.0):
        lives = Lifetimes(mean_up_s=200.0, shape=shape, repair_mean_s=1e6, repair_median_s=1e6)
        count = sum(1 for _ in outage_times(parts, lives, until_s, 1, f"shape {shape}"))
        assert abs(count - parts / 200.0) < 3.0 * (parts / 200.0) ** 0.5


def test_many_parts_together_fail_as_a_poisson_process() -> None:
    """Superposition: whatever the gaps of each, those of many together are exponential."""
    lives = Lifetimes(mean_up_s=2_000.0, shape=0.7, repair_mean_s=0.01, repair_median_s=0.01)
    times = np.sort([at_s for _, at_s, _, _ in outage_times(2_000, lives, 1_500.0, 5, "test")])
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1.0, rel=0.08)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.08)


def test_the_same_seed_gives_the_same_list_and_a_longer_run_begins_with_it() -> None:
    lives = Lifetimes(50.0, 0.7, 5.0, 2.0)

    def drawn(until_s: float, seed: int) -> list[tuple[int, float, float]]:
        return sorted(row[:3] for row in outage_times(20, lives, until_s, seed, "test"))

    assert drawn(100.0, 1) == drawn(100.0, 1) != drawn(100.0, 2)
    assert drawn(100.0, 1) == [row for row in drawn(400.0, 1) if row[1] < 100.0]


def test_what_a_caller_draws_of_an_outage_changes_no_other() -> None:
    lives = Lifetimes(5.0, 0.7, 5.0, 2.0)
    rows = [row[:3] for row in outage_times(3, lives, 100.0, 1, "test")]
    drawing = []
    for *row, stream in outage_times(3, lives, 100.0, 1, "test"):
        stream.random(7)
        drawing.append(tuple(row))
    assert rows == drawing


def test_repairs_have_their_mean_and_median() -> None:
    lives = Lifetimes(1.0, 1.0, repair_mean_s=342.0, repair_median_s=64.0)
    stream = np.random.default_rng(1)
    drawn = np.array([lives.repair_s(stream) for _ in range(20_000)])
    assert np.median(drawn) == pytest.approx(64.0, rel=0.05)
    assert np.log(drawn).std() == pytest.approx((2.0 * np.log(342.0 / 64.0)) ** 0.5, rel=0.02)
