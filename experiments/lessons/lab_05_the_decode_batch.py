"""The decode batch: how long does an answer take when the batch is the queue?"""

import marimo

app = marimo.App(width="full", app_title="Lab 5: The decode batch")

with app.setup:
    from math import exp

    import sim
    from sim.theory import queueing
    from sim.validation.laws import decoding, stays
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    FIXED_S, EACH_S, ANSWER = 0.010, 0.0001, 200  # a step of 10 ms, and 0.1 ms a sequence; tokens in the mean
    DEVIATION = {
        0.2: 0.009,
        0.4: 0.014,
        0.6: 0.023,
        0.8: 0.042,
    }  # of the mean of 20,000 requests, from ten seeds
    MIXED, FIRST = "prompts in the same step (vLLM)", "prompts in steps of their own (prefill first)"

    def theory_s(load):
        """Mean seconds of an answer where prompts share the steps."""
        return queueing.decode_batch(load / (ANSWER * EACH_S), ANSWER, FIXED_S, EACH_S).W

    def by_hand_s(load):
        """The same where every step is followed by those of the prompts that came, until none is left."""
        rate_per_s, alone_s = load / (ANSWER * EACH_S), FIXED_S + EACH_S
        answer_s = theory_s(load)
        for _ in range(500):
            step_s = FIXED_S + EACH_S * rate_per_s * answer_s
            prompts_s = alone_s * (1 - exp(-rate_per_s * step_s)) * exp(rate_per_s * alone_s)
            answer_s = ANSWER * (alone_s + prompts_s) / (1 - load)
        return answer_s

    def mean_time(load, rule, begin_s, requests):
        """Mean seconds, with their interval, of a run that begins with as many answers as there will be.

        As many more come at the end, so that the last ones counted have company.
        """
        rate_per_s = load / (ANSWER * EACH_S)
        there = int(rate_per_s * begin_s)
        pieces = [
            {"rate_per_s": 100 * there, "duration_s": 0.01},
            {"rate_per_s": rate_per_s, "duration_s": 1.0},
        ]
        engine = decoding(
            {"kind": "time_varying", "pieces": pieces, "repeat": False},
            {"kind": "geometric", "mean": ANSWER, "high": 40 * ANSWER},
            there + requests + there,
            scheduler=rule,
            service={"step_s": FIXED_S, "sequence_s": EACH_S},
        )
        mean_s = float(stays(sim.simulate(engine, seed=1).records)[there : there + requests].mean())
        return mean_s, 2.0 * mean_s * DEVIATION[load] * (20_000 / requests) ** 0.5

    def run(load, share=1.0):
        """Both rules."""
        mixed = mean_time(load, "vllm", theory_s(load), int(3500 * share))
        first = mean_time(load, "continuous", by_hand_s(load), int(3500 * share))
        return Point(MIXED, *mixed, theory_s(load)), Point(FIRST, *first)

    LESSON = Lesson(
        number=5,
        title="The decode batch",
        goal="Predict the time of an answer from the two numbers of a decode step.",
        misconception="With room in the batch nothing waits, so an answer takes as long under load as alone.",
        scenario="""<p>An engine with seats for all: a step of <i>n</i> answers takes 10 ms + 0.1 ms ×
        <i>n</i> and gives each a token. Answers have 200 tokens in the mean, prompts one. Alone, an
        answer takes 200 × 10.1 ms = <b>2.0 s</b>. Requests come at random; load is <i>ρ</i> = rate × 200
        × 0.1 ms.</p> <p>Two schedulers: the vLLM rule puts prompts into the step of the others. Prefill
        first gives prompts steps of their own, in which no answer goes on.</p>""",
        question=(
            "At load 0.8 (40 requests a second), how many seconds does an answer take under <b>prefill "
            "first</b>?"
        ),
        unit="seconds",
        asked=0.8,
        line=FIRST,
        least=0.0,
        most=10_000.0,
        slider="load ρ = λ L b",
        positions=(0.2, 0.4, 0.6, 0.8),
        y="mean seconds of an answer",
        run=run,
        curves={MIXED: theory_s, FIRST: by_hand_s},
        page_share=5.0,
        formula="""<i>T</i> = <i>L</i> (<i>a</i> + <i>b</i>) / (1 − <i>ρ</i>), <i>ρ</i> = <i>λ L b</i>;
        <i>n</i> ~ NegBin(1 + <i>a</i>/<i>b</i>, <i>ρ</i>)""",
        why="""<p>Each answer is served at the speed 1/(<i>a</i> + <i>b n</i>): processor sharing of a
        general kind (Cohen 1979), so that only the mean length counts. The batch grows until it answers
        as fast as requests come.</p> <p>Prefill first takes 1.14, 1.93 and 2.48 times as long at loads
        0.2, 0.6 and 0.8. By hand: after a step of <i>d</i> come <i>s</i> (1 − e<sup>−<i>λd</i></sup>)
        e<sup><i>λs</i></sup> seconds of prompts, a step of <i>s</i> = <i>a</i> + <i>b</i> each, and that
        is added to <i>a</i> in the formula.</p>""",
        takeaway=(
            "The batch is the queue: answers slow down by 1/(1 − ρ) without one request waiting for a seat."
        ),
        exercises=(
            Exercise(
                "How many answers are in the batch at load 0.8, in the mean, and how spread is that?",
                "r ρ/(1 − ρ) = 101 × 4 = 404, with a deviation of √(404/0.2) = 45. Little says the "
                "same: 40 × 10.1 s.",
            ),
            Exercise(
                "Half of the answers become ten times as short, and the others so much longer that "
                "the mean stays. T?",
                "The mean over all requests stays: only the mean length is in the formula. Each "
                "answer alone takes its own length times (a + b)/(1 − ρ).",
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
