"""What an experiment prints, and the folder it leaves."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sim.views.answer import Answer, Row, number, tell
from sim.views.cause_bars import Bar, cause_bars
from sim.views.files import save_chart

CAUSES = {"memory": 6.4, "kernel_latency": 2.6, "host": 1e-5}


def drawn(folder: Path) -> list[Path]:
    bars = [Bar("measured", CAUSES, 9.5), Bar("not measured", CAUSES)]
    chart = cause_bars(bars, title="Title", subtitle="below it", axis="milliseconds")
    return [save_chart(chart, folder / "bars.png")]


def an_answer() -> Answer:
    return Answer(
        "Is 2 < 3 & 4?",
        (
            Row("one", "latency", "ms", 10.0, 9.0, "fitted", "a <source>", 9.5),
            Row("one", "tokens", "tokens", None, 1_300_560.0),
            Row("two [bold]", "latency", "ms", 8.0, 8.4, source="another"),
        ),
        "Yes, by 5 %.",
        ("a [note] with brackets",),
        drawn,
    )


def printed(monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """Standard output of the command that `tell` makes of an experiment."""
    told: list[object] = []
    monkeypatch.setattr(typer, "run", told.append)
    tell(lambda quick: an_answer())
    command = typer.Typer(add_completion=False)
    command.command()(told[0])  # type: ignore[type-var]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_an_error_is_relative_to_what_was_published() -> None:
    rows = an_answer().rows
    assert rows[0].error == pytest.approx(-0.1)
    assert rows[1].error is None


@pytest.mark.slow
def test_json_holds_every_field_and_nothing_else_goes_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = json.loads(printed(monkeypatch, "--format", "json", "--out", str(tmp_path)))
    assert told["rows"][0] == {
        "case": "one",
        "quantity": "latency",
        "unit": "ms",
        "published": 10.0,
        "simulated": 9.0,
        "error": pytest.approx(-0.1),
        "kind": "fitted",
        "source": "a <source>",
        "estimate": 9.5,
    }
    assert told["takeaway"] == "Yes, by 5 %."


def test_the_table_names_each_case_once_and_keeps_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch)
    assert len(re.findall(r"^ *one *$", text, re.MULTILINE)) == 1
    assert "two [bold]" in text
    assert "Note: a [note] with brackets" in text
    assert "1,300,560" in text
    assert "-10.0%" in text
    assert text.rstrip().endswith("Takeaway: Yes, by 5 %.")


@pytest.mark.slow
def test_a_folder_gets_a_picture_the_numbers_and_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    paths = an_answer().save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["bars.png", "answer.json", "report.html"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    page = paths[2].read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "Is 2 &lt; 3 &amp; 4?" in page
    assert "a &lt;source&gt;" in page
    assert page.count("<tr") == 1 + 3
    assert _unclosed(page) == []


@pytest.mark.slow
def test_saving_again_writes_over_the_same_files(tmp_path: Path) -> None:
    assert an_answer().save(tmp_path) == an_answer().save(tmp_path)


def test_numbers_have_four_digits_and_large_counts_all() -> None:
    assert [number(value) for value in (None, 0.25, 9.955, 482.53, 11369.0)] == [
        "", "0.25", "9.955", "482.5", "11,369"
    ]  # fmt: skip


def _unclosed(page: str) -> list[str]:
    """Tags of a page that are opened and not closed, or closed and not opened."""
    open_tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if open_tags and open_tags[-1] == tag:
                open_tags.pop()
            else:
                open_tags.append(f"/{tag}")

    Tags().feed(page)
    return open_tags
