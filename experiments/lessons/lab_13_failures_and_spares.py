"""Failures and spares: how often are too few engines up?"""

import marimo

app = marimo.App(width="full", app_title="Lab 13: Failures and spares")

with app.setup:
    import numpy as np

    import sim
    from sim.theory import queueing
    from sim.validation.laws import TOKENS, one_at_a_time
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    NEEDED, UP_S, DOWN_S, RATE_PER_S = 4, 200.0, 20.0, 3.6
    SHORT, LATE = "too few engines are up", "requests that wait longer than 10 s"

    def outages(engines, end_s):
        """Exponential times up and down of every engine, each on its own."""
        found = []
        for engine in range(engines):
            random = np.random.default_rng([1, engine])
            now_s = random.exponential(UP_S)
            while now_s < end_s:
                back_s = now_s + random.exponential(DOWN_S)
                found.append({"replica": engine, "at_s": now_s, "until_s": back_s})
                now_s = back_s + random.exponential(UP_S)
        return found

    def short_of_engines(engines, faults, end_s):
        """The percentage of time with fewer than `NEEDED` up."""
        at_s = np.linspace(0.0, end_s, 20_000)
        down = sum(((at_s >= each["at_s"]) & (at_s < each["until_s"])).astype(int) for each in faults)
        return 100.0 * float(np.mean(engines - down < NEEDED))

    def run(engines, share=1.0):
        """Percentages of time, and of requests."""
        requests, engines = int(12_000 * share), int(engines)
        end_s = requests / RATE_PER_S
        faults = outages(engines, end_s)
        lengths = {"kind": "geometric", "mean": TOKENS, "high": 64 * TOKENS}
        service = one_at_a_time(RATE_PER_S, engines, {"token_s": 1.0 / TOKENS}, lengths, requests)
        rows = sim.simulate(sim.with_changes(service, {"faults": faults}), seed=1).records.requests
        late = 100.0 * float(np.mean(np.asarray(rows["admitted_s"] - rows["arrival_s"]) > 10.0))
        exact = unavailable(engines)
        # The mean of a state over time has the variance 2 p (1 - p) times how long it is remembered, over how
        # long it was watched. An engine forgets at the rate 1/up + 1/down.
        forgets_s = 1.0 / (1.0 / UP_S + 1.0 / DOWN_S)
        half = 1.96 * (2.0 * exact * (100.0 - exact) * forgets_s / end_s) ** 0.5
        return Point(SHORT, short_of_engines(engines, faults, end_s), half, exact), Point(LATE, late)

    def unavailable(engines):
        """The percentage of time with too few up, a repair crew for each."""
        up = queueing.repairable(NEEDED, int(engines), 1 / UP_S, 1 / DOWN_S, crews=int(engines)).availability
        return 100.0 * (1.0 - up)

    LESSON = Lesson(
        number=13,
        title="Failures and spares",
        goal="Choose the number of spares, and see that a queue outlives the outage.",
        misconception="Engines that are up 91 % of the time give a service that is up 91 % of the time.",
        scenario="""<p>A service needs <b>four engines</b> for its 3.6 requests a second (load 0.9, a
        second each). An engine runs 200 s in the mean and is then down for 20 s: each is <b>up 91 % of
        the time</b>, on its own.</p><p>Spares work too while all are up. (Times are shortened; only
        their ratio counts for what is up.)</p>""",
        question=(
            "With <b>four engines and no spare</b>, which percentage of the time are fewer than four up?"
        ),
        unit="% of the time",
        asked=4.0,
        line=SHORT,
        least=0.0,
        most=100.0,
        slider="engines",
        positions=(4.0, 5.0, 6.0, 7.0),
        y="percent",
        run=run,
        curves={SHORT: unavailable},
        counts=True,
        page_share=2.0,
        formula="P(too few) = Σ<sub>k &lt; 4</sub> C(n, k) p<sup>k</sup> (1 − p)<sup>n − k</sup>",
        why="""<p>All four must be up at once: 1 − 0.91<sup>4</sup> = 32 %. One spare brings that to 7 %,
        two to 1 %: each spare divides the time by five or six.</p><p>Requests fare worse. With three
        engines up, load is 1.2 and a queue grows; it is still there when the fourth returns, and drains
        slowly at load 0.9. Without a spare far more requests are late than time is short; with spares
        the load is lower too, and a queue drains at once.</p>""",
        takeaway=(
            "Availability multiplies down with what is needed and adds up with spares; queues outlive "
            "outages."
        ),
        exercises=(
            Exercise(
                "72 of 76 GPUs are needed; each fails once in 50,000 hours and is replaced in a day. "
                "How often too few?",
                "<code>queueing.repairable(72, 76, 1/50_000, 1/24, 76)</code>: some 5e-10 of the "
                "time. With no spare of 72 it is 3.4 %.",
            ),
            Exercise(
                "All four engines hang on one switch that is down 1 % of the time. What do spares help?",
                "Nothing, if they hang on it too: failures are then not on their own, and 1 % is the floor.",
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
