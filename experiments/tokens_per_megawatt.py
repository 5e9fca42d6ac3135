"""How many tokens does a megawatt make? Four machines at every speed of a user, per watt that is set aside
and per watt that flows.

Llama-3.1-70B in FP8 on one replica of each machine, in closed loops of 1 to 512 users with 1,000 tokens in
and 1,000 out. A data centre pays for the power that it sets aside for a GPU, all in; the GPUs draw less of
it, and the less the fewer users share a step. Beside the machines stands what batching buys on one of them,
and what idling costs: the same work at once, and spread over the same hour.

The watts of H100 and B200 are fitted to measured services. GB200 and GB300 draw as a B200 does, up to limits
of their own; no service on them was published with watts. Of a Rubin's watts there are announcements alone:
it is left out. Hand estimate (column "by hand"): joules a token at full draw, gpu_w / (users / TPOT).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sim
from sim.results.energy import Energy
from sim.views.answer import Answer, Row, tell
from sim.views.files import save_chart

QUESTION = "How many tokens does a megawatt make?"
MACHINES = {
    "H100": ("nd-h100-v5", 4),
    "B200": ("hgx-b200", 4),
    "GB200": ("gb200-nvl72", 4),
    "GB300": ("gb300-nvl72", 4),
}
USERS = (1, 4, 16, 64, 128, 256, 512)
QUICK = (4, 64, 256)
TOKENS = 1000
MEASURED = {("H100", 256): 0.48, ("B200", 256): 0.36}
SOURCE = "ML.ENERGY leaderboard v3: Llama-3.1-70B in bf16, TP4 on H100, TP2 on B200"


@dataclass(frozen=True)
class Point:
    """One machine with so many users."""

    machine: str
    users: int
    per_user: float
    per_provisioned_mw: float
    per_gpu_mw: float
    gpu_w: float
    j_a_token: float
    basis: str


def scenario(system: str, ranks: int, users: int, **more: Any) -> sim.Scenario:
    """A replica in a closed loop."""
    length = {"kind": "fixed", "tokens": TOKENS}
    return sim.Scenario.model_validate(
        {
            "topology": system,
            "model": "llama-3.1-70b",
            "precision": {"weights": "fp8"},
            "engine": {"tensor_parallel_size": ranks, "max_num_seqs": 512, "max_model_len": 4096},
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": users, "ramp_s": 5.0},
                "requests": 2 * users,
                "prompt_tokens": length,
                "output_tokens": length,
            },
            **more,
        }
    )


def point(machine: str, users: int) -> Point:
    """Watts and speeds between the first third of the arrivals and the last."""
    system, ranks = MACHINES[machine]
    result = sim.simulate(scenario(system, ranks, users))
    energy, numbers = result.energy, result.summary()
    assert isinstance(energy, Energy), energy.why
    assert energy.provisioned_w is not None
    rate = users / (numbers["mean_e2el_ms"] / 1e3) * TOKENS
    last = float(result.records.requests["arrival_s"].max())
    watts = energy.joules_between(last / 3, last) / (last * 2 / 3)
    return Point(
        machine,
        users,
        1e3 / numbers["mean_tpot_ms"],
        rate / energy.provisioned_w * 1e6,
        rate / watts * 1e6,
        watts / ranks,
        watts / rate,
        energy.basis,
    )


def answer(quick: bool) -> Answer:
    """Run every machine at every load."""
    points = [point(machine, users) for machine in MACHINES for users in (QUICK if quick else USERS)]
    rows = [
        Row(
            f"{one.machine}, {one.users} users", "output tokens/s a provisioned MW", "1/s", None,
            one.per_provisioned_mw, estimate=None,
        )
        for one in points
    ]  # fmt: skip
    rows += [
        Row(
            f"{one.machine}, {one.users} users", "energy of GPUs an output token", "J",
            MEASURED.get((one.machine, one.users)), one.j_a_token, source=SOURCE,
            estimate=one.gpu_w * MACHINES[one.machine][1] / (one.users * one.per_user),
        )
        for one in points
    ]  # fmt: skip
    once, spread = racing(quick)
    rows.append(Row("the same requests at once, then idle", "energy of GPUs", "kJ", None, once))
    rows.append(Row("the same requests spread over the hour", "energy of GPUs", "kJ", None, spread))
    most = {
        machine: max(one.per_provisioned_mw for one in points if one.machine == machine)
        for machine in MACHINES
    }
    best = max(most, key=lambda machine: most[machine])
    few, many = (next(one for one in points if one.machine == "H100" and one.users == n) for n in (4, 256))
    return Answer(
        QUESTION,
        tuple(rows),
        f"At its best load a provisioned megawatt of {best} makes {most[best] / 1e6:.2f} million tokens "
        f"a second, one of H100 {most['H100'] / 1e6:.2f}. Batching is worth more than any machine: from 4 "
        f"users to 256 the joules of a token on H100 fall from {few.j_a_token:.2g} to {many.j_a_token:.2g}. "
        f"Serving the same requests at once and idling takes {once / spread:.0%} of the joules of spreading "
        "them over the hour.",
        (
            f"watts: {'; '.join(dict.fromkeys(one.basis for one in points))}",
            "the two measured joules are of bf16 weights and other lengths: the size of the number, no more",
            "server_w and provisioned_w are the most that is set aside; what servers draw is not known",
        ),
        lambda folder: [_chart(points, folder)],
    )


def racing(quick: bool) -> tuple[float, float]:
    """Kilojoules of one H100 replica for the same requests: all at once and then idle, or one by one."""
    system, ranks = MACHINES["H100"]
    requests, hour = (60, 600.0) if quick else (360, 3600.0)
    found = []
    for arrivals in ({"kind": "burst"}, {"kind": "constant", "rate_per_s": requests / hour}):
        workload = {
            "arrivals": arrivals,
            "requests": requests,
            "prompt_tokens": {"kind": "fixed", "tokens": TOKENS},
            "output_tokens": {"kind": "fixed", "tokens": TOKENS},
        }
        result = sim.simulate(scenario(system, ranks, 1, workload=workload))
        energy = result.energy
        assert isinstance(energy, Energy), energy.why
        idle_s = max(hour - result.end_s, 0.0)
        found.append((energy.gpu_j + idle_s * energy.idle_w * energy.gpus) / 1e3)
    return found[0], found[1]


def _chart(points: list[Point], folder: Path) -> Path:
    import altair as alt

    from sim.views.files import rows
    from sim.views.lines import COLOURS

    kinds = {"set aside, all in": "per_provisioned_mw", "drawn by GPUs": "per_gpu_mw"}
    table = [
        {
            "machine": one.machine, "users": one.users, "speed": one.per_user, "power": kind,
            "tokens": getattr(one, name) / 1e6,
        }
        for kind, name in kinds.items()
        for one in points
    ]  # fmt: skip
    base = alt.Chart(rows(table)).encode(
        x=alt.X("speed:Q", title="output tokens/s of a user", scale=alt.Scale(zero=True)),
        y=alt.Y("tokens:Q", title="million output tokens/s a megawatt", scale=alt.Scale(zero=True)),
        color=alt.Color(
            "machine:N", title=None, scale=alt.Scale(domain=list(MACHINES), range=list(COLOURS[:4]))
        ),
        order="users:Q",
    )
    lines = base.mark_line(point=True)
    labels = base.mark_text(dx=5, dy=-8, align="left", fontSize=10).encode(
        text=alt.Text("users:Q", format="d")
    )
    panel = (lines + labels).properties(width=430, height=320)
    chart = panel.facet(
        column=alt.Column(
            "power:N",
            title="per megawatt; labels: users of 4 GPUs",
        )
    )
    chart = chart.properties(
        title=alt.TitleParams(
            "Tokens of a megawatt, by how quickly a user is answered",
            subtitle="Llama-3.1-70B in FP8, TP4, 1,000 tokens in and out; GB300 lies on GB200",
        )
    )
    return save_chart(chart, folder / "tokens_per_megawatt.png")


if __name__ == "__main__":
    tell(answer)
