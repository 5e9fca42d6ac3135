"""Rows that were measured before a server was warm."""

from sim.validation.services.cold_starts import MARGIN, REASON, cold_starts, row_key
from sim.validation.services.request_logs import read_rows
from sim.validation.services.tables import cases, left_out


def row(users: int, ttft_ms: float, tpot_ms: float = 10.0, **more: str) -> dict[str, str]:
    return {"model": "m", "concurrency": str(users), "ttft_ms": str(ttft_ms), "tpot_ms": str(tpot_ms)} | more


def cold(*rows: dict[str, str]) -> list[int]:
    found = cold_starts(rows)
    return [int(one["concurrency"]) for one in rows if row_key(one) in found]


def test_a_row_is_cold_where_more_users_had_a_lower_latency_beyond_the_margin():
    assert cold(row(8, 550), row(16, 308), row(32, 226), row(64, 230)) == [8, 16]
    assert cold(row(8, 100 * MARGIN - 1), row(16, 100)) == []
    assert cold(row(4, 90, 12.1), row(8, 100, 10.0)) == [4]  # the time per token tells it as well


def test_what_a_row_is_of_decides_which_rows_are_its_sweep_and_a_sample_mark_does_not():
    assert cold(row(8, 550), row(16, 308, tp_size="2")) == []
    assert cold(row(8, 550, sample="1"), row(16, 308, sample="0")) == [8]
    assert cold(row(8, 550), row(8, 308)) == []  # as many users: repeats, not a fall


def test_cold_rows_are_left_out_of_the_ledger_and_counted():
    for table, section, number in (("closed_loops", "closed-loops", 32), ("disaggregated", "pools", 5)):
        found = cold_starts(read_rows(table))
        assert len(found) == number
        assert not [case for case in cases(section, whole=True) if row_key(case.cells) in found]
    assert {one.rows for one in left_out() if one.reason == REASON} == {32, 5}
