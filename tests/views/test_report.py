"""The report: one page without a network, numbers that say something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.views.number_rows import latency_rows
from sim.views.report import keys_html
from sim.views.table_html import shown


def test_the_report_needs_no_network(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    markup = re.sub(r"<script type=\"module\">.*</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"\bsrc\s*=|\bhref\s*=\s*[^\"#]|href=\"[^#]|@import|url\(", markup) == []
    charts = re.findall(r'class="chart" id="chart-([a-z0-9_-]+)"', page)
    assert len(charts) == len(set(charts)) == 16
    assert re.findall(r'^await draw\("([^"]+)"', page, re.MULTILINE) == charts
    assert page.count("</script>") == 1


@pytest.mark.parametrize(("value", "text"), [
    (None, ""), (True, "yes"), (12345, "12,345"), (0.123456, "0.1235"), (12345.6, "12,346"),
    (float("inf"), "inf"),
])  # fmt: skip
def test_numbers_are_shown_with_four_digits_that_say_something(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_spread_of_rounding_is_shown_as_zero() -> None:
    rows = latency_rows({"mean_ttft_ms": 10.0, "std_ttft_ms": 1e-12})
    assert rows[0][1:] == ["10", "", "", "", "", "", "", "0"]


def test_the_report_says_what_the_run_rests_on(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<h2>What it rests on</h2>" in page
    assert "<p>Rests on: kernels measured on" in page


def test_the_report_has_the_words_of_keys_those_without_effect_first() -> None:
    words = {"acted": ["replicas"], "did_not_bind": {"a.b": "9, peak <1>"}, "no_effect": {"c.d": "why"}}
    page = keys_html({"keys": words})
    assert page.index("<td>c.d</td><td>no effect</td><td>why</td>") < page.index("<td>a.b</td>")
    assert "9, peak &lt;1&gt;" in page
    assert "1 keys acted: replicas." in page
    assert keys_html({}) == ""
