"""KV memory: how many requests a second does it let through?"""

import marimo

app = marimo.App(width="full", app_title="Lab 10: KV memory")

with app.setup:
    import numpy as np

    import sim
    from sim.theory import queueing
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    DONE, AGAIN = "answers", "preemptions"
    BLOCKS, PROMPT, LONGEST = 1000, 200, 400
    STEP_S = 0.0199  # with full memory (simulated)

    def service(rate_per_s, requests):
        """An engine whose KV cache has 16,000 tokens."""
        return sim.Scenario.model_validate(
            {
                "topology": "a100-x4",
                "model": "llama-3-8b",
                "engine": {
                    "num_gpu_blocks_override": BLOCKS,
                    "max_num_seqs": 1000,
                    "enable_prefix_caching": False,
                    "max_model_len": 1000,
                },
                "workload": {
                    "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
                    "prompt_tokens": PROMPT,
                    "output_tokens": {"kind": "uniform", "low": 1, "high": LONGEST},
                    "requests": requests,
                },
            }
        )

    def run(rate_per_s, share=1.0):
        """Answers and preemptions a second, in the second half of the arrivals."""
        rows = sim.simulate(service(rate_per_s, int(80 * share * rate_per_s)), seed=1).records.requests
        last_s = float(np.max(rows["arrival_s"]))
        ends_s = np.asarray(rows["finished_s"])
        there = (ends_s > 0.5 * last_s) & (ends_s <= last_s)
        answers = float(there.sum()) / (0.5 * last_s)
        again = float(np.asarray(rows["preemptions"])[there].sum()) / (0.5 * last_s)
        return Point(DONE, answers), Point(AGAIN, again)

    def memory_lets_through(rate_per_s):
        """What comes, up to what memory lets through."""
        outputs = np.arange(1.0, LONGEST + 1.0)
        held = queueing.kv_memory_limit(16.0 * BLOCKS, STEP_S, [float(PROMPT)] * LONGEST, outputs.tolist())
        return min(rate_per_s, held)

    LESSON = Lesson(
        number=10,
        title="KV memory as a queue",
        goal="Compute the rate that KV memory sustains, and recognise thrash.",
        misconception="When KV memory is short, requests only wait a little longer.",
        scenario="""<p><b>llama-3-8b on one A100</b> whose KV cache is cut to <b>16,000 tokens</b>.
        Prompts have 200 tokens; answers have 1 to 400, each length as likely as another (200 in the
        mean). With full memory a step takes 20 ms.</p> <p>A request holds its prompt and what it has
        written, until its end. Where no block is left, vLLM takes the youngest request's blocks, and
        computes it again later.</p>""",
        question="""<b>20 requests a second</b> come. How many answers a second does the engine complete?
        (Think of how many tokens a request holds, for how long.)""",
        unit="answers a second",
        asked=20.0,
        line=DONE,
        least=0.0,
        most=1000.0,
        slider="requests a second",
        positions=(4.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0),
        y="per second",
        run=run,
        curves={DONE: memory_lets_through},
        formula="<i>μ</i> = <i>M</i> / (<i>τ</i> E[<i>g</i>]), <i>g</i> = <i>o</i> (<i>s</i> + <i>o</i>/2)",
        why="""<p>A request of <i>s</i> prompt and <i>o</i> output tokens holds <i>s</i> + <i>o</i>/2
        tokens in the mean for <i>o</i> steps: <i>g</i> token-steps. Memory offers <i>M</i> of them each
        step of <i>τ</i>. Here E[<i>g</i>] = 200 × 200 + 53,500/2 = 66,750 (longer answers count twice:
        they stay longer and hold more), so that <i>μ</i> = 16,000/(0.0199 × 66,750) = 12 a second (Nie,
        Si and Zhou, arXiv 2605.04595: within 10 %).</p> <p>From there on, seven of ten requests are
        preempted once and computed again.</p>""",
        takeaway=(
            "KV memory is a server: its work is tokens times time held. Its limit can lie far below compute."
        ),
        exercises=(
            Exercise(
                "The KV cache goes from 16 bits to 8. What happens to the limit?",
                "M doubles, to 32,000 tokens: 24 a second, less what larger batches add to a step.",
            ),
            Exercise(
                "All answers have exactly 200 tokens instead of 1 to 400. Which limit?",
                "g = 200 × 300 = 60,000: 13.4 a second. The spread of lengths costs 11 %.",
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
