"""Equal GPU counts under a live stream with objectives: islands against one domain, and PP against TP.

72 GPUs serve DeepSeek-V3 as nine replicas in domains of 8, four of 18, two of 36, or one of 72; and the one
of 72 over islands of eight whose NICs carry 50 or 100 GB/s. 144 and 576 GPUs do the same. Requests arrive at
random at a rate a GPU; what counts is the highest rate at which 90 % of them hold their objectives.

By hand: at 3 requests/s a GPU, each of 920 tokens in and 200 out, 8 GPUs have some 24 x 200 x 0.025 = 120
sequences, 15 a GPU, so that an island's step reads nearly all its 32 experts a GPU for few tokens each.
Where it stops: prompts and answers on the same GPUs, no drafts, answers of 200 tokens. Requests arrive for
seconds (`SECONDS`), little longer than an answer takes: a rate that holds may not hold for an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

import sim
from sim.studies.points import Row as Ran
from sim.views.answer import Figure, Row, Section

from . import draw, layouts
from .machines import EVEN, RACK, Machine, changed

TTFT_MS = 2000.0
TPOT_MS = (30.0, 50.0)  # objectives, of 90 % of requests each
PUBLIC_PP = "SGLang PR 32592: Kimi-K3 prefill on 16 GB200"
SECONDS = {True: 2.0, False: 6.0}  # of arrivals
RATES = {True: (1.0, 3.0), False: (1.0, 2.0, 3.0, 4.5, 6.0)}  # requests/s a GPU
SEEDS = {True: 1, False: 1}
NIC_BYTES_PER_S = 50e9

PER: Mapping[str, Callable[[int, int], float]] = {"GPU": lambda gpus, domain: float(gpus)}
"""What a rate is divided by: a function of GPUs and the size of their domains. Watts and dollars of a machine
are further entries.
"""


@dataclass(frozen=True)
class Layout:
    """So many GPUs in domains of a size, with replicas of a width; NICs of so many times 50 GB/s."""

    gpus: int
    domain: int
    width: int
    nics: int = 1

    def __str__(self) -> str:
        replicas = f"{self.gpus // self.width} x EP{self.width}"
        where = f"domains of {self.domain}"
        if self.width > self.domain:
            where += f", NICs of {50 * self.nics} GB/s"
        return f"{replicas}, {where}"

    @property
    def scenario_changes(self) -> dict[str, Any]:
        return {
            "engine.data_parallel_size": self.width,
            "engine.expert_routing.redundant_experts": -256 % self.width,
            "replicas": self.gpus // self.width,
            "topology.nics_per_gpu": self.nics,
        }


SMALL = (Layout(RACK, 8, 8), Layout(RACK, RACK, RACK), Layout(RACK, 8, RACK))
LAYOUTS = (
    Layout(RACK, 8, 8), Layout(RACK, 18, 18), Layout(RACK, 36, 36), Layout(RACK, RACK, RACK),
    Layout(RACK, 8, RACK), Layout(RACK, 8, RACK, nics=2),
    Layout(144, 8, 8), Layout(144, RACK, RACK), Layout(144, 144, 144),
)  # fmt: skip
LARGE = (Layout(576, 8, 8), Layout(576, RACK, RACK), Layout(576, 576, 576))
LARGE_RATES = (1.0, 3.0)
LARGE_SECONDS = 3.0


@cache
def base() -> sim.Scenario:
    return sim.Scenario.model_validate(
        {
            "topology": "gb200-nvl72",
            "model": "deepseek-v3",
            "precision": {"weights": "nvfp4", "qkv_weights": "bf16", "kv_cache": "fp8"},
            "engine": {
                "backend": "trtllm",
                "dispatch_dtype": "nvfp4",
                "enable_expert_parallel": True,
                "expert_routing": EVEN,
                "enable_prefix_caching": False,
                "max_model_len": 2048,
                "max_num_seqs": 512,
            },
            "warmup": 0.25,
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": 100.0},
                "prompt_tokens": {"kind": "uniform", "low": 819, "high": 1024},
                "output_tokens": {"kind": "uniform", "low": 160, "high": 240},
                "requests": 1000,
            },
        }
    )


def served(layout: Layout, per_gpu: float, seconds: float) -> sim.Scenario:
    rate = per_gpu * layout.gpus
    changes = {
        **layout.scenario_changes,
        "workload.arrivals.rate_per_s": rate,
        "workload.requests": max(100, round(rate * seconds)),
    }
    return changed(base(), Machine(layout.gpus, layout.domain), changes)


PREFILLS: dict[str, dict[str, Any]] = {
    "PP16": {"engine.pipeline_parallel_size": 16},
    "PP8 x TP2": {"engine.pipeline_parallel_size": 8, "engine.tensor_parallel_size": 2},
    "TP16": {"engine.tensor_parallel_size": 16},
}
PUBLIC_PREFILLS = {
    "PP16": {4: 1227, 16: 3978, 32: 4550, 64: 4552},
    "PP8 x TP2": {4: 961, 16: 2967, 32: 3596, 64: 3773},
    "TP16": {4: 1947},
}
USERS = {True: (4, 32), False: (4, 16, 32, 64)}
PROMPT = 4096  # assumed: the public runs do not say how long theirs are


def prefill(name: str, users: int) -> sim.Scenario:
    """16 GPUs of a rack that compute prompts of a closed loop and nothing else."""
    return sim.with_changes(
        base(),
        {
            "warmup": None,
            "engine.max_model_len": 8192,
            "engine.max_num_batched_tokens": PROMPT,
            "workload.arrivals": {"kind": "closed_loop", "users": users},
            "workload.prompt_tokens": PROMPT,
            "workload.output_tokens": 1,
            "workload.requests": 6 * users,
            **PREFILLS[name],
        },
    )


@dataclass(frozen=True)
class Live:
    """The rows of all runs by what was run."""

    streams: Mapping[tuple[Layout, float], tuple[Ran, ...]]
    prefills: Mapping[tuple[str, int], Ran]

    def metric(self, layout: Layout, per_gpu: float, name: str) -> float | None:
        """The mean over seeds, of those runs that ended."""
        found = [row.summary.get(name) for row in self.streams[layout, per_gpu] if row.status == "done"]
        known = [float(value) for value in found if value is not None]
        return sum(known) / len(known) if known else None

    def curve(self, layout: Layout) -> list[tuple[float, float]]:
        """Rates with the 90th percentile of the time per token, as long as first tokens are in time."""
        found = []
        for one, per_gpu in self.streams:
            if one == layout:
                tpot, ttft = (self.metric(layout, per_gpu, f"p90_{name}_ms") for name in ("tpot", "ttft"))
                if tpot is not None and ttft is not None and ttft <= TTFT_MS:
                    found.append((per_gpu, tpot))
        return sorted(found)

    def capacity(self, layout: Layout, tpot_ms: float) -> float:
        """The highest rate a GPU at which the objectives hold, straight in logarithms between two rates; 0
        where none holds, the last where all do.
        """
        curve = self.curve(layout)
        if not curve or curve[0][1] > tpot_ms:
            return 0.0
        for (low, below), (high, above) in pairwise(curve):
            if below <= tpot_ms < above:
                share = log(tpot_ms / below) / log(above / below)
                return exp((1.0 - share) * log(low) + share * log(high))
        return curve[-1][0]


def in_words(live: Live, layout: Layout, tpot_ms: float) -> str:
    """A capacity, or which side of the rates that were tried it lies on."""
    rates = [rate for one, rate in live.streams if one == layout]
    found = live.capacity(layout, tpot_ms)
    if found == 0.0:
        return f"below {min(rates):g}"
    return f"{found:g} or more" if found == max(rates) else f"{found:.1f}"


def run(quick: bool, store: Path | None) -> Live:
    """All runs as one sweep, which a store keeps: the same command goes on with what is there."""
    streams = [
        (layout, rate, SECONDS[quick]) for layout in (SMALL if quick else LAYOUTS) for rate in RATES[quick]
    ]
    if not quick:
        streams += [(layout, rate, LARGE_SECONDS) for layout in LARGE for rate in LARGE_RATES]
    scenarios = {f"{layout} at {rate}": served(layout, rate, seconds) for layout, rate, seconds in streams}
    prefills = [(name, users) for name in PREFILLS for users in USERS[quick]]
    scenarios |= {f"{name}, {users} users": prefill(name, users) for name, users in prefills}
    found = sim.sweep(scenarios, seeds=range(SEEDS[quick]), store=store, progress=None)
    by_name: dict[str, list[Ran]] = {}
    for row in found.rows:
        by_name.setdefault(found.names[row.point.scenario], []).append(row)
    if any(row.status == "not run" for row in found.rows):
        raise KeyboardInterrupt
    return Live(
        {(layout, rate): tuple(by_name[f"{layout} at {rate}"]) for layout, rate, _ in streams},
        {(name, users): by_name[f"{name}, {users} users"][0] for name, users in prefills},
    )


def section(quick: bool, store: Path | None) -> Section:
    live = run(quick, store)
    return Section(
        "Equal GPU counts under live traffic",
        (
            ("Steady steps flatter large groups: everything in a group waits for its slowest member, and a "
            "prompt that one GPU computes holds up all the others. So the same stream is served by the same "
            "GPUs in different domains: requests arrive at random, 920 tokens in and 200 out, prompts and "
            f"answers share the GPUs. A rate holds where 90 % of requests have their first token in "
            f"{TTFT_MS / 1e3:.0f} s, and 90 % their tokens within the objective. "
            f"Requests arrive for {SECONDS[quick]:.0f} s, little longer than an answer takes: a rate "
            "that holds here may not hold for an hour."),
            ("A rack can always be run as islands, so an island never serves more than a rack with the same "
            "GPUs; where it serves as much, it wins by its price."),
        ),
        (*rows(live), *prefill_rows(live), *layouts.rows(quick)),
        takeaway(live),
        (
            "kernels measured on GB200 under TensorRT-LLM, expert exchanges and NICs as measured on their "
            "machines; queues simulated, with the seeds of the arrivals alike in all layouts; domains of 144 "
            "and 576 GPUs by the datasheet of links."
        ),
        (
            Figure("live", figure_takeaway(live), lambda: picture(live)),
            Figure("prefill", prefill_takeaway(live), lambda: prefill_picture(live)),
            Figure("switchless", f"{layouts.finding(quick)}.", lambda: layouts.picture(quick)),
        ),
    )  # fmt: skip


def of_layouts(live: Live) -> list[Layout]:
    return list(dict.fromkeys(layout for layout, _ in live.streams))


def rows(live: Live) -> Iterator[Row]:
    for layout, rate in live.streams:
        for name, unit in (("p90_tpot_ms", "ms"), ("p90_ttft_ms", "ms")):
            value = live.metric(layout, rate, name)
            if value is not None:
                yield Row(
                    f"{layout.gpus} GPUs: {layout}", f"{name} at {rate:g} requests/s a GPU", unit, None, value
                )
    for layout in of_layouts(live):
        for tpot_ms in TPOT_MS:
            for unit, per in PER.items():
                rate = live.capacity(layout, tpot_ms) * layout.gpus / per(layout.gpus, layout.domain)
                what = f"highest rate a {unit} that held, {tpot_ms:.0f} ms a token"
                yield Row(f"{layout.gpus} GPUs: {layout}", what, "requests/s", None, rate)


def prefill_rows(live: Live) -> Iterator[Row]:
    for (name, users), row in live.prefills.items():
        if row.status == "done":
            rate = prompt_tokens_per_gpu_s(row)
            public = PUBLIC_PREFILLS[name].get(users)
            what = f"prompt tokens of a GPU, {users} prompts at a time"
            case = f"DeepSeek-V3, prefill on 16 GPUs of a rack, {name} (public: Kimi-K3)"
            yield Row(case, what, "tokens/s", None, rate, source=f"{PUBLIC_PP}: {public}" if public else "")
    for users in dict.fromkeys(number for _, number in live.prefills):
        pipeline, pairs = (live.prefills[name, users] for name in ("PP16", "PP8 x TP2"))
        if pipeline.status == pairs.status == "done":
            public = PUBLIC_PREFILLS["PP16"][users] / PUBLIC_PREFILLS["PP8 x TP2"][users]
            ratio = prompt_tokens_per_gpu_s(pipeline) / prompt_tokens_per_gpu_s(pairs)
            what = f"PP16 over PP8 x TP2, {users} prompts at a time"
            yield Row("prefill on 16 GPUs of a rack", what, "ratio", public, ratio, source=PUBLIC_PP)


def prompt_tokens_per_gpu_s(row: Ran) -> float:
    return float(row.summary["request_throughput"]) * PROMPT / 16


def takeaway(live: Live) -> str:
    tight, loose = TPOT_MS
    mine = [layout for layout in of_layouts(live) if layout.gpus == RACK]
    told = "; ".join(
        f"{layout}: {in_words(live, layout, tight)} and {in_words(live, layout, loose)}" for layout in mine
    )
    return (
        f"72 GPUs serve, in requests/s a GPU with {tight:.0f} and {loose:.0f} ms a token: {told}. With a "
        "tight objective an island reads too many experts for too few tokens; with a loose one it serves as "
        "much as the rack, and wins by its price. Experts spread over islands by NICs lose to islands by "
        "themselves: prompts, not answers, fill the NICs."
    )


def figure_takeaway(live: Live) -> str:
    island, rack = Layout(RACK, 8, 8), Layout(RACK, RACK, RACK)
    told = []
    for rate in (min(at for _, at in live.streams), 3.0):
        few, wide = (live.metric(one, rate, "p90_tpot_ms") for one in (island, rack))
        if few is not None and wide is not None:
            told.append(f"{few:.0f} and {wide:.0f} ms at {rate:g} requests/s a GPU")
    return (
        "a token takes, in islands of eight and in the rack as one replica, " + ", ".join(told) + ". A wide "
        "replica waits for every prompt of its 72 GPUs, an island for those of eight; what the wide one wins "
        "is the reading of experts, which grows with traffic."
    )


def prefill_takeaway(live: Live) -> str:
    users = max(number for _, number in live.prefills)
    rates = {
        name: prompt_tokens_per_gpu_s(live.prefills[name, users])
        for name in PREFILLS
        if live.prefills[name, users].status == "done"
    }
    told = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    return (
        f"inside one domain, with {users} prompts at a time, prompt tokens/s of a GPU: {told}. A pipeline "
        "sends activations once a stage, tensor parallelism adds them up twice a layer; with few prompts the "
        "pipeline stands half empty. The public runs have the same order once loaded."
    )


def picture(live: Live) -> draw.Chart:
    panels = []
    for gpus in dict.fromkeys(layout.gpus for layout in of_layouts(live)):
        data = [
            {"rate": rate, "tpot": tpot, "layout": str(layout)}
            for layout in of_layouts(live)
            if layout.gpus == gpus
            for rate, tpot in live.curve(layout)
        ]
        panels.append(
            draw.lines(
                data,
                draw.axis("rate", "requests/s a GPU"),
                draw.axis("tpot", "ms a token, 90th percentile (log)", log=True),
                colour="layout", points=True, title=f"{gpus} GPUs",
            )
        )  # fmt: skip
    return draw.beside(
        panels,
        "The same GPUs and traffic, in different domains",
        "DeepSeek-V3 FP4; a line ends where first tokens take more than 2 s",
        independent=True,
    )


def prefill_picture(live: Live) -> draw.Chart:
    data = [
        {"users": users, "rate": prompt_tokens_per_gpu_s(row), "layout": name}
        for (name, users), row in live.prefills.items()
        if row.status == "done"
    ]
    public = [
        {"users": users, "rate": rate, "layout": name}
        for name, found in PUBLIC_PREFILLS.items()
        for users, rate in found.items()
    ]
    x = draw.axis("users", "prompts at a time (log)", log=True)
    y = draw.axis("rate", "prompt tokens/s of a GPU", domain=None)
    return draw.beside(
        [
            draw.lines(data, x, y, colour="layout", points=True, title="DeepSeek-V3, simulated"),
            draw.lines(public, x, y, colour="layout", points=True, title="Kimi-K3, public"),
        ],
        "Prefill on 16 GPUs of one domain",
        "a pipeline, a pipeline of pairs, and all 16 on every layer",
    )
