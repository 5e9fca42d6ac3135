"""An NVLink domain: from which size on does another GPU not help?"""

import marimo

app = marimo.App(width="full", app_title="Lab 12: An NVLink domain")

with app.setup:
    import sim
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    DENSE, EXPERTS = "llama-3-70b over all of them", "deepseek-v3 on 32 GPUs in such domains"
    ALONE_MS = 19.85  # llama-3-70b on one GPU (simulated)
    SHIPPED = 72  # GPUs of the rack's domain

    def dense(ranks):
        """16 answers of one model, tensor-parallel over the whole domain."""
        return sim.Scenario.model_validate(
            {
                "topology": "gb200-nvl72",
                "model": "llama-3-70b",
                "precision": {"weights": "fp8", "kv_cache": "fp8"},
                "engine": {
                    "tensor_parallel_size": int(ranks),
                    "max_model_len": 8192,
                    "enable_prefix_caching": False,
                    "collectives": "flashinfer",
                },
                "workload": {
                    "arrivals": {"kind": "closed_loop", "users": 16},
                    "prompt_tokens": 1000,
                    "output_tokens": 64,
                    "requests": 16,
                },
            }
        )

    def experts(domain):
        """2,048 answers of a mixture of experts: 32 ranks, which are in domains of that size."""
        rack = sim.Scenario.model_validate(
            {
                "topology": "gb200-nvl72",
                "model": "deepseek-v3",
                "precision": {"weights": "nvfp4"},
                "engine": {
                    "backend": "trtllm",
                    "data_parallel_size": 32,
                    "enable_expert_parallel": True,
                    "expert_routing": "uniform",  # as a balancer of experts keeps them
                },
                "workload": {
                    "arrivals": {"kind": "burst"},
                    "prompt_tokens": 100,
                    "output_tokens": 40,
                    "requests": 2048,
                },
            }
        )
        return sim.with_changes(rack, {"topology.domain": int(domain)})

    def run(size, share=1.0):
        """Milliseconds between two tokens of an answer."""
        found = [Point(DENSE, sim.simulate(dense(size), seed=1).summary()["mean_tpot_ms"])]
        if 4 <= size <= 32:
            found.append(Point(EXPERTS, sim.simulate(experts(size), seed=1).summary()["mean_tpot_ms"]))
        return found

    LESSON = Lesson(
        number=12,
        title="The knee of an NVLink domain",
        goal="Find the size of domain beyond which latency eats what more GPUs bring.",
        misconception="Twice the GPUs in a domain, half the time per token.",
        scenario="""<p>GPUs of a GB200 rack. <b>llama-3-70b</b> in FP8 writes 16 answers at once,
        tensor-parallel over all GPUs of a domain of <i>Y</i>: each reads 1/<i>Y</i> of the weights in
        every step, and 160 all-reduces a step join the parts. One GPU alone takes <b>19.9 ms</b> a
        token.</p><p>Beside it: <b>deepseek-v3</b> on 32 GPUs, expert parallel, cut into domains of
        <i>Y</i>; between domains tokens go over NICs.</p>""",
        question="How long does llama-3-70b take for a token on <b>32 GPUs</b>?",
        unit="ms",
        asked=32.0,
        line=DENSE,
        least=0.0,
        most=1000.0,
        slider="GPUs of a domain",
        positions=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
        y="time per token (ms)",
        run=run,
        curves={"a share of the weights each, and nothing else": lambda size: ALONE_MS / size},
        log=True,
        formula=(
            "T(<i>Y</i>) ≈ weights / (<i>Y</i> × memory bandwidth) + all-reduces × latency + what no rank "
            "shares"
        ),
        why="""<p>Only the first term falls with <i>Y</i>. 160 all-reduces of some 10 us and the kernels'
        own latencies make a floor of some 7 ms, which 8 GPUs come near. Beyond 32, longer all-reduces
        make it slower.</p> <p>Experts are another matter: every token goes to eight of them, wherever
        they are. Domains of 4 send most of that over NICs, and one domain of 32 takes a token from 28 to
        16 ms.</p>""",
        takeaway="More GPUs divide bytes and flops, never latencies: the knee is where the two are alike.",
        exercises=(
            Exercise(
                "Where is the knee for a batch of 512 instead of 16?",
                "In the same place: 93, 82, 80 and 86 ms on 8, 16, 32 and 64 GPUs (set "
                "<code>users</code> to 512 in the notebook). KV caches have eight heads, which more "
                "ranks only copy, and all-reduces carry 32 times the bytes.",
            ),
            Exercise(
                "Eight domains of 8 GPUs each, or one of 64, for llama-3-70b. Which answers more "
                "requests a second?",
                "Eight of 8: each answers at 8.8 ms a token, eight times the answers. One of 64 is no "
                "quicker per token.",
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
