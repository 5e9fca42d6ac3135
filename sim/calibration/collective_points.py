"""Measured collectives inside one server or NVLink domain, from tables, and the islands of GPUs that they
ran on.

Tables have the columns `system, op, gpus, size_bytes, latency_us` (and `nccl` or `framework, launch`), as
the samples in `sim/data/measured/collectives` have. Of a point that was measured more than once the median
counts.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np

from sim.cost.network import Network
from sim.inputs.errors import InputError, Problem
from sim.inputs.nvlink_domains import MAX_DOMAIN
from sim.reading.nccl_tests import is_nccl_tests
from sim.reading.text_files import shown_header

MOST_BYTES = 1e18  # of one collective: more than all memory of the largest topology


@dataclass(frozen=True, slots=True)
class CollectivePoint:
    """One measured collective inside an island."""

    system: str
    library: str
    op: str
    gpus: int
    n_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Island:
    """What a collective sees of a measured system inside its NVLink domain, or on a PCIe pair."""

    model: str
    kind: str
    link_bytes_per_s: float
    reduces: bool = False


ISLANDS = {
    "a100_sxm": Island("a100-80gb-sxm", "ampere", 240e9),
    "h100_sxm": Island("h100-sxm", "hopper", 369e9, True),
    "h200_sxm": Island("h200-sxm", "hopper", 369e9, True),
    "b200_sxm": Island("b200-sxm", "blackwell", 720e9, True),
    "gb200": Island("gb200", "grace_blackwell", 720e9, True),
    "l40s": Island("l40s", "ada", 26.145e9),
    "rtx_pro_6000_server": Island("rtx-pro-6000", "blackwell_pcie", 54.81e9),
}
PCIE_GPUS, PCIE_BYTES = 2, 4096
"""Beyond a pair on one switch, PCIe boxes differ by 10x in what joins the pairs: of larger groups only
the latencies.
"""


def island_network(system: str, gpus: int) -> Network:
    """A crossbar (or one PCIe switch) with a system's GPUs and link rate, as the shipped topologies have
    it.
    """
    island = ISLANDS[system]
    nvlink = not island.kind.startswith(("ada", "blackwell_pcie"))
    graph: nx.DiGraph[str] = nx.DiGraph(gpus=[f"node0.gpu{rank}" for rank in range(gpus)], name=system)
    middle = "node0.nvswitch0" if nvlink else "node0.pcie0"
    graph.add_node(
        middle,
        kind="nvswitch" if nvlink else "pcie_switch",
        node=0,
        index=0,
        domain=0,
        reduces=island.reduces,
        latency_s=0.12e-6 if nvlink else 0.13e-6,
    )
    for rank in range(gpus):
        name = f"node0.gpu{rank}"
        graph.add_node(name, kind="gpu", node=0, index=rank, domain=0, model=island.model)
        for edge in ((name, middle), (middle, name)):
            graph.add_edge(
                *edge, bytes_per_s=island.link_bytes_per_s, latency_s=0.415e-6 if nvlink else 0.35e-6
            )
    return Network(graph)


def read_points(paths: Iterable[Path]) -> list[CollectivePoint]:
    """Measured points of the systems that are modelled; the median where a point was measured more than
    once.
    """
    found: dict[tuple[str, str, str, int, float], list[float]] = {}
    for path in paths:
        for line, row in _rows_of(path):
            try:
                if row["system"] not in ISLANDS or not _usable(row):
                    continue
                library, op = row.get("framework") or "nccl", row.get("op") or "all_reduce"
                key = (row["system"], library, op, int(row["gpus"]), float(row["size_bytes"]))
                seconds = float(row["latency_us"]) * 1e-6
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(Problem(f"a value cannot be read: {error}", str(path), line)) from None
            *_, gpus, n_bytes = key
            fits = 2 <= gpus <= MAX_DOMAIN and 0.0 <= n_bytes <= MOST_BYTES
            if not (fits and 0.0 < seconds < float("inf")):
                given = f"gpus = {gpus}, size_bytes = {n_bytes:g}, latency_us = {seconds * 1e6:g}"
                what = f"{given}: must be 2 to {MAX_DOMAIN}, 0 to {MOST_BYTES:g} and above 0"
                raise InputError(Problem(what, str(path), line))
            found.setdefault(key, []).append(seconds)
    return [CollectivePoint(*key, float(np.median(seconds))) for key, seconds in sorted(found.items())]


def _rows_of(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table of collectives with their lines; none of a table of several servers."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if over_several_servers(columns):
                return
            needed = MULTINODE_COLUMNS if "nodes" in columns and "gpus" not in columns else COLUMNS
            if missing := needed - columns:
                there = shown_header(sorted(columns))
                what = f"has no column {', '.join(sorted(missing))} (there are: {there}); "
                raise InputError(Problem(what + "log files of nccl-tests can be read too", str(path), 1))
            yield from enumerate(reader, start=2)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            Problem(f"is neither a CSV file nor a log of nccl-tests: {error}", str(path))
        ) from None


COLUMNS = {"system", "gpus", "size_bytes", "latency_us"}
MULTINODE_COLUMNS = {"system", "nodes", "gpus_per_node", "op", "size_bytes", "latency_us"}


def over_several_servers(columns: Iterable[str]) -> bool:
    """True for the columns of a table whose rows say how many servers, and how many GPUs of each."""
    columns = set(columns)
    return {"nodes", "op", "size_bytes"} <= columns and bool({"gpus_per_node", "reference"} & columns)


def measured_in(paths: Iterable[Path], *, may_be_none: bool = False) -> list[CollectivePoint]:
    """Points of CSV files inside one server. InputError where there are none; logs are passed over."""
    tables = []
    for path in paths:
        if path.is_dir():
            tables += sorted(path.glob("*.csv"))
        elif not is_nccl_tests(path):
            tables.append(path)
    found = [point for point in read_points(tables) if is_modelled(point)]
    if not found and not may_be_none:
        raise InputError(f"the files have no collective of a system that is known: {', '.join(ISLANDS)}")
    return found


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


def is_modelled(point: CollectivePoint) -> bool:
    """True for points inside an NVLink domain; on PCIe, for those that the rest of the box cannot change."""
    pcie = ISLANDS[point.system].kind in ("ada", "blackwell_pcie")
    return not pcie or point.gpus <= PCIE_GPUS or point.n_bytes <= PCIE_BYTES
