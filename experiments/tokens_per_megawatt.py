"""How many tokens does a megawatt make? Five machines at every speed of a user, per watt that is set aside
and per watt that flows.

Llama-3.1-70B in FP8 on one replica of each machine, in closed loops of 1 to 512 users with 1,000 tokens in
and 1,000 out. A data centre pays for the power that it sets aside for a GPU, all in; GPUs and their servers
draw less of it, and the less the fewer users share a step. Beside the machines stands what batching buys on
one of them, what a lower limit of watts costs, what a larger NVLink domain buys a model of experts at the
same watts, and what idling costs: the same work at once, and spread over the same hour.

The watts of H100 and B200 are fitted to measured services. GB200 and GB300 draw as a B200 does, up to limits
of their own; no service on them was published with watts. Of a Rubin there are announcements alone: its speed
is by datasheet, its set-aside by the 230 kW of an announced rack (190 kW tuned for efficiency), times what
GB200 has set aside beyond its 120 kW; what it draws is not known. Hand estimate (column "by hand"): joules a
token at full draw, gpu_w / (users / TPOT).
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
    "Rubin, announced": ("vr-nvl72", 4),
}
ANNOUNCED_W = {"Rubin, announced": 230e3 / 72 * (2.1e3 * 72 / 120e3)}
"""Set aside for a GPU, where no published constant is: the announced rack, all in as GB200 is."""
RUBIN = (
    "Rubin: speed by an announced datasheet with the kernels of a GB200, set-aside by an announced rack of "
    "230 kW; what it draws is not known"
)
CAPS_W = (700.0, 500.0, 400.0)
DOMAINS = (4, 8, 36, 72)
QUICK_DOMAINS = (4, 72)
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
    per_drawn_mw: float | None
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


def point(machine: str, users: int, **more: Any) -> Point:
    """Watts and speeds between the first third of the arrivals and the last."""
    system, ranks = MACHINES[machine]
    result = sim.simulate(scenario(system, ranks, users, **more))
    energy, numbers = result.energy, result.summary()
    rate = users / (numbers["mean_e2el_ms"] / 1e3) * TOKENS
    per_user = 1e3 / numbers["mean_tpot_ms"]
    if not isinstance(energy, Energy):
        set_aside = ANNOUNCED_W[machine] * ranks
        return Point(machine, users, per_user, rate / set_aside * 1e6, None, 0.0, 0.0, energy.why)
    assert energy.provisioned_w is not None
    last = float(result.records.requests["arrival_s"].max())
    watts = energy.joules_between(last / 3, last) / (last * 2 / 3)
    around = energy.total_j / energy.gpu_j  # fans and conversion grow with what flows, the rest stays
    return Point(
        machine,
        users,
        per_user,
        rate / energy.provisioned_w * 1e6,
        rate / (watts * around) * 1e6,
        watts / ranks,
        watts / rate,
        energy.basis,
    )


@dataclass(frozen=True)
class Domain:
    """A model of experts on 32 GPUs of a rack whose NVLink domains have so many."""

    gpus: int
    per_provisioned_mw: float
    j_a_token: float


def domain(gpus: int) -> Domain:
    """DeepSeek-V3 in FP8, attention data-parallel and experts apart over 32 GB200, 512 users."""
    length = {"kind": "fixed", "tokens": TOKENS}
    described = sim.Scenario.model_validate(
        {
            "topology": "gb200-nvl72",
            "model": "deepseek-v3",
            "precision": {"weights": "fp8_block"},
            "engine": {
                "data_parallel_size": 32,
                "enable_expert_parallel": True,
                "max_num_seqs": 256,
                "max_model_len": 4096,
            },
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": 512, "ramp_s": 5.0},
                "requests": 1024,
                "prompt_tokens": length,
                "output_tokens": {"kind": "fixed", "tokens": 200},
            },
        }
    )
    whole = 72
    numbers = sim.simulate(
        described if gpus == whole else sim.with_changes(described, {"topology.domain": gpus})
    ).summary()
    return Domain(gpus, numbers["output_tokens_per_s_per_mw"], numbers["j_per_output_token"])


def answer(quick: bool) -> Answer:
    """Run every machine at every load."""
    points = [point(machine, users) for machine in MACHINES for users in (QUICK if quick else USERS)]
    domains = [domain(gpus) for gpus in (QUICK_DOMAINS if quick else DOMAINS)]
    capped = [point("H100", 256, power={"gpu_cap_w": cap_w}) for cap_w in CAPS_W]
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
        if one.per_drawn_mw is not None
    ]  # fmt: skip
    for cap_w, one in zip(CAPS_W, capped, strict=True):
        case = f"H100 limited to {cap_w:.0f} W, 256 users"
        rows.append(Row(case, "output tokens/s a drawn MW", "1/s", None, one.per_drawn_mw or 0.0))
        rows.append(Row(case, "output tokens/s of a user", "1/s", None, one.per_user))
    for of in domains:
        case = f"DeepSeek-V3 on 32 GB200, domains of {of.gpus}"
        rows.append(Row(case, "output tokens/s a provisioned MW", "1/s", None, of.per_provisioned_mw))
        rows.append(Row(case, "energy an output token, servers included", "J", None, of.j_a_token))
    once, spread = racing(quick)
    rows.append(Row("the same requests at once, then idle", "energy of GPUs", "kJ", None, once))
    rows.append(Row("the same requests spread over the hour", "energy of GPUs", "kJ", None, spread))
    most = {
        machine: max(one.per_provisioned_mw for one in points if one.machine == machine)
        for machine in MACHINES
    }
    best = max((name for name in most if name not in ANNOUNCED_W), key=lambda machine: most[machine])
    few, many = (next(one for one in points if one.machine == "H100" and one.users == n) for n in (4, 256))
    small, large = domains[0], domains[-1]
    free, tight = capped[0], capped[-1]
    return Answer(
        QUESTION,
        tuple(rows),
        f"At its best load a provisioned megawatt of {best} makes {most[best] / 1e6:.2f} million tokens "
        f"a second, one of H100 {most['H100'] / 1e6:.2f}, one of Rubin, by announcements alone, "
        f"{most['Rubin, announced'] / 1e6:.2f}. Batching is worth more than any machine: from 4 users to 256 "
        f"the joules of a token on H100 fall from {few.j_a_token:.2g} to {many.j_a_token:.2g}. "
        f"Domains of {large.gpus} GPUs instead of {small.gpus} make "
        f"{large.per_provisioned_mw / small.per_provisioned_mw:.1f} times the tokens of the same watts with "
        f"DeepSeek-V3. H100s limited to {CAPS_W[-1]:.0f} W answer a user at "
        f"{tight.per_user / free.per_user:.0%} of the speed and draw {tight.gpu_w / free.gpu_w:.0%} of the "
        "watts. "
        f"Serving the same requests at once and idling takes {once / spread:.0%} of the joules of spreading "
        "them over the hour.",
        (
            f"watts: {'; '.join(dict.fromkeys(one.basis for one in points if one.per_drawn_mw is not None))}",
            RUBIN,
            "the two measured joules are of bf16 weights and other lengths: the size of the number, no more",
            "servers: parts at their datasheets' most, fans and conversion in proportion to what flows",
        ),
        lambda folder: [_chart(points, folder), _domains_chart(domains, folder)],
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

    kinds = {"set aside, all in": "per_provisioned_mw", "drawn by GPUs and servers": "per_drawn_mw"}
    table = [
        {
            "machine": one.machine, "users": one.users, "speed": one.per_user, "power": kind,
            "tokens": getattr(one, name) / 1e6,
        }
        for kind, name in kinds.items()
        for one in points
        if getattr(one, name) is not None
    ]  # fmt: skip
    base = alt.Chart(rows(table)).encode(
        x=alt.X("speed:Q", title="output tokens/s of a user", scale=alt.Scale(zero=True)),
        y=alt.Y("tokens:Q", title="million output tokens/s a megawatt", scale=alt.Scale(zero=True)),
        color=alt.Color(
            "machine:N",
            title=None,
            scale=alt.Scale(domain=list(MACHINES), range=list(COLOURS[: len(MACHINES)])),
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
            sort=list(kinds),
        )
    )
    chart = chart.properties(
        title=alt.TitleParams(
            "Tokens of a megawatt, by how quickly a user is answered",
            subtitle="Llama-3.1-70B in FP8, TP4, 1,000 tokens in and out; GB300 lies on GB200",
        )
    )
    return save_chart(chart, folder / "tokens_per_megawatt.png")


def _domains_chart(domains: list[Domain], folder: Path) -> Path:
    import altair as alt

    from sim.views.files import rows

    table = [
        {"gpus": str(one.gpus), "what": what, "value": value}
        for one in domains
        for what, value in (
            ("thousand output tokens/s a provisioned MW", one.per_provisioned_mw / 1e3),
            ("joules an output token, servers included", one.j_a_token),
        )
    ]
    base = alt.Chart(rows(table)).encode(
        x=alt.X("gpus:N", title="GPUs of an NVLink domain", sort=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("value:Q", title=None),
    )
    bars = base.mark_bar(size=40)
    labels = base.mark_text(dy=-7).encode(text=alt.Text("value:Q", format=".3~g"))
    chart = (bars + labels).properties(width=300, height=240).facet(column=alt.Column("what:N", title=None))
    chart = chart.resolve_scale(y="independent").properties(
        title=alt.TitleParams(
            "The same watts in larger NVLink domains",
            subtitle="DeepSeek-V3 in FP8 on 32 GB200, 512 users, 1,000 tokens in and 200 out",
        )
    )
    return save_chart(chart, folder / "domains.png")


if __name__ == "__main__":
    tell(answer)
