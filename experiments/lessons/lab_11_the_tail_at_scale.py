"""Tail at scale: how long does a step take when a thousand ranks must finish it?"""

import marimo

app = marimo.App(width="full", app_title="Lab 11: Tail at scale")

with app.setup:
    import numpy as np

    from sim.theory import queueing
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    RANKS, BOUND = "the slowest rank", "μ + σ √(2 ln n), a bound"
    MEAN_MS, DEVIATION_MS = 10.0, 0.5

    def run(ranks, share=1.0):
        """Means of the slowest of so many ranks, over many steps."""
        steps = max(int(4000 * share), 200)
        random = np.random.default_rng(1)
        slowest = np.array([random.normal(MEAN_MS, DEVIATION_MS, int(ranks)).max() for _ in range(steps)])
        half = 1.96 * slowest.std(ddof=1) / steps**0.5
        return (Point(RANKS, float(slowest.mean()), float(half), last(ranks)),)

    def last(ranks):
        """The mean of the largest of so many normal times."""
        return queueing.last_of_normals(max(int(ranks), 1), MEAN_MS, DEVIATION_MS)

    def bound(ranks):
        """What is usually quoted."""
        return MEAN_MS + DEVIATION_MS * (2.0 * np.log(ranks)) ** 0.5

    LESSON = Lesson(
        number=11,
        title="The tail at scale",
        goal="Predict what jitter costs a barrier, and when a hedge pays.",
        misconception=(
            "A jitter of 5 % makes steps a few percent longer in the mean, however many ranks there are."
        ),
        scenario="""<p>Every rank computes its part of a step in <b>10 ms</b>, give or take a deviation
        of <b>0.5 ms</b> (normal, each rank and step on its own). The step ends when the <b>slowest</b>
        rank does: an all-reduce is a barrier.</p><p>One rank alone takes 10.0 ms. Eight ranks take
        10.7.</p>""",
        question="How long does a step take in the mean with <b>1,024 ranks</b>?",
        unit="ms",
        asked=1024.0,
        line=RANKS,
        least=0.0,
        most=10_000.0,
        slider="ranks",
        positions=(2.0, 8.0, 72.0, 256.0, 1024.0),
        y="mean time of a step (ms)",
        run=run,
        curves={RANKS: last, BOUND: bound},
        right_within=0.02,
        formula=(
            "T = <i>μ</i> + <i>σ</i> ∫<sub>0</sub><sup>∞</sup> 1 − Φ(x)<sup>n</sup> − (1 − "
            "Φ(x))<sup>n</sup> dx"
        ),
        why="""<p>The largest of n draws grows without bound, but like √(ln n): from 8 ranks to 1,024 it
        goes from 1.4 to 3.2 deviations above the mean. The usual √(2 ln n) is a bound, 43 % above at
        8.</p><p>That is jitter. A rank that is always 20 % slower costs 20 % at any number of ranks, and
        a tail heavier than the normal costs far more: of 72 exponential times the largest is 4.9
        means.</p>""",
        takeaway="A barrier waits for the slowest: the tail of one rank is the mean of the whole.",
        exercises=(
            Exercise(
                "One of 100 requests to a replica is slow (1 s instead of 10 ms). A page needs 50 "
                "replicas. How often is it slow?",
                "1 − 0.99^50 = 39 %. The p99 of one replica is the p61 of the page.",
            ),
            Exercise(
                "You send a second copy of whatever has taken longer than p95. How much more load, "
                "and what becomes of the page?",
                "5 % more copies at most. A part is slow only if both copies are: 0.01 × 0.01, and 50 "
                "parts 0.5 % of the time (<code>queueing.hedged</code>).",
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
