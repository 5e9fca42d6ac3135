"""Prefill first or mixed steps: which schedule is stable?"""

import marimo

app = marimo.App(width="full", app_title="Lab 14: Prefill first or mixed steps")

with app.setup:
    import numpy as np

    import sim
    from sim.theory import queueing
    from sim.validation.laws import BUDGET, PROMPT, SHORT_ANSWER, STEP_S, decoding
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    MIXED, FIRST = "mixed steps (vLLM)", "prefill first"
    RULES = {MIXED: "vllm", FIRST: "continuous"}
    MOST_PER_S = queueing.mixed_batches_limit(PROMPT, SHORT_ANSWER, BUDGET, STEP_S)
    FIRST_PER_S = queueing.prefill_first_limit(SHORT_ANSWER, BUDGET, STEP_S)
    SECONDS = 12.0

    def left(load, rule, seconds):
        """Requests in the system when the last one comes."""
        engine = decoding(
            load * MOST_PER_S,
            {"kind": "geometric", "mean": SHORT_ANSWER, "high": 40 * SHORT_ANSWER},
            int(seconds * load * MOST_PER_S),
            prompt=int(PROMPT),
            scheduler=rule,
            seats=BUDGET,
            token_budget=BUDGET,
            service={"step_s": STEP_S},
        )
        rows = sim.simulate(engine, seed=1).records.requests
        return float(np.sum(np.asarray(rows["finished_s"]) > np.max(rows["arrival_s"])))

    def run(load, share=1.0):
        """Both schedules."""
        return tuple(Point(line, left(load, rule, SECONDS * share)) for line, rule in RULES.items())

    def mixed_there(load):
        """An answer of 50 steps is there for half a second."""
        return load * MOST_PER_S * SHORT_ANSWER * STEP_S

    def first_there(load):
        """By hand: e^(rate x step) steps a token, all of prompts but one; 256 seats; and the excess."""
        rate_per_s = load * MOST_PER_S
        seated = min(mixed_there(load) * np.exp(rate_per_s * STEP_S), BUDGET)
        return seated + max(rate_per_s - FIRST_PER_S, 0.0) * SECONDS

    LESSON = Lesson(
        number=14,
        title="Prefill first or mixed steps",
        goal="Tell a stable schedule from an unstable one, at the same load and on the same machine.",
        misconception=(
            "A scheduler shifts delays between requests; whether the queue is stable is a matter of load."
        ),
        scenario="""<p>An engine whose steps take <b>10 ms</b> and have room for <b>256 tokens</b>, of
        prompts (10 tokens) or of answers (one token each, 50 in the mean), at most 256 answers at
        once.</p> <p><b>Mixed</b>: prompts fill what answers leave of each step. <b>Prefill first</b>:
        while prompts wait, a step has prompts only. Full mixed steps carry 256/(10 ms × 60 tokens) = 427
        requests a second: that is load 1.</p>""",
        question="""Load 0.8 comes for 12 seconds, 4,096 requests. How many are still in the system at
        the end, under <b>prefill first</b>? (Mixed steps: about 170.)""",
        unit="requests",
        asked=0.8,
        line=FIRST,
        least=0.0,
        most=10_000.0,
        slider="load",
        positions=(0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        y="requests in the system after 12 s",
        run=run,
        curves={MIXED: mixed_there, FIRST: first_there},
        formula=(
            "mixed: <i>λ</i> (m<sub>p</sub> + m<sub>d</sub>) &lt; <i>B</i>/<i>t</i><sub>B</sub>; prefill "
            "first: <i>λ</i> below 257 a second here, load 0.6"
        ),
        why="""<p>Mixed steps waste no token of a step while work waits, and so are stable up to load 1
        (Li, Dai and Peng, arXiv 2504.07347). Prefill first fills steps with whatever prompts are there,
        be it one: each such step stops up to 256 answers. With all seats taken, 5.1 answers end in a
        step, and the seats they leave are filled in a step of prompts that carries 51 tokens of
        256.</p><p>Beyond its limit the queue grows for as long as you look; no percentile of such a run
        means anything.</p>""",
        takeaway=(
            "Stability belongs to the schedule too: leaving part of a step empty lowers the load that it "
            "survives."
        ),
        exercises=(
            Exercise(
                "The same load for 60 seconds: what do both curves show?",
                "Mixed the same 170. Prefill first five times the excess: (341 − 257) × 60 = 5,100 and more.",
            ),
            Exercise(
                "Why do engines with prefill first look good in benchmarks of 100 requests?",
                "The queue had no time to grow, and prompts overtake: the first tokens come early. "
                "Longer runs tell.",
            ),
        ),
    )


@app.cell
def _():
    desk = Desk(LESSON)
    prediction = desk.predict()
    return desk, prediction


@app.cell
def _(desk):
    dial = desk.dial()
    return (dial,)


@app.cell
def _(desk, dial, prediction):
    desk.screen(prediction, dial)
    return


if __name__ == "__main__":
    app.run()
