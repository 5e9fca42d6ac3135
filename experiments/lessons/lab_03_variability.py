"""Variability: what do irregular arrivals and lengths cost?"""

import marimo

app = marimo.App(width="full", app_title="Lab 3: Variability")

with app.setup:
    import numpy as np

    import sim
    from sim.theory import queueing
    from sim.validation.laws import TOKENS, interval, one_at_a_time
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    LOAD = 0.8
    RANDOM, BURSTS = "arrivals at random (c² = 1)", "arrivals in bursts (c² = 4)"
    LINES = {RANDOM: 1.0, BURSTS: 4.0}

    def services(cv2):
        """Services of one second in the mean: two lengths, the short one common where they vary much."""
        if cv2 <= 1.0:
            away = cv2**0.5
            values, weights = [max(1.0 - away, 1e-5), 1.0 + away], [1, 1]
        else:
            values, weights = [0.5, 1.0 + 2.0 * cv2], [4 * cv2, 1]
        tokens = [round(TOKENS * value) for value in values]
        return {"kind": "empirical", "values": tokens, "weights": weights}

    def run(cv2, share=1.0):
        """Mean waits for both kinds of arrivals."""
        found = []
        for line, ca2 in LINES.items():
            arrivals = {"kind": "gamma", "rate_per_s": LOAD, "cv": ca2**0.5}
            server = one_at_a_time(arrivals, 1, {"token_s": 1.0 / TOKENS}, services(cv2), int(6000 * share))
            rows = sim.simulate(server, seed=1).records.requests
            waited = interval(np.asarray(rows["admitted_s"] - rows["arrival_s"]))
            exact = queueing.mg1(LOAD, 1.0, cv2).Wq if ca2 == 1.0 else None
            found.append(Point(line, waited.mean, waited.half, exact))
        return found

    LESSON = Lesson(
        number=3,
        title="Variability",
        goal="Estimate a wait from load and variability before any simulation.",
        misconception="Load decides the wait: two services of the same mean and load wait alike.",
        scenario="""<p>One server at <b>load 0.8</b>, first come first served. A service takes a second
        in the mean. Its squared coefficient of variation c² (variance over squared mean) is on the
        slider: 0 when all are alike, 1 for two lengths 0 and 2 s, 4 when one in seventeen takes 9 s and
        the others 0.5 s.</p> <p>With services all alike and arrivals at random, a request waits 2 s in
        the mean.</p>""",
        question="Same load, arrivals at random, services with <b>c² = 4</b>. How long is the mean wait?",
        unit="seconds",
        asked=4.0,
        line=RANDOM,
        least=0.0,
        most=10_000.0,
        slider="c² of the services",
        positions=(0.0, 0.25, 1.0, 2.0, 4.0),
        y="mean wait (s)",
        run=run,
        curves={
            line: lambda cv2, ca2=ca2: queueing.gg1(LOAD, 1.0, ca2, cv2).Wq for line, ca2 in LINES.items()
        },
        page_share=5.0,
        formula=(
            "<i>W</i><sub>q</sub> ≈ <i>ρ</i>/(1 − <i>ρ</i>) × (c<sub>a</sub>² + c<sub>s</sub>²)/2 × <i>S</i>"
        ),
        why="""<p>A wait is load × variability × service (Kingman). With arrivals at random it is exact
        (Pollaczek-Khinchine): an arrival is likelier to fall into a long service than into a short one,
        and waits for the rest of it, (1 + c²)/2 services. For bursts it is an approximation: the runs
        lie a quarter to a half above it.</p>""",
        takeaway=(
            "Variability multiplies the wait as load does. Halving it helps as much as a faster machine."
        ),
        exercises=(
            Exercise(
                "Load 0.8, everything regular (both c² are 0). What does the formula say, and is it right?",
                "Nothing waits: an arrival every 1.25 s finds the server empty. Queues come from "
                "variability.",
            ),
            Exercise(
                "You may cut the load to 0.7 or the c² of services from 4 to 1.5. Arrivals are at random.",
                "Load 0.7: 2.33 × 2.5 = 5.8 s. Less variability: 4 × 1.25 = 5 s. The second is "
                "better, and needs no GPU.",
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
