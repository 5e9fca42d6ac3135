"""Is expert parallelism on NVLink worth a rack? DeepSeek-V3 on 8-GPU islands joined by NICs, and in one rack.

The same Blackwell GPUs twice: eight to a server (B200, NVLink inside, one 400 Gbit/s NIC a GPU between) and
72 to a rack (GB200, NVLink between all). Decode replicas of many shapes are filled with sequences until none
fits, and a full step is timed; what the prompts cost in prefill GPUs is added to the bill. What comes out is
a line for each machine: tokens/s for each GPU that is paid for, against tokens/s for each user.

Public runs of both machines (InferenceX) have the same two lines. Nothing here is fitted to them. They do not
say whether multi-token prediction was on; here it is off. Weights are as the published checkpoints have them:
FP8 in blocks, or NVFP4 with the projections to queries, keys and values in 16 bits.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

import sim
from sim.inputs.errors import InfeasibleError
from sim.views.answer import Answer, Row, tell
from sim.views.files import save_chart

QUESTION = "Is expert parallelism on NVLink worth a rack?"
SCENARIO = Path(__file__).with_name("deepseek_decode.yaml")
POINTS = Path(__file__).with_name("deepseek_serving_points.csv")
SOURCE = "InferenceX and NVIDIA runs, prefill apart from decode (aiconfigurator 0.12.0)"
BACKEND = "trtllm"  # what most of the public runs were served with
STEPS_TIMED = 8

RACK, ISLANDS, HOPPER = "GB200 NVL72", "B200 islands", "H200 islands"
SYSTEM = {RACK: "gb200", ISLANDS: "b200_sxm", HOPPER: "h200_sxm"}
H100 = "H100 islands"
TOPOLOGY = {
    RACK: ("gb200-nvl72", 1),
    ISLANDS: ("hgx-b200", 4),
    HOPPER: ("hgx-h200", 4),
    H100: ("nd-h100-v5", 9),
}


@dataclass(frozen=True)
class Shape:
    """A decode replica: tensor-parallel attention in one group, its experts by rows or whole, or
    data-parallel attention with experts over all ranks; with two batches that overlap, or without."""

    data: int
    tensor: int = 1
    overlap: bool = False
    whole_experts: bool = False

    @property
    def gpus(self) -> int:
        return self.data * self.tensor

    def __str__(self) -> str:
        if self.data == 1:
            return f"TP{self.tensor}" + (" EP" if self.whole_experts else "")
        return f"EP{self.data}" + (" overlapped" if self.overlap else "")


ANY_ISLAND = (Shape(1, 8), Shape(1, 8, whole_experts=True), Shape(8))
SHAPES = {
    RACK: (*ANY_ISLAND, Shape(16), Shape(32), Shape(64)),
    ISLANDS: (*ANY_ISLAND, Shape(16), Shape(32), Shape(32, overlap=True)),
    HOPPER: (*ANY_ISLAND, Shape(16), Shape(32), Shape(32, overlap=True)),
}
BATCHES = {False: (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), True: (1, 4, 16, 64, 256)}
# Tokens of context in a replica: more take minutes to simulate, and answer too slowly to be of use.
MAX_TOKENS = {False: 64e6, True: 4.1e6}


@dataclass(frozen=True, eq=False)
class Traffic:
    """Lengths as the benchmark draws them, and a sequence in the middle of its life."""

    name: str
    precision: dict[str, str]
    prompt: int
    output: int

    @property
    def context(self) -> int:
        return round(MEAN * (self.prompt + 0.5 * self.output))


# NVIDIA's card of DeepSeek-R1-FP4-v2: attention is left as it was but for its output projection.
FP4 = {"precision.weights": "nvfp4", "precision.qkv_weights": "bf16"}
FP8 = {"precision.weights": "fp8_block"}
SHORT = Traffic("1k in, 1k out, FP4", FP4, 1024, 1024)
LONG = Traffic("8k in, 1k out, FP8", FP8, 8192, 1024)
MEAN = 0.9  # lengths are drawn between 0.8 and 1 times these
MACHINES = {SHORT: (RACK, ISLANDS), LONG: (RACK, ISLANDS, HOPPER)}
FEW = 4  # sequences in a replica that answers fast; both machines have public runs near it
OVER = "rack over islands, {}"
ALWAYS_BUSY = 20  # requests at a prefill replica from which on it never idles
LABELS = FP4_LABEL, FP8_LABEL = "FP4", "FP8"
SGLANG_H100 = "LMSYS, 5 May 2025: 96 H100, prefill EP32, decode EP72"
SGLANG_GB200 = "LMSYS, 25 September 2025: GB200 NVL72, prefill groups of 8 GPUs"
# tokens/s/user in the middle of both published lines.
MIDDLE = {SHORT: 50.0, LONG: 50.0}


@dataclass(frozen=True)
class Point:
    """One way of serving: tokens/s for a user and for a GPU, prefill GPUs counted."""

    machine: str
    shape: str
    batch: int
    per_user: float
    per_gpu: float


@cache
def topology(machine: str) -> sim.Topology:
    name, nodes = TOPOLOGY[machine]
    return sim.load_topology(name, nodes=nodes)


def scenario(
    machine: str, shape: Shape, batch: int, context: int, precision: dict[str, str], steps: int
) -> sim.Scenario:
    """`batch` sequences on each data-parallel rank, all from time zero."""
    changes: dict[str, Any] = {
        **precision,
        "engine.backend": BACKEND,
        "engine.tensor_parallel_size": shape.tensor,
        "engine.data_parallel_size": shape.data,
        "engine.enable_expert_parallel": shape.data > 1 or shape.whole_experts,
        "engine.enable_dbo": shape.overlap,
        "engine.dispatch_dtype": "nvfp4" if precision is FP4 and machine == RACK else "fp8",
        "engine.max_num_seqs": batch,
        "workload.prompt_tokens": context,
        "workload.output_tokens": steps,
        "workload.requests": batch * shape.data,
    }
    base = sim.load_scenario(SCENARIO).model_copy(update={"topology": topology(machine)})
    return sim.with_changes(base, changes)


@cache
def step_s(machine: str, shape: Shape, batch: int, traffic: Traffic) -> float | None:
    """Seconds of a decode step of the full replica; None where it does not fit."""
    context = traffic.context
    fills = -(-batch * context // 8192) + 2
    try:
        result = sim.simulate(
            scenario(machine, shape, batch, context, traffic.precision, fills + STEPS_TIMED)
        )
    except InfeasibleError:
        return None
    steps = result.steps
    full = steps.filter((steps["prefill_tokens"] == 0) & (steps["sequences"] == batch * shape.data))
    return float(full["first_step_s"].to_numpy()[0]) if len(full) else None


@cache
def prefill_tokens_per_gpu_s(machine: str, traffic: Traffic, shape: Shape = Shape(8)) -> float:
    """Prompt tokens/s of one GPU of a prefill replica, its ranks kept busy."""
    prompts = 16
    one = scenario(machine, shape, prompts, traffic.prompt, traffic.precision, 1)
    result = sim.simulate(one)
    return float(shape.data * prompts * traffic.prompt / result.end_s / shape.gpus)


def points(machine: str, traffic: Traffic, quick: bool) -> list[Point]:
    """Every shape at every batch that fits."""
    found = []
    prompts = prefill_tokens_per_gpu_s(machine, traffic)
    for shape in SHAPES[machine]:
        for batch in BATCHES[quick]:
            tokens = batch * shape.data * traffic.context
            if tokens > MAX_TOKENS[quick] or (shape.overlap and batch < 32):
                continue
            seconds = step_s(machine, shape, batch, traffic)
            if seconds is None:
                break
            decode = batch * shape.data / seconds / shape.gpus
            per_gpu = 1.0 / (1.0 / decode + traffic.prompt / traffic.output / prompts)
            found.append(Point(machine, str(shape), batch, 1.0 / seconds, per_gpu))
    return found


@dataclass(frozen=True)
class Run:
    """A public run: its decode replica, and what came out; tokens/s of a prefill GPU, and how many requests
    were with each prefill replica."""

    shape: Shape
    point: Point
    prefill_per_gpu: float
    in_prefill: float


def published(machine: str, traffic: Traffic) -> list[Run]:
    """The public runs of a machine under this traffic, all GPUs of both pools counted."""
    found = []
    with POINTS.open() as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            kind = (row["system"], row["precision"], int(row["isl"]), int(row["osl"]))
            bits = "fp4" if traffic.precision is FP4 else "fp8"
            if kind != (SYSTEM[machine], bits, traffic.prompt, traffic.output):
                continue
            tpot_s, ttft_s = float(row["tpot_ms"]) / 1e3, float(row["ttft_ms"]) / 1e3
            decoding_s = tpot_s * MEAN * traffic.output
            rate = float(row["concurrency"]) / (ttft_s + decoding_s)  # Little's law
            data, tensor = int(row["decode_attention_dp_size"]), int(row["decode_tp_size"])
            shape = Shape(data, tensor, whole_experts=data == 1 and int(row["decode_moe_ep_size"]) > 1)
            # Of the requests in the system, those that are not in prefill.
            batch = max(1, round(int(row["decode_batch_size"]) * decoding_s / (ttft_s + decoding_s)))
            gpus = int(row["total_gpus"])
            per_gpu = rate * MEAN * traffic.output / gpus
            prefill_gpus = gpus - int(row["decode_num_workers"]) * shape.gpus
            found.append(
                Run(
                    shape,
                    Point(machine, str(shape), batch, 1.0 / tpot_s, per_gpu),
                    rate * MEAN * traffic.prompt / max(prefill_gpus, 1),
                    rate * ttft_s / int(row["prefill_num_workers"]),
                )
            )
    return found


def envelope(found: list[Point]) -> list[Point]:
    """The points that no other beats in both (the Pareto front), from slow to fast answers."""
    best: list[Point] = []
    for point in sorted(found, key=lambda one: (-one.per_user, -one.per_gpu)):
        if not best or point.per_gpu > best[-1].per_gpu:
            best.append(point)
    return best[::-1]


def at_speed(line: list[Point], per_user: float) -> float | None:
    """tokens/s/GPU of an envelope at a speed, straight in logarithms between points; None where it is too
    fast."""
    for slow, fast in pairwise(line):
        if slow.per_user <= per_user <= fast.per_user:
            share = (per_user - slow.per_user) / (fast.per_user - slow.per_user)
            return exp((1 - share) * log(slow.per_gpu) + share * log(fast.per_gpu))
    return line[0].per_gpu if line and per_user < line[0].per_user else None


def same_replicas(traffic: Traffic, quick: bool) -> list[Row]:
    """Speed of the replicas of the public runs, at their batch."""
    rows = []
    for machine in MACHINES[traffic]:
        seen = set()
        for run in sorted(published(machine, traffic), key=lambda one: (one.shape.gpus, one.point.batch)):
            shape, batch = run.shape, run.point.batch
            is_small = batch * shape.data <= (512 if quick else 8192)
            if (shape, batch) in seen or shape.gpus not in (8, 16, 32) or not is_small:
                continue
            seen.add((shape, batch))
            seconds = step_s(machine, shape, batch, traffic)
            if seconds is None:
                continue
            rows.append(
                Row(
                    f"{machine}, {traffic.name}", f"decode replica {shape}, {batch} sequences a rank",
                    "tokens/s/user", run.point.per_user, 1.0 / seconds, source=SOURCE,
                )
            )  # fmt: skip
    return rows


Lines = dict[str, list[Point]]


def ratios(traffic: Traffic, simulated: Lines, public: Lines) -> list[Row]:
    """The rack over the islands, each at its best tokens/s/GPU: for slow, middling and fast answers."""
    case = OVER.format(traffic.name)
    rows = []

    def highest(lines: Lines) -> float:
        return max(one.per_gpu for one in lines[RACK]) / max(one.per_gpu for one in lines[ISLANDS])

    def middle(lines: Lines) -> float | None:
        rack, islands = (at_speed(lines[machine], MIDDLE[traffic]) for machine in (RACK, ISLANDS))
        return None if rack is None or islands is None else rack / islands

    rows.append(Row(case, "most tokens/s/GPU", "ratio", highest(public), highest(simulated), source=SOURCE))
    ours = middle(simulated)
    if ours is not None:
        what = f"tokens/s/GPU at {MIDDLE[traffic]:.0f} tokens/s/user"
        rows.append(Row(case, what, "ratio", middle(public), ours, source=SOURCE))
    peak, at = largest_ratio(public[RACK], public[ISLANDS])
    our_peak, our_at = largest_ratio(simulated[RACK], simulated[ISLANDS])
    what = "tokens/s/GPU, largest anywhere"
    rows.append(Row(case, what, "ratio", peak, our_peak, source=SOURCE))
    rows.append(Row(case, "where it is largest", "tokens/s/user", at, our_at, source=SOURCE))
    what = f"tokens/s/user of eight GPUs in tensor parallel with {FEW} sequences"
    measured = [few_sequences_per_user(machine, traffic) for machine in (RACK, ISLANDS)]
    alone = [step_s(machine, Shape(1, 8, whole_experts=True), FEW, traffic) for machine in (RACK, ISLANDS)]
    if all(alone):
        rack_s, islands_s = alone
        rows.append(Row(case, what, "ratio", measured[0] / measured[1], islands_s / rack_s, source=SOURCE))
    return rows


def largest_ratio(one: list[Point], other: list[Point]) -> tuple[float, float]:
    """The largest ratio of two lines at equal speed, over the speeds that both have, and that speed."""
    low = max(line[0].per_user for line in (one, other))
    high = min(line[-1].per_user for line in (one, other))
    found = []
    for i in range(101):
        speed = low + (high - low) * i / 100
        upper, lower = at_speed(one, speed), at_speed(other, speed)
        if upper and lower:
            found.append((upper / lower, speed))
    return max(found)


def few_sequences_per_user(machine: str, traffic: Traffic) -> float:
    """tokens/s/user of the public replicas of eight GPUs in tensor parallel at `FEW` sequences, between the
    runs next to it straight in logarithms."""
    of_batch: dict[int, list[float]] = {}
    for run in published(machine, traffic):
        if run.shape.data == 1 and run.shape.tensor == 8:
            of_batch.setdefault(run.point.batch, []).append(run.point.per_user)
    line = sorted((batch, fmean(speeds)) for batch, speeds in of_batch.items())
    for (fewer, fast), (more, slow) in pairwise(line):
        if fewer <= FEW <= more:
            share = log(FEW / fewer) / log(more / fewer)
            return exp((1 - share) * log(fast) + share * log(slow))
    raise ValueError(f"no public runs of {machine} with about {FEW} sequences")


def prefill(traffic: Traffic, machines: tuple[str, ...]) -> list[Row]:
    """Prompt tokens/s of a prefill GPU that always had prompts waiting."""
    rows = []
    for machine in machines:
        waited = [run.prefill_per_gpu for run in published(machine, traffic) if run.in_prefill > ALWAYS_BUSY]
        ours = prefill_tokens_per_gpu_s(machine, traffic)
        what = "prompt tokens/s of a prefill GPU, prompts waiting"
        rows.append(Row(f"{machine}, {traffic.name}", what, "tokens/s", max(waited), ours, source=SOURCE))
    return rows


def sglang() -> list[Row]:
    """The wide deployments of SGLang's team, prompts of 2,000 tokens."""
    rows = []
    two = {FP4_LABEL: Traffic("2k in, FP4", FP4, 2000, 100), FP8_LABEL: Traffic("2k in, FP8", FP8, 2000, 100)}
    for machine, label, shape, published, source in (
        (H100, FP8_LABEL, Shape(32, overlap=True), 52_300 / 8, SGLANG_H100),
        (RACK, FP8_LABEL, Shape(8), 18_471, SGLANG_GB200),
        (RACK, FP4_LABEL, Shape(8), 26_156, SGLANG_GB200),
    ):
        ours = prefill_tokens_per_gpu_s(machine, two[label], shape)
        what = f"prompt tokens/s of a GPU, prefill {shape}"
        rows.append(Row(f"{machine}, 2k in, {label}", what, "tokens/s", published, ours, source=source))
    wide, batch = Shape(72, overlap=True), 256
    seconds = step_s(H100, wide, batch, two[FP8_LABEL])
    assert seconds is not None
    what = f"tokens/s of a GPU, decode {wide}, {batch} sequences a rank"
    rows.append(
        Row(f"{H100}, 2k in, {FP8_LABEL}", what, "tokens/s", 22_300 / 8, batch / seconds, source=SGLANG_H100)
    )
    return rows


def answer(quick: bool) -> Answer:
    """Is expert parallelism on NVLink worth a rack? DeepSeek-V3 on islands of eight and in a rack of 72."""
    rows: list[Row] = []
    drawn: list[dict[str, Any]] = []
    for traffic, machines in MACHINES.items():
        shown = machines[:2] if quick else machines
        simulated: Lines = {machine: envelope(points(machine, traffic, quick)) for machine in shown}
        public: Lines = {
            machine: envelope([run.point for run in published(machine, traffic)]) for machine in shown
        }
        rows += ratios(traffic, simulated, public)
        for machine in shown:
            best = max(simulated[machine], key=lambda one: one.per_gpu)
            public_best = max(public[machine], key=lambda one: one.per_gpu)
            where = f"{machine}, {traffic.name}"
            what = "most tokens/s/GPU"
            rows.append(Row(where, what, "tokens/s", public_best.per_gpu, best.per_gpu, source=SOURCE))
            at_its_speed = at_speed(simulated[machine], public_best.per_user)
            what = "tokens/s/GPU at the speed of the run with most"
            if at_its_speed is not None:
                rows.append(Row(where, what, "tokens/s", public_best.per_gpu, at_its_speed, source=SOURCE))
        rows += prefill(traffic, shown)
        if traffic is SHORT or not quick:
            rows += same_replicas(traffic, quick)
        for kind, lines in (("simulated", simulated), ("public runs", public)):
            drawn += [
                {"traffic": traffic.name, "machine": machine, "kind": kind, "shape": one.shape,
                 "per_user": one.per_user, "per_gpu": one.per_gpu}
                for machine, line in lines.items() for one in line
            ]  # fmt: skip
    if not quick:
        rows += sglang()
    found = {(row.case, row.quantity): row.simulated for row in rows}
    case = OVER.format(SHORT.name)
    few = f"tokens/s/user of eight GPUs in tensor parallel with {FEW} sequences"
    highest = found[case, "most tokens/s/GPU"]
    largest, speed = (found[case, what] for what in ("tokens/s/GPU, largest anywhere", "where it is largest"))
    takeaway = (
        f"Where users wait, hardly: with the largest batches a GPU in the rack makes {highest:.1f} times as "
        f"many tokens as on an island. In between, yes: up to {largest:.1f} times as many, at {speed:.0f} "
        "tokens/s/user, because 32 GPUs hold the experts between them and NICs would be the wait. For the "
        "fastest answers both fall back to eight GPUs in tensor parallel, and the rack is worth nothing: "
        f"with {FEW} sequences it is {found[case, few]:.2f} times as fast."
    )
    return Answer(QUESTION, tuple(rows), takeaway, notes(rows), lambda folder: [_picture(drawn, folder)])


def notes(rows: list[Row]) -> tuple[str, ...]:
    """What the rows of this run show beside the takeaway; parts that it did not simulate are left out."""
    few = f"tokens/s/user of eight GPUs in tensor parallel with {FEW} sequences"
    found = {(row.case, row.quantity): (row.published, row.simulated) for row in rows}
    few_public, few_ours = found[OVER.format(SHORT.name), few]
    at_public, at_ours = found[OVER.format(SHORT.name), "where it is largest"]
    fastest = {
        machine: max(published(machine, SHORT), key=lambda run: run.point.per_user)
        for machine in (RACK, ISLANDS)
    }
    sequences = {machine: run.point.batch * run.shape.data for machine, run in fastest.items()}
    alike = [
        spread(f"in {label}", errors(rows, "decode replica TP8 EP,", traffic.name))
        for label, traffic in ((FP4_LABEL, SHORT), (FP8_LABEL, LONG))
    ]
    by_rows = errors(rows, "decode replica TP8,", LONG.name)
    ranks = errors(rows, "decode replica EP", "")
    waiting = [
        spread(f"in {label}", errors(rows, "prompt tokens/s of a prefill GPU", traffic.name))
        for label, traffic in ((FP4_LABEL, SHORT), (FP8_LABEL, LONG))
    ]
    wide = [spread(f"in {label}", errors(rows, "prompt tokens/s of a GPU", label)) for label in LABELS]
    same_speed = errors(rows, "tokens/s/GPU at the speed", LONG.name)
    narrow = (
        f" With experts by rows {spread('in FP8', by_rows)}: kernels of experts so narrow are slow in the "
        "public tables that the model was fitted to; that the runs had others is a guess."
    )
    deployments = f" SGLang's own deployments, simulated over published: {', '.join(filter(None, wide))}."
    long_prompts = (
        f" Tokens/s/GPU with long prompts at the speed of the public run with most, "
        f"{spread('simulated over published', same_speed)}; prompts are part of that."
    )
    return (
        (
            "Public runs do not say whether multi-token prediction was on; simulated lines are without it. "
            "Replicas of eight GPUs in tensor parallel with whole experts, tokens/s of a user, simulated "
            "over public: "
            f"{', '.join(filter(None, alike))}." + narrow * bool(by_rows)
        ),
        (
            f"Where answers are fastest, with {FEW} sequences, GB200 is {few_public:.2f} times as fast as "
            f"B200 in public and {few_ours:.2f} times in simulation. The fastest public B200 run had "
            f"{sequences[ISLANDS]} sequences in a replica, the fastest GB200 run {sequences[RACK]}."
        ),
        (
            f"Replicas with data-parallel attention: {spread('tokens/s of a user', ranks)}. "
            "What keeps the ranks of an engine together between steps costs nothing here, and experts are "
            f"equally popular. The rack's largest advantage comes at {at_ours:.0f} tokens/s/user in "
            f"simulation, at {at_public:.0f} in public."
        ),
        (
            "Prompts, where they wait for prefill GPUs all the time, tokens/s of a GPU: "
            f"{', '.join(filter(None, waiting))}." + deployments * any(wide) + long_prompts * bool(same_speed)
        ),
        (
            "Public runs keep a number of requests in the system, not in the decode replicas: the sequences "
            "of a rank are that number times the share of its life that a request decodes (Little's law)."
        ),
    )


def errors(rows: list[Row], quantity: str, case: str) -> list[float]:
    """Errors of the rows whose quantity starts with `quantity` and whose case ends with `case`."""
    return [
        row.error
        for row in rows
        if row.quantity.startswith(quantity) and row.case.endswith(case) and row.error is not None
    ]


def spread(what: str, found: list[float]) -> str:
    """The smallest and the largest of some errors in words; empty without errors.

    >>> spread("in FP4", [-0.24, -0.08]), spread("in FP8", [0.016])
    ('in FP4 -24 to -8 %', 'in FP8 +2 %')
    """
    ends = list(dict.fromkeys(f"{100 * end:+.0f}" for end in (min(found), max(found)))) if found else []
    return f"{what} {' to '.join(ends)} %" if ends else ""


def _picture(drawn: list[dict[str, Any]], folder: Path) -> Path:
    import altair as alt

    from sim.views.files import rows as values

    colours = {RACK: "#2f7d32", ISLANDS: "#1f5fa8", HOPPER: "#c46a1b"}
    shown = [machine for machine in colours if any(one["machine"] == machine for one in drawn)]
    colour = alt.Color(
        "machine:N",
        title=None,
        scale=alt.Scale(domain=shown, range=[colours[machine] for machine in shown]),
        legend=alt.Legend(orient="top", symbolOpacity=1),
    )
    panels = []
    for traffic in MACHINES:
        mine = alt.Chart(values([one for one in drawn if one["traffic"] == traffic.name]))
        x = alt.X("per_user:Q", title="tokens/s of one user", scale=alt.Scale(domain=[0, 170]))
        y = alt.Y(
            "per_gpu:Q",
            title="tokens/s of one GPU, all paid for (log)",
            scale=alt.Scale(type="log", domain=[7, 12_000], nice=False),
        )
        lines = (
            mine.transform_filter("datum.kind == 'simulated'")
            .mark_line(point=alt.OverlayMarkDef(size=26))
            .encode(x=x, y=y, color=colour)
        )
        runs = (
            mine.transform_filter("datum.kind == 'public runs'")
            .mark_point(shape="diamond", size=90, strokeWidth=2)
            .encode(x=x, y=y, color=colour)
        )
        panels.append(alt.layer(lines, runs).properties(width=430, height=340, title=traffic.name))
    title = alt.Title(
        "A rack of NVLink pays in the middle: neither for the slowest answers nor for the fastest",
        subtitle=[
            "DeepSeek-V3, the best replicas at each speed. Lines: simulated; diamonds: the best public runs",
        ],
        anchor="start",
    )
    chart = (
        alt.hconcat(*panels, title=title, background="white", padding=14)
        .configure_axis(labelFontSize=12, titleFontSize=13, gridColor="#e8e8e8")
        .configure_legend(labelFontSize=13)
        .configure_title(fontSize=16, subtitleFontSize=13)
        .configure_view(stroke=None)
    )
    return save_chart(chart, folder / "is_ep_on_nvlink_worth_a_rack.png")


if __name__ == "__main__":
    tell(answer)
