"""Little's law: how many are there at once?"""

import marimo

app = marimo.App(width="full", app_title="Lab 2: Little's law")

with app.setup:
    import numpy as np

    import sim
    from sim.validation.laws import interval
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    QUEUE, LINK, DECODE = "queue and prefill", "KV caches on the links", "decoding"
    LOOKS = 20_000  # instants at which a run is looked at

    def service(rate_per_s, requests):
        """Two engines that prefill, two that decode, and KV caches that go from the one to the other."""
        return sim.Scenario.model_validate(
            {
                "topology": "nd-h100-v5",
                "nodes": 2,
                "model": "llama-3-70b",
                "engine": {"tensor_parallel_size": 4, "enable_prefix_caching": False},
                "pools": {"prefill": {"replicas": 2}, "decode": {"replicas": 2}},
                "workload": {
                    "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
                    "prompt_tokens": 2000,
                    "output_tokens": 200,
                    "requests": requests,
                },
            }
        )

    def counted(name, begin_s, end_s, last_s):
        """How many are at a station, counted at many instants, beside rate times stay of those that came."""
        instants = np.linspace(0.1 * last_s, last_s, LOOKS)
        there = np.searchsorted(np.sort(begin_s), instants) - np.searchsorted(np.sort(end_s), instants)
        seen = interval(there.astype(float))
        came = (begin_s > 0.25 * last_s) & (begin_s < last_s)
        rate_per_s = came.sum() / (0.75 * last_s)
        return Point(name, seen.mean, seen.half, float(rate_per_s * (end_s - begin_s)[came].mean()))

    def run(rate_per_s, share=1.0):
        """Requests at each station of the way."""
        result = sim.simulate(service(rate_per_s, int(100 * share * rate_per_s)), seed=1)
        rows, moved = result.records.requests, result.hand_overs
        arrival_s, first_s, finished_s = (
            np.asarray(rows[f"{name}_s"]) for name in ("arrival", "first_token", "finished")
        )
        last_s = float(arrival_s.max())
        return (
            counted(QUEUE, arrival_s, first_s, last_s),
            counted(LINK, moved["prefilled_s"].to_numpy(), moved["arrived_s"].to_numpy(), last_s),
            counted(DECODE, first_s, finished_s, last_s),
        )

    LESSON = Lesson(
        number=2,
        title="Little's law",
        goal="Use L = λ T at any station and any link, with no model of what happens inside.",
        misconception=(
            "How many requests are in the system depends on how bursty they come, and needs a simulation."
        ),
        scenario="""<p><b>llama-3-70b</b>: two engines prefill prompts of 2,000 tokens, two others write
        answers of 200 tokens. Between them each KV cache (655 MB) crosses the links, which takes 4
        ms.</p> <p>Requests come at random. Tokens come every 17 ms; a first token takes 0.2 s.</p>""",
        question=(
            "At <b>8 requests a second</b>, how many answers are being decoded at the same time, in the mean?"
        ),
        unit="answers",
        asked=8.0,
        line=DECODE,
        least=0.0,
        most=10_000.0,
        slider="requests a second",
        positions=(1.0, 2.0, 4.0, 6.0, 8.0, 10.0),
        y="requests at a station, in the mean",
        run=run,
        log=True,
        formula="<i>L</i> = <i>λ</i> <i>T</i>",
        why="""<p>Every request adds its own stay to the area under the count of requests; that area over
        time is both the mean count <i>L</i> and rate times mean stay <i>λT</i>. Nothing was assumed: no
        law of arrivals, no order of service. Dots are counts at 20,000 instants; “theory” is rate times
        mean stay of the same run.</p> <p>Decoding: 8 × 200 × 17 ms = 27. The links: 8 × 4 ms = 0.03;
        they are empty 97 % of the time.</p>""",
        takeaway="Two of rate, stay and count give the third, at an engine, in a queue, on a link.",
        exercises=(
            Exercise(
                "A dashboard shows 40 running requests and 20 answers a second. How long does an "
                "answer take?",
                "T = L/λ = 40/20 = 2 s in the mean, whatever the scheduler does.",
            ),
            Exercise(
                "One KV cache at a time takes 4 ms. At which rate would these transfers alone fill one link?",
                "At λ × 4 ms = 1: 250 requests a second. The link is not what limits this service.",
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
