"""Restart, shrink, or take a spare? An engine of 32 GPUs that loses one, or half of them.

An expert-parallel engine stops as a whole when one of its ranks does. It can be restarted, once the GPU is
repaired or on a spare; or it goes on with the ranks that are left, where other copies of the lost experts
exist, and takes the rank back later. Two reports have the times of both: EEP (arXiv 2605.10670, one rank of a
wide expert-parallel engine) and SGLang's elastic EP (LMSYS, 2026: 32 GPUs, 256 redundant experts, up to 16
ranks lost).

Given are the pauses that the reports measured, and the parts of a restart as others measured them
(`sim.inputs.recovery`). What comes out: how long tokens stop, what is left of their rate, when it is back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import sim
from sim.inputs import recovery as measured
from sim.views.answer import Answer, Row, tell
from sim.views.files import rows, save_chart

SCENARIO = Path(__file__).with_name("wide_ep_loses_ranks.yaml")
EARLY_S = 2.0
RANKS, GPUS_OF_SERVER = 32, 8
REPAIR_S = 3600.0  # until a broken GPU is replaced: longer than any of the runs
BACK_AT = 0.95  # of the rate before, as EEP counts
EEP = "arXiv 2605.10670, abstract"
SGLANG = "LMSYS, Elastic EP in SGLang, March 2026, table of failed ranks"
SGLANG_PAUSE_S = 6.5  # 6.2 to 6.8 s, by how many ranks are lost
SGLANG_TOKENS_PER_S, SGLANG_HALF = 5500.0, 2825.0
SGLANG_RESTART_S, EEP_RESTART_S, EEP_BACK_S = 150.0, 348.0, 52.0  # the first: 120 to 180 s


@dataclass(frozen=True)
class Case:
    """Ranks that fail at an instant, when they are back (None: not here), and what the engine does."""

    name: str
    lost: int
    at_s: float
    back_s: float | None
    recovery: dict[str, Any]


def restart_s(servers: float = 1.0) -> tuple[float, float]:
    """Seconds of a restart by hand, and of reading the weights of a whole server, or of a part of one."""
    weights_s = servers * GPUS_OF_SERVER * weights_of_gpu() / measured.WEIGHTS_BYTES_PER_S
    return measured.PROCESS_START_S + weights_s + measured.GRAPH_CAPTURE_S, weights_s


def weights_of_gpu() -> float:
    """Bytes on a GPU: its share of the experts and their copies, and the attention of a whole model."""
    from sim.cost.network import Network
    from sim.deployment import deployment_of

    scenario = sim.load_scenario(SCENARIO)
    memory = deployment_of(scenario, Network(scenario.wired.graph)).replicas[0].memory
    assert memory is not None
    return memory.weight_bytes


def cases(quick: bool) -> tuple[Case, ...]:
    at_s = 50.0 if quick else 90.0
    one_s, _ = restart_s(1.0 / GPUS_OF_SERVER)  # the process of the one rank reads its own weights alone
    half = {"on_loss": "shrink", "shrink_pause_s": SGLANG_PAUSE_S}
    return (
        Case("one rank, restart on a spare", 1, at_s, None, {"on_loss": "spare", "spares": 1}),
        Case("one rank, shrink and rejoin (EEP)", 1, at_s, one_s, {"on_loss": "shrink"}),
        # Early: what is left of the rate is measured without the requests of the lost ranks in line.
        Case("half the ranks, shrink (SGLang)", 16, EARLY_S, None, half),
    )


@dataclass(frozen=True)
class Found:
    """A run: tokens/s by second, the rates before the fault and at the end, and how long tokens stopped."""

    case: Case
    tokens_per_s: np.ndarray
    before: float
    after: float
    pauses_s: tuple[float, ...]


def run(case: Case, quick: bool) -> Found:
    """One case, until the rate is steady again."""
    base = sim.load_scenario(SCENARIO)
    back_s = (case.back_s or 0.0) if case.recovery["on_loss"] == "shrink" else restart_s()[0]
    steady_s = 150.0 if not quick else 45.0 if case.at_s == EARLY_S else 22.0
    until_s = case.at_s + back_s + steady_s
    faults = [
        {
            "at_s": case.at_s,
            "until_s": case.at_s + (REPAIR_S if case.back_s is None else case.back_s),
            "gpu": f"node{rank // GPUS_OF_SERVER}.gpu{rank % GPUS_OF_SERVER}",
        }
        for rank in range(case.lost)
    ]
    changes = {"faults": faults, "recovery": case.recovery, "time_limit_s": until_s}
    result = sim.simulate(sim.with_changes(base, changes))
    begins_s, ends_s = (result.steps[name].to_numpy() for name in ("start_s", "end_s"))
    order = np.argsort(begins_s)
    gaps_s = begins_s[order][1:] - ends_s[order][:-1]
    tokens = result.over_time(1.0)["gen_throughput"].to_numpy()[:-1]  # the last second is cut
    before = tokens[max(0, int(case.at_s) - 20) : int(case.at_s)]
    pauses_s = tuple(float(gap_s) for gap_s in gaps_s[gaps_s > 1.0])
    return Found(case, tokens, float(before.mean()), float(tokens[-20:].mean()), pauses_s)


def back_after_s(found: Found) -> float:
    """Seconds from the fault until tokens come at 95 % of the rate before, in the mean of ten seconds."""
    tokens, at_s = found.tokens_per_s, int(found.case.at_s)
    for second in range(at_s + 1, len(tokens) - 9):
        if tokens[second : second + 10].mean() >= BACK_AT * found.before:
            return float(second - at_s)
    return float("inf")


def answer(quick: bool) -> Answer:
    """Restart, shrink, or take a spare? An engine of 32 GPUs that loses one, or half of them."""
    found = [run(case, quick) for case in cases(quick)]
    spare, eep, half = found
    by_hand_s, weights_s = restart_s()
    lost = 1.0 - half.after / spare.before
    takeaway = (
        f"Shrink, where copies of the experts are left: tokens stop for {eep.pauses_s[0]:.0f} s and once "
        f"more for {eep.pauses_s[1]:.0f} s, and come at 95 % of their rate again after "
        f"{back_after_s(eep):.0f} s. A restart on a spare stops them for {spare.pauses_s[0]:.0f} s, with "
        f"weights on local drives. Half of the ranks lost cost {100 * lost:.0f} % of the tokens."
    )
    rate = weights_s / (EEP_RESTART_S - by_hand_s + weights_s) * measured.WEIGHTS_BYTES_PER_S
    notes = (
        (
            "Neither report names its GPUs, its lengths or its clients; those of the scenario are assumed, "
            "and with them the rate of the whole engine. Shares and times do not rest on them."
        ),
        (
            f"A restart by its parts: {measured.PROCESS_START_S:.0f} s until the process loads weights, "
            f"{weights_s:.0f} s for those of a server at 9.5 GB/s, {measured.GRAPH_CAPTURE_S:.0f} s for "
            "graphs. SGLang's 120 to 180 s and EEP's 348 s are longer, and do not say by which part; weights "
            f"read at {rate / 1e9:.1f} GB/s a server, as from a shared file system, would make up EEP's."
        ),
        (
            "The pauses are given, as EEP and SGLang measured them. That the rate is back is not: it waits "
            "for the process of the lost rank, with the parts of a restart and the weights of one GPU, and "
            "for the second pause."
        ),
        "Requests of the lost rank are computed again from their tokens on the ranks that are left.",
    )

    def charts(folder: Path) -> list[Path]:
        return [save_chart(picture(found), folder / "restart_shrink_or_spare.png")]

    return Answer(
        "Restart, shrink, or take a spare?", tuple(table(found, by_hand_s)), takeaway, notes, charts
    )


def table(found: list[Found], by_hand_s: float) -> Iterable[Row]:
    """Beside the reports; what they gave to the scenario (pauses, a load like theirs) counts as fitted."""
    spare, eep, half = found
    one_s, _ = restart_s(1.0 / GPUS_OF_SERVER)
    sglang = partial(Row, half.case.name, source=SGLANG)
    share, half_by_hand = SGLANG_HALF / SGLANG_TOKENS_PER_S, 0.5 * spare.before
    stop, stops_s = "tokens stop for", half.pauses_s[0]
    yield sglang("tokens/s of all ranks", "1/s", SGLANG_TOKENS_PER_S, spare.before, "fitted")
    yield sglang(stop, "s", SGLANG_PAUSE_S, stops_s, "fitted", estimate=SGLANG_PAUSE_S)
    yield sglang("tokens/s of those left", "1/s", SGLANG_HALF, half.after, estimate=half_by_hand)
    yield sglang("share of the tokens left", "", share, half.after / spare.before, estimate=0.5)
    of_eep, back_s = partial(Row, eep.case.name, source=EEP), one_s + measured.REJOIN_PAUSE_S
    for what, given_s, pause_s in zip(
        (stop, "and again for"), (measured.SHRINK_PAUSE_S, measured.REJOIN_PAUSE_S), eep.pauses_s, strict=True
    ):
        yield of_eep(what, "s", given_s, pause_s, "fitted", estimate=given_s)
    yield of_eep("95 % of the rate after", "s", EEP_BACK_S, back_after_s(eep), estimate=back_s)
    for whose, source, published in (
        ("SGLang's restart", SGLANG, SGLANG_RESTART_S),
        ("EEP's restart", EEP, EEP_RESTART_S),
    ):
        case = f"{spare.case.name}, {whose}"
        yield Row(case, stop, "s", published, spare.pauses_s[0], source=source, estimate=by_hand_s)
    yield Row(spare.case.name, "95 % of the rate after", "s", None, back_after_s(spare))


def picture(found: list[Found]) -> Any:
    """Tokens a second from half a minute before the fault on, one row for each way back."""
    import altair as alt

    values = [
        {"case": one.case.name, "s": second - one.case.at_s, "tokens": float(rate)}
        for one in found
        for second, rate in enumerate(smooth(one.tokens_per_s))
        if second >= one.case.at_s - 30
    ]
    order = [one.case.name for one in found]
    line = (
        alt.Chart(rows(values))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("s:Q", title="seconds after the failure", scale=alt.Scale(nice=False)),
            y=alt.Y("tokens:Q", title="tokens/s", axis=alt.Axis(tickCount=3)),
            color=alt.Color("case:N", sort=order, legend=None),
        )
    )
    panels = [
        alt.layer(
            line.transform_filter(alt.datum.case == name),
            alt.Chart(rows([{"s": 0.0}])).mark_rule(color="#d62728", strokeDash=[4, 3]).encode(x="s:Q"),
        ).properties(width=760, height=110, title=alt.Title(name, anchor="start", fontSize=14))
        for name in order
    ]
    return (
        alt.vconcat(*panels, spacing=14)
        .resolve_scale(x="shared", y="shared", color="shared")
        .properties(
            title=alt.Title(
                "An engine of 32 GPUs after a failure: tokens a second, by what it does",
                subtitle="DeepSeek-V3, experts over all GPUs with 256 copies; means of two seconds",
                anchor="start",
                fontSize=18,
                subtitleFontSize=13,
                offset=14,
            ),
            padding=16,
            background="white",
        )
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=13, gridColor="#e6e6e6")
    )


def smooth(tokens: np.ndarray) -> np.ndarray:
    """Means of two seconds, each of which ends at its second."""
    whole = np.concatenate(([0.0], np.cumsum(tokens)))
    since = np.maximum(np.arange(len(tokens)) - 1, 0)
    return (whole[1:] - whole[since]) / (np.arange(len(tokens)) + 1 - since)


if __name__ == "__main__":
    tell(answer)
