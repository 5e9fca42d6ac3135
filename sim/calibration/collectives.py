"""Fits the parameters of `topologies/collectives/inside.yaml` to measured collectives, and says how well
they hold.

    sim calibrate collectives NCCL.csv ENGINES.csv --write topologies/collectives/inside.yaml

The CSV files have the columns `system, op, gpus, size_bytes, latency_us` (and `nccl` or `framework, launch`),
as the samples in `sim/data/measured/collectives` have. Every fit is robust (soft L1 on the logarithm of the
time, so a factor of 1.1 counts the same at 10 us and at 10 ms). Held out are whole systems and whole numbers
of ranks, never points of a curve.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from sim.calibration.fitting import CurveErrors, Floats, log_fit
from sim.cost.collectives.choice import collective
from sim.cost.collectives.parameters import Parameters, collectives_folder, parameters_of
from sim.cost.network import Network
from sim.inputs.errors import InputError, Problem
from sim.reading.nccl_tests import is_nccl_tests, read_nccl_tests
from sim.results.compared import ErrorSummary

Raw = dict[str, Any]
"""The text of a parameter file as dicts and numbers."""

FLOORS = {
    ("Simple", "base_s"): 8.4e-6,
    ("Simple", "hop_s"): 1.2e-6,
    ("switch", "base_s"): 18e-6,
    ("switch", "fill_bytes"): 5e5,
    ("direct", "efficiency"): 0.75,
}
"""Floors that keep algorithms apart where the points cannot: NCCL's own base of Simple (tuning.cc); for a
hop of Simple 1.5 of that of LL, whose flags travel with the data; for NVLS the least that a first megabyte
in 26 us leaves, and a pipeline of at least a slice per rank; for
grouped sends that links are not what holds a pair back.
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured collective inside an island."""

    system: str
    library: str
    op: str
    gpus: int
    n_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Machine:
    """The GPUs that a measured system has, as far as a collective inside its NVLink domain or PCIe pair
    can tell.
    """

    model: str
    kind: str
    link_bytes_per_s: float
    reduces: bool = False


MACHINES = {
    "a100_sxm": Machine("a100-80gb-sxm", "ampere", 240e9),
    "h100_sxm": Machine("h100-sxm", "hopper", 369e9, True),
    "h200_sxm": Machine("h200-sxm", "hopper", 369e9, True),
    "b200_sxm": Machine("b200-sxm", "blackwell", 720e9, True),
    "gb200": Machine("gb200", "grace_blackwell", 720e9, True),
    "l40s": Machine("l40s", "ada", 26.145e9),
    "rtx_pro_6000_server": Machine("rtx-pro-6000", "blackwell_pcie", 54.81e9),
}
PCIE_GPUS, PCIE_BYTES = 2, 4096
"""Beyond a pair on one switch, PCIe boxes differ by 10x in what joins the pairs: of larger groups only
the latencies.
"""


def network_of(system: str, gpus: int) -> Network:
    """A crossbar (or one PCIe switch) with a system's GPUs and link rate, as the shipped topologies have
    it.
    """
    machine = MACHINES[system]
    nvlink = not machine.kind.startswith(("ada", "blackwell_pcie"))
    graph: nx.DiGraph[str] = nx.DiGraph(gpus=[f"node0.gpu{rank}" for rank in range(gpus)], name=system)
    middle = "node0.nvswitch0" if nvlink else "node0.pcie0"
    graph.add_node(
        middle,
        kind="nvswitch" if nvlink else "pcie_switch",
        node=0,
        index=0,
        domain=0,
        reduces=machine.reduces,
    )
    for rank in range(gpus):
        name = f"node0.gpu{rank}"
        graph.add_node(name, kind="gpu", node=0, index=rank, domain=0, model=machine.model)
        for edge in ((name, middle), (middle, name)):
            graph.add_edge(*edge, bytes_per_s=machine.link_bytes_per_s, latency_s=0.35e-6)
    return Network(graph)


def points(paths: Iterable[Path]) -> list[Point]:
    """Measured points of the systems that are modelled; the median where a point was measured more than
    once.
    """
    found: dict[tuple[str, str, str, int, float], list[float]] = {}
    for path in paths:
        for line, row in _rows_of(path):
            try:
                if row["system"] not in MACHINES or not _usable(row):
                    continue
                library, op = row.get("framework") or "nccl", row.get("op") or "all_reduce"
                key = (row["system"], library, op, int(row["gpus"]), float(row["size_bytes"]))
                seconds = float(row["latency_us"]) * 1e-6
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(Problem(f"a value makes no sense: {error}", str(path), line)) from None
            if not (key[3] >= 2 and key[4] >= 0.0 and 0.0 < seconds < float("inf")):
                what = f"{key[3]} GPUs, {key[4]:g} bytes and {seconds * 1e6:g} us are no collective"
                raise InputError(Problem(what, str(path), line))
            found.setdefault(key, []).append(seconds)
    return [Point(*key, float(np.median(seconds))) for key, seconds in sorted(found.items())]


def _rows_of(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table of collectives with their lines; none of a table of several servers."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if over_several_servers(columns):
                return
            needed = COLUMNS_ACROSS if "nodes" in columns and "gpus" not in columns else COLUMNS
            if missing := needed - columns:
                there = ", ".join(sorted(columns)) or "none"
                what = f"has no column {', '.join(sorted(missing))} (there are: {there}); "
                raise InputError(Problem(what + "log files of nccl-tests can be read too", str(path), 1))
            yield from enumerate(reader, start=2)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            Problem(f"is neither a CSV file nor a log of nccl-tests: {error}", str(path))
        ) from None


COLUMNS = {"system", "gpus", "size_bytes", "latency_us"}
COLUMNS_ACROSS = {"system", "nodes", "gpus_per_node", "op", "size_bytes", "latency_us"}


def over_several_servers(columns: Iterable[str]) -> bool:
    """True for the columns of a table whose rows say how many servers, and how many GPUs of each."""
    columns = set(columns)
    return {"nodes", "op", "size_bytes"} <= columns and bool({"gpus_per_node", "reference"} & columns)


def measured_in(
    paths: Iterable[Path], *, op: str = "", system: str = "", may_be_none: bool = False
) -> list[Point]:
    """Points of CSV files and of nccl-tests logs, of one server. InputError where there are none."""
    logs, tables = [], []
    for path in paths:
        if path.is_dir():
            tables += sorted(path.glob("*.csv"))
        elif is_nccl_tests(path):
            logs.append(path)
        else:
            tables.append(path)
    found = [point for point in points(tables) if fits(point)]
    for path in logs:
        run = read_nccl_tests(path, op)
        if run.nodes > 1:
            raise InputError(
                Problem("ran on several servers; the parameters fitted here are of one", str(path))
            )
        name = system or system_of(run.device, str(path))
        found += [
            Point(name, "nccl", run.op, run.gpus, float(n_bytes), seconds) for n_bytes, seconds in run.times
        ]
    if not found and not may_be_none:
        raise InputError(f"the files have no collective of a system that is known: {', '.join(MACHINES)}")
    return found


def system_of(device: str, where: str) -> str:
    """The system that has GPUs of this name, as nccl-tests prints it (`NVIDIA H100 80GB HBM3`)."""
    words = device.lower().replace("-", " ").split()
    able = [name for name, machine in MACHINES.items() if machine.model.split("-")[0] in words]
    if len(able) != 1:
        which = f"is in {', '.join(able)}" if able else f"is in none of {', '.join(MACHINES)}"
        raise InputError(Problem(f"{device!r} {which}; name the system", where))
    return able[0]


def _usable(row: Mapping[str, str]) -> bool:
    """False for what no kernel explains, each with its reason.

    Switches do not add 8-bit integers, so sums of those go another way than the 16-bit sums of inference.
    NCCL 2.23 on GB200 at 2 and 4 GPUs is slower than later releases, and its grouped sends take time by
    themselves; TensorRT-LLM with a forced strategy includes 5 us of graph nodes; launches from Python time
    Python.
    """
    if row.get("framework"):
        return row["launch"] == "graph" and "strategy" not in row["impl"] and float(row["size_bytes"]) >= 256
    if row.get("dtype") == "int8" and row["op"] in ("all_reduce", "reduce_scatter"):
        return False
    if row.get("nccl", "").startswith("2.23"):
        return row["system"] == "gb200" and int(row["gpus"]) >= 8 and row["op"] != "all_to_all"
    return True


class Fit:
    """A block of numbers in the raw parameters, fitted to points: which numbers, and between which bounds."""

    def __init__(self, files: Raw, free: Sequence[tuple[tuple[str, ...], float, float]]) -> None:
        self.files = deepcopy(files)
        self.free = tuple(free)

    def values(self) -> list[float]:
        return [float(self._at(path)[path[-1]]) for path, _, _ in self.free]

    def _at(self, path: tuple[str, ...]) -> Any:
        block: Any = self.files["inside"]["architectures"]
        for name in path[:-1]:
            block = block[name]
        return block

    def with_values(self, values: Sequence[float] | Floats) -> Parameters:
        for (path, low, high), value in zip(self.free, values, strict=True):
            self._at(path)[path[-1]] = float(min(max(value, low), high))
        return parameters_of(self.files)

    def run(self, measured: Sequence[Point]) -> Raw:
        """The files with the free numbers fitted."""
        networks = {(point.system, point.gpus): network_of(point.system, point.gpus) for point in measured}

        def of_measured(values: Floats) -> list[float]:
            return ratios(measured, self.with_values(values), networks)

        bounds = [(low, high) for _, low, high in self.free]
        self.with_values(log_fit(of_measured, self.values(), bounds, max_nfev=60))
        return self.files


def ratios(
    measured: Sequence[Point], parameters: Parameters, networks: Mapping[tuple[str, int], Network]
) -> list[float]:
    """Modelled over measured time of each point."""
    for network in networks.values():
        for key in [key for key in network.memory if key[0] != "load"]:
            del network.memory[key]
    found = []
    for point in measured:
        network = networks[point.system, point.gpus]
        timing = collective(
            network, point.op, point.n_bytes, network.gpus, library=point.library, parameters=parameters
        )
        found.append(timing.total_s / point.seconds)
    return found


def free_numbers(kind: str, library: str, files: Raw) -> list[tuple[tuple[str, ...], float, float]]:
    """The numbers of one kind of GPU that a library's points decide, with bounds that keep them physical."""
    block = files["inside"]["architectures"][kind]
    if isinstance(block["nccl"], str) and library in ("nccl", "direct"):
        return []
    bounds = {
        "base_s": (5e-7, 1e-4),
        "hop_s": (6e-7, 3e-5),
        "rank_s": (1e-9, 4e-6),
        "slice_s": (1e-9, 3e-6),
        "slice_bytes": (100.0, 1e6),
        "fill_s": (1e-9, 1e-4),
        "fill_rank_s": (1e-9, 1e-5),
        "fill_bytes": (1e4, 3e7),
        "bytes_per_s": (1e9, 1e12),
        "efficiency": (0.05, 1.0),
        "local_bytes_per_s": (1e10, 1e13),
    }
    free: list[tuple[tuple[str, ...], float, float]] = []

    def add(path: tuple[str, ...], values: Mapping[str, Any]) -> None:
        for name in values:
            if name in bounds:
                low, high = bounds[name]
                free.append(((kind, *path, name), FLOORS.get((path[-1], name), low), high))

    if library == "nccl":
        for protocol, values in block["nccl"]["ring"].items():
            add(("nccl", "ring", protocol), values)
        free.append(((kind, "nccl", "local_bytes_per_s"), *bounds["local_bytes_per_s"]))
        if block["nccl"].get("switch"):
            add(("nccl", "switch"), block["nccl"]["switch"])
    elif library == "direct":
        add(("nccl", "direct"), block["nccl"]["direct"])
    else:
        for kernel, values in block["engines"][library]["kernels"].items():
            add(("engines", library, "kernels", kernel), values)
    return free


def chosen(measured: Sequence[Point], kind: str, library: str, files: Raw) -> list[Point]:
    """The points that a fit of (kind, library) looks at."""
    found = []
    for point in measured:
        own = MACHINES[point.system].kind
        if library in ("nccl", "direct"):
            nccl_block = files["inside"]["architectures"][own]["nccl"]
            own = nccl_block if isinstance(nccl_block, str) else own
        if own != kind:
            continue
        if not fits(point):
            continue
        if library in ("nccl", "direct"):
            if point.library == "nccl" and (point.op == "all_to_all") == (library == "direct"):
                found.append(point)
        elif point.library == library:
            steps = files["inside"]["architectures"][kind]["engines"][library]["choice"].get(point.gpus, ())
            if steps and point.n_bytes < float(steps[-1][1]):
                found.append(point)
    return found


def fitted(files: Raw, measured: Sequence[Point], kinds: Sequence[str] | None = None) -> Raw:
    """All blocks of all kinds of GPU fitted, one after another; what has fewer points than numbers stays."""
    for kind, block in files["inside"]["architectures"].items():
        if kinds is not None and kind not in kinds:
            continue
        for library in ("nccl", "direct", *block["engines"]):
            looked_at = chosen(measured, kind, library, files)
            free = free_numbers(kind, library, files) if looked_at else []
            if free and len(looked_at) >= len(free):
                files = Fit(files, free).run(looked_at)
    return files


def shipped() -> Raw:
    """The parameter files as they are now."""
    import yaml

    return {
        path.stem: yaml.safe_load(path.read_text()) for path in sorted(collectives_folder().glob("*.yaml"))
    }


def errors(measured: Sequence[Point], files: Raw) -> list[tuple[Point, float]]:
    """Relative error of every point."""
    networks = {(point.system, point.gpus): network_of(point.system, point.gpus) for point in measured}
    found = ratios(measured, parameters_of(files), networks)
    return [(point, ratio - 1.0) for point, ratio in zip(measured, found, strict=True)]


def rounded(value: Any) -> Any:
    """Numbers to four digits, all the way down: no more is known."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def as_yaml(files: Raw) -> str:
    """The text of `inside.yaml`."""
    import yaml

    head = """\
# What NCCL and the engines' own all-reduce cost inside an island, per kind of GPU: seconds, bytes/s. The
# names are explained in sim/cost/collectives/parameters.py. `choice` (ranks -> kernel, below how many bytes)
# is the engines' own table where they publish one (vLLM all_reduce_utils.py), else where their timings
# change slope. Written by `sim calibrate collectives MEASURED --write`.

"""
    text: str = yaml.safe_dump(rounded(files["inside"]), sort_keys=False, width=118, default_flow_style=None)
    return head + text


def by_curve(
    how: str,
    found: Sequence[tuple[Point, float]],
    alpha_beta: Callable[[Point], float] | None = None,
) -> list[CurveErrors]:
    """Errors of points by system, library, op and ranks, in the order in which these first come; beside them
    those of a plain model that gives seconds.
    """
    groups: dict[tuple[str, str, str, int], list[tuple[Point, float]]] = {}
    for point, error in found:
        groups.setdefault((point.system, point.library, point.op, point.gpus), []).append((point, error))
    return [
        CurveErrors(
            how,
            *curve,
            ErrorSummary.of([error for _, error in of]),
            ErrorSummary.of([alpha_beta(point) / point.seconds - 1.0 for point, _ in of])
            if alpha_beta
            else None,
        )
        for curve, of in groups.items()
    ]


def fits(point: Point) -> bool:
    """True for points whose machine is known here: an NVLink domain; a PCIe box as far as it does not
    matter.
    """
    pcie = MACHINES[point.system].kind in ("ada", "blackwell_pcie")
    return not pcie or point.gpus <= PCIE_GPUS or point.n_bytes <= PCIE_BYTES
