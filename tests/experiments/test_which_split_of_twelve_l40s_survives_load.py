"""Twelve L40S under rising load: the shape of the answer."""

from __future__ import annotations

import pytest

from experiments.which_split_of_twelve_l40s_survives_load import PATTERNS, answer, kv_tokens
from sim.views.answer import Answer, Row

pytestmark = pytest.mark.slow  # the runs that all of it reads take seconds


@pytest.fixture(scope="module")
def told() -> Answer:
    return answer(True)


def row(told: Answer, case: str, quantity: str) -> Row:
    (found,) = [row for row in told.rows if row.case == case and row.quantity == quantity]
    return found


def test_singles_have_little_memory_left_beside_the_weights() -> None:
    assert kv_tokens("A: 12 x 1 GPU") < kv_tokens("B: 6 x TP2") / 5


@pytest.mark.slow
def test_every_pattern_is_told_and_saturates_below_what_the_box_can_compute(told: Answer) -> None:
    for pattern in PATTERNS:
        highest = row(told, pattern, "highest rate not saturated")
        assert highest.estimate is not None
        assert highest.simulated <= 0.7 * highest.estimate


@pytest.mark.slow
def test_more_ranks_give_tokens_sooner_at_light_load_and_a_pipeline_does_not(told: Answer) -> None:
    tpot = {pattern: row(told, pattern, "median TPOT at the lowest rate").simulated for pattern in PATTERNS}
    assert tpot["C: 3 x TP4"] < tpot["B: 6 x TP2"] < tpot["A: 12 x 1 GPU"] < tpot["D: 3 x PP4"]


@pytest.mark.slow
def test_pairs_on_one_switch_carry_more_than_fours(told: Answer) -> None:
    most = {pattern: row(told, pattern, "most output tokens").simulated for pattern in PATTERNS}
    assert most["B: 6 x TP2"] > most["C: 3 x TP4"]
