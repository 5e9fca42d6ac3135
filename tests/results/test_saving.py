"""Saved tables and summaries read back as they were."""

from __future__ import annotations

import json

import numpy as np
import polars
import pytest

from sim.results.metrics import summary
from sim.results.saving import as_written, save_summary, save_table
from tests.results.small_runs import ONE, queue_of_one, run


def test_saved_tables_read_back_to_the_last_bit_and_byte(tmp_path):
    random = np.random.default_rng(0)
    records = queue_of_one(
        np.cumsum(random.exponential(1, 200)).tolist(), random.exponential(1, 200).tolist()
    )
    frame = records.requests.frame()
    for name in ("requests.csv", "requests.parquet"):
        first = save_table(frame, tmp_path / name).read_bytes()
        assert save_table(frame, tmp_path / name).read_bytes() == first
    assert polars.read_parquet(tmp_path / "requests.parquet").equals(frame)
    again = polars.read_csv(tmp_path / "requests.csv", schema=frame.schema)
    assert again["finished_s"].to_list() == frame["finished_s"].to_list()
    with pytest.raises(ValueError, match="must end in"):
        save_table(frame, tmp_path / "requests.txt")


def test_the_requests_of_a_run_can_be_played_again(tmp_path):
    from sim.reading.traces import read_trace

    save_table(queue_of_one([1.0, 2.5], [1.0, 1.0]).requests.frame(), tmp_path / "requests.csv")
    assert read_trace(tmp_path / "requests.csv").starts_s.tolist() == [0.0, 1.5]


def test_a_saved_summary_is_json_without_infinities(tmp_path):
    numbers = summary(run(ONE, {"status": "unfinished"}, end_s=5.0))
    read = json.loads(save_summary(numbers, tmp_path / "summary.json").read_text())
    assert read["p99_ttft_ms"] is None
    assert read["censored_ttft"] == 1
    assert read["mean_ttft_ms"] == 1000.0


def test_no_cell_of_a_saved_table_is_a_formula_and_all_read_back_as_they_were(tmp_path):
    texts = ["=1+1", "@SUM(A1)", "+1", "-1", "\t=1", "'=1", "plain", "a=1", ""]
    frame = polars.DataFrame({"=key": texts, "number": [-1.0] * len(texts), "is_clear": [True] * len(texts)})
    saved = save_table(frame, tmp_path / "table.csv")
    lines = saved.read_text().splitlines()
    assert lines[0] == "'=key,number,is_clear"
    assert [line for line in lines if line[0] in "=+-@\t"] == []
    assert lines[1] == "'=1+1,-1.0,true"
    read = as_written(polars.read_csv(saved).with_columns(polars.col(polars.String).fill_null("")))
    assert read[read.columns[0]].to_list() == texts
    assert read["is_clear"].to_list() == [True] * len(texts)
