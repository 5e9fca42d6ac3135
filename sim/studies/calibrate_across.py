"""Fits what NCCL reaches between servers (`topologies/collectives/across.yaml`) to measured collectives, and
says how well that holds on what the fit did not see.

    sim calibrate collectives CLUSTER.csv VIDUR.csv POINTS.csv --write-across FILE

Latencies, trees and the rates of LL stay NCCL's own (src/graph/tuning.cc): there are too few small messages
over known fabrics to say better. Fitted are the shares of rates that rings and grouped sends reach, and the
filling of pipelines. Held out in turn are each system, each number of servers and each operation.
Beside it stands a plain alpha-beta model: one latency, and one share of the NICs' rate for each operation.

Rows are those of one table or another: `nodes, gpus_per_node, op, size_bytes` and a latency, with the system
as `system` (the name or file of a topology, in a table of your own) or as `cluster`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np

from sim.catalog import load_topology
from sim.cost.collective_parameters import Parameters, data_folder, parameters_of
from sim.cost.collectives import collective
from sim.cost.network import Network
from sim.inputs.errors import InputError, Problem
from sim.reading.problems import did_you_mean
from sim.studies.calibrate_collectives import Raw, over_several_servers

# Path of a number in across.yaml -> least, most.
FREE: dict[tuple[str, ...], tuple[float, float]] = {
    ("nccl", "ring", "LL128", "step_fill_s"): (1e-8, 1e-5),
    ("nccl", "ring", "Simple", "efficiency"): (0.5, 1.0),
    ("nccl", "ring", "Simple", "step_fill_s"): (1e-8, 1e-5),
    ("nccl", "level_fill_s"): (1e-6, 1e-3),
    ("nccl", "direct", "net_hop_s"): (1e-6, 5e-5),
    ("nccl", "direct", "efficiency"): (0.5, 1.0),
    ("nccl", "direct", "channel_bytes_per_s"): (5e9, 5e10),
}
ONLY_PREDICTED = ("gb200",)  # 1,440 ranks take a second a look, and only in trees, whose rates are NCCL's own


@dataclass(frozen=True, slots=True)
class Fabric:
    """Servers that a measured system has: a topology, and the rate of its NICs where that is another."""

    topology: str
    nic_bytes_per_s: float | None = None


# Names of systems and clusters in public tables.
FABRICS = {
    "h100 cluster A": Fabric("nd-h100-v5", 13.6e9),  # its own send/recv between two GPUs
    "h100 cluster B": Fabric("nd-h100-v5"),
    "h100_sxm": Fabric("nd-h100-v5"),
    "h100_dgx": Fabric("nd-h100-v5"),
    "a100_sxm": Fabric("dgx-a100"),
    "a100_dgx": Fabric("dgx-a100", 7.8e9),  # its own send/recv between two GPUs
    "gb200": Fabric("gb200-nvl72"),
}
GPUS_PER_RACK = 72
UNDISTURBED = 1.25  # the median over pairs of servers may be this much slower than the best pair


@dataclass(frozen=True, slots=True)
class AcrossPoint:
    """One measured collective over several servers."""

    system: str
    op: str
    nodes: int
    gpus_per_node: int
    n_bytes: float
    seconds: float
    algorithm: str = "auto"


@dataclass(frozen=True, slots=True)
class Judged:
    """Errors on points of one (system, servers, op) that no fit saw: quantiles of |error|, the signed
    median, and the plain model's median.
    """

    how: str
    system: str
    op: str
    nodes: int
    points: int
    median: float
    p90: float
    bias: float
    alpha_beta_median: float


def across_points(
    paths: Iterable[Path], told: Callable[[str], None] = lambda what: None
) -> list[AcrossPoint]:
    """Points over several servers of CSV files; other files are passed over. `told` hears how many points
    are left out because something else disturbed them.
    """
    found: list[AcrossPoint] = []
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
                    raise InputError(Problem(f"a value makes no sense: {error}", str(path), line)) from None
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
        told(
            f"of {len(found) + disturbed} points between servers {disturbed} are left out as more than "
            f"{UNDISTURBED:g} times as slow as the best pair of servers, and {len(found) - len(kept)} as "
            "slower than a longer message"
        )
    return kept


def _refused(point: AcrossPoint) -> str:
    """What is wrong with a point, or nothing."""
    for what, value in (
        ("size_bytes", point.n_bytes),
        ("latency in us", 1e6 * point.seconds),
        ("gpus_per_node", point.gpus_per_node),
    ):
        if not 0.0 < value < float("inf"):
            return f"{value:g} is no {what}; it is more than 0 and finite"
    if point.op not in OPS:
        return f"no op {point.op!r}; {', '.join(OPS)} are{did_you_mean(point.op, OPS)}"
    try:
        most = _gpus_per_server(point.system, point.nodes)
    except InputError as error:
        return f"system {point.system!r}: {error.problems[0].what}"
    if point.gpus_per_node > most:
        return f"{point.gpus_per_node} is too many as gpus_per_node; a server of {point.system} has {most}"
    return ""


@cache
def _gpus_per_server(system: str, nodes: int) -> int:
    network = network_of(system, nodes)
    return len(network.gpus) // nodes


def _disturbed(row: Mapping[str, str]) -> bool:
    """True in a table of clusters where the median over pairs of servers is far from the best pair's."""
    if row.get("reference") or "latency_us" in row or "system" in row:
        return False
    median_us = float(row["latency_us_median"])
    return median_us > UNDISTURBED * float(row.get("latency_us_min") or median_us)


def _point(row: Mapping[str, str]) -> AcrossPoint | None:
    """A row as a point, or None for what is inside one server or of a fabric that is not known.

    Rows of vidur time kernels in a profiler, whose shortest of 33 is the least disturbed; its A100 servers
    have an unknown number of NICs, so only rows of one GPU each count. Of clusters the median over pairs of
    servers counts.
    """
    nodes = int(row["nodes"])
    if nodes < 2:
        return None
    op, n_bytes = row["op"], float(row["size_bytes"])
    if row.get("reference"):
        return _public(row, nodes, op, n_bytes)
    each = int(row["gpus_per_node"])
    if "latency_us" in row:
        return AcrossPoint(row["system"], op, nodes, each, n_bytes, 1e-6 * float(row["latency_us"]))
    if "system" in row:
        if row["system"] not in FABRICS or each > 1:
            return None
        return AcrossPoint(row["system"], op, nodes, each, n_bytes, 1e-6 * float(row["latency_us_min"]))
    cluster = f"h100 cluster {row.get('cluster') or 'B'}"
    return AcrossPoint(cluster, op, nodes, each, n_bytes, 1e-6 * float(row["latency_us_median"]))


def _public(row: Mapping[str, str], nodes: int, op: str, n_bytes: float) -> AcrossPoint | None:
    gpus, seconds = int(row["gpus"]), 1e-6 * float(row["latency_us"])
    if row["system"] == "gb200" and gpus > GPUS_PER_RACK:
        return AcrossPoint("gb200", op, gpus // GPUS_PER_RACK, GPUS_PER_RACK, n_bytes, seconds)
    if row["system"] not in ("h100_sxm", "a100_sxm"):
        return None
    forced = "tree" if row["library"] == "NCCL Tree" else "auto"
    return AcrossPoint(row["system"], op, nodes, gpus // nodes, n_bytes, seconds, forced)


def _undercut(found: Sequence[AcrossPoint]) -> list[AcrossPoint]:
    """No point slower than a longer message of its curve: what is, waited for something else."""
    curves: dict[tuple[object, ...], list[AcrossPoint]] = {}
    for one in found:
        key = (one.system, one.op, one.nodes, one.gpus_per_node, one.algorithm)
        curves.setdefault(key, []).append(one)
    kept: list[AcrossPoint] = []
    for curve in curves.values():
        least = float("inf")
        for one in sorted(curve, key=lambda one: -one.n_bytes):
            if one.seconds <= least:
                kept.append(one)
                least = one.seconds
    return sorted(kept, key=lambda one: (one.system, one.op, one.nodes, one.gpus_per_node, one.n_bytes))


@cache
def network_of(system: str, nodes: int) -> Network:
    """The servers of a measured system, with the rate of its fabric."""
    fabric = FABRICS.get(system) or Fabric(system)
    graph = load_topology(fabric.topology, nodes=nodes).graph.copy()
    if fabric.nic_bytes_per_s is not None:
        for source, target, link in graph.edges(data=True):
            ends = (graph.nodes[source], graph.nodes[target])
            nic = next((end for end in ends if end["kind"] == "nic"), None)
            if nic and any(end["kind"] == "switch" for end in ends) and nic.get("transport") != "ethernet":
                link["bytes_per_s"] = fabric.nic_bytes_per_s
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


def ratios(measured: Sequence[AcrossPoint], parameters: Parameters) -> list[float]:
    """Modelled over measured time of each point."""
    for network in {id(n): n for n in (network_of(one.system, one.nodes) for one in measured)}.values():
        for key in [key for key in network.memory if isinstance(key, tuple) and key[0] in OPS]:
            del network.memory[key]
    found = []
    for one in measured:
        network = network_of(one.system, one.nodes)
        timing = collective(
            network, one.op, one.n_bytes, ranks_of(network, one.gpus_per_node), library="nccl",
            algorithm=one.algorithm, parameters=parameters,
        )  # fmt: skip
        found.append(timing.total_s / one.seconds)
    return found


OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "broadcast")


def fitted_across(files: Raw, measured: Sequence[AcrossPoint]) -> Raw:
    """The files with the free numbers fitted: least squares of the logarithm of the ratio, soft for outliers.

    A number that no point depends on stays what it was.
    """
    from scipy.optimize import least_squares

    files = deepcopy(files)
    measured = [one for one in measured if one.system not in ONLY_PREDICTED]
    low, high = (np.log([bounds[side] for bounds in FREE.values()]) for side in (0, 1))
    start = np.clip(np.log([_at(files, path)[path[-1]] for path in FREE]), low + 1e-6, high - 1e-6)

    def residuals(logs: Any, /) -> list[float]:
        for path, value in zip(FREE, logs, strict=True):
            _at(files, path)[path[-1]] = exp(value)
        return [log(ratio) for ratio in ratios(measured, parameters_of(files))]

    found = least_squares(
        residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=30, diff_step=[1e-3]
    )
    residuals(found.x)
    return files


def _at(files: Raw, path: tuple[str, ...]) -> dict[str, Any]:
    block: Any = files["across"]
    for name in path[:-1]:
        block = block[name]
    found: dict[str, Any] = block
    return found


FOLDS: dict[str, Callable[[AcrossPoint], object]] = {
    "system": lambda one: one.system,
    "servers": lambda one: one.nodes,
    "op": lambda one: one.op,
}


def held_out_across(measured: Sequence[AcrossPoint], files: Raw) -> list[Judged]:
    """Errors on each system, number of servers and operation by parameters that saw none of its points.

    Every fit starts at the middle of the bounds, so nothing of what is held out is in its start. Send/recv
    of a fabric is not judged where it gave the rate of that fabric's NICs (`FABRICS`).
    """
    judged = []
    for how, key in FOLDS.items():
        for out in sorted({key(one) for one in measured}, key=str):
            seen = [one for one in measured if key(one) != out]
            unseen = [one for one in measured if key(one) == out and not _gave_its_rate(one)]
            if not unseen or len({(one.op, one.n_bytes) for one in seen}) < len(FREE):
                continue
            found = ratios(unseen, parameters_of(fitted_across(_neutral(files), seen)))
            judged += _judged(how, unseen, found, plain_across(seen))
    return judged


def _neutral(files: Raw) -> Raw:
    files = deepcopy(files)
    for path, (low, high) in FREE.items():
        _at(files, path)[path[-1]] = (low * high) ** 0.5
    return files


def errors_across(measured: Sequence[AcrossPoint], files: Raw, how: str) -> list[Judged]:
    """Errors of given parameters, with the plain model fitted on the same points beside them. As above, no
    send/recv that gave the rate of its fabric.
    """
    judged = [one for one in measured if not _gave_its_rate(one)]
    return _judged(how, judged, ratios(judged, parameters_of(files)), plain_across(measured))


def _gave_its_rate(one: AcrossPoint) -> bool:
    fabric = FABRICS.get(one.system)
    return one.op == "send_recv" and fabric is not None and fabric.nic_bytes_per_s is not None


def _judged(
    how: str, measured: Sequence[AcrossPoint], found: Sequence[float], plain: Callable[[AcrossPoint], float]
) -> list[Judged]:
    groups: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for one, ratio in zip(measured, found, strict=True):
        of_plain = plain(one) / one.seconds - 1.0
        groups.setdefault((one.system, one.op, one.nodes), []).append((ratio - 1.0, of_plain))
    rows = []
    for (system, op, nodes), of in sorted(groups.items()):
        own, other = ([pair[side] for pair in of] for side in (0, 1))
        median, p90 = (float(np.quantile(np.abs(own), share)) for share in (0.5, 0.9))
        plain_median = float(np.median(np.abs(other)))
        rows.append(Judged(how, system, op, nodes, len(of), median, p90, float(np.median(own)), plain_median))
    return rows


def plain_across(seen: Sequence[AcrossPoint]) -> Callable[[AcrossPoint], float]:
    """Alpha-beta: one latency, and for each operation (for those not seen all together) one share of the
    rate of the NICs of a server's GPUs, both fitted to what was seen.
    """
    from scipy.optimize import least_squares

    ops = sorted({one.op for one in seen})

    def seconds(one: AcrossPoint, alpha_s: float, share: float) -> float:
        return alpha_s + _bus_bytes(one) / (share * _nic_rate(one.system, one.nodes) * one.gpus_per_node)

    def residuals(logs: Any, /) -> list[float]:
        return [
            log(seconds(one, exp(logs[0]), exp(logs[1 + ops.index(one.op)])) / one.seconds) for one in seen
        ]

    start = [log(30e-6), *(log(0.8) for _ in ops)]
    logs = least_squares(residuals, start, loss="soft_l1", f_scale=0.1).x
    shares = dict(zip(ops, np.exp(logs[1:]), strict=True))
    middle = float(np.exp(np.mean(logs[1:])))
    return lambda one: seconds(one, exp(logs[0]), float(shares.get(one.op, middle)))


def _bus_bytes(one: AcrossPoint) -> float:
    n = one.nodes * one.gpus_per_node
    share = {"all_reduce": 2.0 * (n - 1) / n, "send_recv": 1.0, "broadcast": 1.0}.get(one.op, (n - 1) / n)
    return one.n_bytes * share


@cache
def _nic_rate(system: str, nodes: int) -> float:
    network = network_of(system, nodes)
    path = network.path(network.gpus[0], ranks_of(network, 1)[1])
    return min(network.capacity[link] for link in path.links)


SOURCE = (
    "sim calibrate collectives MEASURED --write-across, on nccl-tests of 2 and 10 nodes of 8 H100 "
    "(xxrjun/nccl-tests-cluster 455de4f, Apache-2.0), microsoft/vidur 7d47513 (MIT) between two servers and "
    "single points of NVIDIA's issue trackers; not the two-node 483.3 GB/s at 8 GB"
)


def across_text(files: Raw, source: str = SOURCE) -> str:
    """The shipped `across.yaml` with the fitted numbers in place of its own, and where they are from."""
    import yaml

    text = (data_folder() / "across.yaml").read_text(encoding="utf-8")
    paths = [*FREE, ("nccl", "fitted", "source")]
    values = [f"{_at(files, path)[path[-1]]:.3e}" for path in FREE]
    replaced = []
    for path, value in zip(paths, [*values, '"' + source.replace('"', "'") + '"'], strict=True):
        node: Any = yaml.compose(text)
        for name in path:
            node = next(inner for key, inner in node.value if key.value == name)
        replaced.append((node.start_mark.index, node.end_mark.index, value))
    for start, end, value in sorted(replaced, reverse=True):
        text = text[:start] + value + text[end:]
    return text
