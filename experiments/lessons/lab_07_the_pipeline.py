"""A pipeline: how many must be in it before every stage is busy?"""

import marimo

app = marimo.App(width="full", app_title="Lab 7: A pipeline")

with app.setup:
    import sim
    from sim.theory import pipeline
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    PROMPTS, ANSWERS = "prompts of 2,048 tokens", "tokens of answers"
    STAGE_S = {  # of one prompt, and of one token of one answer, in each stage (simulated alone)
        PROMPTS: (0.1065, 0.1056, 0.1056, 0.1063),
        ANSWERS: (0.0151, 0.0142, 0.0142, 0.0149),
    }
    WORK = {
        PROMPTS: {"prompt_tokens": 2048, "output_tokens": 1},
        ANSWERS: {"prompt_tokens": 10, "output_tokens": 400},
    }

    def rate_per_s(line, users, share):
        """Prompts or tokens a second, of so many users that ask again at once."""
        each = 40 if line == PROMPTS else 4
        service = sim.Scenario.model_validate(
            {
                "topology": "nd-h100-v5",
                "model": "llama-3-70b",
                "engine": {
                    "pipeline_parallel_size": 4,
                    "enable_prefix_caching": False,
                    "max_num_batched_tokens": 2048,
                },
                "workload": {
                    "arrivals": {"kind": "closed_loop", "users": int(users)},
                    **WORK[line],
                    "requests": max(int(each * share), 2) * int(users),
                },
            }
        )
        return sim.simulate(service, seed=1).summary()["output_throughput"]

    def run(users, share=1.0):
        """Rates as multiples of that of one user."""
        return tuple(Point(line, rate_per_s(line, users, share) * sum(STAGE_S[line])) for line in WORK)

    def stages_alone(users):
        """Micro-batches of one prompt each: Little's law up to the slowest stage."""
        return pipeline.throughput_per_s(STAGE_S[PROMPTS], int(users)) * sum(STAGE_S[PROMPTS])

    LESSON = Lesson(
        number=7,
        title="Pipeline bubbles",
        goal="Tell how many micro-batches fill a pipeline, and what limits it from there.",
        misconception=(
            "Four stages make a request four times as fast; and more requests in flight always help."
        ),
        scenario="""<p><b>llama-3-70b in four pipeline stages</b> of 20 layers, one H100 each. Users ask
        one after the other and wait for the end. A stage takes 106 ms for a prompt of 2,048 tokens
        (arithmetic), and 14 to 15 ms for a token of an answer (reading its weights), whether for one
        answer or for ten.</p> <p>One user alone keeps one stage busy at a time. Rates are shown as
        multiples of that.</p>""",
        question=(
            "<b>Eight users</b> send prompts of 2,048 tokens. How many times the rate of one user do they "
            "get?"
        ),
        unit="times one user",
        asked=8.0,
        line=PROMPTS,
        least=0.0,
        most=1000.0,
        slider="users at a time",
        positions=(1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0),
        y="rate / rate of one user",
        run=run,
        curves={PROMPTS: stages_alone},
        formula="rate = min(<i>m</i> / Σ<i>t</i><sub>i</sub>, 1 / max <i>t</i><sub>i</sub>)",
        why="""<p>With <i>m</i> in flight, Little's law gives <i>m</i> over the time of all stages, until
        the slowest stage is always busy. From four on, prompts only wait in front of
        stages.</p><p>Tokens of answers go on rising: a fifth user joins a micro-batch, and a stage reads
        its weights once for both. That is lab 4 inside each stage, not the pipeline.</p>""",
        takeaway=(
            "A pipeline of p stages needs p micro-batches; it multiplies the rate, and the time of one stays."
        ),
        exercises=(
            Exercise(
                "A batch goes through 4 equal stages in 4 micro-batches, once. Which share of the "
                "time do stages idle?",
                "(p − 1)/(m + p − 1) = 3/7, 43 %, while it fills and drains; with 16 micro-batches "
                "3/19, 16 %.",
            ),
            Exercise(
                "The last stage has the output head on top and takes 130 ms instead of 106. Highest "
                "rate? A cure?",
                "1/130 ms = 7.7 prompts a second, and the others idle 18 % of the time. Move layers: "
                "21, 21, 21 and 17 make them 111, 111, 111 and 114 ms.",
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
