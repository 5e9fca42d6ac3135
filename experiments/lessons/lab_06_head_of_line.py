"""A long prompt in front: what does it do to the other answers' tokens?"""

import marimo

app = marimo.App(width="full", app_title="Lab 6: A long prompt in front")

with app.setup:
    import sim
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    WORST, RARE, USUAL = "the worst", "one in a thousand (p99.9)", "one in a hundred (p99)"
    SHORT, LONG = 200, 30_000

    def service(budget, requests):
        """72B on eight H100; one prompt in a hundred is a long one."""
        return sim.Scenario.model_validate(
            {
                "topology": "nd-h100-v5",
                "model": "qwen2.5-72b",
                "engine": {
                    "tensor_parallel_size": 8,
                    "max_num_batched_tokens": int(budget),
                    "max_model_len": 32_768,
                    "enable_prefix_caching": False,
                },
                "workload": {
                    "arrivals": {"kind": "poisson", "rate_per_s": 4.0},
                    "prompt_tokens": {"kind": "empirical", "values": [SHORT, LONG], "weights": [99, 1]},
                    "output_tokens": 150,
                    "requests": requests,
                },
            }
        )

    def run(budget, share=1.0):
        """Gaps between the tokens of all answers, in milliseconds."""
        numbers = sim.simulate(service(budget, int(600 * share)), seed=1).summary(percentiles=[99, 99.9])
        return (
            Point(WORST, numbers["max_itl_ms"]),
            Point(RARE, numbers["p99.9_itl_ms"]),
            Point(USUAL, numbers["p99_itl_ms"]),
        )

    def chunk_ms(budget):
        """A step of that many prompt tokens at 4e14 flop/s a GPU, and the decode step below it."""
        return 1e3 * 2.0 * 72.7e9 * min(budget, LONG) / (8 * 4.0e14) + 10.0

    LESSON = Lesson(
        number=6,
        title="A long prompt in front",
        goal="Find head-of-line blocking where percentiles hide it, and cure it with chunks.",
        misconception="If p99 of the inter-token latency is fine, no answer ever stops.",
        scenario="""<p><b>qwen2.5-72b on eight H100</b>, 4 requests a second. Prompts have 200 tokens,
        but one in a hundred has <b>30,000</b>. Answers have 150 tokens, one every 10 ms.</p> <p>A step
        takes at most <code>max_num_batched_tokens</code> tokens of prompts and answers. A longer prompt
        is cut into chunks, one a step, and answers go on in each. A budget of 32,768 never cuts.</p>""",
        question="""Without chunks (a budget of <b>32,768</b>), what is the <b>longest gap</b> between
        two tokens of any answer?""",
        unit="ms",
        asked=32_768.0,
        line=WORST,
        least=0.0,
        most=1_000_000.0,
        slider="max_num_batched_tokens",
        positions=(512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0, 32_768.0),
        y="gap between two tokens (ms)",
        run=run,
        curves={WORST: chunk_ms},
        log=True,
        formula="worst gap ≈ one decode step + 2 × parameters × chunk / (flop/s of all GPUs)",
        why="""<p>In a step all sequences end together: answers wait for the longest work in it. The
        curve is arithmetic: 40 % of the H100s' peak, no attention, which long prompts add on
        top.</p><p>Seven long prompts among 600 stop the engine for a second each: few gaps, all of them
        long. p99 sees none of it, p99.9 sees it only where chunks make it more frequent. Look at the
        maximum, and at the time charged to other requests' prompts (<code>interference</code> in
        <code>result.blame_itl</code>).</p>""",
        takeaway=(
            "A step is as long as its longest part. Chunks bound it; the long prompt pays with its first "
            "token."
        ),
        exercises=(
            Exercise(
                "What does the long prompt pay for chunks of 512 tokens?",
                "59 steps, each of which reads all weights again and carries all answers: its first "
                "token takes 2.9 s instead of 1.6 s.",
            ),
            Exercise(
                "p99.9 is lower at 32,768 than at 2,048. Is the service better there?",
                "No: the worst gap is 12 times as long. A stall of a second counts once for each "
                "answer that it stops, a chunked one fifteen times a little: percentiles count gaps, "
                "and users count seconds.",
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
