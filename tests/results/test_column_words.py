"""The page of columns has every column of every table, and stands in docs/ as the command prints it."""

from __future__ import annotations

from pathlib import Path

import sim
from sim.results.blame import CAUSES
from sim.results.column_words import CAUSE_WORDS, TABLES, columns_page
from sim.results.saved import KINDS
from tests.results.verdict_scenarios import described, users

UNITS = {"_per_s": "bytes/s", "_s": "s", "bytes": "bytes", "_tokens": "tokens"}
PAGE = Path(__file__).parents[2] / "docs" / "columns.md"


def test_the_page_has_every_column_of_every_table_in_its_order_and_no_other() -> None:
    assert set(TABLES) == {*KINDS, "over_time()"}
    for name, kinds in KINDS.items():
        assert list(TABLES[name][1]) == list(kinds), name
    over_time = sim.simulate(described(workload=users(1, 1))).over_time()
    assert list(TABLES["over_time()"][1]) == over_time.columns
    assert tuple(CAUSE_WORDS) == CAUSES


def test_times_bytes_and_tokens_have_their_units() -> None:
    for name, (_, words) in TABLES.items():
        for column, (unit, text) in words.items():
            assert text, (name, column)
            if name.startswith("blame"):
                assert unit == ("" if column == "request_id" else "s")
                continue
            for ending, right in UNITS.items():
                if column.endswith(ending):
                    assert unit == right, (name, column)
                    break


def test_the_page_is_what_the_command_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == columns_page(), "sim schema columns > docs/columns.md"
