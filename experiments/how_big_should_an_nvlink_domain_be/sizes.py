"""Tokens/s of a user and of a GPU in groups of 1 to 576 GPUs, and the cliff at the edge of a domain.

A group serves a batch. Its GPUs are all in one NVLink domain, or in domains of 72 or 8 that NICs join.
Llama-3-70B splits its heads over at most 64 GPUs; what a group has beyond is further replicas, which share
the batch. DeepSeek-V3 and Qwen3-235B keep attention data-parallel and spread their experts over the group;
where experts do not lie evenly, redundant copies make them (EP72 has 256 + 32, EP320 256 + 64).

By hand: with one sequence Llama-3-70B reads 70 GB at 0.86 of 8 TB/s, ten milliseconds on one GPU and a
thirty-second of that on 32, where 160 all-reduces of 10 us and more have long become the step.
Where it stops: a decode step alone, contexts of 4,096 tokens, no drafts, experts chosen evenly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import sim
from sim.views.answer import Figure, Row, Section

from . import draw
from .machines import EVEN, RACK, SYSTEM, Machine, Priced, Refused, Replica, changed

CONTEXT = 4096
GROUPS = (1, 2, 4, 8, 16, 32, 64, 72, 144, 288, 320, 576)
FEW_GROUPS = (4, 8, 16, 64, 72)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # of the whole group
FEW_BATCHES = (1, 64, 512)
ISLAND = 8
DOMAINS = (SYSTEM, RACK, ISLAND)
SHOWN = (1, 8, 64, 512)
LLAMA, DEEPSEEK, QWEN = "llama-3-70b", "deepseek-v3", "qwen3-235b-a22b"
NAMES = {LLAMA: "Llama-3-70B, TP", DEEPSEEK: "DeepSeek-V3, EP", QWEN: "Qwen3-235B, EP"}
MOST_HEADS = 64  # ways to split Llama-3-70B's attention
FORMATS: dict[str, dict[str, str]] = {
    LLAMA: {"weights": "fp8", "kv_cache": "fp8"},
    DEEPSEEK: {"weights": "nvfp4", "qkv_weights": "bf16", "kv_cache": "fp8"},
    QWEN: {"weights": "fp8", "kv_cache": "fp8"},
}


@dataclass(frozen=True)
class Point:
    """A group with a batch: what its users and GPUs get, or why nothing."""

    model: str
    domain: int
    group: int
    batch: int
    layout: str
    step: Priced | None
    reason: str = ""

    @property
    def per_user(self) -> float:
        assert self.step is not None
        return 1.0 / self.step.seconds

    @property
    def per_gpu(self) -> float:
        return self.per_user * self.batch / self.group


@cache
def base(model: str) -> sim.Scenario:
    return sim.Scenario.model_validate(
        {
            "topology": "gb200-nvl72",
            "model": model,
            "precision": FORMATS[model],
            "engine": {
                "backend": "trtllm", "max_model_len": 8192, "enable_prefix_caching": False,
                **({} if model == LLAMA else {"expert_routing": EVEN}),
            },
            "workload": {"arrivals": {"kind": "burst"}, "prompt_tokens": CONTEXT, "output_tokens": 64,
                         "requests": 1},
        }
    )  # fmt: skip


@cache
def layout(model: str, group: int) -> tuple[str, int, dict[str, Any]]:
    """How a group of so many GPUs is used: in words, replicas, and keys of the engine."""
    if model == LLAMA:
        ranks = min(1 << (group.bit_length() - 1), MOST_HEADS)
        replicas = group // ranks
        keys = {"engine.tensor_parallel_size": ranks}
        return f"{replicas} x TP{ranks}" if replicas > 1 else f"TP{ranks}", replicas, keys
    experts = base(model).model.experts
    copies = -experts % group
    keys = {
        "engine.data_parallel_size": group,
        "engine.enable_expert_parallel": group > 1,
        "engine.expert_routing.redundant_experts": copies,
    }
    return f"EP{group}" + (f", {experts} + {copies} experts" if copies else ""), 1, keys


def of_group(model: str, domain: int, group: int, batches: tuple[int, ...]) -> Iterator[Point]:
    words, replicas, keys = layout(model, group)
    machine = Machine(SYSTEM if group > RACK or domain > RACK else RACK, domain)
    scenario = changed(base(model), machine, {**keys, "engine.max_num_seqs": max(BATCHES)})
    replica, reason = None, ""
    try:
        replica = Replica(scenario)
    except Refused as refused:
        reason = str(refused)
    for batch in batches:
        share = -(-batch // replicas)  # the fullest replica sets the pace that is told
        step, why = None, reason
        if replica is not None:
            try:
                step = replica.step(share, CONTEXT)
            except Refused as refused:
                why = str(refused)
        yield Point(model, domain, group, batch, words, step, why)


def points(quick: bool) -> list[Point]:
    groups, batches = (FEW_GROUPS, FEW_BATCHES) if quick else (GROUPS, BATCHES)
    found = []
    for model in (LLAMA, DEEPSEEK) if quick else NAMES:
        domains = DOMAINS[1:] if quick else DOMAINS
        for domain in domains:
            for group in groups:
                if domain < max(domains) and group <= domain:
                    continue  # such a group is in one domain
                found += of_group(model, domain, group, batches)
    return found


def section(quick: bool) -> Section:
    found = points(quick)
    return Section(
        "A user and a GPU, in groups of 1 to 576 GPUs",
        (
            ("A group of GPUs serves a batch, all of it decoding with 4,096 tokens of context. More GPUs "
            "share the reading of weights and caches, so a user's tokens come faster, and each GPU gives "
            "fewer of them. Lines that go on are groups in one NVLink domain of any size, dashed and "
            "dotted ones the same groups in domains of 72 and of 8, joined by NICs of 50 GB/s a GPU."),
            ("A dense model is split over attention heads, so at most over 64 GPUs, and every layer waits "
            "for two all-reduces; a larger group is further replicas. A mixture of experts keeps each user's "
            "attention on one GPU and spreads the experts, and every layer waits for tokens to go to their "
            "experts and back. A batch smaller than the group leaves GPUs without a user of their own."),
        ),
        tuple(rows(found)),
        takeaway(found),
        (
            "kernels measured on GB200 under TensorRT-LLM; all-reduces over NVLink measured to 16 GPUs and "
            "taken to be alike at 32 and 64, expert exchanges measured to 72; domains of 144 and more, on "
            "one tier of chips, exist nowhere: there it is links and latencies by the datasheet."
        ),
        (
            Figure("sizes", figure_takeaway(found), lambda: picture(found, quick)),
            Figure("bytes", bytes_takeaway(found), lambda: bytes_picture(found)),
        ),
    )  # fmt: skip


def rows(found: list[Point]) -> Iterator[Row]:
    for one in found:
        case = f"{NAMES[one.model].split(',')[0]}, batch {one.batch}, domains of {one.domain}"
        if one.step is None:
            continue
        yield Row(case, f"{one.layout}: a user", "tokens/s", None, one.per_user)
        yield Row(case, f"{one.layout}: a GPU of {one.group}", "tokens/s", None, one.per_gpu)
    refused = [one for one in found if one.step is None]
    for model in dict.fromkeys(one.model for one in refused):
        groups = sorted({one.group for one in refused if one.model == model and one.batch == 1})
        if groups:
            case = NAMES[model].split(",")[0]
            yield Row(case, "largest group that does not hold the weights", "GPUs", None, float(groups[-1]))


def widest(found: list[Point]) -> int:
    """The domain that holds every group."""
    return max(one.domain for one in found)


def best(found: list[Point], model: str, domain: int, batch: int) -> Point:
    """The smallest group whose user is within a twentieth of the fastest."""
    mine = [
        one
        for one in found
        if (one.model, one.batch) == (model, batch)
        and one.step is not None
        and (one.domain == domain or one.group <= domain)
    ]
    fastest = max(one.per_user for one in mine)
    return min((one for one in mine if one.per_user >= 0.95 * fastest), key=lambda one: one.group)


def takeaway(found: list[Point]) -> str:
    said = []
    for model in dict.fromkeys(one.model for one in found):
        sizes = {
            words: best(found, model, domain, 64)
            for words, domain in (
                ("if the domain may have any size", widest(found)),
                ("in domains of 72", RACK),
                ("in domains of 8", ISLAND),
            )
            if domain <= RACK or domain == widest(found)
        }
        told = ", ".join(f"{one.per_user:.0f} on {one.group} GPUs {words}" for words, one in sizes.items())
        said.append(f"{NAMES[model].split(',')[0]}: {told}")
    return (
        "Tokens/s of a user for a batch of 64, on the smallest group within 5 % of the fastest: "
        + "; ".join(said)
        + ". Beyond 8 to 64 GPUs a larger domain gives a user little and every GPU much less (a dense "
        "model's group of more is further replicas with fewer users each): at these batches it is "
        "latencies of kernels and collectives that are left, not bytes."
    )


def figure_takeaway(found: list[Point]) -> str:
    return (
        "a user gains from more GPUs until latencies are the step, and a group that outgrows its domain "
        "falls off a cliff where its bytes or its waits meet the NIC."
    )


def bytes_takeaway(found: list[Point]) -> str:
    mine = [
        one
        for one in found
        if one.model == DEEPSEEK and one.domain == ISLAND and one.batch == 512 and one.step
    ]
    largest = max(mine, key=lambda one: one.group)
    assert largest.step is not None
    share = largest.step.outside_bytes / (largest.step.inside_bytes + largest.step.outside_bytes)
    return (
        f"in domains of 8, {share:.0%} of what DeepSeek-V3's GPUs send in a step of {largest.layout} leaves "
        "the domain; in one domain nothing does."
    )


def picture(found: list[Point], quick: bool) -> draw.Chart:
    shown = [batch for batch in SHOWN if any(one.batch == batch for one in found)]
    kinds = {RACK: "domains of 72", ISLAND: "domains of 8"} | {widest(found): "one domain"}
    panels = []
    for model in dict.fromkeys(one.model for one in found):
        data = [
            {"group": one.group, "batch": str(one.batch), "kind": kinds[one.domain], "per_user": one.per_user,
             "per_gpu": one.per_gpu}
            for one in joined(found, model) if one.step is not None and one.batch in shown
        ]  # fmt: skip
        for field, title in (("per_user", "tokens/s of a user"), ("per_gpu", "tokens/s of a GPU (log)")):
            panels.append(
                draw.lines(
                    data,
                    draw.axis("group", "GPUs of the group (log)", log=True, values=draw.SIZES),
                    draw.axis(field, title, log=field == "per_gpu"),
                    colour="batch", colours=[str(batch) for batch in shown], legend="batch of the group",
                    dash="kind", order=["one domain", "domains of 72", "domains of 8"],
                    points=True, title=NAMES[model],
                )
            )  # fmt: skip
    return draw.beside(
        panels, "What a user and a GPU get, by the size of the group", "decode, 4 K of context"
    )


def joined(found: list[Point], model: str) -> Iterator[Point]:
    """The points of a model; lines of smaller domains begin where the one domain leaves them."""
    mine = [one for one in found if one.model == model]
    yield from mine
    for domain in sorted({one.domain for one in mine} - {widest(found)}):
        inside = [one.group for one in mine if one.domain == widest(found) and one.group <= domain]
        for one in mine:
            if inside and one.domain == widest(found) and one.group == max(inside):
                yield Point(model, domain, one.group, one.batch, one.layout, one.step)


def bytes_picture(found: list[Point]) -> draw.Chart:
    panels = []
    for model in (LLAMA, DEEPSEEK):
        data = [
            {"group": one.group, "kind": kind, "MB": n_bytes / 1e6}
            for one in found
            if one.model == model and one.batch == 512 and one.step is not None
            for kind, n_bytes in (
                (f"NVLink, {'one domain' if one.domain == widest(found) else f'domains of {one.domain}'}",
                 one.step.inside_bytes),
                (f"NIC, domains of {one.domain}", one.step.outside_bytes),
            )
            if n_bytes > 0.0
        ]  # fmt: skip
        panels.append(
            draw.lines(
                data,
                draw.axis("group", "GPUs of the group (log)", log=True, values=draw.SIZES),
                draw.axis("MB", "MB that a GPU sends in a step"),
                colour="kind", points=True, title=NAMES[model],
            )
        )  # fmt: skip
    return draw.beside(panels, "Bytes inside and outside the domain", "a decode step with a batch of 512")
