"""The screen of a lab in a marimo notebook: what is predicted first stays, and the runs made so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.views.lesson import Lesson, Point, lesson_chart, measured, runs_rows, told, verdict
from sim.views.lesson_page import exercise_html


class Desk:
    """A student's desk: the prediction, once locked, and the runs made so far.

    A notebook has three cells: one makes the desk and its `predict()` form, one its `dial()`, one shows
    `screen(form, dial)`. As a script, the last one prints every run.
    """

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        self.guess: float | None = None
        self.runs: dict[float, Sequence[Point]] = {}

    def lock(self, guess: float | None) -> bool:
        """Keep the first prediction, whatever comes later; whether there is one."""
        if self.guess is None and guess is not None:
            self.guess = float(guess)
        return self.guess is not None

    def measure(self, position: float | None) -> None:
        """Run a position of the slider, once; nothing before the prediction is locked."""
        if self.guess is not None and position is not None and position not in self.runs:
            self.runs[position] = self.lesson.run(position, 1.0)

    @property
    def truth(self) -> Point | None:
        """What was asked for, once it has been run."""
        points = self.runs.get(self.lesson.asked, ())
        return next((point for point in points if point.line == self.lesson.line), None)

    def predict(self) -> Any:
        """The form that takes the prediction."""
        import marimo

        lesson = self.lesson
        number = marimo.ui.number(lesson.least, lesson.most, step=0.01, label=lesson.unit)
        return number.form(submit_button_label="Lock my prediction", bordered=False)

    def dial(self) -> Any:
        """The slider and its button."""
        import marimo

        slider = marimo.ui.slider(
            steps=list(self.lesson.positions), show_value=True, label=self.lesson.slider
        )
        return slider.form(submit_button_label="Run", bordered=False)

    def screen(self, form: Any, dial: Any) -> Any:
        """The whole lab on one screen, as far as the student has come."""
        import marimo

        if marimo.app_meta().mode == "script":
            for line in told(self.lesson):
                print(line)
            return None
        lesson = self.lesson
        self.lock(form.value)
        self.measure(dial.value)
        title = f'<p style="font-size: 1.4em"><b>Lab {lesson.number}: {lesson.title}</b></p>'
        left = [_html(title + lesson.scenario), _html(f"<p>{lesson.question}</p>")]
        if self.guess is None:
            closed = _html("<p>The instruments open when your prediction is locked.</p>")
            return _beside(marimo.vstack([*left, form]), closed)
        left.append(_html(f"<p>Locked: <b>{self.guess:g} {lesson.unit}</b></p>"))
        right = marimo.vstack([dial, self.chart(), _html(self.reading(dial.value))])
        if self.truth is None:
            return _beside(marimo.vstack(left), right)
        left.append(marimo.callout(_html(verdict(lesson, self.guess, self.truth)), kind="warn"))
        why = _html(f"<p><b>{lesson.formula}</b></p>{lesson.why}<p><b>Takeaway.</b> {lesson.takeaway}</p>")
        exercises = _html("".join(exercise_html(i, each) for i, each in enumerate(lesson.exercises, 1)))
        return marimo.vstack([_beside(marimo.vstack(left), right), _beside(why, exercises)])

    def chart(self) -> Any:
        """Runs, theory beside them once there is one, and the prediction."""
        found = [row for position, points in self.runs.items() for row in runs_rows(position, points)]
        lines = list(dict.fromkeys([*(row["line"] for row in found), *self.lesson.curves]))
        data = {
            "runs": found,
            "theory": self.lesson.theory if found else [],
            "guess": [{"x": self.lesson.asked, "y": self.guess}],
        }
        return lesson_chart(self.lesson, lines or [self.lesson.line], data)

    def reading(self, position: float | None) -> str:
        """The last run in words; before it, how to read the chart."""
        if position not in self.runs:
            return (
                "<p>Dots are runs, with their 95 % interval; broken lines are theory; the diamond is your "
                f"prediction. Run {self.lesson.asked:g}, and what is around it.</p>"
            )
        said = "; ".join(f"{point.line} {measured(point)}" for point in self.runs[position])
        return f"<p>At {position:g}: {said}.</p>"


def _html(text: str) -> Any:
    import marimo

    return marimo.Html(f"<div>{text}</div>")


def _beside(left: Any, right: Any) -> Any:
    import marimo

    return marimo.hstack([left, right], widths=[2, 3], gap=2)
