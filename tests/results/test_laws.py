"""Laws that the rows of any run obey: Little's, flow conservation, and when a queue is saturated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results.laws import backlog_growth_per_s, little, mser5, saturated, violations
from sim.results.records import Records
from tests.results.small_runs import ONE, queue_of_one, run
from tests.results.straight import add_straight


def test_mser_cuts_a_transient_and_leaves_a_steady_run_alone():
    noise = np.random.default_rng(1).normal(size=500)
    start = np.concatenate((np.linspace(40, 0, 100), np.zeros(400)))
    assert 80 <= mser5(noise + start) <= 130
    assert mser5(np.ones(500)) == 0
    assert mser5(noise[:19]) == 0


@given(
    gaps_s=st.lists(st.floats(0, 3), min_size=2, max_size=40),
    seed=st.integers(0, 100),
    cut=st.floats(0.1, 50),
)
def test_littles_law_holds_on_every_run_even_when_it_was_stopped(gaps_s, seed, cut):
    arrival_s = np.cumsum(gaps_s).tolist()
    service_s = np.random.default_rng(seed).exponential(1.0, len(arrival_s)).tolist()
    whole = queue_of_one(arrival_s, service_s)
    stopped = Records(end_s=max(cut, arrival_s[-1]))
    for row in whole.requests.frame().iter_rows(named=True):
        late = row["finished_s"] > stopped.end_s
        stopped.requests.add(
            row["request_id"], row["arrival_s"], 100, 11,
            status="unfinished" if late else "finished", finished_s=math.nan if late else row["finished_s"],
        )  # fmt: skip
    for records in (whole, stopped):
        law = little(records)
        assert law is None or law.concurrency == pytest.approx(law.rate_per_s * law.sojourn_s, rel=1e-9)


def test_littles_law_fails_when_a_sojourn_is_forged():
    records = queue_of_one([0.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    law = little(records)
    assert law is not None
    assert law.concurrency != pytest.approx(law.rate_per_s * (law.sojourn_s + 0.1))


def test_violations_are_found():
    short = run(ONE | {"generated_tokens": 3})
    assert "without all their tokens" in violations(short)[0]
    early = run(ONE | {"admitted_s": 2.0})
    assert "first_token_s before" in violations(early)[0]
    twice = run(ONE, ONE | {"request_id": 0})
    assert "more than one row" in violations(twice)[0]
    lost = run(ONE)
    add_straight(lost.steps, 0, 1.0, 2.0, 9, 1, 0, 1, 0.1, 0.1, batch_id=0)
    assert violations(lost) == ["9 gaps between tokens, but the requests' tokens have 10"]


@pytest.mark.parametrize(("load", "verdict"), [(0.7, False), (0.9, False), (1.2, True), (2.0, True)])
def test_a_queue_is_called_saturated_when_it_gets_more_than_it_can_serve(load: float, verdict: bool):
    said = []
    for seed in range(10):
        random = np.random.default_rng(seed)
        arrival_s = np.cumsum(random.exponential(1 / load, 2000)).tolist()
        said.append(saturated(queue_of_one(arrival_s, random.exponential(1.0, 2000).tolist())))
    assert said.count(verdict) >= 9


def test_the_backlog_grows_by_what_is_not_served():
    arrival_s = (np.arange(4000) / 2.0).tolist()
    assert backlog_growth_per_s(queue_of_one(arrival_s, [1.0] * 4000)) == pytest.approx(1.0, rel=0.01)


def test_there_is_no_verdict_on_a_burst_or_a_handful():
    assert saturated(queue_of_one([0.0] * 500, [1.0] * 500)) is None
    assert saturated(queue_of_one([0.0, 1.0], [1.0, 1.0])) is None
    assert saturated(Records()) is None
