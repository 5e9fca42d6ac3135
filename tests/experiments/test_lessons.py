"""Every lab at a small size: its truth, theory inside its interval, and what it says of both."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sim.cli.lesson import load_lesson
from sim.validation.laws import STUDENT_95, STUDENT_998
from sim.views.lesson import Lesson, Point

pytestmark = pytest.mark.unchecked  # long runs of chance; the runtime is checked elsewhere

LESSONS = sorted((Path(__file__).parents[2] / "experiments/lessons").glob("lab_*.py"))
# Of the requests of a run, and what the prediction is held against.
SMALL = {
    1: (1.0, 5.0, 20.0), 2: (1.0, 24.0, 31.0), 3: (0.5, 5.0, 16.0), 4: (0.3, 28.0, 52.0),
    5: (0.3, 15.0, 33.0), 6: (1.0, 1300.0, 1600.0), 7: (0.5, 3.8, 4.0), 8: (1.0, 3.0, 8.0),
    9: (0.5, 20.0, 32.0), 10: (0.5, 10.8, 13.2), 11: (0.1, 11.5, 11.7), 12: (1.0, 7.8, 8.4),
    13: (1.0, 15.0, 45.0), 14: (0.5, 450.0, 750.0),
}  # fmt: skip


def lab(number: int) -> Lesson:
    return load_lesson(LESSONS[number - 1])


@cache
def points(number: int, position: float) -> dict[str, Point]:
    """The points of a lab at a position, by line."""
    return {point.line: point for point in lab(number).run(position, SMALL[number][0])}


def y(number: int, position: float) -> list[float]:
    return [point.y for point in points(number, position).values()]


def test_there_are_fourteen_labs_in_order_with_a_title_and_a_question() -> None:
    assert [int(path.stem[4:6]) for path in LESSONS] == list(range(1, 15))
    for path in LESSONS:
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        assert ": " in first
        assert first.endswith("?")


@pytest.mark.slow
@pytest.mark.parametrize("number", SMALL)
def test_what_a_lab_asks_for_is_as_it_says_and_theory_is_inside_the_interval(number: int) -> None:
    lesson = lab(number)
    assert lesson.number == number
    assert lesson.misconception.endswith(".")
    found = points(number, lesson.asked)
    _, least, most = SMALL[number]
    assert least < found[lesson.line].y < most
    assert lesson.least < found[lesson.line].y < lesson.most
    for point in found.values():
        if point.theory is not None:
            assert abs(point.y - point.theory) < point.half * STUDENT_998 / STUDENT_95
    assert {row["line"] for row in lesson.theory} == set(lesson.curves)
    assert all(row["y"] > 0.0 for row in lesson.theory)


@pytest.mark.slow
def test_the_decode_batch_with_prefill_first_is_slower_by_the_ratios_that_arithmetic_gives() -> None:
    curves = lab(5).curves.values()
    mixed, first = curves
    ratios = [first(load) / mixed(load) for load in (0.2, 0.6, 0.8)]
    assert ratios == pytest.approx([1.14, 1.93, 2.48], abs=0.01)
    simulated_mixed, simulated_first = y(5, 0.8)
    assert 1.9 < simulated_first / simulated_mixed < 3.1


@pytest.mark.slow
def test_labs_show_what_they_teach() -> None:
    worst, rare, usual = y(6, 32768.0)
    assert usual < 20.0 < rare < worst
    assert worst == pytest.approx(lab(6).curves["the worst"](32768.0), rel=0.1)
    assert y(6, 512.0)[0] < 60.0
    prompts, answers = y(7, 8.0)
    assert prompts == pytest.approx(lab(7).curves["prompts of 2,048 tokens"](8.0), rel=0.03)
    assert answers > 7.8
    stale, two = y(9, 8.0)
    fresh = y(9, 0.0)[0]
    in_turn = lab(9).curves["in turn"](0.0)
    assert fresh < two < in_turn + 2.0 < 10.0 < stale
    assert y(10, 20.0)[1] > 5.0
    assert y(10, 8.0)[1] == 0.0
    dense = [y(12, size)[0] for size in (8.0, 32.0, 64.0)]
    assert dense[0] > dense[1] < dense[2]
    assert y(12, 32.0)[1] < 0.6 * y(12, 4.0)[1]
    short, late = y(13, 4.0)
    assert late > 1.5 * short
    mixed, first = y(14, 0.8)
    assert mixed == pytest.approx(170.0, rel=0.2)
    assert first > 3.0 * mixed


@pytest.mark.slow
def test_a_lab_is_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import import_module

    module: Any = import_module("experiments.lessons.lab_11_the_tail_at_scale")
    module.app.run()
    told = capsys.readouterr().out
    assert told.startswith("Lab 11: The tail at scale")
    assert "Takeaway: A barrier waits for the slowest" in told
