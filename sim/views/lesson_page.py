"""A lab as one page that works offline: every position of its slider is run beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from sim.views.files import specified, vega
from sim.views.lesson import Exercise, Lesson, Point, lesson_chart, runs_rows


def lesson_page(lesson: Lesson) -> str:
    """The page; it takes as long as all its runs."""
    runs = {position: lesson.run(position, lesson.page_share) for position in lesson.positions}
    return page_of(lesson, runs)


def page_of(lesson: Lesson, runs: Mapping[float, Sequence[Point]]) -> str:
    """The page of a lab that has been run. Its figures are in its script, not in its text."""
    measured = (point.line for points in runs.values() for point in points)
    lines = list(dict.fromkeys([*measured, *lesson.curves]))
    data: dict[str, Any] = {
        "positions": list(lesson.positions),
        "asked": lesson.asked,
        "line": lesson.line,
        "unit": lesson.unit,
        "within": lesson.right_within,
        "slider": lesson.slider,
        "theory": lesson.theory,
        "runs": [runs_rows(position, runs[position]) for position in lesson.positions],
        "chart": specified(lesson_chart(lesson, lines, None)),
    }
    return Template(PAGE).substitute(
        number=lesson.number,
        title=escape(lesson.title),
        scenario=lesson.scenario,
        question=lesson.question,
        unit=escape(lesson.unit),
        least=lesson.least,
        most=lesson.most,
        slider=escape(lesson.slider),
        last=len(lesson.positions) - 1,
        asked=f"{lesson.asked:g}",
        formula=lesson.formula,
        why=lesson.why,
        takeaway=lesson.takeaway,
        exercises="\n".join(exercise_html(number, each) for number, each in enumerate(lesson.exercises, 1)),
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        style=STYLE,
        vega=vega(),
        script=SCRIPT,
    )


def exercise_html(number: int, exercise: Exercise) -> str:
    """An exercise, its answer folded away."""
    return (
        f"<p><b>Exercise {number}.</b> {exercise.question}</p>"
        f"<details><summary>Show the answer</summary><p>{exercise.answer}</p></details>"
    )


def index_page(lessons: Sequence[Lesson], names: Mapping[int, str]) -> str:
    """The list of the labs, each with what it teaches."""
    items = "\n".join(
        f'<li value="{lesson.number}"><a href="{escape(names[lesson.number])}">{escape(lesson.title)}</a><br>'
        f"{escape(lesson.goal)}</li>"
        for lesson in lessons
    )
    return Template(INDEX).substitute(items=items, style=STYLE)


STYLE = """
[hidden] {display: none !important}
body {font: 14px/1.45 system-ui, sans-serif; max-width: 1240px; margin: 12px auto; padding: 0 16px}
body {color: #222}
h1 {font-size: 1.35em; margin: 0 0 8px}
h2 {font-size: 1em; margin: 10px 0 2px; color: #0072b2}
p {margin: 4px 0}
.desk {display: grid; grid-template-columns: minmax(330px, 1fr) 690px; gap: 0 28px; align-items: start}
.after {display: grid; grid-template-columns: 1fr 1fr; gap: 0 28px; margin-top: 6px}
.after {border-top: 1px solid #ddd}
input[type=number] {width: 7em; font: inherit; padding: 2px 4px}
button {font: inherit; padding: 2px 10px}
input[type=range] {width: 300px; vertical-align: middle}
.closed {color: #777; padding: 60px 0; text-align: center}
.formula {background: #f4f7fa; padding: 6px 10px; margin: 4px 0}
.verdict {background: #fff4e0; padding: 6px 10px}
.takeaway {border-left: 4px solid #0072b2; padding: 2px 10px; margin: 6px 0}
details {margin: 0 0 4px 1em}
summary {cursor: pointer; color: #0072b2}
.reading {min-height: 1.45em; font-variant-numeric: tabular-nums}
@media (max-width: 1060px) {.desk, .after {grid-template-columns: 1fr}}
"""

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Lab $number: $title</title><style>$style</style></head>
<body>
<h1>Lab $number: $title</h1>
<div class="desk">
<div>
<h2>1 The scenario</h2>
$scenario
<h2>2 Your prediction</h2>
<p>$question</p>
<form id="predict">
<input type="number" id="guess" min="$least" max="$most" step="any" required aria-label="prediction"> $unit
<button>Lock my prediction</button>
</form>
<div id="verdict" hidden><h2>4 Your error</h2><p class="verdict" id="error"></p></div>
</div>
<div>
<h2>3 The instruments</h2>
<div id="closed" class="closed">They open when your prediction is locked.</div>
<div id="instruments" hidden>
<p><label for="dial">$slider</label> <input type="range" id="dial" min="0" max="$last" step="1" value="0">
<b id="at"></b> <button id="run">Run</button></p>
<div id="chart"></div>
<p class="reading" id="reading">Dots are runs, with their 95 % interval; broken lines are theory; the
diamond is your prediction. Run $asked, and what is around it.</p>
</div>
</div>
</div>
<div class="after" id="after" hidden>
<div><h2>5 The formula, and why</h2><div class="formula">$formula</div>$why
<p class="takeaway"><b>Takeaway.</b> $takeaway</p></div>
<div><h2>6 Exercises</h2>$exercises</div>
</div>
<script type="application/json" id="data">$data</script>
<script type="module">
$vega
$script
</script>
</body>
</html>
"""

SCRIPT = """
const lab = JSON.parse(document.getElementById("data").textContent);
const part = (id) => document.getElementById(id);
const shown = (value) => Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") :
  Number(value.toPrecision(3)).toString();
let guess = null;
const seen = new Map();

function draw() {
  const datasets = {
    runs: [...seen.values()].flat(),
    theory: seen.size > 0 ? lab.theory : [],
    guess: [{x: lab.asked, y: guess}],
  };
  vegaEmbed("#chart", {...lab.chart, datasets}, {actions: false, renderer: "svg", logLevel: 1});
}

function off(truth, half, theory) {
  if (Math.abs(guess - truth) <= Math.max(half, lab.within * Math.abs(truth))) return "That is right.";
  if (theory !== null && Math.abs(guess - theory) <= lab.within * Math.abs(theory))
    return "That is right: theory gives it, and chance brought this run elsewhere.";
  const side = guess > truth ? "high" : "low";
  const ratio = shown(Math.max(guess / truth, truth / guess));
  if (guess > 0 && truth > 0) return `You are a factor of ${ratio} too ${side}.`;
  return `You are ${shown(Math.abs(guess - truth))} too ${side}.`;
}

function measured(point) {
  return shown(point.y) + (point.half ? ` ± ${shown(point.half)}` : "") +
    (point.theory === null ? "" : `, theory ${shown(point.theory)}`);
}

part("predict").addEventListener("submit", (event) => {
  event.preventDefault();
  if (guess !== null) return;
  guess = Number(part("guess").value);
  part("guess").disabled = true;
  event.target.querySelector("button").disabled = true;
  event.target.querySelector("button").textContent = "Locked";
  part("closed").hidden = true;
  part("instruments").hidden = false;
  turn();
  draw();
});

function turn() { part("at").textContent = lab.positions[part("dial").value]; }
part("dial").addEventListener("input", turn);

part("run").addEventListener("click", () => {
  const place = Number(part("dial").value);
  const points = lab.runs[place];
  seen.set(place, points);
  part("reading").textContent = `At ${lab.positions[place]}: ` +
    points.map((point) => `${point.line} ${measured(point)}`).join("; ") + ".";
  draw();
  if (lab.positions[place] !== lab.asked) return;
  const truth = points.find((point) => point.line === lab.line);
  const said = `You predicted ${shown(guess)} ${lab.unit}. The run gives ${measured(truth)}.`;
  part("error").textContent = `${said} ${off(truth.y, truth.half, truth.theory)}`;
  part("verdict").hidden = false;
  part("after").hidden = false;
});
"""

INDEX = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Labs: queues of LLM serving</title><style>$style
li {margin: 6px 0}</style></head>
<body>
<h1>Labs: queues of LLM serving</h1>
<p>Predict, run, compare with the theorem. Each page works by itself and without a network.</p>
<ol>
$items
</ol>
</body>
</html>
"""
