"""Where a domain of 72 GPUs pays against domains of 8: DeepSeek-R1 in FP4, one graph, two edits.

Take a rack of 72 GPUs. Cut its NVLink domain into nine of eight: what went over NVLink at 900 GB/s between
them now takes a NIC of 50. Nothing else changes: same GPUs, memory, kernels, engine. Sweep recipes on both
alike (decode replicas of 4 to 32 GPUs, tensor or expert parallel, batches, drafts, prefill GPUs) and keep
the best tokens/s a GPU at each speed of a user.

Public runs (InferenceX, May 2026) have the same pair as GB200 NVL72 and B200. Counted alike: tokens of
prompts and answers together, over prefill and decode GPUs, and of all users those that decode (`decoding`).
One constant is open: how many of the drafted tokens are accepted. It is the mean over the runs whose recipe
is told and that answer fast; its band is theirs.

By hand: a step with 32 GPUs and 6 sequences on each sends 24 tokens to some 7 GPUs in each of 58 layers. Over
NVLink that is lost in the start of kernels; over a NIC, 24 x 8 x (7,168 x 2 + 4,032) bytes and most of them
to other islands, it is 55 us a layer and 3 ms of a step.
Where it stops: full batches in a steady state, recipes without a queue; drafts cost no time of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import ceil, exp, log
from pathlib import Path
from statistics import fmean

import sim
from sim.cost.batch import Batch, Causes
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.deployment import deployment_of
from sim.views.answer import Figure, Row, Section

from . import draw

SCENARIO = Path(__file__).parents[1] / "deepseek_decode.yaml"
SOURCE = "InferenceX, 22 May 2026: DeepSeek-R1 FP4, 1k in and out, Dynamo TensorRT-LLM with MTP"
RACK, ISLAND = 72, 8
MACHINE = {RACK: "GB200 NVL72", ISLAND: "B200"}
SPEEDS = (25, 60, 75, 90, 100, 125, 150, 175, 200, 225, 250, 275)
PUBLISHED = {
    RACK: (14125, 11017, 9379, 7796, 6781, 4130, 1922, 826, 432, 262, 186, 103),
    ISLAND: (12292, 9185, 6968, 4512, 3047, 941, 583, 429, 332, 241, 193, 126),
}
MEAN = 0.9  # lengths are drawn between 0.8 and 1 times 1024
CONTEXT = round(MEAN * 1.5 * 1024)  # of a sequence in the middle of its answer
PER_OUTPUT = 2.0  # tokens counted for one of an answer, whose prompt is as long
MOST_DRAFTS = 3
DRAFTS = {True: (1, MOST_DRAFTS), False: (1, 2, MOST_DRAFTS)}
BATCHES = {
    True: (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    False: (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768),
}
PREFILL_GPUS = 4  # of one prefill replica, in all public runs whose recipe is told
WORKERS = (1, 2, 4, 5, 8)  # decode replicas that share the prefill GPUs
DOMAINS = (4, ISLAND, 16, 32, RACK)
HUMP = (100, 125, 150)


@dataclass(frozen=True)
class Shape:
    """A decode replica: tensor-parallel attention in one group, or data-parallel with experts over all."""

    data: int
    tensor: int = 1
    whole_experts: bool = True

    @property
    def gpus(self) -> int:
        return self.data * self.tensor

    def __str__(self) -> str:
        if self.data > 1:
            return f"EP{self.data}"
        return f"TP{self.tensor}" + (" EP" if self.whole_experts else "")


# The decode replicas of TensorRT-LLM's own disaggregated performance tests of this model (tests/integration/
# defs/perf/disagg: tep4, tep8, dep4 to dep32), which the public recipes come from, and TP8.
SHAPES = (Shape(1, 4), Shape(1, 8), Shape(1, 8, whole_experts=False), *map(Shape, (4, 8, 16, 32)))
WIDER = Shape(64)  # no public recipe


@dataclass(frozen=True)
class Run:
    """A public run with its recipe: users, decode GPUs by shape, ms per token."""

    domain: int
    users: int
    prefill: int
    decode: int
    shape: Shape
    per_gpu: int
    tpot_ms: float

    @property
    def batch(self) -> int:
        """Sequences on a rank, if every user decodes."""
        return ceil(self.users / self.decode * self.shape.tensor)

    @property
    def decoding(self) -> float:
        """What the run counts, over what it would if every user decoded all the time. The rest of the users
        wait for a first token, or for the run to begin and end: a run has ten requests a user.
        """
        every = PER_OUTPUT * self.users / (self.tpot_ms / 1e3) / (self.prefill + self.decode)
        return self.per_gpu / every

    def __str__(self) -> str:
        return f"{self.prefill}+{self.decode} GPUs, {self.shape}, {self.users} users"


RUNS = (
    Run(RACK, 180, 4, 32, Shape(32), 1149, 6.08),
    Run(ISLAND, 180, 4, 40, Shape(8), 898, 7.91),
    Run(ISLAND, 875, 4, 40, Shape(8), 2833, 9.82),
    Run(RACK, 16130, 12, 20, Shape(4), 14659, 56.1),
    Run(ISLAND, 10860, 12, 20, Shape(4), 12516, 46.9),
)
FAST_MS = 10.0  # runs below draft the most tokens; slower ones may draft fewer


@dataclass(frozen=True)
class Step:
    """A decode step of a full replica."""

    shape: Shape
    drafts: int
    batch: int
    seconds: float
    causes: Causes


@dataclass(frozen=True)
class Point:
    """A recipe: tokens/s of a user, and of a GPU, prompts and prefill GPUs counted."""

    per_user: float
    per_gpu: float
    recipe: str
    step: Step


# ---- one graph, two numbers


@cache
def base(domain: int) -> sim.Scenario:
    """The rack, its NVLink domain cut into domains of so many GPUs."""
    changes = {
        "topology.domain": domain,
        "precision.weights": "nvfp4",
        "precision.qkv_weights": "bf16",  # as in NVIDIA's checkpoint: attention is left as it was
        "engine.backend": "trtllm",
        "engine.dispatch_dtype": "nvfp4",
        "engine.max_model_len": 2304,
    }
    return sim.with_changes(sim.load_scenario(SCENARIO), changes)


@cache
def network(domain: int) -> Network:
    return Network(base(domain).topology.graph)


def scenario(domain: int, shape: Shape, drafts: int, most: int) -> sim.Scenario:
    """A decode replica with at most so many sequences on a rank."""
    return sim.with_changes(
        base(domain),
        {
            "engine.tensor_parallel_size": shape.tensor,
            "engine.data_parallel_size": shape.data,
            "engine.enable_expert_parallel": shape.data > 1 or shape.whole_experts,
            "engine.max_num_seqs": most,
            # Every step is priced with its drafts; how many tokens come of it is the open constant.
            "engine.speculation": {"num_speculative_tokens": drafts, "acceptance_rate": 0.0},
        },
    )


@cache
def steps(
    domain: int, shape: Shape, drafts: int, batches: tuple[int, ...], without: frozenset[str] = frozenset()
) -> tuple[Step, ...]:
    """The decode steps of a replica at every batch that fits."""
    replica = deployment_of(scenario(domain, shape, drafts, max(batches)), network(domain)).replicas[0]
    cost, memory = StageCost(replica.shards[0], network(domain), without), replica.memory
    assert memory is not None
    found = []
    for batch in batches:
        if batch * CONTEXT <= memory.kv_tokens:
            found.append(Step(shape, drafts, batch, *cost.step(full(shape, drafts, batch))))
    return tuple(found)


def full(shape: Shape, drafts: int, batch: int) -> Batch:
    """`batch` sequences on every rank, all decoding."""
    tokens = drafts + 1
    rank = Batch((), batch, batch * CONTEXT, batch * tokens, tokens)
    return Batch.of_ranks([rank] * shape.data) if shape.data > 1 else rank


@cache
def prefill_tokens_per_gpu_s() -> float:
    """Prompt tokens/s of a GPU of a prefill replica that never idles; it fits in any domain of four."""
    prompts, prompt = 16, round(MEAN * 1024)
    one = sim.with_changes(
        scenario(RACK, Shape(PREFILL_GPUS), 1, prompts),
        {
            "engine.speculation": None,
            "workload.prompt_tokens": prompt,
            "workload.output_tokens": 1,
            "workload.requests": prompts * PREFILL_GPUS,
        },
    )
    return prompts * prompt / float(sim.simulate(one).end_s)


def tokens_per_step(acceptance: float, drafts: int) -> float:
    """One, and each draft whose predecessors are accepted too.

    >>> tokens_per_step(0.5, 3)
    1.875
    """
    return float(sum(acceptance**draft for draft in range(drafts + 1)))


# ---- the open constant


def acceptances() -> list[float]:
    """The acceptance at which each fast public run has its time per token."""
    found = []
    for run in RUNS:
        if run.tpot_ms < FAST_MS:
            (step,) = steps(run.domain, run.shape, MOST_DRAFTS, (run.batch,))
            low, high = 0.0, 1.0
            while high - low > 1e-6:
                middle = (low + high) / 2
                tokens = tokens_per_step(middle, MOST_DRAFTS)
                low, high = (middle, high) if step.seconds / tokens > run.tpot_ms / 1e3 else (low, middle)
            found.append(low)
    return found


def mean_acceptance() -> float:
    return fmean(acceptances())


def decoding() -> float:
    """The share of users that decode, counted from the public runs whose recipe is told (0.70 to 0.87)."""
    return fmean(run.decoding for run in RUNS)


# ---- recipes and their frontier


def points(
    domain: int,
    acceptance: float,
    batches: tuple[int, ...],
    without: frozenset[str] = frozenset(),
    shapes: tuple[Shape, ...] = SHAPES,
    quick: bool = False,
) -> Iterable[Point]:
    """Every recipe: replicas of a shape that share whole prefill replicas."""
    for shape in shapes:
        for drafts in DRAFTS[quick]:
            tokens = tokens_per_step(acceptance, drafts)
            for step in steps(domain, shape, drafts, batches, without):
                rate = step.batch * shape.data * tokens / step.seconds
                for workers in WORKERS:
                    decode = workers * shape.gpus
                    if decode > RACK:
                        continue
                    needed = rate * workers / prefill_tokens_per_gpu_s() / PREFILL_GPUS
                    prefill = PREFILL_GPUS * max(1, ceil(needed - 1e-9))
                    per_gpu = PER_OUTPUT * decoding() * rate * workers / (decode + prefill)
                    recipe = f"{prefill}+{decode} GPUs, {shape}"
                    yield Point(tokens / step.seconds, per_gpu, recipe, step)


def frontier(found: Iterable[Point]) -> list[Point]:
    """The recipes that no other beats in both, from slow to fast answers."""
    best: list[Point] = []
    for point in sorted(found, key=lambda one: (-one.per_user, -one.per_gpu)):
        if not best or point.per_gpu > best[-1].per_gpu:
            best.append(point)
    return best[::-1]


def at_speed(line: Sequence[Point], per_user: float) -> Point | None:
    """The recipe of a frontier at a speed, its tokens/s/GPU straight in logarithms between two; None where it
    is too fast for all.
    """
    if line and per_user <= line[0].per_user:
        return line[0]
    for slow, fast in pairwise(line):
        if slow.per_user <= per_user <= fast.per_user:
            share = (per_user - slow.per_user) / (fast.per_user - slow.per_user)
            per_gpu = exp((1 - share) * log(slow.per_gpu) + share * log(fast.per_gpu))
            return Point(per_user, per_gpu, fast.recipe, fast.step)
    return None


def ratio(lines: dict[int, list[Point]], speed: float) -> float | None:
    rack, island = (at_speed(lines[domain], speed) for domain in (RACK, ISLAND))
    return None if rack is None or island is None else rack.per_gpu / island.per_gpu


def highest(lines: dict[int, list[Point]]) -> tuple[float, int]:
    """The largest ratio at the published speeds, and where."""
    return max((found, speed) for speed in SPEEDS if (found := ratio(lines, speed)) is not None)


# ---- rows


def speed_rows(lines: dict[int, list[Point]]) -> list[Row]:
    """Both frontiers and their ratio, at the published speeds."""
    rows = []
    for number, speed in enumerate(SPEEDS):
        case = f"{speed} tokens/s/user"
        for domain in (RACK, ISLAND):
            found = at_speed(lines[domain], speed)
            if found is not None:
                what = f"domain of {domain}: tokens/s/GPU ({found.recipe})"
                public = float(PUBLISHED[domain][number])
                rows.append(Row(case, what, "tokens/s", public, found.per_gpu, source=SOURCE))
        ours = ratio(lines, speed)
        if ours is not None:
            public = PUBLISHED[RACK][number] / PUBLISHED[ISLAND][number]
            rows.append(Row(case, "domain of 72 over 8", "ratio", public, ours, source=SOURCE))
    return rows


def run_rows(acceptance: float) -> list[Row]:
    """Time per token of the public runs whose recipe is told, with the drafts that are quickest."""
    rows = []
    for run in RUNS:
        tpots = [
            step.seconds / tokens_per_step(acceptance, drafts)
            for drafts in DRAFTS[True]
            for step in steps(run.domain, run.shape, drafts, (run.batch,))
        ]
        if tpots:
            what = f"{run}: time per token"
            ours = min(tpots) * 1e3
            rows.append(Row(MACHINE[run.domain], what, "ms", run.tpot_ms, ours, source=SOURCE))
    return rows


def cause_rows(lines: dict[int, list[Point]], free: dict[int, list[Point]]) -> list[Row]:
    """One replica of 32 GPUs in both graphs by cause, and the hump without what it is made of."""
    rows = []
    for domain in (RACK, ISLAND):
        (step,) = steps(domain, Shape(32), MOST_DRAFTS, (6,))
        case = f"EP32, 6 sequences a rank, domains of {domain}"
        rows.append(Row(case, "step", "ms", None, step.seconds * 1e3))
        for cause, seconds in zip(Causes._fields, step.causes, strict=True):
            if seconds:
                rows.append(Row(case, f"of it {cause}", "ms", None, seconds * 1e3))
        for kind, n_bytes in bytes_of_a_gpu(domain, Shape(32), 6).items():
            rows.append(Row(case, f"bytes that a GPU sends over {kind}", "MB", None, n_bytes / 1e6))
    (hump, at), (flat, _) = highest(lines), highest(free)
    rows.append(
        Row("the hump", f"largest ratio (at {at} tokens/s/user)", "ratio", 4130 / 941, hump, source=SOURCE)
    )
    rows.append(Row("the hump", "largest ratio if bytes on links took no time", "ratio", None, flat))
    return rows


def bytes_of_a_gpu(domain: int, shape: Shape, batch: int) -> dict[str, float]:
    """Bytes that a GPU sends in a step, by what carries them."""
    replica = deployment_of(scenario(domain, shape, MOST_DRAFTS, batch), network(domain)).replicas[0]
    traffic = StageCost(replica.shards[0], network(domain)).traffic(full(shape, MOST_DRAFTS, batch))
    sent = {"NVLink": 0.0, "NICs": 0.0}
    for demand, times, _ in traffic.demands:
        for link, n_bytes in zip(demand.links, demand.n_bytes, strict=True):
            source, target = (network(domain).ends[link] * 2)[:2]
            if network(domain).kind(source) == "gpu" and network(domain).kind(target) == "crossbar":
                sent["NVLink"] += times * n_bytes / shape.gpus
            if network(domain).kind(source) == "nic" and network(domain).kind(target) == "switch":
                sent["NICs"] += times * n_bytes / shape.gpus
    return sent


def domain_rows(acceptance: float, batches: tuple[int, ...]) -> list[Row]:
    """What every doubling of the domain brings where it matters."""
    rows = []
    for domain in DOMAINS:
        line = frontier(points(domain, acceptance, batches))
        for speed in HUMP:
            found = at_speed(line, speed)
            if found is not None:
                case = f"domains of {domain}"
                rows.append(
                    Row(case, f"tokens/s/GPU at {speed} tokens/s/user", "tokens/s", None, found.per_gpu)
                )
    return rows


@cache
def frontiers(
    quick: bool, acceptance: float, without: frozenset[str] = frozenset()
) -> dict[int, list[Point]]:
    """Of the rack and of islands, by the size of their domains."""
    batches = BATCHES[quick]
    return {
        domain: frontier(points(domain, acceptance, batches, without, quick=quick))
        for domain in (RACK, ISLAND)
    }


def section(quick: bool) -> Section:
    """Where does an NVLink domain of 72 GPUs pay, against domains of 8?"""
    batches = BATCHES[quick]
    each = acceptances()
    acceptance = fmean(each)
    lines = frontiers(quick, acceptance)
    free = frontiers(quick, acceptance, BYTES_FREE)
    band = {accepted: highest(frontiers(quick, accepted)) for accepted in (min(each), max(each))}
    rows = [
        Row("drafts", f"share accepted ({min(each):.2f} to {max(each):.2f} by run)", "", None, acceptance),
        *(
            Row(MACHINE[run.domain], f"{run}: counted, over users / time per token", "ratio", None,
                PER_OUTPUT * run.decoding, source=SOURCE)
            for run in RUNS
        ),
        *speed_rows(lines),
        *run_rows(acceptance),
        *cause_rows(lines, free),
        *([] if quick else wider_rows(lines, acceptance, batches)),
        *([] if quick else domain_rows(acceptance, batches)),
    ]  # fmt: skip
    return Section(
        "The hump: where a domain of 72 pays, against domains of 8",
        text(lines, band, rows),
        tuple(rows),
        takeaway(lines, free),
        (
            "kernels of GB200 as measured under TensorRT-LLM, expert exchanges and NICs as measured on their "
            "machines; the rack cut into islands is a machine that was never built. One open constant: the "
            f"share of drafts accepted, {acceptance:.2f} ({min(each):.2f} to {max(each):.2f})."
        ),
        (Figure("hump", figure_takeaway(lines, band), lambda: picture(lines, free)),),
    )


BYTES_FREE = frozenset({"collective_bytes"})


def wider_rows(lines: dict[int, list[Point]], acceptance: float, batches: tuple[int, ...]) -> list[Row]:
    """What decode replicas of 64 would bring the rack, which no public recipe has."""
    found = points(RACK, acceptance, batches, shapes=(*SHAPES, WIDER))
    line = {RACK: frontier(found), ISLAND: lines[ISLAND]}
    return [
        Row("a recipe that is not public", f"domain of 72 over 8 at {speed} tokens/s/user, with {WIDER}",
            "ratio", None, at)
        for speed in HUMP if (at := ratio(line, speed)) is not None
    ]  # fmt: skip


def takeaway(lines: dict[int, list[Point]], free: dict[int, list[Point]]) -> str:
    (hump, at), (flat, _) = highest(lines), highest(free)
    slow, fast = ratio(lines, SPEEDS[0]), ratio(lines, 225)
    wide, narrow = (at_speed(lines[domain], at) for domain in (RACK, ISLAND))
    assert slow is not None
    assert fast is not None
    assert wide is not None
    assert narrow is not None
    return (
        f"In the middle, and there {hump:.1f} times as many tokens a GPU: at {at} tokens/s/user the rack "
        f"spreads experts over many GPUs ({wide.recipe}), which an island cannot without NICs "
        f"({narrow.recipe}). If bytes took no time the largest ratio would be {flat:.1f}. Slow answers are "
        f"bound by memory and arithmetic on both ({slow:.2f} at {SPEEDS[0]}); the fastest come from eight "
        f"GPUs in tensor parallel, which any domain of eight has ({fast:.2f} at 225)."
    )


def text(
    lines: dict[int, list[Point]], band: dict[float, tuple[float, int]], rows: Sequence[Row]
) -> tuple[str, ...]:
    """What is compared, the open constant with its band, the errors, and what is not in here."""
    low, high = band.values()
    found = {domain: errors(rows, f"domain of {domain}:") for domain in (RACK, ISLAND)}
    told = ", ".join(
        f"domain of {domain} {min(each):+.0%} to {max(each):+.0%}" for domain, each in found.items()
    )
    fastest = lines[RACK][-1].per_user
    return (
        (
            "DeepSeek-R1 in FP4 writes answers of 1k tokens to prompts of 1k. The same graph is priced "
            "twice: a rack of 72 GPUs in one NVLink domain, and the rack cut into nine islands of eight, "
            "between which a NIC carries 50 GB/s in place of 900. The same recipes are tried on both, and "
            "for every speed of a user the one that gives most tokens/s a GPU stays."
        ),
        (
            "Public runs exist of just this pair. They count tokens of prompts and answers, and a user that "
            "waits for a first token counts as a user: of the five runs whose recipe is told, "
            f"{min(run.decoding for run in RUNS):.0%} to {max(run.decoding for run in RUNS):.0%} of the "
            f"users decode at a time. Their mean, {decoding():.0%}, is in all simulated numbers here; it "
            "leaves every ratio as it is."
        ),
        (
            "The share of accepted drafts is open, and one number for all runs. At the ends of its band the "
            f"largest ratio is {low[0]:.1f} at {low[1]} and {high[0]:.1f} at {high[1]} tokens/s/user: "
            "acceptance moves the hump along the speeds more than it changes its height."
        ),
        (
            f"Errors of tokens/s/GPU at one speed, simulated over published: {told}. Where the frontier is "
            "steep an error of a tenth in speed is a factor in tokens/s/GPU. The fastest simulated answers "
            f"are {fastest:.0f} tokens/s/user on both. Public B200 runs beat GB200 beyond 250 (ratio 0.82): "
            "one graph with two edited numbers cannot, for its GPUs and hosts are the same."
        ),
        (
            "A step is that of full batches of sequences in the middle of their answers; prefill GPUs are "
            "counted in whole replicas of four, drafts take no time of their own."
        ),
    )


def figure_takeaway(lines: dict[int, list[Point]], band: dict[float, tuple[float, int]]) -> str:
    hump, at = highest(lines)
    return (
        f"the rack gives {hump:.1f} times as much at {at} tokens/s/user (published: 4.4 at 125), next to "
        "nothing at both ends; without the time of bytes on links there is no hump at all."
    )


def errors(rows: Sequence[Row], quantity: str) -> list[float]:
    """Errors of the rows whose quantity starts so."""
    return [row.error for row in rows if row.quantity.startswith(quantity) and row.error is not None]


def picture(lines: dict[int, list[Point]], free: dict[int, list[Point]]) -> draw.Chart:
    kinds = ("simulated", "public runs")
    nothing = "simulated, if bytes took no time"
    drawn = [
        {"domain": f"domain of {domain}", "kind": kind, "per_user": user, "per_gpu": gpu}
        for domain in (RACK, ISLAND)
        for kind, line in (
            (kinds[0], [(one.per_user, one.per_gpu) for one in lines[domain] if one.per_user <= 300.0]),
            (kinds[1], list(zip(SPEEDS, PUBLISHED[domain], strict=True))),
        )
        for user, gpu in line
    ]
    over = [
        {"kind": kind, "speed": speed, "ratio": found}
        for number, speed in enumerate(SPEEDS)
        for kind, found in (
            (kinds[0], ratio(lines, speed)),
            (kinds[1], PUBLISHED[RACK][number] / PUBLISHED[ISLAND][number]),
            (nothing, ratio(free, speed)),
        )
        if found is not None
    ]
    left = draw.lines(
        drawn,
        draw.axis("per_user", "tokens/s of one user"),
        draw.axis("per_gpu", "tokens/s of one GPU, prompts counted (log)", log=True),
        colour="domain",
        dash="kind",
    )
    right = draw.lines(
        over,
        draw.axis("speed", "tokens/s of one user"),
        draw.axis("ratio", "domain of 72 over domain of 8"),
        dash="kind",
        points=True,
        order=[*kinds, nothing],
    )
    return draw.beside(
        [left, right],
        "A domain of 72 pays in the middle",
        "DeepSeek-R1 FP4, 1k in and out; one rack, whole or cut into islands of eight",
        independent=True,
    )
