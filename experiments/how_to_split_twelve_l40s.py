"""How should twelve L40S without NVLink be split: singles, pairs, fours, or pipelines?

A public guide ("Multi-GPU Strategy for L40S x12") proposes four patterns: A, 12 single GPUs; B, 6 x TP2; C,
3 x TP4; D, pipelines of 4. Here its numbers stand beside simulated ones: what each pattern yields with one
and the same model, what an all-reduce takes by placement, what fits, how much of a pipeline idles, and what
two servers do over HDR.

Hand estimates (column "by hand") and how near the simulation should come: replicas that share no link scale
linearly (2 %); p equal stages and m micro-batches idle (p - 1)/(m + p - 1) of the time (2 %); a stage send
takes bytes / rate (exact); a large all-reduce takes 2 (n - 1)/n bytes / link rate (1 to 1.5 times that); a
prefill takes flops / peak (1 to 2 times that); a decode step of one user reads the weights once (1 to 2.5
times that, for kernels and all-reduces have latencies).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import simpy

import sim
from sim.cost.collectives.choice import collective
from sim.cost.network import Network
from sim.deployment import memory_of, shards_of
from sim.inputs.errors import InfeasibleError
from sim.inputs.model import Model
from sim.runtime.fabric import Fabric
from sim.scenario.scenario import Scenario
from sim.theory import pipeline
from sim.views.answer import Answer, Row, tell

QUESTION = "How should twelve L40S without NVLink be split?"
GUIDE = "guide: Multi-GPU Strategy for L40S x12"
MEASURED = "NCCL timings of L40S in NVIDIA aiconfigurator (Apache-2.0)"
BASE = Path(__file__).with_name("twelve_l40s.yaml")

MODEL, PROMPT, OUTPUT = "llama-3-70b", 512, 128
BATCH, SEQUENCE, STAGES, MICRO_BATCHES = 32, 512, 4, 4  # the guide's pipeline
DECODE_BYTES, PREFILL_BYTES = 8192 * 2, 4096 * 8192 * 2  # activations of 1 and of 4096 tokens of Llama-3-70B
GIGABYTE = 10**9  # the guide's all-reduce
PCIE, UPI, HDR = 26.1e9, 22e9, 24.5e9  # payload bytes/s per direction, for the estimates by hand
NEIGHBOUR_SWITCHES = ((0, 2), (1, 4), (3, 5), (6, 8), (7, 10), (9, 11))
OTHER_SOCKETS = tuple((gpu, gpu + 6) for gpu in range(6))


@dataclass(frozen=True)
class Pattern:
    """One way to split the box."""

    name: str
    replicas: int
    tensor_parallel_size: int
    pipeline_parallel_size: int = 1

    @property
    def changes(self) -> dict[str, Any]:
        return {
            "replicas": self.replicas,
            "engine.tensor_parallel_size": self.tensor_parallel_size,
            "engine.pipeline_parallel_size": self.pipeline_parallel_size,
        }


PATTERNS = (
    Pattern("A: 12 x 1 GPU", 12, 1),
    Pattern("B: 6 x TP2", 6, 2),
    Pattern("C: 3 x TP4", 3, 4),
    Pattern("D: 3 x PP4", 3, 1, 4),
)

# (case, GPUs, servers, rate of the slowest link): ranks of one all-reduce
PLACEMENTS = (
    ("2 GPUs, one switch", (0, 1), 1, PCIE),
    ("2 GPUs, two switches", (0, 2), 1, PCIE),
    ("2 GPUs, two sockets", (0, 6), 1, UPI),
    ("4 GPUs, one socket", (0, 1, 2, 3), 1, PCIE),
    ("4 GPUs, two sockets", (4, 5, 6, 7), 1, UPI),
    ("8 GPUs, two sockets", (2, 3, 4, 5, 6, 7, 8, 9), 1, UPI),
    ("2 GPUs, two servers (HDR)", (0, 12), 2, HDR),
    ("4 GPUs, two servers (HDR)", (0, 1, 12, 13), 2, HDR),
)

# Falcon-180B's depth, width and heads, its MLP written as a gated one of the same size; Llama-2-13B.
DENSE_180B = Model(
    name="dense-180b", architecture="LlamaForCausalLM", layers=80, hidden=14848, intermediate=39600,
    heads=232, kv_heads=8, head_dim=64, vocab=65024,
)  # fmt: skip
LLAMA_13B = Model(
    name="llama-2-13b", architecture="LlamaForCausalLM", layers=40, hidden=5120, intermediate=13824,
    heads=40, kv_heads=40, head_dim=128, vocab=32000,
)  # fmt: skip

# Where a step's time goes (columns of `Result.blame`), and what of it is all-reduces where no pipeline is.
# What prompts of others add to a step is `interference`, whatever it is spent on: the share is of the rest.
ALL_REDUCE = ("collective_latency", "collective_bytes", "sharing")
STEP_TIME = ("prefill_compute", "decode_compute", "memory", "kernel_latency", *ALL_REDUCE, "host")

# (model, weights, TP, PP, whether it fits, source: the guide, or arithmetic where the guide has none)
FITS = (
    ("llama-3-8b", "bf16", 1, 1, True, GUIDE),
    (LLAMA_13B, "bf16", 1, 1, True, GUIDE),
    ("llama-3-70b", "int4", 1, 1, True, GUIDE),
    ("llama-3-70b", "int8", 1, 1, False, "70.6 GB > 48 GB"),
    ("llama-3-70b", "int8", 2, 1, True, GUIDE),
    ("llama-3-70b", "bf16", 2, 1, False, GUIDE),
    ("llama-3-70b", "bf16", 4, 1, True, "141 GB of 192 GB"),
    (DENSE_180B, "int4", 1, 1, False, "90 GB > 48 GB"),
    (DENSE_180B, "int4", 4, 1, True, GUIDE),
    ("llama-3.1-405b", "int4", 4, 1, True, GUIDE),
    ("llama-3.1-405b", "int4", 4, 2, True, "203 GB of 384 GB"),
)

NOTES = (
    (
        "The guide has all-reduces 'after QKV projection and output projection'; tensor parallelism has "
        "them after the attention output and the MLP's down projection. Their number, two a layer, is right."
    ),
    (
        "'TP2: 30-50 ms per all-reduce' is the time for 1 GB. A decode step of Llama-3-70B reduces 16 KiB, "
        "a prefill of 4096 tokens 64 MiB: microseconds and milliseconds."
    ),
    "'NVLink 4, 1 GB over 8 GPUs: 2 ms' divides by 900 GB/s, which counts both directions; one has 450.",
    (
        "'60-100 ms across NUMA' needs 17.5 to 29 GB/s of bus bandwidth, as a good peer-to-peer box gives. A "
        "measured box of 4 L40S gave 5 GB/s (19.7 ms for 64 MiB), one of 8 gave 1.45: measure yours."
    ),
    "'180B: 90 GB per shard in INT4' is the whole model, 22.5 GB a shard on TP4; its example loads a 70B.",
    "The routing table puts llama-3-405b on 4 GPUs: 203 GB in INT4, and they have 192.",
    "Pattern B says INT8 and its command says AWQ, which is INT4.",
    (
        "'Compute per stage ~50 ms' is one sequence of 512 tokens; the 268 MB beside it belong to 32 of "
        "them, which compute for seconds. Handing over costs half a percent of that, not a sixth."
    ),
    (
        "Beside 70B INT8 two GPUs have 15.8 GB for KV by arithmetic; embedding and head in 16 bits, "
        "activations and buffers take half of it."
    ),
    "'1F1B' is a schedule for training; filling and draining a pipeline costs inference the same 3/7.",
    "'HDR ~20 GB/s (bidirectional)' is what one direction carries.",
    "vLLM hands over the residual beside the hidden state: twice the guide's 268 MB.",
    "Three fours on two sockets of six leave one that straddles them, so 3 x TP4 is not quite 3 times one.",
)


def answer(quick: bool) -> Answer:
    """How should twelve L40S without NVLink be split?"""
    base = sim.load_scenario(BASE)
    users = (3, 48, 384) if quick else (3, 6, 12, 24, 48, 96, 192, 384, 768)
    curves = [throughput(base, pattern, count, "int4") for pattern in PATTERNS for count in users]
    spans = pipelined(base)
    rows = [
        *stage_send_rows(base),
        *all_reduce_rows(),
        *fit_rows(base),
        *bubble_rows(base, spans),
        *scaling_rows(base, quick),
        *pattern_rows(curves, users),
        *two_server_rows(base),
    ]
    return Answer(
        QUESTION,
        tuple(rows),
        _takeaway(curves, users),
        NOTES,
        partial(charts, curves, spans),
    )


# ---- traffic: stage sends and all-reduces


def stage_send_rows(base: Scenario) -> list[Row]:
    """The activations of the guide's batch from one stage to the next."""
    n_bytes = BATCH * SEQUENCE * base.model.hidden * 2
    line_rate = sim.with_changes(
        base, {"topology.links.pcie4-x16.bytes_per_s": "32 GB/s", "topology.links.pcie4-x16.efficiency": 1.0}
    )
    case = "hand-over of 32 x 512 tokens"
    bare = sim.collective(base.topology, "send_recv", n_bytes, (0, 1), library="none")
    nccl = sim.collective(base.topology, "send_recv", n_bytes, (0, 1), library="nccl")
    spec = sim.collective(line_rate.topology, "send_recv", n_bytes, (0, 1), library="none")
    hdr = sim.collective(base.topology, "send_recv", n_bytes, (0, 12), nodes=2, library="nccl")
    return [
        Row(case, "activations", "MB", 268.0, n_bytes / 1e6, source=GUIDE, estimate=16384 * 16384 / 1e6),
        Row(case, "at 32 GB/s", "ms", 8.0, spec.total_s * 1e3, source=GUIDE, estimate=n_bytes / 32e9 * 1e3),
        Row(case, "at what copies reach", "ms", None, bare.total_s * 1e3, source="0.83 of PCIe 4",
            estimate=n_bytes / PCIE * 1e3),
        Row(case, "by NCCL send and receive", "ms", None, nccl.total_s * 1e3),
        Row("GPU to GPU, one switch", "rate", "GB/s", 30.0, nccl.busbw_bytes_per_s / 1e9, source=GUIDE),
        Row("GPU to GPU, two servers (HDR)", "rate", "GB/s", 20.0, hdr.busbw_bytes_per_s / 1e9, source=GUIDE),
    ]  # fmt: skip


def all_reduce_rows() -> list[Row]:
    """One all-reduce alone, by size and placement; then six at once, which share uplinks or UPI."""

    def ms(n_bytes: int, ranks: tuple[int, ...], nodes: int = 1) -> float:
        return 1e3 * sim.collective("l40s-12", "all_reduce", n_bytes, ranks, nodes=nodes).total_s

    def by_hand(n_bytes: int, n: int, rate: float, at_once: int = 1) -> float:
        return 1e3 * at_once * 2 * (n - 1) / n * n_bytes / rate

    nvlink = sim.collective("nd-h100-v5", "all_reduce", GIGABYTE, 8)
    pair, four, eight = PLACEMENTS[0][1], PLACEMENTS[3][1], PLACEMENTS[5][1]
    rows = [
        Row("all-reduce of 1 GB", "8 GPUs on NVLink 4", "ms", 2.0, nvlink.total_s * 1e3, source=GUIDE,
            estimate=by_hand(GIGABYTE, 8, 450e9)),
        Row("all-reduce of 1 GB", "2 GPUs, one switch", "ms", 30.0, ms(GIGABYTE, pair), source=GUIDE,
            estimate=by_hand(GIGABYTE, 2, PCIE)),
        Row("all-reduce of 1 GB", "8 GPUs, two sockets", "ms", 80.0, ms(GIGABYTE, eight),
            source=GUIDE + ", 60-100", estimate=by_hand(GIGABYTE, 8, UPI)),
        Row("all-reduce in use", "a TP2 decode step, one switch", "ms", 40.0, ms(DECODE_BYTES, pair),
            source=GUIDE + ", 30-50"),
        Row("all-reduce in use", "a TP2 prefill of 4096, one switch", "ms", 3.359, ms(PREFILL_BYTES, pair),
            "fitted", MEASURED),
        Row("all-reduce in use", "a TP4 prefill of 4096, one socket", "ms", 19.699, ms(PREFILL_BYTES, four),
            source=MEASURED + ", another box"),
        Row("all-reduce in use", "TP4 over the uplinks / TP2 on a switch", "ratio", None,
            ms(PREFILL_BYTES, four) / ms(PREFILL_BYTES, pair), estimate=1.5),
    ]  # fmt: skip
    for case, ranks, nodes, _ in PLACEMENTS:
        small_us = 1e3 * ms(DECODE_BYTES, ranks, nodes)
        rows.append(Row("all-reduce of 16 KiB", case, "us", None, small_us))
    for case, ranks, nodes, rate in PLACEMENTS:
        estimate = by_hand(PREFILL_BYTES, len(ranks), rate)
        large_ms = ms(PREFILL_BYTES, ranks, nodes)
        rows.append(Row("all-reduce of 64 MiB", case, "ms", None, large_ms, estimate=estimate))
    for case, pairs, rate, sharing in (
        ("one switch each", tuple((gpu, gpu + 1) for gpu in range(0, 12, 2)), PCIE, 1),
        ("two switches each", NEIGHBOUR_SWITCHES, PCIE, 2),
        ("two sockets each", OTHER_SOCKETS, UPI, 6),
    ):
        took_ms = 1e3 * at_once_s(pairs, PREFILL_BYTES)
        estimate = by_hand(PREFILL_BYTES, 2, rate, sharing)
        rows.append(Row("six all-reduces of 64 MiB at once", case, "ms", None, took_ms, estimate=estimate))
    return rows


def at_once_s(pairs: tuple[tuple[int, int], ...], n_bytes: float) -> float:
    """Seconds until the last of several all-reduces ends, one per pair, all started at the same instant."""
    network = Network(sim.load_topology("l40s-12").graph)
    env = simpy.Environment()
    fabric = Fabric(env, network)
    for pair in pairs:
        ranks = [network.gpus[gpu] for gpu in pair]
        fabric.start(collective(network, "all_reduce", n_bytes, ranks).demand)
    env.run()
    return float(env.now)


# ---- what fits


def fit_rows(base: Scenario) -> list[Row]:
    """Whether an engine starts; and the tokens of KV cache that INT8 weights leave on two GPUs."""
    rows = []
    for model, weights, tp, pp, expected, source in FITS:
        name = model.name if isinstance(model, Model) else model
        gpus = "1 GPU" if tp * pp == 1 else f"TP{tp}" + (f" x PP{pp}" if pp > 1 else "")
        fits = kv_tokens(base, model, weights, tp, pp) is not None
        what = f"{name} {weights} on {gpus}"
        rows.append(Row("what fits", what, "1 = yes", float(expected), float(fits), source=source))
    left = kv_tokens(base, MODEL, "int8", 2, 1)
    by_hand = (2 * 48e9 * 0.9 - 70.6e9) / base.model.kv_bytes_per_token("fp8")
    what = f"fp8 KV beside {MODEL} int8 on TP2"
    rows.append(Row("what fits", what, "tokens", None, float(left or 0), estimate=by_hand))
    return rows


def kv_tokens(base: Scenario, model: Model | str, weights: str, tp: int, pp: int) -> int | None:
    """Tokens of KV cache that one replica holds beside its weights; None where it cannot start."""
    changes = {"model": model, "precision.weights": weights, "engine.max_model_len": None}
    try:
        scenario = sim.with_changes(base, {**changes, **Pattern("", 1, tp, pp).changes})
        pool = scenario.all_pools[""]
        gpus = tuple(scenario.topology.graph.graph["gpus"][: tp * pp])
        memory, _ = memory_of(pool, shards_of(pool, scenario, gpus))
    except InfeasibleError:
        return None
    return memory.blocks * pool.engine.block_size


# ---- pipelines


def pipelined(base: Scenario) -> list[dict[str, Any]]:
    """The guide's 32 sequences of 512 tokens as 4 micro-batches through 4 stages: all steps."""
    scenario = sim.with_changes(
        base,
        {
            "precision.weights": "bf16",
            **Pattern("", 1, 1, STAGES).changes,
            "engine.max_num_batched_tokens": BATCH * SEQUENCE // MICRO_BATCHES,
            "workload.arrivals.users": BATCH,
            "workload.requests": BATCH,
            "workload.output_tokens": 1,
        },
    )
    return sim.simulate(scenario).steps.to_dicts()


def idle_fraction(spans: list[dict[str, Any]]) -> float:
    """The share of the stages' time, until the last one ends, in which they have no step."""
    busy_s = sum(span["end_s"] - span["start_s"] for span in spans)
    return 1.0 - busy_s / (STAGES * max(span["end_s"] for span in spans))


def bubble_rows(base: Scenario, spans: list[dict[str, Any]]) -> list[Row]:
    """How much of four GPUs idles, and how long a stage computes, from the steps that were run."""
    case = "PP4, 4 micro-batches of 8 x 512"
    idle = idle_fraction(spans)
    of_stage_s = sum(span["end_s"] - span["start_s"] for span in spans if span["stage"] == 1)
    one = sim.with_changes(
        base,
        {
            "precision.weights": "bf16",
            **Pattern("", 1, 1, STAGES).changes,
            "workload.arrivals.users": 1,
            "workload.requests": 1,
            "workload.output_tokens": 1,
        },
    )
    alone = [span for span in sim.simulate(one).steps.to_dicts() if span["stage"] == 1]
    one_s = sum(span["end_s"] - span["start_s"] for span in alone)
    formula = pipeline.bubble(STAGES, MICRO_BATCHES)
    model, l40s = base.model, base.topology.gpus["l40s"]
    per_token = (
        2 * model.layers // STAGES * (model.attention_parameters_per_layer + model.dense_mlp_parameters)
    )
    ideal_ms = [1e3 * per_token * SEQUENCE * sequences / l40s.flops["bf16"] for sequences in (BATCH, 1)]
    return [
        Row(case, "idle", "fraction", 0.43, idle, source=GUIDE, estimate=formula),
        Row(case, "utilisation", "fraction", 0.57, 1.0 - idle, source=GUIDE, estimate=1.0 - formula),
        Row("a stage of 20 layers", "computes 32 x 512 tokens in", "ms", 50.0, of_stage_s * 1e3, source=GUIDE,
            estimate=ideal_ms[0]),
        Row("a stage of 20 layers", "computes 1 x 512 tokens in", "ms", None, one_s * 1e3,
            estimate=ideal_ms[1]),
    ]  # fmt: skip


# ---- throughput of the patterns


def throughput(
    base: Scenario, pattern: Pattern, users: int, weights: str, *, rounds: int = 1, **changes: Any
) -> dict[str, Any]:
    """Output tokens per second, `users` users each sending `rounds` requests in a closed loop."""
    scenario = sim.with_changes(
        base,
        {
            "precision.weights": weights,
            **pattern.changes,
            "workload.arrivals.users": users,
            "workload.requests": users * rounds,
            "workload.prompt_tokens": PROMPT,
            "workload.output_tokens": OUTPUT,
            **changes,
        },
    )
    result = sim.simulate(scenario)
    summary = result.summary()
    blame = {cause: result.blame[cause].sum() for cause in STEP_TIME}
    return {
        "pattern": pattern.name,
        "users": users,
        "tokens_per_s": summary["output_throughput"],
        "tpot_ms": summary["mean_tpot_ms"],
        "ttft_ms": summary["mean_ttft_ms"],
        "all_reduce_share": sum(blame[cause] for cause in ALL_REDUCE) / sum(blame.values()),
    }


def scaling_rows(base: Scenario, quick: bool) -> list[Row]:
    """All replicas of a pattern against one alone, at the same users per replica."""
    users = 8
    a, b, c, d = PATTERNS
    rows = []
    for pattern, model, weights in (
        (a, "llama-3-8b", "bf16"),
        (b, MODEL, "int8"),
        (c, MODEL, "int4"),
        (d, MODEL, "int4"),
    ):
        alone = Pattern("", 1, pattern.tensor_parallel_size, pattern.pipeline_parallel_size)
        one = throughput(base, alone, users, weights, rounds=2, model=model)
        every = throughput(base, pattern, users * pattern.replicas, weights, rounds=2, model=model)
        published = float(pattern.replicas) if pattern in (a, b) else None
        case = f"{pattern.name}, {model} {weights}"
        rows.append(Row(case, "one replica", "tokens/s", None, one["tokens_per_s"]))
        rows.append(
            Row(
                case,
                "all replicas / one",
                "ratio",
                published,
                every["tokens_per_s"] / one["tokens_per_s"],
                source=GUIDE if published else "",
                estimate=float(pattern.replicas),
            )
        )
    for case, pairs in (("over two switches", NEIGHBOUR_SWITCHES), ("over two sockets", OTHER_SOCKETS)):
        output = {"workload.output_tokens": 16} if quick else {}
        lone = throughput(base, Pattern("", 1, 2), users, "int8", **placed(pairs[:1]), **output)
        six = throughput(base, b, users * 6, "int8", **placed(pairs), **output)
        ratio = six["tokens_per_s"] / lone["tokens_per_s"]
        rows.append(Row(f"{b.name}, pairs {case}", "all replicas / one", "ratio", None, ratio))
    return rows  # fmt: skip


def placed(replicas: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """The change that puts each replica on the given GPUs."""
    return {"placement": {"kind": "explicit", "ranks": [list(ranks) for ranks in replicas]}}


def pattern_rows(curves: list[dict[str, Any]], users: tuple[int, ...]) -> list[Row]:
    """The same model on all four patterns, at few, some and many users."""
    rows = []
    for point in curves:
        if point["users"] in (users[0], 48, users[-1]):
            case, load = f"{point['pattern']}, {MODEL} int4", f"{point['users']} users"
            rows.append(Row(case, f"throughput, {load}", "tokens/s", None, point["tokens_per_s"]))
            if "TP" in point["pattern"]:
                rows.append(Row(case, f"in all-reduces, {load}", "fraction", None, point["all_reduce_share"]))
    return rows


def two_server_rows(base: Scenario) -> list[Row]:
    """One user of Llama-3-70B INT4 on four GPUs: in one server, or two and two over HDR."""
    rows = []
    # a decoded token reads 68.4 B parameters of half a byte and the output head in 16 bits
    read_s = (0.5 * 68.4e9 + 2 * 1.05e9) / base.topology.gpus["l40s"].hbm_bytes_per_s
    for case, nodes, tp, pp, ranks in (
        ("TP4 in one server", 1, 4, 1, (0, 1, 2, 3)),
        ("TP4 over two servers", 2, 4, 1, (0, 1, 12, 13)),
        ("TP2 a server, PP2 over two servers", 2, 2, 2, (0, 1, 12, 13)),
    ):
        changes = {**placed([ranks]), "topology.nodes": nodes}
        many = throughput(base, Pattern("", 1, tp, pp), 64, "int4", **changes)
        one = throughput(base, Pattern("", 1, tp, pp), 1, "int4", **changes)
        rows.append(Row(case, "one user, per token", "ms", None, one["tpot_ms"], estimate=1e3 * read_s / tp))
        rows.append(Row(case, "64 users", "tokens/s", None, many["tokens_per_s"]))
    return rows


def _takeaway(curves: list[dict[str, Any]], users: tuple[int, ...]) -> str:
    def best(count: int) -> str:
        point = max((p for p in curves if p["users"] == count), key=lambda p: p["tokens_per_s"])
        return f"{point['pattern'].split(': ')[1]} ({point['tokens_per_s']:.0f} tokens/s) for {count} users"

    return (
        f"With {MODEL} in INT4 it depends on the load: {best(users[0])}, {best(48)}, {best(users[-1])}. "
        "Keep pairs on a switch: replicas then share no link and scale linearly."
    )


# ---- pictures


def charts(curves: list[dict[str, Any]], spans: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Throughput by pattern, all-reduce by placement, and the pipeline's bubble."""
    from sim.views.files import save_chart

    return [
        save_chart(throughput_chart(curves), folder / "how_to_split_twelve_l40s_throughput.png"),
        save_chart(all_reduce_chart(), folder / "how_to_split_twelve_l40s_all_reduce.png"),
        save_chart(bubble_chart(spans), folder / "how_to_split_twelve_l40s_bubble.png"),
    ]


def throughput_chart(curves: list[dict[str, Any]]) -> Any:
    import altair as alt

    from sim.views.files import rows

    users = sorted({point["users"] for point in curves})
    title = alt.Title(
        "Llama-3-70B INT4 on twelve L40S: four ways to split them",
        subtitle=f"closed loop, {PROMPT} prompt and {OUTPUT} output tokens; all twelve GPUs in every case",
        anchor="start",
    )
    return _legible(
        alt.Chart(rows(curves), title=title)
        .mark_line(point=alt.OverlayMarkDef(size=45))
        .encode(
            x=alt.X(
                "users:Q",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(values=users, grid=False, format="d"),
                title="users of the box (log scale)",
            ),
            y=alt.Y("tokens_per_s:Q", title="output tokens/s of the box"),
            color=alt.Color("pattern:N", title="pattern", sort=[p.name for p in PATTERNS]),
        )
        .properties(width=620, height=340)
    )


def all_reduce_chart() -> Any:
    import altair as alt

    from sim.views.files import rows

    drawn = [("2 GPUs, one switch or two", *PLACEMENTS[0][1:]), *PLACEMENTS[2:]]  # alone, the two are equal
    points = [
        {
            "placement": case,
            "gpus": len(ranks),
            "bytes": 2**power,
            "us": 1e6 * sim.collective("l40s-12", "all_reduce", 2**power, ranks, nodes=nodes).total_s,
        }
        for case, ranks, nodes, _ in drawn
        for power in range(12, 31)
    ]
    marks = [
        {"bytes": DECODE_BYTES, "what": "decode, 1 token"},
        {"bytes": PREFILL_BYTES, "what": "prefill, 4096 tokens"},
    ]
    sizes = (
        "datum.value < 1048576 ? datum.value / 1024 + ' KiB'"
        " : datum.value < 1073741824 ? datum.value / 1048576 + ' MiB' : datum.value / 1073741824 + ' GiB'"
    )
    x = alt.X(
        "bytes:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=[4**power for power in range(6, 16)], grid=False, labelExpr=sizes),
        title="size of the message (log scale)",
    )
    y = alt.Y(
        "us:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(
            values=[10, 100, 1000, 10000, 100000],
            labelExpr="datum.value < 1000 ? datum.value + ' us' : datum.value / 1000 + ' ms'",
        ),
        title="one all-reduce (log scale)",
    )
    lines = (
        alt.Chart(rows(points))
        .mark_line()
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "placement:N",
                title="placement",
                sort=[case for case, *_ in drawn],
                legend=alt.Legend(labelLimit=300, symbolStrokeWidth=3),
            ),
            strokeDash=alt.StrokeDash("gpus:N", legend=None),
        )
    )
    rules = alt.Chart(rows(marks)).mark_rule(color="#9e9e9e").encode(x=x)
    labels = (
        alt.Chart(rows(marks))
        .mark_text(align="left", dx=4, baseline="top", color="#616161", fontSize=12)
        .encode(x=x, y=alt.value(2), text="what:N")
    )
    title = alt.Title(
        "All-reduce between L40S, by where the GPUs sit",
        subtitle="pairs in a server: vLLM's kernel up to 8 MiB; else NCCL. Nothing else on the links",
        anchor="start",
    )
    return _legible(alt.layer(lines, rules, labels, title=title).properties(width=620, height=380))


def bubble_chart(spans: list[dict[str, Any]]) -> Any:
    import altair as alt

    from sim.views.files import rows

    drawn = []
    for stage in range(STAGES):
        of_stage = sorted(
            (span for span in spans if span["stage"] == stage), key=lambda span: span["start_s"]
        )
        for number, span in enumerate(of_stage, 1):
            drawn.append(
                {
                    "stage": f"GPU {stage}: layers {20 * stage}-{20 * stage + 19}",
                    "micro-batch": str(number),
                    "start": span["start_s"],
                    "end": span["end_s"],
                    "middle": (span["start_s"] + span["end_s"]) / 2,
                }
            )
    end_s = max(span["end_s"] for span in spans)
    y = alt.Y("stage:N", title=None, axis=alt.Axis(labelLimit=200, ticks=False))
    x = alt.X(
        "start:Q",
        title="seconds since the batch came",
        scale=alt.Scale(domain=[0, end_s], nice=False),
        axis=alt.Axis(grid=False, tickCount=8),
    )
    bars = (
        alt.Chart(rows(drawn))
        .mark_bar(stroke="white")
        .encode(x=x, x2="end:Q", y=y, color=alt.Color("micro-batch:N", legend=None))
    )
    numbers = (
        alt.Chart(rows(drawn))
        .mark_text(color="white", fontSize=13)
        .encode(
            x=alt.X("middle:Q", scale=alt.Scale(domain=[0, end_s], nice=False)), y=y, text="micro-batch:N"
        )
    )
    title = alt.Title(
        f"PP4 with four micro-batches: the GPUs idle {idle_fraction(spans):.0%} of the time",
        subtitle="prefill of 32 x 512 tokens in micro-batches 1 to 4; Llama-3-70B BF16; white is idle",
        anchor="start",
    )
    return _legible(alt.layer(bars, numbers, title=title).properties(width=620, height=200))


def _legible(chart: Any) -> Any:
    return (
        chart.configure_axis(labelFontSize=12, titleFontSize=13)
        .configure_legend(labelFontSize=12, titleFontSize=12)
        .configure_title(fontSize=16, subtitleFontSize=12)
    )


if __name__ == "__main__":
    tell(answer)
