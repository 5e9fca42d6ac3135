"""Batching: how large does a batch become?"""

import marimo

app = marimo.App(width="full", app_title="Lab 4: Batching")

with app.setup:
    import numpy as np

    import sim
    from sim.theory import queueing
    from sim.validation.laws import WARM_UP, decoding
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    FIXED_S, EACH_S = 0.5, 0.05
    BATCH = "requests in a step"

    def run(rate_per_s, share=1.0):
        """The mean batch, over the steps after the warm-up."""
        server = decoding(
            rate_per_s,
            1,
            int(15_000 * share),
            scheduler="continuous",
            service={"step_s": FIXED_S, "sequence_s": EACH_S},
        )
        steps = sim.simulate(server, seed=1).records.steps
        sizes = np.repeat(steps["sequences"], steps["steps"])[int(WARM_UP * np.sum(steps["steps"])) :]
        means = np.array([part.mean() for part in np.array_split(sizes, 20)])
        return (Point(BATCH, float(sizes.mean()), float(2.093 * means.std(ddof=1) / 20**0.5)),)

    LESSON = Lesson(
        number=4,
        title="Batching",
        goal="See that load chooses the batch, and that a batch buys throughput with time.",
        misconception="The batch size is a setting, and 60 % more requests make it 60 % larger.",
        scenario="""<p>A step takes <b>0.5 s</b> (all weights are read) plus <b>0.05 s</b> for each
        request in it. When it ends, everything that has come goes into the next step together. Requests
        come at random and need one step.</p> <p>One by one the server would do 1.8 requests a second. At
        <b>10 a second</b> its steps have about 10.</p>""",
        question=(
            "The rate rises by 60 %, to <b>16 a second</b>. How many requests are in a step then, in the "
            "mean?"
        ),
        unit="requests",
        asked=16.0,
        line=BATCH,
        least=1.0,
        most=10_000.0,
        slider="requests a second",
        positions=(2.0, 5.0, 10.0, 14.0, 16.0, 18.0),
        y="mean requests in a step",
        run=run,
        curves={BATCH: lambda rate: queueing.dynamic_batching(rate, EACH_S, FIXED_S).batch},
        page_share=2.0,
        formula=(
            "<i>n</i> = <i>λ a</i> / (1 − <i>λ b</i>), where a step of <i>n</i> takes <i>a</i> + <i>b n</i>"
        ),
        why="""<p>A batch is what came during the step before: <i>n</i> = <i>λ</i>(<i>a</i> + <i>b
        n</i>). The server chooses nothing. It saturates at 1/<i>b</i> = 20 a second, where the fixed
        time no longer counts. Below some 5 a second it idles between steps, and a step has at least one
        request: the formula, for a server that never idles, is too low there.</p> <p>The mean time is
        about 1.5 steps (half a step of waiting, and a step): 1.6 s at 10 a second, 3.9 s at 16.</p>""",
        takeaway=(
            "Load chooses the batch. A limit on it (max_num_seqs) only decides where requests wait instead."
        ),
        exercises=(
            Exercise(
                "max_num_seqs = 10 would keep steps at 1 s. Which rate can the server sustain then?",
                "10 requests in 0.5 + 10 × 0.05 = 1 s: 10 a second. At 16 a second its queue would "
                "grow by 6 each second.",
            ),
            Exercise(
                "What does a GPU with twice the memory bandwidth change (a = 0.25 s), at 16 a second?",
                "The batch halves to 20 and so does the time of a step; the highest rate, 1/b = 20, stays.",
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
