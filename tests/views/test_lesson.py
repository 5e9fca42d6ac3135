"""A lab's frame: the prediction that stays, the page that hides its figures, and the chart with theory."""

from __future__ import annotations

import json
import re
from html import escape

import pytest

from sim.views.lesson import Exercise, Lesson, Point, lesson_chart, measured, off, runs_rows, told, verdict
from sim.views.lesson_desk import Desk
from sim.views.lesson_page import index_page, page_of


def run(position: float, share: float) -> tuple[Point, ...]:
    return (Point("server", 10.0 * position, 1.0, 10.0 * position), Point("other", share))


LESSON = Lesson(
    number=3,
    title="A < B",
    goal="Know.",
    misconception="Not.",
    scenario="<p>Here.</p>",
    question="How <b>long</b>?",
    unit="s",
    asked=2.0,
    line="server",
    least=0.0,
    most=100.0,
    slider="load",
    positions=(1.0, 2.0, 4.0),
    y="time (s)",
    run=run,
    curves={"server": lambda x: 10.0 * x, "by hand": lambda x: 9.0 * x},
    formula="T = 10 x",
    why="<p>So.</p>",
    takeaway="Ten &lt; times.",
    exercises=(Exercise("One?", "Hidden one."), Exercise("Two?", "Hidden two.")),
)


def test_the_first_prediction_stays_and_nothing_runs_before_it() -> None:
    desk = Desk(LESSON)
    desk.measure(2.0)
    assert not desk.lock(None)
    assert desk.runs == {}
    assert desk.lock(5.0)
    assert desk.lock(19.0)
    desk.measure(None)
    desk.measure(1.0)
    assert (desk.guess, desk.truth, list(desk.runs)) == (5.0, None, [1.0])
    desk.measure(2.0)
    assert desk.truth == Point("server", 20.0, 1.0, 20.0)
    assert verdict(LESSON, 5.0, desk.truth) == (
        "You predicted 5 s. The run gives 20 ± 1, theory 20. You are a factor of 4 too low."
    )


def test_an_error_is_a_ratio_a_difference_or_none() -> None:
    assert off(40.0, 20.0, 1.0) == "You are a factor of 2 too high."
    assert off(0.0, 20.0, 1.0) == "You are 20 too low."
    assert off(21.5, 20.0, 1.0) == "That is right."
    assert "theory gives it" in off(10.0, 8.0, 1.5, 10.5)
    assert off(10.0, 8.0, 1.5, 12.0).startswith("You are")
    assert measured(Point("a", 1234.5)) == "1,234"


def test_a_page_has_its_figures_in_its_data_and_hides_what_comes_after_the_prediction() -> None:
    runs = {position: run(position, 1.0) for position in LESSON.positions}
    page = page_of(LESSON, runs)
    text, data = re.search(
        r"<body>(.*?)<script type=\"application/json\" id=\"data\">(.*?)</script>", page, re.S
    ).groups()  # type: ignore[union-attr]
    lab = json.loads(data)
    assert lab["runs"][1] == runs_rows(2.0, run(2.0, 1.0))
    assert (lab["asked"], lab["line"], lab["positions"]) == (2.0, "server", [1.0, 2.0, 4.0])
    colours = lab["chart"]["layer"][0]["encoding"]["color"]["scale"]
    assert colours["domain"] == ["server", "other", "by hand"]  # a curve without runs has a colour, too
    assert len(colours["range"]) == 3
    assert lab["theory"][79] == {"x": 4.0, "y": 40.0, "line": "server"}
    assert escape(LESSON.title) in text
    for part in ("instruments", "verdict", "after"):
        assert re.search(rf'id="{part}"[^>]* hidden', text)
    assert text.count("<details>") == 2
    assert "<details open" not in text
    assert "https://" not in text
    assert 'href="three.html"' in index_page([LESSON], {3: "three.html"})


def test_a_slider_that_counts_has_theory_at_its_positions_and_a_lab_may_be_stricter() -> None:
    from dataclasses import replace

    counted = replace(LESSON, counts=True, right_within=0.01)
    assert [row["x"] for row in counted.theory[:3]] == [1.0, 2.0, 4.0]
    assert "That is right" in verdict(LESSON, 10.9, Point("server", 10.0))
    assert "1.09 too high" in verdict(counted, 10.9, Point("server", 10.0))


def test_a_chart_names_its_data_for_a_page_and_holds_it_for_a_notebook() -> None:
    named = lesson_chart(LESSON, ["server", "other"], None).to_dict()
    assert [layer["data"] for layer in named["layer"]] == [
        {"name": "theory"}, {"name": "runs"}, {"name": "runs"}, {"name": "guess"}
    ]  # fmt: skip
    rows = runs_rows(2.0, run(2.0, 1.0))
    held = lesson_chart(LESSON, ["server"], {"theory": [], "runs": rows, "guess": [{"x": 2.0, "y": 5.0}]})
    drawn = held.to_dict()
    assert drawn["datasets"][drawn["layer"][1]["data"]["name"]] == rows


def test_a_script_tells_every_run_and_the_takeaway() -> None:
    lines = list(told(LESSON, 0.5))
    assert lines[:2] == ["Lab 3: A < B", "How long?"]
    assert lines[3].split() == ["1", "server:", "10", "±", "1,", "theory", "10"]
    assert len(lines) == 3 + 6 + 1
    assert lines[-1] == "Takeaway: Ten < times."


def test_a_lab_asks_for_a_position_of_its_slider() -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"lab 3: asked = 3: must be one of \(1.0, 2.0, 4.0\)"):
        replace(LESSON, asked=3.0)
