"""Memory apart from the domain: GB200's rack with more memory a GPU, and with faster memory.

GB300 has the rack and the NVLink of GB200, 288 GB in place of 186 to 192, and half as much arithmetic again
in FP4. Public runs of DeepSeek-V4-Pro (8k in, 1k out) give it up to 2.83 times as many tokens/s a GPU at one
speed of a user. Here one thing is changed at a time, how much memory a GPU has and how fast it is, for
DeepSeek-R1, whose latent caches are small, and Llama-3.1-405B, whose caches are not.

By hand: a sequence of 8,704 tokens takes 0.3 GB of DeepSeek-R1's cache and 2.2 GB of Llama-405B's in FP8. On
eight GPUs 186 GB leave room for some 400 of the latter, 288 GB for 770.
Where it stops: other models than the public one; arithmetic is left as it is.
"""

from __future__ import annotations

from functools import cache

import sim
from sim.views.answer import Figure, Row, Section

from . import draw, hump
from .machines import Priced, Refused, Replica

SOURCE = "InferenceX: DeepSeek-V4-Pro, 8k in, 1k out, vLLM"
SPEEDS = (20, 25, 27, 32, 50)
PUBLIC = {
    "GB200": (7283, 2846, 2189, 1661, 649),
    "GB300": (9401, 7208, 6182, 3570, 941),
}
CAPACITIES = {"186 GB": 1.0, "288 GB": 288 / 186}  # of GB200 and GB300, by their datasheets
RATES = {"8 TB/s": 1.0, "12 TB/s": 1.5}
CONTEXT = 8704  # of a sequence in the middle of its answer: 8k in, 1k out
BATCHES = tuple(dict.fromkeys(round(2.0 ** (step / 4)) for step in range(45)))  # of a rank, to 2,048
FEW_BATCHES = BATCHES[::3]
SLOW = (5, 10)  # tokens/s/user, where batches are as large as memory holds
DEEPSEEK, LLAMA = "DeepSeek-R1", "Llama-3.1-405B"
GROUPS = {DEEPSEEK: (4, 8, 16, 32, 64), LLAMA: (4, 8, 16)}


@cache
def replica(model: str, group: int, capacity: float, rate: float) -> Replica | None:
    """A group of the rack whose memory is so many times as large and as fast: EP, or TP of a dense model."""
    base = hump.base(hump.RACK)
    if model == LLAMA:
        formats = {"weights": "fp8", "kv_cache": "fp8"}
        base = sim.with_changes(base, {"model": "llama-3.1-405b", "precision": formats})
    gpu = base.topology.gpus["gb200"]
    changes = {
        "topology.gpus.gb200.hbm_bytes": gpu.hbm_bytes * capacity,
        "topology.gpus.gb200.hbm_bytes_per_s": gpu.hbm_bytes_per_s * rate,
        "engine.data_parallel_size": group if model == DEEPSEEK else 1,
        "engine.tensor_parallel_size": group if model == LLAMA else 1,
        "engine.enable_expert_parallel": model == DEEPSEEK,
        "engine.max_model_len": 16384,
        "engine.max_num_seqs": max(BATCHES),
    }
    if gpu.visible_hbm_bytes is not None:
        changes["topology.gpus.gb200.visible_hbm_bytes"] = gpu.visible_hbm_bytes * capacity
    try:
        return Replica(sim.with_changes(base, changes))
    except Refused:
        return None


def points(model: str, capacity: float, rate: float, quick: bool) -> list[tuple[float, float, int, int]]:
    """Tokens/s of a user and of a GPU, with the group and its sequences, over groups and batches."""
    found = []
    for group in GROUPS[model]:
        one = replica(model, group, capacity, rate)
        for batch in () if one is None else FEW_BATCHES if quick else BATCHES:
            assert one is not None
            sequences = batch * one.plan.pool.engine.data_parallel_size
            try:
                step: Priced = one.step(sequences, CONTEXT)
            except Refused:
                break
            found.append((1.0 / step.seconds, sequences / step.seconds / group, group, sequences))
    return found


def best_at(found: list[tuple[float, float, int, int]], speed: float) -> tuple[float, int, int]:
    """The most tokens/s a GPU at a speed of a user or above, with its group and batch."""
    able = [(gpu, group, batch) for user, gpu, group, batch in found if user >= speed]
    return max(able, default=(0.0, 0, 0))


def section(quick: bool) -> Section:
    lines = {
        (model, size, rate): points(model, CAPACITIES[size], RATES[rate], quick)
        for model in GROUPS
        for size in CAPACITIES
        for rate in RATES
    }
    gains = {key: gain(lines, *key) for key in lines}
    rows = [*public_rows(), *machine_rows(lines), *holding_rows()]
    return Section(
        "Memory apart from the domain",
        (
            (
                "A larger domain brings memory with it, and a newer GPU brings more of it in the same "
                "domain. To tell the two apart the rack stays as it is, and the memory of its GPUs is made "
                "larger, faster, or both. Every point is a decode replica of 4 to 64 GPUs with as "
                "many sequences as fit."
            ),
        ),
        tuple(rows),
        takeaway(gains),
        (
            "kernels measured on GB200; a GPU with other memory is its datasheet changed in one number, and "
            "the shares of the peak that kernels reach are kept."
        ),
        (Figure("memory", figure_takeaway(gains), lambda: picture(lines)),),
    )


Lines = dict[tuple[str, str, str], list[tuple[float, float, int, int]]]


def gain(lines: Lines, model: str, size: str, rate: str) -> tuple[float, int]:
    """The largest ratio to the memory of GB200 at one of the speeds of a user, and where."""
    first = lines[model, next(iter(CAPACITIES)), next(iter(RATES))]
    ratios = []
    for speed in (*SLOW, *SPEEDS):
        base, other = best_at(first, speed)[0], best_at(lines[model, size, rate], speed)[0]
        if base > 0.0:
            ratios.append((other / base, speed))
    return max(ratios)


def public_rows() -> list[Row]:
    found = [new / old for new, old in zip(PUBLIC["GB300"], PUBLIC["GB200"], strict=True)]
    return [
        Row("public: GB300 over GB200", f"at {speed} tokens/s/user", "ratio", None, ratio, source=SOURCE)
        for speed, ratio in zip(SPEEDS, found, strict=True)
    ]


def machine_rows(lines: Lines) -> list[Row]:
    rows = []
    for key, found in lines.items():
        model, size, rate = key
        case = f"{model}: {size}, {rate}"
        for speed in (*SLOW, *SPEEDS):
            gpu, group, batch = best_at(found, speed)
            what = f"a GPU at {speed} tokens/s/user ({group} GPUs, {batch} sequences)"
            rows.append(Row(case, what, "tokens/s", None, gpu))
        ratio, at = gain(lines, *key)
        rows.append(Row(case, f"largest gain at one speed (at {at} tokens/s/user)", "ratio", None, ratio))
    return rows


def holding_rows() -> list[Row]:
    rows = []
    for model, groups in GROUPS.items():
        for group in groups:
            for size, capacity in CAPACITIES.items():
                one = replica(model, group, capacity, 1.0)
                if one is not None and one.plan.memory is not None:
                    held = float(one.plan.memory.kv_tokens)
                    rows.append(Row(f"{model}: KV tokens a rank, {group} GPUs", size, "tokens", None, held))
    return rows


def takeaway(gains: dict[tuple[str, str, str], tuple[float, int]]) -> str:
    sizes, rates = list(CAPACITIES), list(RATES)
    told = []
    for model in GROUPS:
        larger, faster, both = (
            gains[model, *key][0]
            for key in ((sizes[1], rates[0]), (sizes[0], rates[1]), (sizes[1], rates[1]))
        )
        told.append(f"{model} {larger:.2f} with 288 GB in place of 186, {faster:.2f} with 12 TB/s in place "
                    f"of 8, {both:.2f} with both")  # fmt: skip
    return (
        "In one and the same domain, tokens/s of a GPU at one speed of a user grow by up to: "
        + "; ".join(told)
        + ". Capacity pays where answers are slow, rate where they are not. The public 2.83 of GB300 over "
        "GB200 has the same NVLink on both sides: part of it is memory and arithmetic, and part of it, at 25 "
        "to 32 tokens/s/user, recipes that GB200 had no room for, which this model of other models does not "
        "reproduce."
    )


def figure_takeaway(gains: dict[tuple[str, str, str], tuple[float, int]]) -> str:
    return (
        "capacity lets slow batches grow, and changes nothing where a batch is bound by its speed; rate "
        "lifts the line wherever reading memory is the step."
    )


def picture(lines: Lines) -> draw.Chart:
    panels = []
    for model in GROUPS:
        data = []
        for (of, size, rate), found in lines.items():
            if of == model:
                for speed in range(4, 61):
                    gpu = best_at(found, speed)[0]
                    if gpu > 0.0:
                        data.append({"speed": speed, "gpu": gpu, "capacity": size, "rate": rate})
        panels.append(
            draw.lines(
                data,
                draw.axis("speed", "tokens/s of a user"),
                draw.axis("gpu", "tokens/s of a GPU"),
                colour="capacity", dash="rate", order=list(RATES), title=model,
            )
        )  # fmt: skip
    return draw.beside(
        panels,
        "More memory and faster memory in the same domain",
        "decode on a rack of 72, contexts of 8,704 tokens",
    )
