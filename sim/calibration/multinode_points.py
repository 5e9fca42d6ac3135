"""Measured collectives over several servers, from public tables or a table of one's own, and their fabrics.

Rows are those of one table or another: `nodes, gpus_per_node, op, size_bytes` and a latency, with the system
as `system` (the name or file of a topology, in a table of your own) or as `cluster`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sim.calibration.collective_points import over_several_servers
from sim.catalog import load_topology
from sim.cost.network import Network
from sim.inputs.errors import InputError, Problem
from sim.reading.problems import did_you_mean
from sim.reading.published_names import SYSTEMS

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "broadcast")
NIC_BYTES_PER_S = {"h100 cluster A": 13.6e9, "a100_dgx": 7.8e9}
"""Fabrics whose NICs are not those of the shipped topology: the rate of send/recv between two GPUs there."""
GPUS_PER_RACK = 72
UNDISTURBED = 1.25  # the median over pairs of servers may be this much slower than the best pair


@dataclass(frozen=True, slots=True)
class MultinodePoint:
    """One measured collective over several servers."""

    system: str
    op: str
    nodes: int
    gpus_per_node: int
    n_bytes: float
    seconds: float
    algorithm: str = "auto"


def multinode_points(
    paths: Iterable[Path], on_progress: Callable[[str], None] = lambda line: None
) -> list[MultinodePoint]:
    """Points over several servers of CSV files; other files are passed over. `on_progress` gets a line on how
    many points are left out because something else disturbed them.
    """
    found: list[MultinodePoint] = []
    disturbed = 0
    for path in paths:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.DictReader(file)
            if not over_several_servers(reader.fieldnames or ()):
                continue
            for line, row in enumerate(reader, start=2):
                try:
                    point = _point(row)
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(Problem(f"a value cannot be read: {error}", str(path), line)) from None
                if point is None:
                    continue
                if reason := _refused(point):
                    raise InputError(Problem(reason, str(path), line))
                if _disturbed(row):
                    disturbed += 1
                else:
                    found.append(point)
    kept = _undercut(found)
    if found or disturbed:
        on_progress(
            f"of {len(found) + disturbed} points between servers {disturbed} are left out as more than "
            f"{UNDISTURBED:g} times as slow as the best pair of servers, and {len(found) - len(kept)} as "
            "slower than a longer message"
        )
    return kept


def _refused(point: MultinodePoint) -> str:
    """What is wrong with a point, or nothing."""
    for what, value in (
        ("size_bytes", point.n_bytes),
        ("latency_us", 1e6 * point.seconds),
        ("gpus_per_node", point.gpus_per_node),
    ):
        if not 0.0 < value < float("inf"):
            return f"{what} = {value:g}: must be above 0 and finite"
    if point.op not in OPS:
        return f"op = {point.op!r}: must be one of {', '.join(OPS)}{did_you_mean(point.op, OPS)}"
    try:
        largest = _gpus_per_server(point.system, point.nodes)
    except InputError as error:
        return f"system = {point.system!r}: {error.problems[0].statement}"
    if point.gpus_per_node > largest:
        return f"gpus_per_node = {point.gpus_per_node}: must be at most {largest} on {point.system}"
    return ""


@cache
def _gpus_per_server(system: str, nodes: int) -> int:
    network = cluster_network(system, nodes)
    return len(network.gpus) // nodes


def _disturbed(row: Mapping[str, str]) -> bool:
    """True in a table of clusters where the median over pairs of servers is far from the best pair's."""
    if row.get("reference") or "latency_us" in row or "system" in row:
        return False
    median_us = float(row["latency_us_median"])
    return median_us > UNDISTURBED * float(row.get("latency_us_min") or median_us)


def _point(row: Mapping[str, str]) -> MultinodePoint | None:
    """A row as a point, or None for what is inside one server or of a fabric that is not known.

    Rows of vidur time kernels in a profiler, whose shortest of 33 counts; its A100 servers have an unknown
    number of NICs, so only rows of one GPU each count. Of clusters the median over pairs of servers counts.
    """
    nodes = int(row["nodes"])
    if nodes < 2:
        return None
    op, n_bytes = row["op"], float(row["size_bytes"])
    if row.get("reference"):
        return _public(row, nodes, op, n_bytes)
    each = int(row["gpus_per_node"])
    if "latency_us" in row:
        return MultinodePoint(row["system"], op, nodes, each, n_bytes, 1e-6 * float(row["latency_us"]))
    if "system" in row:
        if row["system"] not in SYSTEMS or each > 1:
            return None
        return MultinodePoint(row["system"], op, nodes, each, n_bytes, 1e-6 * float(row["latency_us_min"]))
    cluster = f"h100 cluster {row.get('cluster') or 'B'}"
    return MultinodePoint(cluster, op, nodes, each, n_bytes, 1e-6 * float(row["latency_us_median"]))


def _public(row: Mapping[str, str], nodes: int, op: str, n_bytes: float) -> MultinodePoint | None:
    gpus, seconds = int(row["gpus"]), 1e-6 * float(row["latency_us"])
    if row["system"] == "gb200" and gpus > GPUS_PER_RACK:
        return MultinodePoint("gb200", op, gpus // GPUS_PER_RACK, GPUS_PER_RACK, n_bytes, seconds)
    if row["system"] not in ("h100_sxm", "a100_sxm"):
        return None
    forced = "tree" if row["library"] == "NCCL Tree" else "auto"
    return MultinodePoint(row["system"], op, nodes, gpus // nodes, n_bytes, seconds, forced)


def _undercut(found: Sequence[MultinodePoint]) -> list[MultinodePoint]:
    """Without points slower than a longer message of their curve, which waited for something else."""
    curves: dict[tuple[object, ...], list[MultinodePoint]] = {}
    for one in found:
        key = (one.system, one.op, one.nodes, one.gpus_per_node, one.algorithm)
        curves.setdefault(key, []).append(one)
    kept: list[MultinodePoint] = []
    for curve in curves.values():
        fastest_s = float("inf")
        # From the longest message down: a point that is slower than any longer one is out.
        for one in sorted(curve, key=lambda one: -one.n_bytes):
            if one.seconds <= fastest_s:
                kept.append(one)
                fastest_s = one.seconds
    return sorted(kept, key=lambda one: (one.system, one.op, one.nodes, one.gpus_per_node, one.n_bytes))


@cache
def cluster_network(system: str, nodes: int) -> Network:
    """The servers of a measured system (a published name, or a topology by name or file), with the rate of
    its fabric.
    """
    graph = load_topology(SYSTEMS.get(system, system), nodes=nodes).graph.copy()
    if system in NIC_BYTES_PER_S:
        for source, target, link in graph.edges(data=True):
            ends = (graph.nodes[source], graph.nodes[target])
            nic = next((end for end in ends if end["kind"] == "nic"), None)
            if nic and any(end["kind"] == "switch" for end in ends) and nic.get("transport") != "ethernet":
                link["bytes_per_s"] = NIC_BYTES_PER_S[system]
    return Network(graph)


def ranks_of(network: Network, each: int) -> list[str]:
    """The first `each` GPUs of every server."""
    seen: dict[int, int] = {}
    chosen = []
    for gpu in network.gpus:
        node = network.node_of[gpu]
        seen[node] = seen.get(node, 0) + 1
        if seen[node] <= each:
            chosen.append(gpu)
    return chosen


def gave_its_rate(one: MultinodePoint) -> bool:
    """True for send/recv that the rate of its fabric's NICs was read from: the model says nothing of it."""
    return one.op == "send_recv" and one.system in NIC_BYTES_PER_S
