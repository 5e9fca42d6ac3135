"""What does one dead switch chip cost? An H100 board of four chips, a B200 board of two, a rack of eighteen.

Traffic over NVLink is striped over all chips of a domain, so that a chip that dies takes its share of every
GPU's links: a quarter, a half, an eighteenth. What an engine loses is less: its collectives wait for links
only as far as bytes, not latency, make them long. A switch tray of the rack has two chips; a single NVLink of
one GPU takes a share of that GPU alone, and all wait for it.

Each case is two runs: the machine as built, and with the part out from the start. Hand estimate (column "by
hand"): the bytes of collectives take 1/(1 - share) as long, all else the same; it should be met where prompts
come alone, and within a factor of two and a half where they share steps with answers. Whether an engine
survives the instant of a failure is another question: here it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sim
from sim.cost.network import Network
from sim.runtime.faults import Losses
from sim.scenario.outages import faults_in, outages_of
from sim.views.answer import Answer, Row, tell
from sim.views.files import save_chart

QUESTION = "What does one dead switch chip cost?"


@dataclass(frozen=True)
class Part:
    """A part of a machine, and the share of a GPU's NVLink bandwidth that goes with it."""

    machine: str
    topology: str
    words: str
    kind: str
    name: str
    share: float


H100, B200, GB200 = "H100, 8 GPUs", "B200, 8 GPUs", "GB200, 72 GPUs"
PARTS = (
    Part(H100, "nd-h100-v5", "a chip of 4, with 5 of 18 links", "nvswitch_chip", "node0.nvswitch0", 5 / 18),
    Part(B200, "hgx-b200", "a chip of 2", "nvswitch_chip", "node0.nvswitch0", 1 / 2),
    Part(GB200, "gb200-nvl72", "a chip of 18", "nvswitch_chip", "node0.nvswitch0", 1 / 18),
    Part(GB200, "gb200-nvl72", "a switch tray of 9", "switch_tray", "node0.switch_tray0", 1 / 9),
    Part(H100, "nd-h100-v5", "one NVLink of one GPU", "nvlink", "node0.gpu0-node0.nvswitch0", 1 / 18),
)
WORK = {
    "prompts of 4,096 tokens": {"prompt_tokens": 4096, "output_tokens": 1},
    "64 users, 500 tokens in, 200 out": {"prompt_tokens": 500, "output_tokens": 200},
}
USERS = {"prompts of 4,096 tokens": 1, "64 users, 500 tokens in, 200 out": 64}
QUICK_LAYERS, ROUNDS = 16, 4
AFTER = (
    "The loss counts from when the engine runs again over the chips that are left. On boards of eight GPUs "
    "NVIDIA's Fabric Manager decides what goes on (its setting NVSwitch failure mode); until it has, the "
    "engine stops, which docs/failure_rates.md shows how to state."
)
CHANNELS = (
    "Other chips are taken to have room for what they carry before; a library that lays its channels anew "
    "over the rest may come out better or worse."
)
LINKS = "NVLink bandwidth lost, of the GPU that loses most"
WAITS = ("admission", "routing", "interference")  # for the steps of others, which are as much longer


def run(topology: str, work: str, quick: bool, outage: dict[str, Any] | None = None) -> sim.Result:
    """A dense model over eight GPUs of a machine, in a closed loop."""
    model = sim.load_model("llama-3.1-70b")
    if quick:
        model = model.model_copy(update={"layers": QUICK_LAYERS})
    workload = {
        "arrivals": {"kind": "closed_loop", "users": USERS[work]},
        "requests": ROUNDS * USERS[work],
        **WORK[work],
    }
    engine = {"tensor_parallel_size": 8, "max_model_len": 8192}
    scenario: dict[str, Any] = {"topology": topology, "model": model, "engine": engine, "workload": workload}
    if outage is not None:
        scenario["outages"] = {"at": [outage]}
    return sim.simulate(sim.Scenario.model_validate(scenario))


def tokens_s(result: sim.Result) -> float:
    """Tokens of prompts and answers a second."""
    return float(result.summary()["total_token_throughput"])


def cost(part: Part, work: str, quick: bool, whole: sim.Result) -> list[Row]:
    """What an engine loses, and what of its requests' time the bytes of collectives took before."""
    outage = {"kind": part.kind, "name": part.name, "at_s": 0}
    hit = run(part.topology, work, quick, outage)
    seconds = whole.blame.drop("request_id").sum().to_dicts()[0]
    of_steps = sum(value for cause, value in seconds.items() if cause not in WAITS)
    bytes_s = seconds["collective_bytes"] / of_steps
    lost = 1.0 - tokens_s(hit) / tokens_s(whole)
    by_hand = 1.0 - 1.0 / (1.0 + bytes_s * (1.0 / (1.0 - part.share) - 1.0))
    case = f"{part.machine}: {part.words}"
    return [
        Row(case, f"throughput lost, {work}", "", None, lost, estimate=by_hand),
        Row(case, f"share of steps in bytes of collectives before, {work}", "", None, bytes_s),
    ]


def collective_cost(part: Part) -> Row:
    """What the part takes of the NVLink bandwidth of a GPU."""
    scenario = sim.Scenario.model_validate(
        {
            "topology": part.topology,
            "model": "llama-3.1-70b",
            "workload": "single-user",
            "engine": {"tensor_parallel_size": 8},
            "outages": {"at": [{"kind": part.kind, "name": part.name, "at_s": 0}]},
        }
    )
    network = Network(scenario.wired.graph)
    before = {gpu: network.nvlink_bytes_per_s(gpu) for gpu in network.gpus}
    Losses(network, faults_in(scenario, outages_of(scenario, 0)))
    least = min(network.nvlink_bytes_per_s(gpu) / before[gpu] for gpu in network.gpus)
    return Row(f"{part.machine}: {part.words}", LINKS, "", None, 1.0 - least, estimate=part.share)


def answer(quick: bool) -> Answer:
    """Every part under both kinds of work."""
    rows: list[Row] = []
    whole = {
        (topology, work): run(topology, work, quick)
        for topology in dict.fromkeys(part.topology for part in PARTS)
        for work in WORK
    }
    for part in PARTS:
        rows.append(collective_cost(part))
        for work in WORK:
            rows += cost(part, work, quick, whole[part.topology, work])
    lost = {
        (row.case, row.quantity.removeprefix("throughput lost, ")): row.simulated
        for row in rows
        if row.quantity.startswith("throughput lost")
    }
    prompts, answers = WORK
    chip = {
        machine: next(part for part in PARTS if part.machine == machine) for machine in (H100, B200, GB200)
    }
    said = {
        (machine, work): lost[f"{machine}: {part.words}", work]
        for machine, part in chip.items()
        for work in WORK
    }
    return Answer(
        QUESTION,
        tuple(rows),
        "Less than its share of the links, and mostly of prompts: of tensor parallel over eight GPUs a board "
        f"of four chips loses {said[H100, prompts]:.1%} of its prompts, one of two chips "
        f"{said[B200, prompts]:.1%}, a rack of eighteen {said[GB200, prompts]:.1%}; where users read answers "
        f"it is {said[H100, answers]:.1%}, {said[B200, answers]:.1%} and {said[GB200, answers]:.1%}, because "
        "small collectives wait for latency, not for bytes. The more chips share the stripes, the less one "
        "of them matters: that is a rack's own redundancy.",
        (AFTER, CHANNELS),
        lambda folder: [_chart(rows, folder)],
    )


def _chart(rows_of: list[Row], folder: Path) -> Path:
    import altair as alt

    from sim.views.files import rows

    words = {f"throughput lost, {work}": work for work in WORK}
    words[LINKS] = "NVLink bandwidth of a GPU"
    table = [
        {"part": row.case, "lost": row.simulated, "what": words[row.quantity]}
        for row in rows_of
        if row.quantity in words
    ]
    order = [words[LINKS], *WORK]
    chart = (
        alt.Chart(rows(table))
        .mark_bar()
        .encode(
            x=alt.X("lost:Q", title="lost", axis=alt.Axis(format="%")),
            y=alt.Y("what:N", title=None, sort=order, axis=None),
            color=alt.Color(
                "what:N", title=None, sort=order,
                legend=alt.Legend(orient="bottom", columns=1, labelLimit=400),
                scale=alt.Scale(domain=order, range=["#bdbdbd", "#c0392b", "#2166ac"]),
            ),
            row=alt.Row(
                "part:N", title=None, sort=list(dict.fromkeys(row.case for row in rows_of)),
                header=alt.Header(labelAngle=0, labelAlign="left", labelLimit=320, labelFontSize=12),
            ),
        )
        .properties(
            width=420, height=54,
            title=alt.TitleParams(
                "A dead chip takes its share of the links, and less of the tokens",
                subtitle="Llama-3.1-70B, tensor parallel over eight GPUs, once it runs again",
                anchor="start",
            ),
        )
    )  # fmt: skip
    return save_chart(chart, folder / "what_does_one_dead_switch_chip_cost.png")


if __name__ == "__main__":
    tell(answer)
