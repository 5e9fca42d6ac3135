from __future__ import annotations

import numpy as np
import pytest

from sim.results.over_time import blocks_in_use, over_time
from sim.results.records import KvBlockRecords, Records
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


def kv_blocks(replica: int, *rows: tuple[float, int, int]) -> KvBlockRecords:
    found = KvBlockRecords()
    found.open(replica, 0, of_blocks=100, block_size=16)
    for at_s, before, blocks in rows:
        found.add(replica, 0, at_s, before, blocks)
    return found


def test_blocks_in_use_grow_evenly_between_two_changes_and_jump_at_each():
    rows = kv_blocks(0, (1.0, 0, 10), (3.0, 14, 20), (5.0, 20, 0))
    columns = {name: rows[name] for name in rows.kinds}
    at_s = np.array([0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0])
    assert blocks_in_use(at_s, columns) == {(0, 0): pytest.approx([0, 0, 10, 12, 20, 20, 0, 0])}


def test_several_changes_of_one_instant_are_one_and_no_change_is_none():
    rows = kv_blocks(0, (1.0, 0, 10), (1.0, 10, 4), (2.0, 4, 4), (3.0, 6, 6))
    assert [rows[name].tolist() for name in ("at_s", "before", "blocks")] == [
        [0.0, 1.0, 3.0], [0, 0, 6], [0, 4, 6],
    ]  # fmt: skip


def test_the_kv_cache_is_shown_as_blocks_of_the_capacity_and_as_tokens():
    records = two_requests()
    records.kv_blocks = kv_blocks(0, (0.0, 0, 7), (3.0, 9, 0))
    frame = over_time(records, replica=0)
    assert frame["kv_blocks"].to_list() == [8, 8, 0, 0]
    assert frame["kv_tokens"].to_list() == [123, 133, 0, 0]  # 7 2/3 and 8 1/3 blocks of 16
    assert frame["kv_blocks_total"].to_list() == [100] * 4
    assert frame["kv_cache_usage"][0] == pytest.approx((7 + 2 / 3) / 100)


def test_an_empty_run_has_no_moments():
    assert over_time(Records()).height == 0
    with pytest.raises(ValueError, match="must be more than 0"):
        over_time(Records(), 0.0)
