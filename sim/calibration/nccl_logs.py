"""Logs of nccl-tests as measured points, and the machine that each of them ran on.

A log names its GPUs and its hosts. From the name of the GPU follows the system where there is one with it;
any other, shipped or one's own, is said by the name or the file of its topology.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sim.calibration.collective_points import ISLANDS, CollectivePoint, is_modelled
from sim.calibration.collectives import Raw
from sim.calibration.fitting import CurveErrors
from sim.calibration.multinode import ratios
from sim.calibration.multinode_points import MultinodePoint, cluster_network
from sim.catalog import list_topologies, load_topology
from sim.cost.collectives.parameters import parameters_of
from sim.inputs.errors import InputError, Problem
from sim.reading.nccl_tests import OPS, NcclTest, is_nccl_tests, read_nccl_tests
from sim.reading.problems import unknown_name
from sim.reading.published_names import SYSTEMS
from sim.results.compared import ErrorSummary


@dataclass(frozen=True)
class LogPoints:
    """Points of logs: inside an island whose parameters a fit knows, inside a server of any topology, over
    several servers; and the runs of machines that are not known, which stand beside nothing.
    """

    inside: list[CollectivePoint] = field(default_factory=list)
    server: list[MultinodePoint] = field(default_factory=list)
    across: list[MultinodePoint] = field(default_factory=list)
    unknown: list[tuple[Path, NcclTest]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.inside or self.server or self.across or self.unknown)


def points_of_logs(
    paths: Iterable[Path], *, op: str = "", system: str = "", in_place: bool = False
) -> LogPoints:
    """The points of every log among the files; what is no log is passed over. InputError for what a log does
    not say and no option does, and for a system that is not known.
    """
    if op and op not in OPS.values():
        raise InputError(unknown_name("collective", op, list(OPS.values())))
    found = LogPoints()
    for path in paths:
        if path.is_dir() or not is_nccl_tests(path):
            continue
        for run in read_nccl_tests(path, op, in_place=in_place):
            _add(found, run, path, _system(system, path) if system else system_of(run.device, str(path)))
    return found


def _add(found: LogPoints, run: NcclTest, path: Path, system: str) -> None:
    if not system:
        found.unknown.append((path, run))
        return
    # An island by its published name is, where it does not reach, the server that it is part of.
    name = SYSTEMS.get(system, system)
    nodes, largest = run.nodes, len(cluster_network(name, 1).gpus)
    if not run.device and run.gpus > largest:
        nodes = -(-run.gpus // largest)  # hosts are not listed either
    if nodes == 1 and system in ISLANDS:
        points = [CollectivePoint(system, "nccl", run.op, run.gpus, float(n), s) for n, s in run.times]
        if all(is_modelled(point) for point in points):
            found.inside.extend(points)
            return
    each, rest = divmod(run.gpus, nodes)
    if rest:
        what = f"has {run.gpus} ranks on {nodes} servers, not as many on each; such runs are not compared"
        raise InputError(Problem(what, str(path)))
    if each > largest:
        what = f"has {each} ranks on a server, and {name} has {largest} GPUs; name the system with --system"
        raise InputError(Problem(what, str(path)))
    points_of = found.server if nodes == 1 else found.across
    points_of.extend(MultinodePoint(name, run.op, nodes, each, float(n), s) for n, s in run.times)


def _system(written: str, path: Path) -> str:
    """A system by the name of its measurements in either spelling, or by name or file of its topology."""
    name = written.replace("-", "_")
    if name in ISLANDS:
        return name
    shipped = {topology: island for island, topology in SYSTEMS.items() if island in ISLANDS}
    if written in shipped:
        return shipped[written]
    if written not in list_topologies() and not ("/" in written or "." in written):
        known = [*ISLANDS, *list_topologies()]
        raise InputError(f"--system {written!r}: {unknown_name('system', written, known)}; or name a file")
    load_topology(written)  # its problems are told now, and not where a point is worked out
    return written


def system_of(device: str, where: str) -> str:
    """The system that has GPUs of this name, as nccl-tests prints it (`NVIDIA H100 80GB HBM3`); empty where
    the log names none. InputError where several have it, or none.
    """
    if not device:
        return ""
    words = device.lower().replace("-", " ").split()
    able = [name for name, island in ISLANDS.items() if _is_gpu(island.model, words)]
    able = able or [
        name
        for name in list_topologies()
        if any(_is_gpu(gpu, words) for gpu in load_topology(name).gpu_models)
    ]
    if len(able) != 1:
        which = f"is in {', '.join(able)}" if able else f"is in none of {', '.join(list_topologies())}"
        raise InputError(Problem(f"{device!r} {which}; name the system with --system", where))
    return able[0]


def _is_gpu(model: str, words: Sequence[str]) -> bool:
    """Whether a name as a driver prints it is of this model; the cards of a chip are other than its SXM."""
    if model.endswith("-sxm") and {"pcie", "nvl"} & set(words):
        return False
    parts = model.removesuffix("-sxm").split("-")
    return parts[0] in words if model.endswith("-sxm") else all(part in words for part in parts)


def server_errors(measured: Sequence[MultinodePoint], files: Raw) -> list[CurveErrors]:
    """Errors of the given parameters on points inside one server, by system, op and number of ranks."""
    groups: dict[tuple[str, str, int], list[float]] = {}
    for one, ratio in zip(measured, ratios(measured, parameters_of(files)), strict=True):
        groups.setdefault((one.system, one.op, one.gpus_per_node), []).append(ratio - 1.0)
    return [
        CurveErrors("shipped", system, "nccl", op, ranks, ErrorSummary.of(errors))
        for (system, op, ranks), errors in sorted(groups.items())
    ]
