from __future__ import annotations

import numpy as np
import pytest

from sim.results.over_time import kv_tokens, over_time
from sim.results.records import Records
from tests.results.straight import add_straight


def two_requests() -> Records:
    records = Records(end_s=4.0)
    records.requests.add(0, 0.0, 100, 3, replica=0, admitted_s=0.0, first_token_s=1.0, finished_s=3.0)
    records.requests.add(1, 0.5, 100, 3, replica=1, admitted_s=1.5, first_token_s=2.0, finished_s=4.0)
    records.requests.add(2, 0.7, 100, 3, replica=1, status="rejected")
    add_straight(records.steps, 0, 0.0, 1.0, 1, 1, 100, 0, 1.0, 1.0, batch_id=0, kv_tokens=0)
    add_straight(records.steps, 0, 1.0, 3.0, 2, 1, 0, 1, 1.0, 1.0, batch_id=1, kv_tokens=100)
    add_straight(records.steps, 1, 1.5, 2.0, 1, 1, 100, 0, 0.5, 0.5, batch_id=0, kv_tokens=0)
    add_straight(records.steps, 1, 2.0, 4.0, 2, 1, 0, 1, 1.0, 1.0, batch_id=1, kv_tokens=100)
    return records


def test_running_and_waiting_requests_are_counted_at_each_moment():
    frame = over_time(two_requests())
    assert frame["t"].to_list() == [1.0, 2.0, 3.0, 4.0]
    assert frame["running"].to_list() == [1, 2, 1, 0]
    assert frame["waiting"].to_list() == [1, 0, 0, 0]


def test_tokens_are_neither_lost_nor_made_by_the_interval():
    for every_s in (0.3, 1.0, 7.0):
        frame = over_time(two_requests(), every_s)
        assert frame["prompt_throughput"].sum() * every_s == pytest.approx(200)
        assert frame["gen_throughput"].sum() * every_s == pytest.approx(4)


def test_the_kv_cache_grows_with_the_steps():
    assert over_time(two_requests(), replica=0)["kv_tokens"].to_list() == [100, 101, 0, 0]


def test_batches_that_take_turns_in_a_pipeline_share_the_kv_cache():
    columns = {
        "start_s": [0.0, 0.5], "end_s": [4.0, 3.5], "steps": [4, 3], "kv_tokens": [100, 10],
        "decode_tokens": [2, 1],
    }  # fmt: skip
    steps = {name: np.array(values) for name, values in columns.items()}
    assert kv_tokens(np.array([0.0, 0.7, 1.7, 3.6]), steps).tolist() == [100, 110, 102 + 11, 106]


def test_an_empty_run_has_no_moments():
    assert over_time(Records()).height == 0
    with pytest.raises(ValueError, match="must be more than 0"):
        over_time(Records(), 0.0)
