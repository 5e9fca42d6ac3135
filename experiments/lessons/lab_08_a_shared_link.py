"""A shared link: how long does a transfer take among others?"""

import marimo

app = marimo.App(width="full", app_title="Lab 8: A shared link")

with app.setup:
    import numpy as np

    import sim
    from sim.theory import queueing
    from sim.validation.laws import interval
    from sim.views.lesson import Exercise, Lesson, Point
    from sim.views.lesson_desk import Desk

    ALIKE, MIXED = "all of 50 MB", "most of 15 MB, few of 365 MB"
    BYTES_PER_S, BYTES = 50e9, 50e6  # a NIC of 400 Gbit/s; a transfer alone takes 1 ms

    def sizes(line, count, random):
        """Bytes of the transfers: 50 MB in the mean, either way."""
        if line == ALIKE:
            return np.full(count, BYTES)
        return np.where(random.random(count) < 0.9, 0.3 * BYTES, 7.3 * BYTES)

    def run(load, share=1.0):
        """Mean milliseconds of a transfer."""
        found = []
        for line in (ALIKE, MIXED):
            random, count = np.random.default_rng(1), int(15_000 * share)
            arrival_s = np.cumsum(random.exponential(BYTES / BYTES_PER_S / load, count))
            took = interval(1e3 * sim.link(BYTES_PER_S, arrival_s, sizes(line, count, random)))
            found.append(Point(line, took.mean, took.half, queueing.mg1_ps(load * 1e3, 1e3).W * 1e3))
        return found

    def one_after_another(load):
        """The same transfers, the mixed ones, if each had the link to itself in its turn."""
        cv2 = (0.9 * 0.3**2 + 0.1 * 7.3**2) - 1.0
        return queueing.mg1(load * 1e3, 1e3, cv2).W * 1e3

    LESSON = Lesson(
        number=8,
        title="Sharing a link",
        goal="Predict the time of transfers, collectives and KV caches that meet on one link.",
        misconception="A few huge transfers ruin a link for the small ones.",
        scenario="""<p>KV caches cross one NIC of <b>50 GB/s</b>. They start at random, and all that are
        under way share the NIC equally. A cache has 50 MB in the mean and takes <b>1 ms</b> alone.</p>
        <p>Two mixes of the same mean: all of 50 MB; or nine in ten of 15 MB and one in ten of 365 MB.
        Load is bytes a second over 50 GB/s.</p>""",
        question="At load 0.8 and with the <b>mixed sizes</b>, how long does a transfer take in the mean?",
        unit="ms",
        asked=0.8,
        line=MIXED,
        least=0.0,
        most=10_000.0,
        slider="load of the link",
        positions=(0.2, 0.4, 0.6, 0.7, 0.8, 0.9),
        y="mean time of a transfer (ms)",
        run=run,
        curves={
            MIXED: lambda load: queueing.mg1_ps(load * 1e3, 1e3).W * 1e3,
            "one after another": one_after_another,
        },
        page_share=3.0,
        formula="<i>T</i>(size) = size / (<i>C</i> (1 − <i>ρ</i>))",
        why="""<p>Under equal shares (processor sharing) every transfer is slowed by the same factor in
        the mean, 1/(1 − <i>ρ</i>), whatever the sizes of the others: a huge one takes only its share,
        and is passed by small ones. One after another, small ones would wait behind the huge ones (upper
        curve: Pollaczek-Khinchine of lab 3).</p> <p>Two collectives of 1 GB that start together on one
        link end together after two units of time, not one after one and one after two.</p>""",
        takeaway="On a fairly shared link only the load counts: size / (C (1 − ρ)), insensitive to the mix.",
        exercises=(
            Exercise(
                "An all-reduce of 8 GB and, half-way through it, a KV cache of 1 GB on the same 50 "
                "GB/s. When do they end?",
                "At 80 ms 4 GB are left. Both get 25 GB/s: the cache ends at 120 ms (40 ms instead of "
                "20), and the all-reduce at 180 ms instead of 160. <code>sim.link(50e9, [0, 0.08], "
                "[8e9, 1e9])</code> says so.",
            ),
            Exercise(
                "At load 0.8, how long does a cache of 365 MB take in the mean?",
                "7.3 ms alone, 7.3/(1 − 0.8) = 36.5 ms. Its slowdown is that of the small ones.",
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
