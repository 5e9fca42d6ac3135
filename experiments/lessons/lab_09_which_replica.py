"""Choosing a replica: which router is best when its numbers are old?"""

import marimo

app = marimo.App(width="full", app_title="Lab 9: Choosing a replica")

with app.setup:
    import sim
    from sim.theory import queueing
    from sim.theory.queueing.laws import erlang
    from sim.validation.laws import TOKENS, interval, one_at_a_time, stays
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    REPLICAS, LOAD = 8, 0.9
    SHORTEST, TWO, TURN, CHANCE = "the shortest queue", "the shorter of two", "in turn", "at random"
    ROUTERS = {SHORTEST: "least_connections", TWO: {"kind": "power_of_choices", "choices": 2}}

    def run(age_s, share=1.0):
        """Mean seconds in the system for the routers that look at queues."""
        lengths = {"kind": "geometric", "mean": TOKENS, "high": 64 * TOKENS}
        servers = one_at_a_time(
            LOAD * REPLICAS, REPLICAS, {"token_s": 1.0 / TOKENS}, lengths, int(6000 * share)
        )
        found = []
        for line, router in ROUTERS.items():
            changed = sim.with_changes(servers, {"router": router, "router_staleness_s": age_s})
            time = interval(stays(sim.simulate(changed, seed=1).records))
            found.append(Point(line, time.mean, time.half))
        return found

    LESSON = Lesson(
        number=9,
        title="Choosing a replica",
        goal="Choose a router by how old its information is.",
        misconception="Sending each request to the shortest queue is always best.",
        scenario="""<p><b>Eight replicas at load 0.9</b>; a service takes a second in the mean
        (exponential). The router sees the lengths of their queues, as they were at the last report.
        Between two reports it sees nothing new.</p> <p>With fresh numbers, a request takes <b>2 s</b>
        under the shortest queue. At random it takes 10 s, in turn 6 s, and neither looks at queues.</p>""",
        question=(
            "Reports come every <b>8 s</b>. How long does a request take under <b>the shortest queue</b>?"
        ),
        unit="seconds",
        asked=8.0,
        line=SHORTEST,
        least=0.0,
        most=10_000.0,
        slider="seconds between two reports",
        positions=(0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
        y="mean seconds in the system",
        run=run,
        curves={
            TURN: lambda age_s: queueing.gim1(erlang(1.0 / LOAD, REPLICAS), 1.0).W,
            CHANCE: lambda age_s: queueing.mm1(LOAD, 1.0).W,
        },
        page_share=3.0,
        formula="herd ≈ <i>λ</i> × age of the report: 7.2 × 8 s = 58 requests to one replica",
        why="""<p>Until the next report all requests go to the replica that was the shortest: a herd. It
        waits for half of its own length, 29 s, while the others run dry. Two choices send at most a
        quarter of the requests to any one replica (the pairs that it is in), and degrade gently. In turn
        and at random need no numbers (curves: each replica is an Er/M/1 or M/M/1 queue).</p><p>With
        numbers older than a service, in turn beats the shortest queue.</p>""",
        takeaway=(
            "The more a router trusts its numbers, the fresher they must be: JSQ fresh, two choices stale."
        ),
        exercises=(
            Exercise(
                "Which router do you take if reports are 2 s old? And for answers that take 60 s each?",
                "Two choices at 2 s (compare the curves). Age counts in services: for answers of 60 "
                "s, reports 2 s old are fresh, and the shortest queue is best.",
            ),
            Exercise(
                "The router adds what it has sent since the report. Does the herd go away? Why is "
                "that not the whole cure?",
                "Mostly: it then spreads a herd as round robin does. But with several routers each "
                "knows only what itself has sent, and completions stay unknown until the next report.",
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
