"""The hockey stick: at which load does waiting begin?"""

import marimo

app = marimo.App(width="full", app_title="Lab 1: The hockey stick")

with app.setup:
    import sim
    from sim.theory import queueing
    from sim.validation.laws import TOKENS, interval, one_at_a_time, stays
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    EXPONENTIAL = {"kind": "geometric", "mean": TOKENS, "high": 64 * TOKENS}
    SERVER, ENGINE = "one server", "llama-3-70b on 8 H100"
    MOST_PER_S = 33.0  # answers a second where the queue never empties (simulated, at 60 requests a second)
    ALONE_S = 1.98  # of one request that meets no other (simulated, at one in 20 seconds)

    def engine(load, share):
        """70B on eight GPUs, at a share of the rate that its batch can sustain."""
        return sim.Scenario.model_validate(
            {
                "topology": "nd-h100-v5",
                "model": "llama-3-70b",
                "engine": {"tensor_parallel_size": 8},
                "workload": {
                    "arrivals": {"kind": "poisson", "rate_per_s": load * MOST_PER_S},
                    "prompt_tokens": 500,
                    "output_tokens": 200,
                    "requests": int(max(4000 * load, 400) * share),
                },
            }
        )

    def run(load, share=1.0):
        """Mean times, each over the time of a request alone."""
        server = one_at_a_time(load, 1, {"token_s": 1.0 / TOKENS}, EXPONENTIAL, int(10_000 * share))
        one = interval(stays(sim.simulate(server, seed=1).records))
        many = interval(stays(sim.simulate(engine(load, share), seed=1).records) / ALONE_S)
        return (
            Point(SERVER, one.mean, one.half, queueing.mm1(load, 1.0).W),
            Point(ENGINE, many.mean, many.half),
        )

    LESSON = Lesson(
        number=1,
        title="The hockey stick",
        goal="Tell how waiting grows with load, and which utilisation to put on the axis.",
        misconception="A server that is busy 90 % of the time makes requests a little slower.",
        scenario="""<p>Requests come at random to <b>one server</b>, which serves them one by one. A
        service takes a second in the mean (exponential). Nothing is ever lost.</p> <p>Beside it:
        <b>llama-3-70b on eight H100</b>, 500 tokens in and 200 out. Load is the rate over the most that
        each of the two can sustain: 1 and 33 requests a second.</p>""",
        question="""At load 0.9 the server idles a tenth of the time. How long does a request take there,
        from arrival to end, <b>as a multiple of its service</b> of one second?""",
        unit="times a request alone",
        asked=0.9,
        line=SERVER,
        least=1.0,
        most=1000.0,
        slider="load",
        positions=(0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
        y="mean time / time of a request alone",
        run=run,
        curves={SERVER: lambda load: queueing.mm1(load, 1.0).W},
        page_share=2.0,
        formula="<i>T</i> / <i>S</i> = 1 / (1 − <i>ρ</i>)",
        why="""<p>An arrival finds <i>ρ</i>/(1 − <i>ρ</i>) requests before it in the mean, and waits a
        service for each. From 0.8 to 0.9 the time doubles, from 0.9 to 0.95 again: the last tenth of the
        load costs as much as the first nine.</p><p>The GPUs bend later, as a longer queue makes a larger
        batch, and a larger batch serves more requests a second. They bend all the same.</p>""",
        takeaway=(
            "Time goes with 1/(1 − ρ): plan for the load that is left over, not for the load that is used."
        ),
        exercises=(
            Exercise(
                "At 5 requests a second the GPUs are at load 0.15. Which utilisation does nvidia-smi show?",
                "99.6 %: it counts time in which any kernel runs, and a single request keeps kernels "
                "running. Load is the rate over the highest rate that can be sustained.",
            ),
            Exercise(
                "One server is at load 0.95. You buy one twice as fast. By what factor does the mean "
                "time fall?",
                "By 21, not by 2: from 1/(1 − 0.95) = 20 services to 1/(1 − 0.475) = 1.9, each half as long.",
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
