"""Machines without a switch: the same GPUs and the same links, wired to each other as a mesh or a torus.

A GPU of GB200 has 18 links of 50 GB/s. On a switch all 18 lead anywhere in the domain. In a full mesh of n
they are shared out over n - 1 neighbours, in a torus over four or six, and what goes farther passes through
others. What a switch saves in time it has to be worth in money: with r the speed of the switchless machine
over that of the switched one, the switchless one is as good per dollar where switches and their cables are
at least 1 - r of the price.

By hand: in an 8 x 8 torus a message passes four links on average, so that 900 GB/s of links a GPU carry an
all-to-all at 225; a switch carries it at 900.
Where it stops: an exchange alone and a decode step with it, links without protocol; forwarding costs no
GPU's time. Prices are not assumed: the share at which both are equal is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import networkx as nx

import sim
from sim.cost.collectives.choice import collective
from sim.cost.network import Network
from sim.views.answer import Row

from . import draw
from .machines import EVEN, Replica

LINKS, LINK_BYTES_PER_S = 18, 50e9  # of a GPU: NVLink 5 (datasheet)
HOP_S = 0.5e-6  # of a link between GPUs (assumed, as NVLink's in the shipped machines)
GPUS = 64
CLAIM = "arXiv 2605.00254: switchless meshes and tori, 20.6 to 56.2 % better cost-effectiveness for MoE"


def machine(name: str, neighbours: Callable[[int], set[int]], gpus: int = GPUS) -> sim.Topology:
    """GPUs whose links are shared out evenly over their neighbours. What passes through a GPU is forwarded by
    a router beside it, which has the links.
    """
    graph: nx.DiGraph[str] = nx.DiGraph(name=name)
    for number in range(gpus):
        graph.add_node(f"gpu{number}", kind="gpu", node=0, index=number, domain=0, model="gb200")
        graph.add_node(f"router{number}", kind="nvswitch", node=0, index=number, domain=0)
        for ends in ((f"gpu{number}", f"router{number}"), (f"router{number}", f"gpu{number}")):
            graph.add_edge(*ends, bytes_per_s=LINKS * LINK_BYTES_PER_S, latency_s=0.0, link="nvlink")
    for number in range(gpus):
        others = neighbours(number)
        rate = LINKS * LINK_BYTES_PER_S / len(others)
        for other in others:
            ends = (f"router{number}", f"router{other}")
            graph.add_edge(*ends, bytes_per_s=rate, latency_s=HOP_S, link="nvlink")
    return sim.load_topology(graph)


def torus(*shape: int) -> Callable[[int], set[int]]:
    places = list(product(*map(range, shape)))
    numbers = {place: number for number, place in enumerate(places)}

    def neighbours(number: int) -> set[int]:
        place = places[number]
        found = set()
        for axis, size in enumerate(shape):
            for step in (-1, 1):
                moved = (*place[:axis], (place[axis] + step) % size, *place[axis + 1 :])
                found.add(numbers[moved])
        return found - {number}

    return neighbours


def mesh(gpus: int) -> Callable[[int], set[int]]:
    return lambda number: set(range(gpus)) - {number}


def switched() -> sim.Topology:
    graph: nx.DiGraph[str] = nx.DiGraph(name="a switch")
    graph.add_node("chip", kind="nvswitch", node=0, index=0, domain=0)
    for number in range(GPUS):
        graph.add_node(f"gpu{number}", kind="gpu", node=0, index=number, domain=0, model="gb200")
        for ends in ((f"gpu{number}", "chip"), ("chip", f"gpu{number}")):
            graph.add_edge(*ends, bytes_per_s=LINKS * LINK_BYTES_PER_S, latency_s=HOP_S / 2, link="nvlink")
    return sim.load_topology(graph)


MACHINES: dict[str, Callable[[], sim.Topology]] = {
    "a switch": switched,
    "full mesh of 64": lambda: machine("full mesh of 64", mesh(GPUS)),
    "torus 4 x 4 x 4": lambda: machine("torus 4 x 4 x 4", torus(4, 4, 4)),
    "torus 8 x 8": lambda: machine("torus 8 x 8", torus(8, 8)),
}


CONTEXT = 1500
PER_GPU = (1, 16, 64, 256)


@dataclass(frozen=True)
class Switchless:
    """A machine: seconds of an all-to-all of 1 MB a GPU, and of decode steps by sequences a GPU."""

    name: str
    all_to_all_s: float
    steps_s: tuple[float, ...]


@cache
def machines(quick: bool) -> tuple[Switchless, ...]:
    found = []
    for name, build in MACHINES.items():
        if quick and name not in ("a switch", "torus 8 x 8"):
            continue
        topology = build()
        network = Network(topology.graph)
        exchange = collective(network, "all_to_all", 1e6, network.gpus, library="none")
        replica = Replica(
            sim.Scenario.model_validate(
                {
                    "topology": topology,
                    "model": "deepseek-v3",
                    "precision": {"weights": "nvfp4", "qkv_weights": "bf16", "kv_cache": "fp8"},
                    "engine": {
                        "backend": "trtllm",
                        "dispatch_dtype": "nvfp4",
                        "data_parallel_size": GPUS,
                        "enable_expert_parallel": True,
                        "expert_routing": EVEN,
                        "max_num_seqs": max(PER_GPU),
                        "max_model_len": 4096,
                    },
                    "workload": {"arrivals": {"kind": "burst"}, "prompt_tokens": CONTEXT, "output_tokens": 1,
                                 "requests": 1},
                }
            )
        )  # fmt: skip
        steps = tuple(replica.step(one * GPUS, CONTEXT).seconds for one in PER_GPU)
        found.append(Switchless(name, exchange.total_s, steps))
    return tuple(found)


def rows(quick: bool) -> Iterator[Row]:
    switch, *others = machines(quick)
    for one in machines(quick):
        case = f"64 GPUs on {one.name}"
        longer = one.all_to_all_s / switch.all_to_all_s
        yield Row(case, "all-to-all, over that of a switch", "ratio", None, longer,
                  estimate=4.0 if one.name.startswith("torus 8") else None)  # fmt: skip
        for per_gpu, step_s in zip(PER_GPU, one.steps_s, strict=True):
            yield Row(case, f"DeepSeek-V3, EP64, {per_gpu} a GPU: step", "ms", None, step_s * 1e3)
    for one in others:
        for per_gpu, ours, theirs in zip(PER_GPU, one.steps_s, switch.steps_s, strict=True):
            what = f"share of the price from which the switch does not pay, {per_gpu} a GPU"
            yield Row(
                f"{one.name} against a switch", what, "", None, max(0.0, 1.0 - theirs / ours), source=CLAIM
            )


def finding(quick: bool) -> str:
    switch, *others = machines(quick)
    torus_8x8 = others[-1]
    few, many = (1.0 - switch.steps_s[n] / torus_8x8.steps_s[n] for n in (1, 3))
    return (
        f"An 8 x 8 torus of the same links takes {torus_8x8.all_to_all_s / switch.all_to_all_s:.1f} times as "
        f"long for an all-to-all, and {torus_8x8.steps_s[1] / switch.steps_s[1]:.2f} to "
        f"{torus_8x8.steps_s[3] / switch.steps_s[3]:.2f} times as long for a decode step of 16 to 256 "
        f"sequences a GPU: it is as good per dollar where switches are {few:.0%} to {many:.0%} of the price"
    )


def picture(quick: bool) -> draw.Chart:
    switch, *others = machines(quick)
    data = [
        {"per_gpu": per_gpu, "share": 100 * max(0.0, 1.0 - theirs / ours), "machine": one.name}
        for one in others
        for per_gpu, ours, theirs in zip(PER_GPU, one.steps_s, switch.steps_s, strict=True)
    ]
    return draw.beside(
        [
            draw.lines(
                data,
                draw.axis("per_gpu", "sequences a GPU (log)", log=True),
                draw.axis("share", "share of the price at which a switch stops to pay, %"),
                colour="machine",
                points=True,
            )
        ],
        "64 GPUs with and without a switch",
        "DeepSeek-V3, EP64, decode",
    )
