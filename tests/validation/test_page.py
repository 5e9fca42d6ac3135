"""The page on accuracy."""

from __future__ import annotations

from sim.results.compared import ErrorSummary, Row
from sim.validation.ledger import GroupErrors, summarised
from sim.validation.page import accuracy_page
from sim.validation.services.tables import LeftOut


def test_the_page_has_a_table_for_every_section_in_the_ledger_and_says_where_not_to_use_it() -> None:
    groups = [
        GroupErrors(
            "closed-loops", "all", "all", quantity, ErrorSummary(1073, 0.05, 0.2, -0.01), ("hgx-h200",)
        )
        for quantity in ("time per output token", "time to first token", "output tokens of all users")
    ]
    left_out = [LeftOut("a table", 1200, 7, "a reason")]
    page = accuracy_page(
        summarised([Row("a case", "time", "ms", 10.0, 11.0, section="kernels")]), groups, left_out
    )
    assert "| a table | 7 | 1,200 | a reason |" in page
    assert "| all | all | hgx-h200 | 1,073 | 5.0 % | 20 % | -1.0 % |" in page
    assert "| time | predicted | 1 | 10 % | 10 % | +10.0 % |" in page
    assert "1,073 closed loops" in page
    assert "## Where not to use it" in page
    assert "<!--" not in page


def test_a_section_that_is_not_in_the_ledger_says_so() -> None:
    page = accuracy_page([], [])
    assert "Not in this run of the ledger." in page
    assert page.count("This run left out the closed loops") == 1


def test_a_group_of_many_boxes_names_none_and_a_table_names_its_own() -> None:
    boxes = ("hgx-b200", "hgx-h200", "nd-h100-v5")
    errors = ErrorSummary(3, 0.05, 0.2, -0.01)
    page = accuracy_page(
        [],
        [
            GroupErrors("pools", "model", "a-model", "mean TPOT", errors, boxes),
            GroupErrors("services", "table", "a table", "mean TPOT", errors, boxes[:2]),
        ],
    )
    assert "| model | a-model | several | 3 | 5.0 % | 20 % | -1.0 % |" in page
    assert "| a table | hgx-b200, hgx-h200 | mean TPOT | 3 |" in page
