"""A domain of 72 against islands of eight: counting, frontier and causes, checked by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "where_does_a_domain_of_72_pay.py"


@pytest.fixture(scope="module")
def domains() -> ModuleType:
    spec = importlib.util.spec_from_file_location(EXPERIMENT.stem, EXPERIMENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[EXPERIMENT.stem] = module
    spec.loader.exec_module(module)
    return module


def test_a_step_yields_one_token_and_the_drafts_before_the_first_refused(domains):
    assert domains.tokens_per_step(0.5, 3) == 1 + 0.5 + 0.25 + 0.125
    assert domains.tokens_per_step(0.0, 3) == 1.0


def test_the_frontier_keeps_what_nothing_beats_in_both(domains):
    found = [domains.Point(user, gpu, "", None) for user, gpu in ((10, 100), (20, 50), (15, 40), (5, 90))]
    line = domains.frontier(found)
    assert [(one.per_user, one.per_gpu) for one in line] == [(10, 100), (20, 50)]
    assert domains.at_speed(line, 15.0).per_gpu == pytest.approx((100 * 50) ** 0.5)
    assert domains.at_speed(line, 21.0) is None


def test_the_two_graphs_differ_in_the_domain_alone(domains):
    rack, island = (domains.base(domain) for domain in (domains.RACK, domains.ISLAND))
    assert rack.model_copy(update={"topology": island.topology}) == island
    assert rack.topology.model_copy(update={"domain": domains.ISLAND}) == island.topology


def test_only_the_bytes_that_leave_an_island_make_the_step_longer(domains):
    """24 tokens of a rank to 8 experts, three in four on other islands, at 49 GB/s; the kernel has 0.94 of
    that, and the busiest rank gets more.
    """
    rack, island = (
        domains.steps(domain, domains.Shape(32), domains.MOST_DRAFTS, (6,))[0]
        for domain in (domains.RACK, domains.ISLAND)
    )
    longer_s = island.seconds - rack.seconds
    assert longer_s == pytest.approx(island.causes.collective_bytes - rack.causes.collective_bytes, rel=0.01)
    by_hand_s = 58 * 24 * 8 * (7168 * 2 + 7168 * 9 / 16) * 24 / 32 / 49e9
    assert by_hand_s / 0.95 < island.causes.collective_bytes < 1.3 * by_hand_s


def test_the_public_ratio_is_the_one_that_was_published(domains):
    found = [a / b for a, b in zip(domains.PUBLISHED[72], domains.PUBLISHED[8], strict=True)]
    assert max(found) == pytest.approx(4.39, abs=0.01)
    assert domains.SPEEDS[found.index(max(found))] == 125
