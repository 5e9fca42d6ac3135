"""Prices of collectives, and compiling a cluster, against a networkx edge look-up of the same process."""

from __future__ import annotations

import time
from collections.abc import Callable

from sim.catalog import load_topology
from sim.cost.collectives.choice import collective
from sim.cost.network import Network

NODES = 128
CALLS = 2000


def main() -> None:
    graph = load_topology("nd-h100-v5", nodes=NODES).graph
    edge = next(iter(graph.edges))
    look_up_s = _each(lambda _: graph.edges[edge]["bytes_per_s"])
    began = time.perf_counter()
    network = Network(graph)
    compile_s = time.perf_counter() - began
    print(f"compile {NODES} nodes, {len(network.links)} links: {compile_s / look_up_s:12,.0f} look-ups")
    for ranks in (8, 16, 64):
        gpus = network.gpus[:ranks]
        collective(network, "all_reduce", 1.0, gpus)
        fresh_s = _each(lambda call, gpus=gpus: collective(network, "all_reduce", 16384.0 + call, gpus))
        known_s = _each(lambda _, gpus=gpus: collective(network, "all_reduce", 16384.0, gpus))
        print(
            f"all-reduce over {ranks:2} GPUs: a new size {fresh_s / look_up_s:8.1f} look-ups, "
            f"a size seen before {known_s / look_up_s:6.1f}"
        )


def _each(work: Callable[[int], object]) -> float:
    began = time.perf_counter()
    for call in range(CALLS):
        work(call)
    return (time.perf_counter() - began) / CALLS
