"""A domain of 72 against islands of eight: counting, frontier and causes, checked by hand."""

from __future__ import annotations

import pytest

from experiments.how_big_should_an_nvlink_domain_be import hump


def test_a_step_yields_one_token_and_the_drafts_before_the_first_refused():
    assert hump.tokens_per_step(0.5, 3) == 1 + 0.5 + 0.25 + 0.125
    assert hump.tokens_per_step(0.0, 3) == 1.0


def test_the_frontier_keeps_what_nothing_beats_in_both():
    found = [hump.Point(user, gpu, "", None) for user, gpu in ((10, 100), (20, 50), (15, 40), (5, 90))]
    line = hump.frontier(found)
    assert [(one.per_user, one.per_gpu) for one in line] == [(10, 100), (20, 50)]
    assert hump.at_speed(line, 15.0).per_gpu == pytest.approx((100 * 50) ** 0.5)
    assert hump.at_speed(line, 21.0) is None


def test_the_two_graphs_differ_in_the_domain_alone():
    rack, island = (hump.base(domain) for domain in (hump.RACK, hump.ISLAND))
    assert rack.model_copy(update={"topology": island.topology}) == island
    assert rack.topology.model_copy(update={"domain": hump.ISLAND}) == island.topology


def test_only_the_bytes_that_leave_an_island_make_the_step_longer():
    """24 tokens of a rank to 8 experts, three in four on other islands, at 49 GB/s; the kernel has 0.94 of
    that, and the busiest rank gets more.
    """
    rack, island = (
        hump.steps(domain, hump.Shape(32), hump.MOST_DRAFTS, (6,))[0] for domain in (hump.RACK, hump.ISLAND)
    )
    longer_s = island.seconds - rack.seconds
    assert longer_s == pytest.approx(island.causes.collective_bytes - rack.causes.collective_bytes, rel=0.01)
    by_hand_s = 58 * 24 * 8 * (7168 * 2 + 7168 * 9 / 16) * 24 / 32 / 49e9
    assert by_hand_s / 0.95 < island.causes.collective_bytes < 1.3 * by_hand_s


def test_public_runs_count_seven_to_nine_tenths_of_their_users_as_decoding():
    """180 users at 6.08 ms on 36 GPUs would be 1,645 tokens/s a GPU, prompts counted; 1,149 were counted."""
    assert hump.RUNS[0].decoding == pytest.approx(1149 / (2 * 180 / 6.08e-3 / 36))
    assert 0.69 < min(run.decoding for run in hump.RUNS) < max(run.decoding for run in hump.RUNS) < 0.88


def test_the_public_ratio_is_the_one_that_was_published():
    found = [a / b for a, b in zip(hump.PUBLISHED[72], hump.PUBLISHED[8], strict=True)]
    assert max(found) == pytest.approx(4.39, abs=0.01)
    assert hump.SPEEDS[found.index(max(found))] == 125
